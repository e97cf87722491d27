"""One timer for the earliest of many times."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.wakeup import Wakeup

LONG_AGO = 1.8e9


class WakeupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ahead = LONG_AGO  # of the wall clock
        self.rung: list[float] = []
        self.wakeup = Wakeup(self.clock, self.wall, self.ring)

    def wall(self) -> float:
        return self.ahead + self.clock.seconds()

    def ring(self) -> None:
        self.rung.append(self.clock.seconds())

    def at(self, *times: float) -> None:
        """In seconds from the beginning."""
        for when in times:
            self.wakeup.at(LONG_AGO + when)

    def test_it_rings_once_at_the_earliest_time(self) -> None:
        self.at(30, 10, 20)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.pump([9, 1, 10, 10, 60])
        self.assertEqual(self.rung, [10])

    def test_what_is_past_rings_at_once_but_not_in_the_call(self) -> None:
        self.clock.advance(60)
        self.at(10)
        (timer,) = self.clock.getDelayedCalls()
        self.assertEqual((self.rung, timer.getTime()), ([], 60))  # a reactor takes no time that is past
        self.clock.advance(0)
        self.assertEqual(self.rung, [60])

    def test_a_later_time_costs_no_timer(self) -> None:
        self.at(10)
        (timer,) = self.clock.getDelayedCalls()
        self.at(10, 11)
        self.assertEqual(self.clock.getDelayedCalls(), [timer])

    def test_it_is_set_again_while_it_rings(self) -> None:
        again = Wakeup(self.clock, self.wall, lambda: again.at(self.wall() + 5) if len(told) < 3 else None)
        told: list[float] = []
        ring = again._ring

        def tell() -> None:
            told.append(self.clock.seconds())
            ring()

        again._ring = tell
        again.at(LONG_AGO + 5)
        self.clock.pump([5] * 10)
        self.assertEqual((told, again.set), ([5, 10, 15], False))

    def test_a_wall_clock_that_is_set_forward_makes_what_is_asked_for_next_earlier(self) -> None:
        self.at(100)
        self.ahead += 95
        self.at(100)
        self.clock.advance(5)
        self.assertEqual(self.rung, [5])

    def test_after_it_is_cancelled_it_may_be_set_again(self) -> None:
        self.wakeup.cancel()
        self.at(10)
        self.assertTrue(self.wakeup.set)
        self.wakeup.cancel()
        self.wakeup.cancel()
        self.assertFalse(self.wakeup.set)
        self.clock.advance(20)
        self.assertEqual(self.rung, [])
        self.at(30)
        self.clock.advance(10)
        self.assertEqual(self.rung, [30])
