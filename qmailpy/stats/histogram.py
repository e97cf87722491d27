"""How often a value lay between bounds: what a distribution costs when it is counted on the way."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """
    Counts by upper bound. One thread adds; others may read meanwhile and see counts that are one apart.

    @ivar counts: one more than bounds: the last is of what lies above all of them.
    @ivar sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """@param bounds: rising; a value equal to one lies below it."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
