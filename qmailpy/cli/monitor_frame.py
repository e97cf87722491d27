"""What C{qmailpy monitor} shows: a frame made from two looks, as values and as rich's renderables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qmailpy.cli.monitor_count import EDGES, Counted
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
_LEAST = 2  # rows of a list
_MOST = 50
_NARROW = 60  # columns
_WIDEST = 40  # a column that is no text
_SEVERITIES = {Severity.NOTICE: "", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}


@frozen(kw_only=True)
class Shown:
    """One frame."""

    look: Look
    before: Look | None  # the one before, for rates
    failures: Sequence[LogRecord]  # newest last
    events: Sequence[Event]  # likewise
    counted: Counted | None = None  # what waits by destination, where some of it waits for later


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
        "waiting": _waiting_json(shown.counted),
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


def _waiting_json(counted: Counted | None) -> dict[str, Any] | None:
    if counted is None:
        return None
    return {
        "time": round(counted.time, 3),
        "took": round(counted.took, 3),
        "recipients": counted.total,
        "names": counted.names,
        "edges": [*EDGES],
        "destinations": [{"destination": name, "recipients": [*counts]} for name, counts in counted.rows],
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


def render(shown: Shown, home: str, height: int, width: int = 120) -> RenderableType:
    """
    A frame for a terminal.

    @param height: lines there are; what does not fit is left out, from the lists that are longest.
    @param width: columns there are; on a narrow one tables have fewer.
    """
    look = shown.look
    narrow = width < _NARROW
    channels = _listed(shown, height)
    destinations, later = look.destinations(), look.later()
    lists: list[tuple[int, Callable[[int], RenderableType]]] = []
    if destinations or later:
        whose = shown.counted is None
        lists.append(
            (
                len(destinations) + bool(later),
                lambda rows: _destinations(destinations[: rows - bool(later)], later, whose=whose, narrow=narrow),
            )
        )
    if (counted := shown.counted) is not None:
        lists.append((counted.names, lambda rows: _waiting(counted, look.time, rows, narrow=narrow)))
    if shown.failures:
        lists.append((len(shown.failures), lambda rows: _failures(shown.failures[-rows:])))
    if shown.events:
        lists.append((len(shown.events), lambda rows: _events(shown.events[-rows:])))
    parts: list[RenderableType] = [_head(look, home)]
    if not look.running:
        parts.append(Text("the daemon is not running; waiting for it", style="bold red"))
    elif not look.whole:
        silent = ", ".join(one for one in look.silent if one.startswith("mta-"))
        text = f"without what {silent} has queued: it starts, or does not answer"
        parts.append(Text(text, style="bold yellow", no_wrap=True, overflow="ellipsis"))
    parts.append(_channels(shown, channels, narrow=narrow))
    taken = 4 + len(channels) + (len(channels) < len(look.channels)) + (not look.whole) + len(lists)
    rows = shares([min(most, _MOST) for most, _ in lists], height - taken)
    parts += [made(share) for (_, made), share in zip(lists, rows, strict=True)]
    return Group(*parts)


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """How many rows each list gets: none more than it wants, and what short ones leave is for the others."""
    found = [0] * len(wanted)
    for at, which in enumerate(sorted(range(len(wanted)), key=lambda one: wanted[one])):
        found[which] = min(wanted[which], max(_LEAST, room // (len(wanted) - at)))
        room -= found[which]
    return found


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
    """The channels there is room for: all of them in a third of the screen, else those that are not quiet."""
    channels = list(shown.look.channels)
    if len(channels) <= height // 3:
        return channels
    busy = [one for one in channels if not _quiet(shown, one)]
    return busy[: max(4, height // 2 - 3)]


def _channels(shown: Shown, listed: Sequence[ChannelSummary], *, narrow: bool) -> Table:
    heads = ("channel", "queued", "held", "jobs", "oldest", "in/s", "out/s", "failed/s", "")
    keep = (0, 1, 2, 4) if narrow else range(len(heads))
    table = _table([heads[at] for at in keep], dict.fromkeys(range(1, len(keep) - (not narrow)), True))
    for one in listed:
        rates = _rates(shown, one.channel)
        quiet = _quiet(shown, one)
        oldest = "" if one.oldest is None else age_text(max(0.0, shown.look.time - one.oldest))
        cells = [one.channel, str(one.messages), str(one.held), str(one.busy), oldest]
        known = shown.before is not None  # the first look knows of no rates
        cells += [f"{rates[name]:.1f}" if known else "" for name in ("received", "delivered", "failed")]
        cells.append("stopped" if one.stopped else "")
        style = "dim" if quiet else "red" if one.stopped else ""
        table.add_row(*[Text(cells[at]) for at in keep], style=style)
    if left := len(shown.look.channels) - len(listed):
        table.add_row(Text(f"and {left} more"), style="dim")
    return table


def _destinations(
    found: Sequence[tuple[str, str, int, int]], later: Mapping[str, int], *, whose: bool, narrow: bool
) -> Table:
    """
    @param later: what is in no row, by channel; together in a row of its own, however many there are.
    @param whose: say where to look for whose it is.
    """
    keep = (0, 2) if narrow else range(4)
    heads = ("due now, by destination", "channel", "waiting", "jobs")
    table = _table([heads[at] for at in keep], {at: keep[at] >= 2 for at in range(len(keep))})
    for channel, name, waiting, busy in found:
        cells = (Text(printable(name)), Text(channel), str(waiting), str(busy))
        table.add_row(*[cells[at] for at in keep])
    if later:
        channels = ", ".join(sorted(later, key=lambda name: (-later[name], name)))
        name = "later; whose: qmailpy qm qshape" if whose else "later"
        cells = (Text(name), Text(channels), str(sum(later.values())), "")
        table.add_row(*[cells[at] for at in keep], style="dim")
    return table


def _waiting(counted: Counted, now: float, rows: int, *, narrow: bool) -> Table:
    """@param rows: there is room for."""
    age = age_text(max(0.0, now - counted.time))
    heads = (f"all that waits, {age} ago" if narrow else f"all that waits, counted {age} ago", "recipients")
    ages = () if narrow else ("to 1 h", "to 1 day", "older")
    table = _table((*heads, *ages), dict.fromkeys(range(1, 5), True))
    shown = counted.rows[: rows if counted.names <= rows else max(1, rows - 1)]
    for name, counts in shown:
        columns = [str(count or "") for count in counts[: len(ages)]]
        table.add_row(Text(printable(name)), str(sum(counts)), *columns)
    if left := counted.names - len(shown):
        rest = counted.total - sum(sum(counts) for _, counts in shown)
        table.add_row(Text(f"and {left} more"), str(rest), style="dim")
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
