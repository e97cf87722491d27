"""
Is all well? Judgements over what was found, for C{qmailpy status} and whoever else watches: functions of values alone.

Levels are those of Nagios, which its plugins' exit status is as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum

from attrs import frozen

from qmailpy.interfaces import IEvents

DAY_S = 86400.0
_STARTING_S = 60.0  # a start that takes no longer is nothing to look after
_RANKS = {"directory": 0, "mta": 1, "access": 2}  # roles, in the order in which they are started
_YOUNG_S = 300.0  # a process younger than this, beside older ones, has been restarted


class Level(IntEnum):
    """How bad it is."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_ORDER = (Level.CRITICAL, Level.WARNING, Level.UNKNOWN, Level.OK)


@frozen(kw_only=True)
class Finding:
    """What was found about one thing."""

    name: str  # "processes", "queue", "space"...
    level: Level
    text: str  # one line for people
    values: Mapping[str, float] = {}  # what was measured


@frozen(kw_only=True)
class Limits:
    """From where on it is bad; C{*_warn} a warning, the other critical."""

    messages_warn: int = 10_000
    messages: int = 100_000
    age_warn_s: float = 4 * 3600.0
    age_s: float = 2 * DAY_S
    certificate_warn_s: float = 14 * DAY_S
    certificate_s: float = 2 * DAY_S
    space_factor: float = 4.0  # a warning at so many times the reserve of [queue]


@frozen(kw_only=True)
class Queued:
    """The queue of one channel."""

    channel: str
    messages: int
    held: int
    oldest_s: float | None  # age of its oldest message that is not held
    stopped: bool


def worst(findings: Sequence[Finding]) -> Level:
    """The level of it all: critical, warning, unknown, and only then well."""
    levels = {finding.level for finding in findings}
    return next((level for level in _ORDER if level in levels), Level.OK)


def processes(
    expected: Sequence[str],
    uptimes: Mapping[str, float | None],
    starting: Collection[str] = (),
    dying: Collection[str] = (),
) -> Finding:
    """
    Whether all are there. Some start when those before are ready; until then, nothing is wrong with them.

    @param expected: names of the processes there should be.
    @param uptimes: of those that are there, in seconds; C{None}: it is there and does not answer.
    @param starting: those of them that are not ready yet.
    @param dying: those that have died again and again, and were not well since: their start is no good sign.
    """
    last = max((_rank(name) for name in uptimes), default=0)
    begun = max((uptime for uptime in uptimes.values() if uptime is not None), default=_STARTING_S)
    early = begun < _STARTING_S
    absent = [name for name in expected if name not in uptimes]
    # Behind one that is not ready it comes later, however long that takes; right after a start its socket may.
    due = [
        name for name in absent if _rank(name) >= last and (early or any(_rank(one) < _rank(name) for one in starting))
    ]
    missing = [name for name in absent if name not in due]
    silent = [name for name, uptime in uptimes.items() if uptime is None]
    known = {name: uptime for name, uptime in uptimes.items() if uptime is not None}
    values = {"processes": float(len(known)), "uptime": min(known.values(), default=0.0)}
    if not uptimes:
        return Finding(name="processes", level=Level.CRITICAL, text="the daemon is not running", values=values)
    if missing or silent:
        parts = [f"{', '.join(missing)} not running"] if missing else []
        parts += [f"{', '.join(silent)} not answering"] if silent else []
        return Finding(name="processes", level=Level.CRITICAL, text="; ".join(parts), values=values)
    if again := sorted({*starting} & {*dying}):
        text = f"{', '.join(again)} dying again and again"
        return Finding(name="processes", level=Level.CRITICAL, text=text, values=values)
    if due or starting:
        text = f"{', '.join(sorted({*due, *starting}))} starting"
        return Finding(name="processes", level=Level.OK if early else Level.WARNING, text=text, values=values)
    eldest = max(known.values())
    young = [name for name, uptime in known.items() if uptime < _YOUNG_S and eldest - uptime > _YOUNG_S]
    if young:
        text = f"{', '.join(young)} restarted a moment ago"
        return Finding(name="processes", level=Level.WARNING, text=text, values=values)
    return Finding(name="processes", level=Level.OK, text=f"{', '.join(sorted(known))} running", values=values)


def _rank(name: str) -> int:
    return _RANKS.get(name.rpartition("-")[0], 0)


