"""What C{qmailpy monitor} shows: a frame made from two looks, as values and as rich's renderables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qmailpy.cli.output import printable
from qmailpy.cli.said import answer
from qmailpy.events.catalogue import Severity
from qmailpy.events.reading import Event
from qmailpy.queue.entries import ChannelSummary
from qmailpy.records.record import Action, LogRecord
from qmailpy.stats.health import age_text
from qmailpy.stats.items import DELIVERED, FAILED, RECEIVED, Row, zeros
from qmailpy.watch.look import Look, number, rows

_FAILURES = (Action.DEFERRED, Action.PARTLY, Action.FAILED, Action.REJECTED, Action.UNREACHED)
_WIDEST = 40  # a column that is no text
_SEVERITIES = {Severity.NOTICE: "", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}


@frozen(kw_only=True)
class Shown:
    """One frame."""

    look: Look
    before: Look | None  # the one before, for rates
    failures: Sequence[LogRecord]  # newest last
    events: Sequence[Event]  # likewise


def failed(record: LogRecord) -> bool:
    """Whether a record is one of the failures that are shown."""
    return record.action in _FAILURES


def as_json(shown: Shown) -> dict[str, Any]:
    """For programs."""
    look = shown.look
    return {
        "time": round(look.time, 3),
        "running": look.running,
        "processes": {one.name: one.uptime for one in look.processes},
        "missing": [*look.missing],
        "whole": look.whole,
        "channels": [
            {
                "channel": one.channel,
                "messages": one.messages,
                "held": one.held,
                "jobs": one.busy,
                "oldest": None if one.oldest is None else round(look.time - one.oldest, 1),
                "stopped": one.stopped,
                **{f"{name}_a_second": rate for name, rate in _rates(shown, one.channel).items()},
            }
            for one in look.channels
        ],
        "destinations": [
            {"channel": channel, "destination": name, "waiting": waiting, "jobs": busy}
            for channel, name, waiting, busy in look.destinations()
        ],
        "later": look.later(),
        "sessions": {key: {"sessions": now, "clients": clients} for key, (now, clients) in _sessions(look).items()},
        "free": {name: space.octets for name, space in look.space.items()},
        "failures": [
            {
                "time": one.time,
                "channel": one.source,
                "action": one.action.value,
                "address": one.current_to or one.original_to,
                "diagnostic": one.diagnostic,
            }
            for one in shown.failures
        ],
        "events": [
            {"time": one.time, "event": one.event, "severity": one.severity.value, "text": one.text}
            for one in shown.events
        ],
    }


def _rates(shown: Shown, channel: str) -> dict[str, float]:
    """Messages a second, in, out and given up, since the look before."""
    names = {"received": RECEIVED, "delivered": DELIVERED, "failed": FAILED}
    before = shown.before
    passed = shown.look.time - before.time if before is not None else 0.0
    if before is None or passed <= 0:
        return dict.fromkeys(names, 0.0)
    now, then = _row(shown.look, channel), _row(before, channel)
    # Counters may have been cleared meanwhile.
    return {name: round(max(0, now[at] - then[at]) / passed, 1) for name, at in names.items()}


def _row(look: Look, channel: str) -> Row:
    return look.table.get(channel) or zeros()


def _sessions(look: Look) -> dict[str, tuple[int, int]]:
    """Sessions and clients by listener, of all processes."""
    sums: dict[str, list[int]] = {}
    for process in look.processes:
        for one in rows(process.figures.get("listeners")):
            row = sums.setdefault(str(one.get("listener")), [0, 0])
            row[0] += int(number(one.get("sessions")))
            row[1] += int(number(one.get("clients")))
    return {name: (row[0], row[1]) for name, row in sums.items()}


def render(shown: Shown, home: str, height: int) -> RenderableType:
    """
    A frame for a terminal.

    @param height: lines there are; what does not fit is left out, from the lists that are longest.
    """
    look = shown.look
    channels = _listed(shown, height)
    left = max(6, height - 9 - len(channels))
    each = max(2, left // 3 - 2)
    parts: list[RenderableType] = [_head(look, home)]
    if not look.running:
        parts.append(Text("the daemon is not running; waiting for it", style="bold red"))
    elif not look.whole:
        silent = ", ".join(one for one in look.silent if one.startswith("mta-"))
        parts.append(Text(f"without what {silent} has queued: no answer", style="bold yellow"))
    parts.append(_channels(shown, channels))
    destinations, later = look.destinations()[:each], look.later()
    if destinations or later:
        parts.append(_destinations(destinations, later))
    if shown.failures:
        parts.append(_failures(shown.failures[-each:]))
    if shown.events:
        parts.append(_events(shown.events[-each:]))
    return Group(*parts)


def _head(look: Look, home: str) -> RenderableType:
    clock = time.strftime("%H:%M:%S", time.localtime(look.time))
    line = Text(f"{home}  {clock}  ", style="bold", no_wrap=True, overflow="ellipsis")
    for one in look.processes:
        up = "silent" if one.uptime is None else age_text(one.uptime)
        line.append(f"{one.name} {up}  ", style="red" if one.uptime is None else "green")
    for name in look.missing:
        line.append(f"{name} down  ", style="bold red")
    second = Text(no_wrap=True, overflow="ellipsis")
    for name, (sessions, clients) in _sessions(look).items():
        second.append(f"{name}: {sessions} sessions of {clients} clients  ")
    for name, space in look.space.items():
        second.append(f"{name}: {space.octets >> 20} MiB free  ", style="dim")
    return Group(line, second)


def _table(heads: Sequence[str], right: Mapping[int, bool], *, words: bool = False) -> Table:
    """@param words: the last column is a text, which is cut so that the others have their room."""
    table = Table(box=None, pad_edge=False, expand=words, header_style="bold")
    for at, head in enumerate(heads):
        table.add_column(
            head,
            justify="right" if right.get(at) else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=None if words and at == len(heads) - 1 else _WIDEST,
            ratio=1 if words and at == len(heads) - 1 else None,
        )
    return table


def _quiet(shown: Shown, one: ChannelSummary) -> bool:
    """Whether nothing is in a channel, and nothing goes on."""
    return not (one.messages or one.busy or any(_rates(shown, one.channel).values()) or one.stopped)


def _listed(shown: Shown, height: int) -> list[ChannelSummary]:
    """The channels there is room for: all of them in half of the screen, else those that are not quiet first."""
    channels = list(shown.look.channels)
    if len(channels) <= height // 2:
        return channels
    busy = [one for one in channels if not _quiet(shown, one)]
    return busy[: max(4, height - 12)]


def _channels(shown: Shown, listed: Sequence[ChannelSummary]) -> Table:
    heads = ("channel", "queued", "held", "jobs", "oldest", "in/s", "out/s", "failed/s", "")
    table = _table(heads, dict.fromkeys(range(1, 8), True))
    for one in listed:
        rates = _rates(shown, one.channel)
        quiet = _quiet(shown, one)
        oldest = "" if one.oldest is None else age_text(max(0.0, shown.look.time - one.oldest))
        cells = [one.channel, str(one.messages), str(one.held), str(one.busy), oldest]
        known = shown.before is not None  # the first look knows of no rates
        cells += [f"{rates[name]:.1f}" if known else "" for name in ("received", "delivered", "failed")]
        cells.append("stopped" if one.stopped else "")
        table.add_row(*map(Text, cells), style="dim" if quiet else "red" if one.stopped else "")
    if left := len(shown.look.channels) - len(listed):
        table.add_row(Text(f"and {left} more"), style="dim")
    return table


def _destinations(found: Sequence[tuple[str, str, int, int]], later: Mapping[str, int]) -> Table:
    """@param later: what is in no row, by channel; together in a row of its own, however many there are."""
    table = _table(("due now, by destination", "channel", "waiting", "jobs"), {2: True, 3: True})
    for channel, name, waiting, busy in found:
        table.add_row(Text(printable(name)), Text(channel), str(waiting), str(busy))
    if later:
        channels = ", ".join(sorted(later, key=lambda name: (-later[name], name)))
        table.add_row(
            Text("later; whose: qmailpy qm qshape"), Text(channels), str(sum(later.values())), "", style="dim"
        )
    return table


def _failures(found: Sequence[LogRecord]) -> Table:
    table = _table(("last failures", "channel", "", "recipient", "why"), {}, words=True)
    for one in reversed(found):
        clock = time.strftime("%H:%M:%S", time.localtime(one.time))
        cells = (
            clock,
            one.source,
            one.action.value,
            printable(one.current_to or one.original_to),
            printable(answer(one.diagnostic)),
        )
        table.add_row(*map(Text, cells), style="" if one.action is Action.DEFERRED else "red")
    return table


def _events(found: Sequence[Event]) -> Table:
    table = _table(("events", "", ""), {}, words=True)
    for one in reversed(found):
        clock = time.strftime("%H:%M:%S", time.localtime(one.time))
        table.add_row(clock, Text(one.event), Text(printable(one.text)), style=_SEVERITIES[one.severity])
    return table
