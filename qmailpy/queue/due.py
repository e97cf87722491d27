"""
The waiting list of one channel: which messages are due, a million of them in little memory.

An entry is one C{int}, C{milliseconds << 64 | number}, on a binary heap: 56 octets with its place in the list, and no
object that the garbage collector has to visit. Nothing can be taken out of the middle; whoever removes or postpones a
message leaves the entry behind and recognises it as stale when it is popped.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from typing import Final

_NUMBER: Final = (1 << 64) - 1


class DueList:
    """Messages that wait for their time; not tied to any clock."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[int] = []

    def __len__(self) -> int:
        """Entries, stale ones included."""
        return len(self._heap)

    def push(self, when: float, number: int) -> None:
        """
        Add a message.

        @param when: seconds since the epoch, not negative; kept to the nearest millisecond.
        @param number: 0 <= number < 2^64.
        """
        heappush(self._heap, (round(when * 1000) << 64) | number)

    def pop_due(self, now: float, limit: int) -> list[int]:
        """
        Take out the numbers that are due, the longest due first (the same millisecond: the smaller number first).

        @param now: seconds since the epoch.
        @param limit: at most so many.
        """
        heap = self._heap
        bound = (round(now * 1000) + 1) << 64  # rounded as in push: what earliest() names is due at that time
        found: list[int] = []
        while heap and heap[0] < bound and len(found) < limit:
            found.append(heappop(heap) & _NUMBER)
        return found

    def earliest(self) -> float | None:
        """When the next entry is due, in seconds since the epoch; C{None} when nothing waits."""
        return (self._heap[0] >> 64) / 1000 if self._heap else None

    def take_all(self) -> array[int]:
        """Take out all numbers, in no order: for a channel that is run now. Takes linear time."""
        numbers = array("Q", (entry & _NUMBER for entry in self._heap))
        self._heap = []
        return numbers
