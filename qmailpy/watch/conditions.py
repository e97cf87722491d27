"""
What in a L{Look} is trouble: conditions that last, each an event of the catalogue. L{Watch} tells when one begins and
when it is over. Pure: looks come in, events go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from qmailpy.config.schema import MonitorConfig, QueueConfig
from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.reading import Event
from qmailpy.interfaces import IEvents
from qmailpy.queue.entries import ChannelSummary
from qmailpy.stats.fold import balanced
from qmailpy.stats.health import age_text, tell_over
from qmailpy.stats.items import ATTEMPTED, DELIVERED, FAILED, Table
from qmailpy.watch.look import Look, number

JOURNAL_S = 10.0
"""A write that was under way so long ago, in another look, and still is, is one that the disk does not answer."""

SPACE_FACTOR = 4.0
"""Space is told to be low at so many times the reserve of [queue]."""


LOOKED_FOR = frozenset(
    {
        *("queue.age", "queue.size", "channel.stuck", "channel.stopped", "channel.held"),
        *("journal.stuck", "log.behind", "disk.low", "disk.full", "counters.mismatch"),
    }
)
"""The events of this module."""


Fields = Mapping[str, str | int | float]


@frozen(kw_only=True)
class Condition:
    """Trouble that lasts."""

    event: str  # of the catalogue
    fields: Fields = field(factory=dict)

    @property
    def about(self) -> str:
        """Which of its kind: the value of the event's first field."""
        return str(self.fields[CATALOGUE[self.event].fields[0]])


