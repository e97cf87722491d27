"""Percentiles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats.sketch import ERROR, Sketch


class SketchTests(SynchronousTestCase):
    def test_nothing_has_no_percentile(self) -> None:
        self.assertEqual(Sketch().percentiles(0.5, 0.99), [0.0, 0.0])

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, 10**12), min_size=1, max_size=60))
    def test_a_percentile_is_near_the_value(self, values: list[int]) -> None:
        """Within the stated relative error, for any values."""
        sketch = Sketch()
        for value in values:
            sketch.add(value)
        values.sort()
        for share, found in zip((0.5, 0.95, 1.0), sketch.percentiles(0.5, 0.95, 1.0), strict=True):
            exact = values[max(1, -int(-share * len(values) // 1)) - 1]
            self.assertLessEqual(abs(found - exact), ERROR * exact * 1.0001)

    def test_classes_are_few(self) -> None:
        sketch = Sketch()
        for power in range(1200):
            sketch.add(int(1.0233**power))
        self.assertLess(len(sketch.classes), 900)
