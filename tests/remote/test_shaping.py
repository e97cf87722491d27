"""
Tests for L{qmailpy.remote.shaping}.
"""

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote import shaping
from qmailpy.remote.shaping import Feeling, Shaper, feeling
from qmailpy.values import Disposition, Reply, Verdict

GOOD = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "ok"))
DOWN = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.1", "connection refused"))
SLOWER = Disposition(verdict=Verdict.DEFERRED, reply=Reply(421, "4.7.0", "too much mail from you"))


class ShaperTests(SynchronousTestCase):
    """What is learnt of a destination."""

    def test_what_is_felt_by_each_outcome(self) -> None:
        """A delivery is good whatever befell the others; our own troubles and remembered ones say nothing."""
        skipped = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.1", "skipped"), retry_after=5.0)
        for dispositions, felt in (
            ([GOOD, SLOWER], Feeling.GOOD),
            ([SLOWER, GOOD], Feeling.GOOD),
            ([DOWN, SLOWER], Feeling.SLOWER),
            ([SLOWER, DOWN], Feeling.SLOWER),
            ([DOWN], Feeling.BUSY),
            ([skipped], Feeling.NONE),
            ([Disposition(verdict=Verdict.DEFERRED, reply=Reply(450, "4.7.1", "greylisted"))], Feeling.SLOWER),
            ([Disposition(verdict=Verdict.DEFERRED, reply=Reply(421, "", "busy"))], Feeling.SLOWER),
            ([Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.7.5", "TLS failed"))], Feeling.NONE),
            ([Disposition(verdict=Verdict.DEFERRED, reply=Reply(452, "4.2.2", "mailbox full"))], Feeling.NONE),
            ([Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.7.1", "spam"))], Feeling.NONE),
        ):
            self.assertEqual(feeling(dispositions), felt, dispositions)

    def test_trouble_halves_and_success_gives_back(self) -> None:
        """Down to one; troubles of one moment count once; healthy destinations take no memory."""
        shaper = Shaper(8)
        self.assertIsNone(shaper.limit("x"))
        for _ in range(5):
            shaper.learn("x", [DOWN], 0.0)
        self.assertEqual(shaper.limit("x"), 4)
        for moment in range(1, 9):
            shaper.learn("x", [DOWN], float(moment))
        self.assertEqual((shaper.limit("x"), shaper.limit("y")), (1, None))
        taken = 0
        while shaper.limit("x") is not None:
            shaper.learn("x", [GOOD], 9.0)
            taken += 1
            self.assertLess(taken, 60)
        self.assertGreater(taken, 20)

    def test_a_host_that_asks_for_less_is_left_alone_for_a_while(self) -> None:
        """Three times in a row; longer each time, up to a quarter of an hour."""
        shaper = Shaper(8)
        now, pauses = 0.0, []
        for _ in range(8):
            for _ in range(3):
                self.assertEqual(shaper.pause("x", now), (0.0, ""))
                shaper.learn("x", [SLOWER], now)
            seconds, why = shaper.pause("x", now)
            self.assertIn("too much mail", why)
            shaper.learn("x", [SLOWER], now)  # one that was under way
            self.assertEqual(shaper.pause("x", now)[0], seconds)
            pauses.append(seconds)
            now += seconds
        self.assertEqual(pauses, [30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0])

    def test_a_delivery_in_between_is_enough(self) -> None:
        """Greylisting of a few recipients stops nobody else's mail."""
        shaper = Shaper(8)
        for moment in range(20):
            for said in (SLOWER, SLOWER, GOOD):
                shaper.learn("x", [said], float(moment))
        self.assertEqual(shaper.pause("x", 20.0), (0.0, ""))

    def test_a_rate_spaces_messages_evenly(self) -> None:
        """Whoever would have to wait too long takes no turn."""
        shaper = Shaper(8)
        self.assertEqual([shaper.turn("x", 60.0, 0.0, 2.5) for _ in range(5)], [0.0, 1.0, 2.0, 3.0, 3.0])
        self.assertEqual(shaper.turn("x", 60.0, 10.0, 2.5), 0.0)
        self.assertEqual(shaper.turn("y", 60.0, 0.0, 2.5), 0.0)

    def test_memory_is_bounded(self) -> None:
        self.patch(shaping, "HOSTS_LIMIT", 3)
        shaper = Shaper(8)
        for number in range(9):
            shaper.learn(f"x{number}", [DOWN], 0.0)
            shaper.turn(f"x{number}", 1.0, 0.0, 1.0)
        self.assertEqual([shaper.limit(f"x{number}") for number in (5, 6, 8)], [None, 4, 4])
        self.assertEqual(shaper.turn("x5", 1.0, 0.0, 1.0), 0.0)
        self.assertEqual(shaper.turn("x8", 1.0, 0.0, 1.0), 60.0)