class Watch:
    """Remembers from look to look."""

    def __init__(self, events: IEvents) -> None:
        self._events = events
        self._begun: dict[tuple[str, str], tuple[float, Condition]] = {}
        self._writing: dict[str, tuple[float, float]] = {}  # process: batches written, since when no more
        self._progress: dict[str, tuple[tuple[int, ...], float]] = {}  # channel: ends of attempts, since when so many

    def resume(self, begun: Iterable[Event]) -> None:
        """Go on where another process ended: what has been told of is over, or goes on. Before the first look."""
        for event in begun:
            condition = Condition(event=event.event, fields=event.fields)
            self._begun[event.event, condition.about] = (event.time, condition)

    def tell(self, look: Look, monitor: MonitorConfig, queue: QueueConfig) -> None:
        """A new look."""
        found = {(one.event, one.about): one for one in self.conditions(look, monitor, queue)}
        for key, one in found.items():
            began = self._begun[key][0] if key in self._begun else look.time
            self._begun[key] = (began, one)
            self._events.happened(one.event, **one.fields)  # one that goes on is told again after its interval
        for key in [key for key in self._begun if key not in found and not self._unknown(look, *key)]:
            began, one = self._begun.pop(key)
            tell_over(self._events, one.event, one.about, look.time - began)

    def in_force(self) -> list[dict[str, str | float]]:
        """What there is now, for C{qmailpy status}: event, severity, since (seconds since the epoch), text."""
        found: list[dict[str, str | float]] = []
        for (event, _), (began, one) in sorted(self._begun.items()):
            kind = CATALOGUE[event]
            text = kind.text.format_map({key: str(value) for key, value in one.fields.items()})
            found.append({"event": event, "severity": kind.severity.value, "since": began, "text": text})
        return found

    def conditions(self, look: Look, monitor: MonitorConfig, queue: QueueConfig) -> Iterator[Condition]:
        """Those of a look; to be called once for each."""
        yield from self._logs(look)
        yield from self._journals(look)
        yield from self._queue(look, monitor)
        for one in look.channels:
            yield from self._channel(one, look, monitor)
        yield from self._space(look, queue)
        yield from self._books(look)

    def _unknown(self, look: Look, event: str, about: str) -> bool:
        """
        Whether a look proves nothing about it: a process did not answer, whose log, or whose share of the queue, is
        like it was for all we know. What stands still itself is the supervisor's to tell.
        """
        if event in ("log.behind", "journal.stuck"):
            return about in look.silent
        return event.startswith(("queue.", "channel.")) and not look.whole

    def _logs(self, look: Look) -> Iterator[Condition]:
        for process in look.processes:
            log = process.figures.get("log")
            if isinstance(log, Mapping) and log.get("waiting") is True:
                yield Condition(
                    event="log.behind", fields={"worker": process.name, "lost": int(number(log.get("lost")))}
                )

    def _journals(self, look: Look) -> Iterator[Condition]:
        for process in look.processes:
            if process.uptime is None or "journal" not in process.figures:
                continue
            if not number(_part(process.figures, "journal").get("backlog")):
                self._writing.pop(process.name, None)
                continue
            written = sum(number(one) for one in _part(process.figures, "commits", "records").get("counts", ()))
            before, since = self._writing.get(process.name, (written, look.time))
            since = since if written == before else look.time
            self._writing[process.name] = (written, since)
            if look.time - since >= JOURNAL_S:
                yield Condition(
                    event="journal.stuck", fields={"worker": process.name, "age": age_text(look.time - since)}
                )

    def _queue(self, look: Look, monitor: MonitorConfig) -> Iterator[Condition]:
        messages = sum(one.messages for one in look.channels)
        if monitor.queue_messages and messages >= monitor.queue_messages:
            most = max(look.channels, key=lambda one: one.messages)
            yield Condition(
                event="queue.size",
                fields={"limit": monitor.queue_messages, "messages": messages, "channel": most.channel},
            )

    def _channel(self, one: ChannelSummary, look: Look, monitor: MonitorConfig) -> Iterator[Condition]:
        if one.stopped and one.messages:
            yield Condition(event="channel.stopped", fields={"channel": one.channel, "messages": one.messages})
        if one.held:
            yield Condition(event="channel.held", fields={"channel": one.channel, "messages": one.held})
        if one.oldest is not None and one.held < one.messages:  # held mail waits for a person, however long
            age = look.time - one.oldest
            if monitor.queue_age_s and age >= monitor.queue_age_s:
                yield Condition(
                    event="queue.age",
                    fields={"channel": one.channel, "age": age_text(age), "limit": age_text(monitor.queue_age_s)},
                )
        ends = _ends(look.table, one.channel)
        before, since = self._progress.get(one.channel, (ends, look.time))
        idle = one.stopped or not (one.ready or one.busy)
        if idle or ends != before or not look.whole:
            since = look.time
        self._progress[one.channel] = (ends, since)
        if monitor.stuck_s and look.time - since >= monitor.stuck_s:
            fields: Fields = {"channel": one.channel, "waiting": one.messages, "age": age_text(look.time - since)}
            yield Condition(event="channel.stuck", fields=fields)

    def _space(self, look: Look, queue: QueueConfig) -> Iterator[Condition]:
        for name, space in look.space.items():
            fields: Fields = {
                "directory": name,
                "octets": space.octets,
                "inodes": space.inodes,
            }
            if space.octets < queue.reserve_octets or space.inodes < queue.reserve_inodes:
                yield Condition(event="disk.full", fields=fields)
            elif (
                space.octets < SPACE_FACTOR * queue.reserve_octets or space.inodes < SPACE_FACTOR * queue.reserve_inodes
            ):
                yield Condition(event="disk.low", fields={**fields, "reserve": queue.reserve_octets})

    def _books(self, look: Look) -> Iterator[Condition]:
        for lane in look.lanes:
            for channel, row in lane.table.items():
                if lane.settled and not balanced(row):
                    yield Condition(event="counters.mismatch", fields={"channel": channel, "lane": lane.name})


def _part(figures: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """An object within an answer; empty where there is none."""
    found: Any = figures
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _ends(table: Table, channel: str) -> tuple[int, ...]:
    """Ends of attempts so far; they differ when one has ended, also behind a clear of the counters."""
    row = table.get(channel)
    return () if row is None else (row[DELIVERED + 1], row[ATTEMPTED + 1], row[FAILED + 1])
