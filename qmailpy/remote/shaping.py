"""
How much a destination is given at once, learnt from how it takes it (pure).

A destination nobody has complained about has the channel's C{destination_concurrency}, and no entry here. Trouble (no
connection, 421, a refusal for reasons of policy) halves what it may have, at most once in C{SHRINK_S}; every delivery
gives back a share, until it is as before and forgotten. When a host has said C{PATIENCE} times in a row that it wants
less (421, or 45z with 4.7.z, as large providers do), nothing is tried there for a while, longer each time. One such
reply alone means little: greylisting looks the same.

A rate, where the configuration has one, spaces the messages evenly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum

from attrs import define

from qmailpy.values import Disposition, Verdict

HOSTS_LIMIT = 10000
"""Destinations remembered; the one changed longest ago is forgotten for the next."""

SHRINK_S = 1.0
"""Jobs that were under way together fail together, and are one trouble."""

PATIENCE = 3
PAUSE_S = 30.0
LONGEST_S = 900.0


class Feeling(Enum):
    """How a destination took a job."""

    GOOD = "taken"
    BUSY = "trouble"
    SLOWER = "wants less"
    NONE = "says nothing of it"


_OURS = ("4.7.4", "4.7.5", "4.7.8")  # of our own TLS and login


def feeling(dispositions: Sequence[Disposition]) -> Feeling:
    """What the outcome of a job says of its destination: any delivery is good, else the worst counts."""
    found = Feeling.NONE
    for one in dispositions:
        code, enhanced = one.reply.code, one.reply.enhanced
        if one.verdict is Verdict.DELIVERED:
            return Feeling.GOOD
        if one.verdict is Verdict.DEFERRED and one.retry_after is None:
            if code == 421 or (enhanced.startswith("4.7.") and enhanced not in _OURS):
                found = Feeling.SLOWER
            elif enhanced.startswith("4.4.") and found is Feeling.NONE:
                found = Feeling.BUSY
    return found


@define
class _Entry:
    window: float  # jobs at once
    shrunk: float = float("-inf")  # when it was last halved
    asked: int = 0  # times in a row that it wanted less
    pauses: int = 0
    until: float = 0.0  # end of the pause
    why: str = ""


class Shaper:
    """The destinations of one channel."""

    def __init__(self, concurrency: int) -> None:
        """
        @param concurrency: what a destination has to begin with.
        """
        self._concurrency = concurrency
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._next: OrderedDict[str, float] = OrderedDict()  # when the next message may begin, where there is a rate

    def limit(self, destination: str) -> int | None:
        """Jobs at once it may have now; C{None} = all it is configured to have."""
        entry = self._entries.get(destination)
        return None if entry is None else max(1, int(entry.window))

    def pause(self, destination: str, now: float) -> tuple[float, str]:
        """Seconds for which nothing is to be tried there, and what it had said; 0 and "" for none."""
        entry = self._entries.get(destination)
        if entry is None or entry.until <= now:
            return 0.0, ""
        return entry.until - now, entry.why

    def forget(self, destination: str) -> None:
        """Begin anew with a destination: its limit and pause are as if it had never asked for less. "" = with all."""
        if not destination:
            self._entries.clear()
        elif destination.startswith("."):
            below = destination.lower()
            for name in [name for name in self._entries if name.lower().endswith(below)]:
                del self._entries[name]
        else:
            self._entries.pop(destination, None)

    def turn(self, destination: str, per_minute: float, now: float, patience: float) -> float:
        """
        When a message may begin: seconds from now. Its turn is taken, unless that is longer than C{patience}.
        """
        at = max(self._next.get(destination, now), now)
        if at - now <= patience:
            if destination not in self._next and len(self._next) >= HOSTS_LIMIT:
                self._next.popitem(last=False)
            self._next[destination] = at + 60.0 / per_minute
            self._next.move_to_end(destination)
        return at - now

    def learn(self, destination: str, dispositions: Sequence[Disposition], now: float, limit: int = 0) -> None:
        """
        A job has ended.

        @param limit: what this destination is configured to have; 0 = as the channel.
        """
        felt = feeling(dispositions)
        entry = self._entries.get(destination)
        if felt is Feeling.NONE or (felt is Feeling.GOOD and entry is None):
            return
        most = float(limit or self._concurrency)
        if entry is None:
            if len(self._entries) >= HOSTS_LIMIT:
                self._entries.popitem(last=False)
            entry = self._entries[destination] = _Entry(most)
        self._entries.move_to_end(destination)
        if felt is Feeling.GOOD:
            entry.asked = 0
            entry.window += 1.0 / max(entry.window, 1.0)
            if entry.window >= most:
                del self._entries[destination]
            return
        if now - entry.shrunk >= SHRINK_S:
            entry.window = max(1.0, entry.window / 2)
            entry.shrunk = now
        if felt is Feeling.SLOWER and entry.until <= now:
            entry.asked += 1
            if entry.asked >= PATIENCE:
                entry.asked = 0
                entry.until = now + min(PAUSE_S * 2**entry.pauses, LONGEST_S)
                entry.pauses = min(entry.pauses + 1, 10)
                entry.why = str(dispositions[0].reply)[:200]
