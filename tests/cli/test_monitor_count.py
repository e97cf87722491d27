"""The count of what waits, by destination."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import monitor_count
from qmailpy.cli.monitor_count import AGAIN_S, EDGES, OTHERS, Counting
from qmailpy.errors import CommandError
from qmailpy.queue.entries import QueueFilter, ShapeRow


class CountingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 100.0
        self.rests: list[float] = []
        self.counts = 0
        self.rows = [ShapeRow(name="a.example", counts=(1, 2, 3)), ShapeRow(name="b.example", counts=(9, 0, 0))]
        self.counting = Counting(self.ages, lambda: 1000.0 + self.now, lambda: self.now, self.rest)
        self.addCleanup(self.counting.stop)

    def rest(self, seconds: float) -> bool:
        self.rests.append(seconds)
        self.now += seconds
        return False

    def ages(self, wanted: QueueFilter, edges: Sequence[float], looked: Callable[[int], None]) -> Iterator[ShapeRow]:
        assert wanted.held is False and edges == EDGES
        self.counts += 1
        for row in (*self.rows, self.rows[0]):
            self.now += 2.0
            looked(1)
            yield row

    def test_parts_are_added_up_with_a_rest_behind_each(self) -> None:
        """As long as it took: half of the daemon's time is for mail at the least."""
        self.counting.thd_count()
        found = self.counting.counted
        assert found is not None
        self.assertEqual(found.rows, [("a.example", (2, 4, 6)), ("b.example", (9, 0, 0))])
        self.assertEqual((found.names, found.total, found.took, found.time), (2, 21, 12.0, 1112.0))
        self.assertEqual(self.rests, [2.0, 2.0, 2.0])

    def test_what_was_counted_is_remembered(self) -> None:
        """Ten times as long as it took."""
        for later, counts in ((0.0, 1), (119.0, 1), (2.0, 2)):
            self.now += later
            self.counting.wanted(5.0)
            self.until(counts)
            self.assertEqual(self.counts, counts, later)

    def until(self, counts: int) -> None:
        limit = threading.Event()
        for _ in range(500):
            if self.counts >= counts and self.counting._due > self.now:
                return
            limit.wait(0.01)

    def test_a_daemon_that_is_gone_leaves_the_figures_as_they_were(self) -> None:
        self.counting.thd_count()
        before = self.counting.counted

        def ages(wanted: QueueFilter, edges: Sequence[float], looked: Callable[[int], None]) -> Iterator[ShapeRow]:
            raise CommandError("the daemon is not running")

        self.counting._ages = ages
        self.counting.thd_count()
        self.assertIs(self.counting.counted, before)
        self.assertEqual(self.counting._due, self.now + AGAIN_S)

    def test_its_end_ends_the_count(self) -> None:
        self.counting._rest = lambda seconds: True
        self.counting.thd_count()
        self.assertIsNone(self.counting.counted)
        self.counting.stop()
        self.counting.wanted()
        self.assertIsNone(self.counting._thread)

    def test_names_have_a_bound(self) -> None:
        self.patch(monitor_count, "NAMES", 1)
        self.counting.thd_count()
        assert self.counting.counted is not None
        self.assertEqual(self.counting.counted.rows, [("a.example", (2, 4, 6)), (OTHERS, (9, 0, 0))])
