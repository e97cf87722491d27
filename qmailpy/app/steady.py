"""
Timers that go on when the clock of the machine is set.

Twisted's reactor counts by the time of day. Set back by an hour, nothing of what it was to do is done for an hour: no
line of the log is written, nobody is timed out, no mail tried again. Set forward, all of it is done at once: every
session ends. So the reactors of our processes count by the monotonic clock, from the time of day at the start of the
supervisor on, and are off by what it was set since. C{reactor.wall} is the time of day; see L{qmailpy.clocks}.

What is due by the time of day, as waiting mail is, has to be told: L{ClockWatch} does that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.clocks import wall
from qmailpy.interfaces import IEvents
from qmailpy.rounds import Rounds

VARIABLE = "QMAILPY_CLOCK"
"""In the environment of children: what is to be added to the monotonic clock, so that all of a node have one time."""

LOOK_S = 5.0
STEP_S = 30.0
"""A clock that is off by less is nobody's trouble; NTP sets clocks by fractions of a second."""


def begin(reactor: Any) -> None:
    """For the supervisor: make the reactor steady, and the children's after it."""
    os.environ[VARIABLE] = repr(time.time() - time.monotonic())
    make_steady(reactor)


def make_steady(reactor: Any) -> None:
    """Before the reactor has timers. Without word of the supervisor the process counts from now on."""
    try:
        offset = float(os.environ[VARIABLE])
    except (KeyError, ValueError):
        offset = time.time() - time.monotonic()
    monotonic = time.monotonic

    def seconds() -> float:
        return monotonic() + offset

    reactor.seconds = seconds
    reactor.wall = time.time


class ClockWatch:
    """Looks whether the time of day was set."""

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, events: IEvents, was_set: Callable[[float], None], look_s: float = LOOK_S
    ) -> None:
        """
        @param was_set: told by how many seconds it is later than it was; negative: earlier.
        @param look_s: how often it is looked at, in seconds.
        """
        self._reactor = reactor
        self._events = events
        self._was_set = was_set
        self._look_s = look_s
        self._wall = wall(reactor)
        self._off = self._wall() - reactor.seconds()  # so much is known
        self._rounds = Rounds(reactor, "the clock", self._look)

    def start(self) -> None:
        self._rounds.start(self._look_s)

    def stop(self) -> None:
        self._rounds.stop()

    async def _look(self) -> None:
        step = self._wall() - self._reactor.seconds() - self._off
        if abs(step) < STEP_S:
            return
        self._off += step
        by = f"{abs(step):.0f} s {'later' if step > 0 else 'earlier'}"
        self._log.warn("the clock of the machine was set, or it slept: it is {by} than it was", by=by)
        self._events.happened("clock.set", by=by)
        self._was_set(step)
