"""Values counted by bounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats.histogram import Histogram


class HistogramTests(SynchronousTestCase):
    def test_a_value_lies_below_the_first_bound_it_does_not_exceed(self) -> None:
        histogram = Histogram((1, 2, 5))
        for value in (0.5, 1, 1.5, 2, 5, 5.1, 1000):
            histogram.add(value)
        self.assertEqual(histogram.counts, [2, 2, 1, 2])
        self.assertAlmostEqual(histogram.sum, 1015.1)
