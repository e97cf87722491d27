"""
The waiting list of one channel: which messages are due, a million of them in little memory.

An entry is one C{int}, C{milliseconds << 64 | number}, on a binary heap: 56 octets with its place in the list, and no
object that the garbage collector has to visit. Nothing can be taken out of the middle; whoever removes or postpones a
message leaves the entry behind and recognises it as stale when it is popped.

Delay notices are due hours ahead and most mail has gone by then: their list has 8 octets an entry, and knows the time
to some seconds.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from typing import Final

_NUMBER: Final = (1 << 64) - 1
_FAR_S: Final = 900.0  # entries so far ahead are kept to L{_COARSE_S}, so that a slot has many
_COARSE_S: Final = 15


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

    def numbers(self) -> array[int]:
        """A copy of all numbers, in no order. Takes linear time."""
        return array("Q", (entry & _NUMBER for entry in self._heap))

    def take_all(self) -> array[int]:
        """Take out all numbers, in no order: for a channel that is run now. Takes linear time."""
        numbers = self.numbers()
        self._heap = []
        return numbers


class CoarseList:
    """Numbers by time, never handed out too early: a second late at most, or 15 when they were added long before."""

    __slots__ = ("_length", "_slots", "_times")

    def __init__(self) -> None:
        self._slots: dict[int, array[int]] = {}  # by the second at whose beginning they are due; no empty ones
        self._times: list[int] = []  # heap of the same
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, when: float, number: int, now: float) -> None:
        """
        Add a number.

        @param when: seconds since the epoch, not negative.
        @param now: the same; what is past is due in the next second.
        """
        step = 1 if when - now < _FAR_S else _COARSE_S
        at = (int(max(when, now)) // step + 1) * step
        slot = self._slots.get(at)
        if slot is None:
            slot = self._slots[at] = array("Q")
            heappush(self._times, at)
        slot.append(number)
        self._length += 1

    def pop_due(self, now: float, limit: int) -> list[int]:
        """Take out numbers that are due, at most C{limit}: the longest past first, within a slot in no order."""
        found: list[int] = []
        times = self._times
        while times and times[0] <= now and len(found) < limit:
            slot = self._slots[times[0]]
            taken = slot[-(limit - len(found)) :]
            del slot[-len(taken) :]
            found += taken
            if not slot:
                del self._slots[heappop(times)]
        self._length -= len(found)
        return found

    def earliest(self) -> float | None:
        """When the next one is due; C{None} when there is none."""
        return float(self._times[0]) if self._times else None
