"""The waiting list of one channel."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.due import DueList

NOW = 1_790_000_000.0


class DueTests(SynchronousTestCase):
    """What is due and what is not."""

    def test_longest_due_comes_first(self) -> None:
        """Whatever the order they were added in."""
        due = DueList()
        for when, number in ((NOW + 3, 3), (NOW + 1, 1), (NOW + 2, 2), (NOW + 9, 9)):
            due.push(when, number)
        self.assertEqual(due.pop_due(NOW + 3, 10), [1, 2, 3])
        self.assertEqual(len(due), 1)

    def test_no_more_than_asked_for_are_taken(self) -> None:
        """The rest stays due."""
        due = DueList()
        for number in range(5):
            due.push(NOW, number)
        self.assertEqual(due.pop_due(NOW, 2), [0, 1])
        self.assertEqual(due.pop_due(NOW, 9), [2, 3, 4])

    def test_largest_number_survives(self) -> None:
        """All 64 bits."""
        due = DueList()
        due.push(NOW, (1 << 64) - 1)
        self.assertEqual(due.pop_due(NOW - 0.01, 1), [])
        self.assertEqual(due.pop_due(NOW, 1), [(1 << 64) - 1])

    def test_time_that_is_no_binary_fraction_is_due_at_itself(self) -> None:
        """1.001 * 1000 is a little less than 1001: a timer set for it would find nothing, again and again."""
        due = DueList()
        due.push(1.001, 5)
        self.assertEqual(due.pop_due(1.001, 1), [5])

    def test_empty_list_has_no_earliest(self) -> None:
        """So the caller sets no timer."""
        self.assertIsNone(DueList().earliest())

    @given(st.lists(st.floats(0, 4e9), min_size=1, max_size=20))
    def test_what_earliest_names_is_due_then(self, times: list[float]) -> None:
        """A timer set for it never finds nothing; and it is the time asked for, to the millisecond."""
        due = DueList()
        for number, when in enumerate(times):
            due.push(when, number)
        earliest = due.earliest()
        assert earliest is not None
        self.assertLess(abs(earliest - min(times)), 0.00051)
        self.assertNotEqual(due.pop_due(earliest, 1), [])

    @given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, (1 << 64) - 1))), st.integers(0, 1000))
    def test_exactly_the_due_ones_are_popped(self, entries: list[tuple[int, int]], now: int) -> None:
        """Against a sorted list."""
        due = DueList()
        for when, number in entries:
            due.push(when, number)
        self.assertEqual(due.pop_due(now, 1 << 30), [number for when, number in sorted(entries) if when <= now])
        self.assertEqual(len(due), sum(1 for when, _ in entries if when > now))

    def test_all_numbers_are_taken_out(self) -> None:
        """As when a channel is run by hand: 8 octets each while they wait for their turn."""
        due = DueList()
        for when, number in ((NOW - 5, 7), (NOW + 3, 3), (NOW + 1, (1 << 64) - 1)):
            due.push(when, number)
        taken = due.take_all()
        self.assertEqual((sorted(taken), taken.itemsize), ([3, 7, (1 << 64) - 1], 8))
        self.assertEqual((len(due), due.earliest()), (0, None))

    def test_entry_takes_at_most_70_octets(self) -> None:
        """A million waiting messages are 70 MB at most: the integer as allocated and its place in the list."""
        due = DueList()
        for number in range(10_000):
            due.push(NOW + number, (1 << 63) + number)
        integer = -(-sys.getsizeof(due._heap[-1]) // 16) * 16  # the allocator's step
        self.assertLessEqual(integer + sys.getsizeof(due._heap) / len(due), 70)
