"""Changes of the directory on their way to the workers' caches: soon, few messages, nothing forgotten."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.changes import CHARACTERS, EVERY_S, FIRST_S, MOST, Changes
from qmailpy.app.handover import UP_LIMIT, pack


class Passing(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[list[str]] = []
        self.changes = Changes(self.clock, self.told.append)

    def test_a_change_is_told_almost_at_once(self) -> None:
        self.changes.add("a@b.example")
        self.changes.add("b.example")
        self.changes.add("a@b.example")
        self.assertEqual(self.told, [])
        self.clock.advance(FIRST_S)
        self.assertEqual(self.told, [["a@b.example", "b.example"]])

    def test_a_burst_is_a_few_messages(self) -> None:
        """10,000 changes over a second; the last of them is not later than any other."""
        for number in range(10_000):
            self.changes.add(f"u{number}@b.example")
            self.clock.advance(0.0001)
        self.clock.advance(EVERY_S)
        self.assertLessEqual(len(self.told), 6)
        self.assertEqual(self.told[-1], [""])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_changes_are_each_told_by_name_and_none_is_lost(self) -> None:
        names = [f"u{number}@b.example" for number in range(100)]
        for name in names:
            self.changes.add(name)
            self.clock.advance(EVERY_S / 10)
        self.clock.advance(EVERY_S)
        self.assertEqual(sorted(name for what in self.told for name in what), sorted(names))
        self.assertLess(len(self.told), 15)

    def test_what_is_told_fits_into_a_message(self) -> None:
        """Whatever an administrator manages to write; one that is too long would cost the directory its life."""
        for length in (1, 10, 100, 320, CHARACTERS, 10 * CHARACTERS):
            for number in range(MOST):
                self.changes.add("\udcff" * (length - 1) + chr(100 + number))
            self.clock.advance(EVERY_S)
            self.assertEqual(len(self.told[-1]), 1 if length * MOST > CHARACTERS else MOST)
            self.assertLess(len(pack({"say": "changed", "what": self.told[-1]})), UP_LIMIT)

    def test_a_clock_set_back_does_not_hold_it_up(self) -> None:
        self.changes.add("a@b.example")
        self.clock.advance(FIRST_S)
        self.clock.rightNow = -1e6
        self.changes.add("c@b.example")
        self.clock.advance(EVERY_S)
        self.assertEqual(self.told[1:], [["c@b.example"]])

    def test_what_is_left_is_told_at_the_stop(self) -> None:
        self.changes.add("a@b.example")
        self.changes.stop()
        self.assertEqual((self.told, self.clock.getDelayedCalls()), ([["a@b.example"]], []))
        self.changes.stop()
