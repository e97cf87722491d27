"""A child and its line to the supervisor: whatever happens to the line, the child does not stay behind alone."""

from __future__ import annotations

import signal

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.child import ORPHAN_S, Line


class Orphan(SynchronousTestCase):
    def setUp(self) -> None:
        self.timers: list[float] = []
        self.stops = 0
        self.patch(signal, "setitimer", lambda which, seconds: self.timers.append(seconds))
        self.reactor = MemoryReactor()
        self.patch(self.reactor, "stop", self.stop)
        self.line = Line(self.reactor, "mta", 0)

    def stop(self) -> None:
        self.stops += 1
        if self.stops > 1:
            raise AssertionError("stopped twice, which a reactor refuses")

    def shutdown(self) -> None:
        """What a reactor that stops does first."""
        for function, arguments, keywords in self.reactor.triggers["before"]["shutdown"]:
            function(*arguments, **keywords)

    def test_the_end_of_the_supervisor_stops_it_within_a_limit(self) -> None:
        self.line.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.timers, self.stops, self.line.status), ([ORPHAN_S], 1, 1))

    def test_a_line_cut_by_a_bug_stops_it_too(self) -> None:
        """An exception in dataReceived ends the connection with itself as the reason; a child once stayed for ever."""
        self.line.connectionLost(Failure(BrokenPipeError()))
        self.assertEqual((self.timers, self.stops), ([ORPHAN_S], 1))

    def test_its_own_orderly_end_is_left_alone(self) -> None:
        self.shutdown()
        self.line.connectionLost(Failure(ConnectionLost()))
        self.assertEqual((self.timers, self.stops, self.line.status), ([], 0, 0))

    def test_the_end_of_the_supervisor_limits_a_drain_under_way(self) -> None:
        self.shutdown()
        self.line.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.timers, self.stops), ([ORPHAN_S], 0))
