"""Tests of the sessions of a listener and their orderly end."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.servers.sessions import Sessions


class Guest:
    """A session that leaves when it is cut off, or when it is told to stop and is not busy."""

    def __init__(self, sessions: Sessions, busy: bool = False) -> None:
        self.sessions, self.busy = sessions, busy
        self.stopped = 0
        sessions.add(self)

    def stop(self) -> None:
        self.stopped += 1
        if not self.busy:
            self.sessions.discard(self)

    def abort(self) -> None:
        self.sessions.discard(self)


class DrainTests(SynchronousTestCase):
    """An orderly stop."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = Sessions(self.clock)

    def test_there_are_as_many_as_came_and_did_not_leave(self) -> None:
        guests = [Guest(self.sessions) for _ in range(3)]
        self.sessions.discard(guests[1])
        self.assertEqual(len(self.sessions), 2)
        self.assertEqual(set(self.sessions), {guests[0], guests[2]})

    def test_it_ends_with_the_last_of_them(self) -> None:
        idle, busy = Guest(self.sessions), Guest(self.sessions, busy=True)
        done = self.sessions.drain(30)
        self.assertTrue(self.sessions.draining)
        self.assertEqual(list(self.sessions), [busy])
        self.assertEqual(idle.stopped, 1)
        self.assertNoResult(done)
        self.sessions.discard(busy)
        self.successResultOf(done)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_whoever_takes_too_long_is_cut_off(self) -> None:
        Guest(self.sessions, busy=True)
        done = self.sessions.drain(30)
        self.clock.advance(29)
        self.assertNoResult(done)
        self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual(len(self.sessions), 0)

    def test_two_may_wait_for_it_and_nobody_is_told_twice(self) -> None:
        busy = Guest(self.sessions, busy=True)
        first, second = self.sessions.drain(30), self.sessions.drain(60)
        self.assertEqual(busy.stopped, 1)
        self.sessions.discard(busy)
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.sessions.drain(30))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_a_stop_the_last_may_leave_and_others_come(self) -> None:
        self.sessions.discard(Guest(self.sessions))
        self.assertFalse(self.sessions.draining)
        Guest(self.sessions)
        self.assertEqual(len(self.sessions), 1)
