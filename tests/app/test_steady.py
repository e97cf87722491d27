"""Timers go on when the clock of the machine is set, and what waits by the time of day is told."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app import steady
from qmailpy.app.reactor import Reactor as OurReactor
from qmailpy.app.steady import LOOK_S, STEP_S, VARIABLE, ClockWatch, begin, make_steady
from qmailpy.clocks import latest, wall


class Reactor:
    """As far as it is changed."""

    seconds: Any = None
    wall: Any = None


class Time:
    """A machine's clocks."""

    def __init__(self) -> None:
        self.day = 1_790_000_000.0
        self.up = 500.0

    def time(self) -> float:
        return self.day

    def monotonic(self) -> float:
        return self.up

    def pass_(self, seconds: float) -> None:
        self.day += seconds
        self.up += seconds


class SteadyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = Time()
        self.patch(steady, "time", self.time)
        before = os.environ.pop(VARIABLE, None)
        self.addCleanup(lambda: os.environ.pop(VARIABLE, None))
        if before is not None:
            self.addCleanup(os.environ.__setitem__, VARIABLE, before)

    def test_a_clock_that_is_set_does_not_move_it(self) -> None:
        reactor = Reactor()
        begin(reactor)
        self.assertEqual(reactor.seconds(), self.time.day)
        self.time.pass_(10)
        before = reactor.seconds()
        self.time.day -= 3600
        self.assertEqual(reactor.seconds(), before)
        self.assertEqual(reactor.wall(), before - 3600)
        self.time.pass_(5)
        self.assertAlmostEqual(reactor.seconds(), before + 5)

    def test_children_have_the_time_of_the_supervisor(self) -> None:
        """However the clock was set before they were started: they share counts by that time."""
        ours, theirs = Reactor(), Reactor()
        begin(ours)
        self.time.day += 1e7
        make_steady(theirs)
        self.assertEqual(theirs.seconds(), ours.seconds())
        self.assertEqual(theirs.wall(), self.time.day)

    def test_timers_of_our_reactor_go_by_it(self) -> None:
        reactor: Any = OurReactor()
        make_steady(reactor)
        reactor.callLater(5, lambda: None)
        for step in (-3600, 1e8):
            self.time.day += step
            self.assertAlmostEqual(reactor.timeout(), 5)

    def test_a_process_by_itself_has_the_time_of_its_start(self) -> None:
        for nothing in (None, "", "x"):
            if nothing is not None:
                os.environ[VARIABLE] = nothing
            reactor = Reactor()
            make_steady(reactor)
            self.assertEqual(reactor.seconds(), self.time.day)


class WallTests(SynchronousTestCase):
    def test_a_clock_with_one_time_has_that(self) -> None:
        clock = Clock()
        clock.advance(7)
        self.assertEqual(wall(clock)(), 7)

    def test_what_is_past_is_earlier_than_the_latest_of_them(self) -> None:
        """Whatever the clock was set by since the supervisor was started."""
        for off in (-3600.0, 3600.0):
            clock = Moved()
            clock.advance(1e6)
            clock.off = 0.0
            before = clock.wall()
            clock.advance(1)
            clock.off = off
            self.assertGreater(latest(clock), before)
            self.assertGreaterEqual(latest(clock), clock.wall())

    def test_one_with_two_tells_the_time_of_day(self) -> None:
        clock: Any = Clock()
        clock.wall = time.time
        self.assertIs(wall(clock), time.time)


class Moved(Clock):
    """A clock whose time of day can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.off = 1000.0  # the supervisor may be older than the last time somebody set it

    def wall(self) -> float:
        return self.seconds() + self.off


class ClockWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Moved()
        self.steps: list[float] = []
        self.told: list[tuple[str, object]] = []
        self.watch = ClockWatch(self.clock, self, self.steps.append)  # type: ignore[arg-type]
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def happened(self, name: str, **fields: object) -> None:
        self.told.append((name, fields["by"]))

    def test_what_it_was_set_by_is_told_once(self) -> None:
        for step, said in ((-3600.0, "3600 s earlier"), (86400.0, "86400 s later")):
            self.clock.off += step
            self.clock.pump([LOOK_S] * 3)
            self.assertEqual(self.steps.pop(), step)
            self.assertEqual(self.told.pop(), ("clock.set", said))
            self.assertEqual((self.steps, self.told), ([], []))

    def test_what_ntp_does_is_not(self) -> None:
        self.clock.off += STEP_S - 1
        self.clock.advance(LOOK_S)
        self.assertEqual(self.steps, [])
        self.clock.off += 2  # it adds up
        self.clock.advance(LOOK_S)
        self.assertEqual(self.steps, [STEP_S + 1])
