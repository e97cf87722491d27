"""
Two clocks: one for timers, which never jumps, and the time of day, which somebody may set.

A reactor's C{seconds} is the first in the daemon (L{qmailpy.app.steady}): the time of day as it was at the start, and
the seconds that have passed since. Whoever writes a time down for others, or compares one with what is on disk or came
from elsewhere, asks L{wall}.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime


def latest(clock: IReactorTime) -> float:
    """
    Now, by whichever clock is ahead, in seconds since the epoch: all that had a time of day before now is earlier,
    also when the clock was set back meanwhile.
    """
    return max(clock.seconds(), wall(clock)())


def wall(clock: IReactorTime) -> Callable[[], float]:
    """
    The time of day that goes with a clock.

    @return: gives seconds since the epoch. With clocks that know of one time only, as in tests, that is it.
    """
    found: Callable[[], float] = getattr(clock, "wall", clock.seconds)
    return found
