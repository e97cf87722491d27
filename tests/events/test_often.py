"""How often an event is written."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.often import AGAIN_S, MOST, WINDOW_S, Often, Told


class OftenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_000_000.0
        self.often = Often()

    def happens(self, name: str, key: str = "a") -> tuple[Told, int]:
        return self.often.happened(name, CATALOGUE[name], key, self.now)

    def test_a_condition_that_goes_on_is_written_once_in_its_time_without_a_count(self) -> None:
        """It did not happen sixty times: there were sixty looks at it."""
        self.assertEqual(self.happens("worker.down"), (Told.WRITE, 1))
        for _ in range(59):
            self.now += 60
            self.assertEqual(self.happens("worker.down"), (Told.COUNT, 0))
        self.now += 60
        self.assertEqual(self.happens("worker.down"), (Told.WRITE, 1))

    def test_one_that_comes_back_is_written_although_its_time_is_not_over(self) -> None:
        self.happens("worker.down")
        self.assertTrue(self.often.over("worker.down", "a"))
        self.now += AGAIN_S
        self.assertEqual(self.happens("worker.down")[0], Told.WRITE)
        self.assertTrue(self.often.over("worker.down", "a"))

    def test_one_that_comes_and_goes_is_written_now_and_then_each_time_with_its_end(self) -> None:
        """Of what was written the end is as well, of the rest neither."""
        written = []
        for _ in range(100):
            begins = self.happens("queue.size")[0] is Told.WRITE
            ends = self.often.over("queue.size", "a")
            self.assertEqual(begins, ends)
            written.append(begins)
            self.now += 60
        self.assertEqual(sum(written), 100 * 60 / AGAIN_S)

    def test_one_that_came_back_too_soon_and_stays_is_written_later(self) -> None:
        self.happens("queue.size")
        self.often.over("queue.size", "a")
        self.now += 60
        self.assertEqual(self.happens("queue.size")[0], Told.COUNT)
        self.now += AGAIN_S
        self.assertEqual(self.happens("queue.size")[0], Told.WRITE)
        self.assertTrue(self.often.over("queue.size", "a"))

    def test_ten_thousand_strangers_are_no_flood(self) -> None:
        """And what happens besides is written all the same."""
        found = [self.happens("auth.banned", f"192.0.2.{number}")[0] for number in range(10_000)]
        self.assertEqual((found.count(Told.WRITE), found.count(Told.TOO_MANY)), (MOST, 1))
        self.assertEqual(found.index(Told.TOO_MANY), MOST)
        self.assertEqual(self.happens("auth.attack")[0], Told.WRITE)
        self.now += WINDOW_S
        self.assertEqual(self.happens("auth.banned", "192.0.2.9999")[0], Told.WRITE)

    def test_conditions_are_never_too_many(self) -> None:
        for number in range(3 * MOST):
            self.assertEqual(self.happens("queue.age", f"channel{number}")[0], Told.WRITE)
            self.assertTrue(self.often.over("queue.age", f"channel{number}"))

    def test_what_is_remembered_is_bounded(self) -> None:
        for number in range(30_000):
            self.happens("auth.banned", f"client{number}")
            self.now += WINDOW_S / MOST
        self.assertLessEqual(len(self.often._keys), 10_000)

    def test_a_clock_that_is_set_back_silences_nothing(self) -> None:
        self.happens("auth.banned")
        self.now -= 86400
        self.assertEqual(self.happens("auth.banned")[0], Told.WRITE)
