"""
A timer for the earliest of many times: it rings then, and whoever owns it looks what is due and sets it again.

Times are of the wall clock, timers of the reactor's: the two go apart when somebody sets the clock of the machine. So
what rings too early is set again, and nothing is lost by it.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Wakeup:
    """One timer, which only ever moves to an earlier time until it has rung."""

    __slots__ = ("_clock", "_ring", "_seconds", "_timer")

    def __init__(self, clock: IReactorTime, seconds: Callable[[], float], ring: Callable[[], None]) -> None:
        """
        @param clock: timers.
        @param seconds: wall clock.
        @param ring: called at the time; no timer is set then. It may be a little early.
        """
        self._clock = clock
        self._seconds = seconds
        self._ring = ring
        self._timer: IDelayedCall | None = None

    @property
    def set(self) -> bool:
        """Whether it is going to ring."""
        return self._timer is not None

    def at(self, when: float) -> None:
        """Ring at this time of the wall clock, what is past at once; an earlier one that was asked for stays."""
        delay = max(0.0, when - self._seconds())
        if self._timer is not None:
            if self._timer.getTime() <= self._clock.seconds() + delay:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(delay, self._rings)

    def cancel(self) -> None:
        """Do not ring for what was asked for so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rings(self) -> None:
        self._timer = None
        self._ring()
