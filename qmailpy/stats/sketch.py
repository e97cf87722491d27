"""
Percentiles of waiting times in bounded memory: a histogram whose classes grow by a constant factor.

A value is told within L{ERROR} of itself (relatively), whatever the distribution; there are at most about 800 classes
between a millisecond and 30 years. Sketches can be added up.
"""

from __future__ import annotations

import math

ERROR = 0.02
"""Largest relative error of a percentile."""

_GROWTH = (1 + ERROR) / (1 - ERROR)
FACTOR = 1 / math.log(_GROWTH)
"""C{ceil(log(milliseconds) * FACTOR)} is a value's class; L{Sketch.classes}."""


class Sketch:
    """
    How often which waiting time was seen.

    @ivar classes: count by class; class -1 is zero. Hot loops count into it themselves.
    """

    __slots__ = ("classes",)

    def __init__(self) -> None:
        self.classes: dict[int, int] = {}

    def add(self, milliseconds: int) -> None:
        """Count a value; not negative."""
        at = math.ceil(math.log(milliseconds) * FACTOR) if milliseconds else -1
        self.classes[at] = self.classes.get(at, 0) + 1

    def percentiles(self, *shares: float) -> list[float]:
        """
        The values, in milliseconds, that these shares of all values do not exceed.

        @param shares: from 0 to 1, rising.
        @return: as many; zeros when nothing was counted.
        """
        total = sum(self.classes.values())
        found: list[float] = []
        passed = 0
        order = iter(sorted(self.classes.items()))
        at = -1
        for share in shares:
            wanted = max(1, math.ceil(share * total))
            while passed < wanted and total:
                at, count = next(order)
                passed += count
            found.append(0.0 if at < 0 or not total else 2 * _GROWTH**at / (_GROWTH + 1))
        return found
