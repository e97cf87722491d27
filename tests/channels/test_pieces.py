"""Pieces of messages where several workers find them: files, locks, and processes that die."""

from __future__ import annotations

import os
from itertools import permutations, product

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels import pieces
from qmailpy.channels.pieces import Fate, Found, Lead, PieceStore, thd_boot
from qmailpy.values import MemoryContent
from qmailpy.wire.partial import Piece


def octets_of(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read()


@define
class Clock:
    """The time of day."""

    now: float = 1e9


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = self.mktemp()
        self.clock = Clock()

    def store(self, boot: str = "b", largest: int = 1000) -> PieceStore:
        """A worker's."""
        found = PieceStore(
            self.root, gather_s=100.0, largest=largest, seconds=lambda: self.clock.now, boot=lambda: boot
        )
        found.thd_begin()
        return found

    def give(self, store: PieceStore, number: int, total: int = 3, **given: object) -> Found:
        content = MemoryContent(str(given.get("text", f"piece {number}")).encode())
        queue_id, age = str(given.get("id", f"q{number}")), float(str(given.get("age", 0)))
        return store.thd_piece("k", Piece(id="x", number=number, total=total), content, queue_id, age)

    def led(self, found: Found) -> Lead:
        self.assertIs(found.fate, Fate.LEADS)
        assert found.lead is not None
        return found.lead


class StoreTests(Case):
    def test_pieces_of_several_workers_meet(self) -> None:
        """In any order, whichever worker has which; each of the others is told that it has gone on."""
        for order, workers in product(permutations((1, 2, 3)), ((0, 1, 0), (0, 0, 1), (0, 1, 2))):
            self.root = self.mktemp()
            stores = [self.store() for _ in range(3)]
            fates = [self.give(stores[worker], number) for worker, number in zip(workers, order, strict=True)]
            self.assertEqual([one.fate for one in fates], [Fate.WAITS, Fate.WAITS, Fate.LEADS])
            lead = self.led(fates[2])
            self.assertEqual(b"".join(map(octets_of, lead.paths)), b"piece 1piece 2piece 3")
            self.assertIs(self.give(stores[workers[0]], order[0]).fate, Fate.WAITS)  # not queued yet
            stores[workers[2]].thd_led(lead, True)
            for worker, number in zip(workers, order, strict=True):
                self.assertIs(self.give(stores[worker], number).fate, Fate.GONE)
            self.assertIs(self.give(stores[0], 2, text="another").fate, Fate.PASSES)
            self.assertEqual(sorted(os.listdir(self.root)), ["done-k", "sets-b"])
            self.assertEqual(os.listdir(f"{self.root}/sets-b"), [])

    def test_only_one_leads(self) -> None:
        """Who comes to a set that somebody takes along has to wait; and may lead if that fails."""
        one, other = self.store(), self.store()
        self.give(one, 1)
        self.give(other, 2)
        lead = self.led(self.give(one, 3))
        self.assertIs(self.give(other, 2).fate, Fate.WAITS)
        one.thd_led(lead, False)
        other.thd_led(self.led(self.give(other, 2)), True)
        self.assertIs(self.give(one, 3).fate, Fate.GONE)

    def test_when_a_process_dies_that_was_to_lead_only_its_piece_may_go_on(self) -> None:
        """If that does not come again, the whole is queued; the others go on when their time is over."""
        one, other = self.store(), self.store()
        self.give(other, 1)
        self.give(other, 2)
        self.led(self.give(one, 3)).close()  # as the kernel does
        self.assertIs(self.give(other, 1).fate, Fate.WAITS)
        after = self.store()
        after.thd_led(self.led(self.give(after, 3)), False)
        self.led(self.give(after, 3)).close()
        self.assertEqual([self.give(other, number, age=100).fate for number in (1, 2)], [Fate.PASSES] * 2)

    def test_a_start_of_the_system_forgets_what_was_not_synced(self) -> None:
        """And nothing else: what has gone on is known, and a worker's restart forgets nothing."""
        store = self.store()
        self.give(store, 1)
        self.give(self.store(), 2)
        self.give(self.store("c"), 1)
        self.assertEqual(os.listdir(self.root), ["sets-c"])
        after = self.store("c")
        self.give(after, 2)
        after.thd_led(self.led(self.give(after, 3)), True)
        self.assertIs(self.give(self.store("d"), 1).fate, Fate.GONE)
        self.assertNotIn(thd_boot(), ("", "0"))

    def test_pieces_whose_time_is_over_pass_unless_they_are_on_their_way(self) -> None:
        one, other = self.store(), self.store()
        self.give(one, 1)
        self.give(one, 2)
        lead = self.led(self.give(one, 3))
        self.assertIs(self.give(other, 1, age=100).fate, Fate.WAITS)
        one.thd_led(lead, False)
        self.assertIs(self.give(other, 1, age=100).fate, Fate.PASSES)
        self.assertIs(self.give(other, 2).fate, Fate.WAITS)  # without that one
        self.assertIs(self.give(other, 2, age=100).fate, Fate.PASSES)
        self.assertIs(self.give(other, 3, age=100).fate, Fate.PASSES)
        self.assertEqual((os.listdir(self.root), os.listdir(f"{self.root}/sets-b")), (["sets-b"], []))

    def test_numbers_that_make_no_sense_make_no_message(self) -> None:
        store = self.store()
        for number, total in ((1, 2), (2, 3), (3, 3)):
            self.assertIs(self.give(store, number, total).fate, Fate.WAITS)

    def test_a_whole_that_is_too_large_passes_in_pieces(self) -> None:
        store = self.store(largest=20)
        self.give(store, 1)
        self.give(store, 2)
        self.assertEqual([self.give(store, number).fate for number in (1, 2, 3)], [Fate.WAITS] * 2 + [Fate.PASSES])

    def test_what_is_left_over_goes_in_time(self) -> None:
        """Sets whose pieces an operator has deleted, old marks; and there is no more than so many."""
        self.patch(pieces, "SETS", 1)
        store = self.store()
        store.thd_led(self.led(self.give(store, 1, 1)), True)
        self.assertIs(
            store.thd_piece("a", Piece(id="x", number=1, total=2), MemoryContent(b"x"), "q", 0).fate, Fate.WAITS
        )
        self.assertEqual(os.listdir(f"{self.root}/sets-b"), ["a"])
        second = Piece(id="y", number=1, total=2)
        self.assertIs(store.thd_piece("b", second, MemoryContent(b"y"), "r", 0).fate, Fate.WAITS)
        self.assertEqual(os.listdir(f"{self.root}/sets-b"), ["a"])  # no room
        self.clock.now = os.stat(f"{self.root}/sets-b/a").st_mtime + 201
        store.thd_piece("b", second, MemoryContent(b"y"), "r", 0)
        self.assertEqual(os.listdir(f"{self.root}/sets-b"), ["b"])
        self.clock.now += 8 * 86400
        store.thd_piece("c", second, MemoryContent(b"z"), "s", 0)
        self.assertEqual(os.listdir(self.root), ["sets-b"])