def queue(channels: Sequence[Queued], limits: Limits) -> Finding:
    """Its size and the age of the oldest message that waits for anything but an operator."""
    messages = sum(one.messages for one in channels)
    held = sum(one.held for one in channels)
    ages = [(one.oldest_s, one.channel) for one in channels if one.oldest_s is not None]
    oldest, channel = max(ages, default=(0.0, ""))
    level = Level.OK
    if messages >= limits.messages_warn or oldest >= limits.age_warn_s:
        level = Level.WARNING
    if messages >= limits.messages or oldest >= limits.age_s:
        level = Level.CRITICAL
    text = f"{messages} message{'s' * (messages != 1)} queued" + (f" ({held} held)" if held else "")
    if ages:
        text += f", the oldest {age_text(oldest)} old in {channel}"
    values = {"queue": float(messages), "held": float(held), "oldest": round(oldest, 1)}
    return Finding(name="queue", level=level, text=text, values=values)


def channels(found: Sequence[Queued]) -> Finding:
    """Whether an operator has stopped one."""
    stopped = [one.channel for one in found if one.stopped]
    if stopped:
        waiting = sum(one.messages for one in found if one.stopped)
        text = f"{', '.join(stopped)} stopped, {waiting} message{'s' * (waiting != 1)} waiting there"
        return Finding(name="channels", level=Level.WARNING, text=text, values={"stopped": float(len(stopped))})
    return Finding(name="channels", level=Level.OK, text="no channel is stopped", values={"stopped": 0.0})


RECENT_S = 3600.0
"""How long a grave event is a warning."""


def trouble(conditions: Sequence[tuple[str, str]]) -> Finding:
    """@param conditions: severity and text of what the server has found out about itself."""
    levels = {"critical": Level.CRITICAL, "warning": Level.WARNING}
    level = max((levels.get(severity, Level.OK) for severity, _ in conditions), default=Level.OK)
    text = "; ".join(text for _, text in conditions) or "none that the server knows of"
    return Finding(name="trouble", level=level, text=text, values={"trouble": float(len(conditions))})


def directory(up: Mapping[str, bool], *, away: bool = False) -> Finding:
    """
    @param up: whether a directory server is asked, by name; a lone one is, however slow it is.
    @param away: the last question has found nobody who answers.
    """
    down = sorted(name for name, well in up.items() if not well)
    values = {"directory_down": float(len(down))}
    if away or (down and len(down) == len(up)):
        text = "no directory server answers: mail waits, nobody can log in"
        return Finding(name="directory", level=Level.CRITICAL, text=text, values=values)
    if down:
        text = f"{', '.join(down)} does not serve; others do"
        return Finding(name="directory", level=Level.WARNING, text=text, values=values)
    return Finding(name="directory", level=Level.OK, text="answers", values=values)


def events(grave: Sequence[str]) -> Finding:
    """@param grave: texts of the critical events of the last hour, oldest first."""
    values = {"critical_events": float(len(grave))}
    if not grave:
        return Finding(name="events", level=Level.OK, text="none critical in the last hour", values=values)
    more = f" (and {len(grave) - 1} more: qmailpy events --since 1h)" if grave[1:] else ""
    text = f"in the last hour: {grave[-1]}{more}"
    return Finding(name="events", level=Level.WARNING, text=text, values=values)


def space(octets: int, inodes: int, reserve_octets: int, reserve_inodes: int, path: str, limits: Limits) -> Finding:
    """
    What a file system has left.

    @param reserve_octets: with less than this new mail is refused (C{[queue] reserve_octets}).
    """
    level = Level.OK
    if octets < limits.space_factor * reserve_octets or inodes < limits.space_factor * reserve_inodes:
        level = Level.WARNING
    if octets < reserve_octets or inodes < reserve_inodes:
        level = Level.CRITICAL
    text = f"{octets // (1 << 20)} MiB and {inodes} inodes free in {path}"
    if level is Level.CRITICAL:
        text += ": new mail is refused"
    return Finding(name="space", level=level, text=text, values={"free": float(octets)})


def certificate(left_s: float, limits: Limits) -> Finding:
    """@param left_s: for how long it is still valid; negative when it has run out."""
    values = {"certificate_days": round(left_s / DAY_S, 1)}
    if left_s <= 0:
        return Finding(name="certificate", level=Level.CRITICAL, text=f"ran out {age_text(-left_s)} ago", values=values)
    level = Level.OK
    if left_s < limits.certificate_warn_s:
        level = Level.CRITICAL if left_s < limits.certificate_s else Level.WARNING
    return Finding(name="certificate", level=level, text=f"valid for {age_text(left_s)}", values=values)


def age_text(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * DAY_S else f"{seconds / DAY_S:.0f} days"


def tell_over(events: IEvents, event: str, about: str, lasted_s: float) -> None:
    """A condition that was told of has ended (event C{trouble.over}). @param about: its first field."""
    events.happened("trouble.over", event=event, about=about, lasted=age_text(max(0.0, lasted_s)))
