"""Mail for a destination that has too many ready ones."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.fair import FairQueue, Unit
from qmailpy.queue.parking import PARKED_S, Parking
from qmailpy.values import Priority


class ParkingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.fair: FairQueue[tuple[int, ...]] = FairQueue(concurrency=1, waiting_limit=3)
        self.back: list[list[int]] = []
        self.pumped = 0
        self.resting = False
        self.parking = Parking(
            fair=self.fair,
            few=2,
            clock=self.clock,
            resting=lambda: self.resting,
            take_up=self.back.append,
            pump=self.pump,
        )

    def pump(self) -> None:
        self.pumped += 1

    def ready(self, host: str, *numbers: int) -> None:
        """So many are ready for a destination already."""
        for number in numbers:
            self.fair.add(Unit(number, host, Priority.NORMAL, (0,)))

    def park(self, host: str, *numbers: int) -> None:
        for number in numbers:
            self.parking.park(host, number)

    def test_a_destination_that_has_few_ready_ones_gets_some_back_in_their_order(self) -> None:
        self.ready("out.example", 1, 2)
        self.park("out.example", 11, 12, 13)
        self.parking.unpark("out.example")
        self.parking.unpark("out.example")
        self.parking.unpark("out.example")
        self.assertEqual((self.back, self.parking.by_host), ([[11, 12], [13]], {}))

    def test_a_destination_that_has_many_ready_ones_gets_none_back(self) -> None:
        self.ready("out.example", 1, 2, 3)
        self.park("out.example", 11)
        self.park("else.example", 12)
        self.parking.unpark_some()
        self.assertEqual((self.back, list(self.parking.by_host)), ([[12]], ["out.example"]))

    def test_it_is_looked_now_and_then_until_nothing_is_parked(self) -> None:
        self.ready("out.example", 1, 2, 3)
        self.park("out.example", 11, 12, 13)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(PARKED_S)
        self.assertEqual((self.back, self.pumped), ([], 1))
        self.fair.remove_message(1)
        self.clock.advance(PARKED_S)
        self.clock.advance(PARKED_S)
        self.assertEqual((self.back, self.pumped), ([[11, 12], [13]], 3))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_channel_that_is_stopped_gets_nothing_until_it_goes_on(self) -> None:
        self.park("out.example", 11)
        self.resting = True
        self.clock.advance(PARKED_S)
        self.assertEqual((self.back, self.clock.getDelayedCalls()), ([], []))
        self.resting = False
        self.parking.started()
        self.assertEqual((self.back, self.pumped, self.clock.getDelayedCalls()), ([[11]], 1, []))

    def test_who_runs_a_channel_now_takes_all(self) -> None:
        self.park("out.example", 11, 12)
        self.park("else.example", 13)
        self.assertEqual([one.tolist() for one in self.parking.take_all()], [[11, 12], [13]])
        self.assertEqual(self.parking.by_host, {})

    def test_at_the_end_no_timer_is_left_nor_made(self) -> None:
        self.park("out.example", 11)
        self.parking.end()
        self.parking.end()
        self.park("out.example", 12)
        self.assertEqual(self.clock.getDelayedCalls(), [])
