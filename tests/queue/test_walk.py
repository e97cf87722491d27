"""The walk of a large queue: its beginning first, then all of it, and nothing is passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue import reading, walk
from qmailpy.queue.entries import QueueFilter, Target
from qmailpy.queue.ids import DIGITS, numbers_of, to_id, to_number
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.queue.walk import Walk
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World, in_thread

COUNT = 300


class NumbersTests(SynchronousTestCase):
    """L{numbers_of}."""

    @given(st.lists(st.integers(0, (1 << 64) - 1)), st.lists(st.text(max_size=20)))
    def test_ids_are_told_from_all_else(self, numbers: list[int], others: list[str]) -> None:
        names = [to_id(number, "00") for number in numbers]
        self.assertEqual(numbers_of(names), sorted(numbers))
        others = [name for name in others if not re.fullmatch(f"[0-9a-f][{DIGITS}]{{14}}", name)]
        self.assertEqual(numbers_of([*others, *names]), sorted(numbers))

    def test_what_int_would_take_is_no_id(self) -> None:
        good = to_id(77, "00")
        for odd in ("0_0000000000000", "+00000000000000", " 00000000000000", "00000000000000A", "g00000000000000"):
            self.assertEqual(numbers_of([odd]), [], odd)
            self.assertEqual(numbers_of([good, odd]), [77], odd)
        for odd in ("06\udcff0000000000000", "\uff1000000000000000", f"{good}.tmp"):
            self.assertEqual(numbers_of([good, odd]), [77])


class WalkTests(SynchronousTestCase):
    """L{Walk}, and listings that go over it."""

    def setUp(self) -> None:
        self.patch(walk, "FIRST", 32)
        self.patch(reading, "LOOK", 10)
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.world.up()
        assert self.world.shard is not None
        self.shard = self.world.shard
        self.view = QueueOperations(
            lambda: parts_of({"0": self.shard}),
            self.world.config,
            self.world.clock.seconds,
            self.world.switches,
            in_thread,
        )
        self.ids = self.fill(self.world, COUNT)

    def fill(self, world: World, count: int) -> list[str]:
        """So many messages for somebody who never answers, in all sub-directories."""
        ids = []
        for _ in range(count):
            world.clock.advance(0.00213)
            ids.append(world.send("never@out.example"))
        world.settle()
        return ids

    def pages(self, cursor: str | None = None, limit: int = 7) -> Iterator[list[str]]:
        while True:
            page = Deferred.fromCoroutine(self.view.page(QueueFilter(), cursor, limit))
            self.world.pump()
            entries, cursor = self.successResultOf(page)
            yield [one.id for one in entries]
            if cursor is None:
                return

    def kept(self) -> Walk:
        ((found, _),) = [one for key, one in self.view._walks.items() if key[1] == "tcp_local"]
        return found

    def test_the_beginning_is_read_first_and_all_of_it_when_the_listing_goes_on(self) -> None:
        pages = self.pages()
        seen = [one for _ in range(2) for one in next(pages)]
        first = self.kept()
        assert first._bound is not None
        self.assertLess(len(first._numbers), COUNT // 2)
        self.assertEqual(first._numbers.tolist(), [to_number(one) for one in self.ids[: len(first._numbers)]])
        seen += [one for page in pages for one in page]
        self.assertEqual(seen, self.ids)
        self.assertIsNone(first._bound)

    def test_a_small_queue_is_read_once(self) -> None:
        self.patch(walk, "FIRST", 4096)
        next(self.pages())
        self.assertEqual((self.kept()._bound, len(self.kept()._numbers)), (None, COUNT))

    def test_names_that_are_no_ids_do_not_matter(self) -> None:
        for split in ("00", "01", "02", "03", "10"):
            for name in ("", "0", "06.tmp", "zzz", f"{self.ids[0]}.tmp", "0" * 40):
                path = f"{HOME}/queue/0/chan/tcp_local/{split}/{name or '00000000000000_'}"
                self.world.disk.close(self.world.disk.open(path, create=True))
        self.assertEqual([one for page in self.pages() for one in page], self.ids)

    def test_what_moves_meanwhile_is_seen_once(self) -> None:
        """Out of memory into files, between chan/ and hold/, away: before, at and behind the place of the listing."""
        for seed in range(12):
            chance = Random(seed)
            seen: list[str] = []
            gone: set[str] = set()
            self.ids += self.fill(self.world, 3)
            for page in self.pages(limit=chance.randint(5, 40)):
                seen += page
                some = [Target(one) for one in chance.sample(self.ids, 8)]
                step = chance.randrange(6)
                if step == 0:
                    work = Deferred.fromCoroutine(self.view.hold(some, "wait"))
                elif step == 1:
                    work = Deferred.fromCoroutine(self.view.release(some))
                elif step == 2:
                    gone.update(one.id for one in some[:2])
                    work = Deferred.fromCoroutine(self.view.delete(some[:2]))
                elif step == 3:
                    self.world.send("never@out.example")
                    continue
                else:
                    self.world.settle()
                    continue
                self.world.pump()
                self.successResultOf(work)
            self.ids = [one for one in self.ids if one not in gone]
            self.assertEqual([one for one in seen if one in self.ids], self.ids)
            self.assertEqual(seen, sorted(set(seen)))

    def test_a_listing_goes_on_without_its_walk(self) -> None:
        """It was given up meanwhile."""
        seen: list[str] = []
        for page in self.pages():
            seen += page
            self.view._walks.clear()
        self.assertEqual(seen, self.ids)

    def test_a_listing_behind_one_that_has_begun_in_the_middle(self) -> None:
        """The walk of the other one begins where that one does."""
        next(self.pages(f"tcp_local/{self.ids[50]}"))
        self.assertEqual(self.kept()._above, to_number(self.ids[50]))
        self.assertEqual(next(self.pages(f"tcp_local/{self.ids[10]}")), self.ids[11:18])

    def test_what_only_memory_knows_is_in_it(self) -> None:
        number = to_number(self.ids[3])
        self.successResultOf(self.shard.shard.load([number]))
        self.world.disk.unlink(self.shard.layout.chan("tcp_local", number))
        self.assertEqual(next(self.pages()), self.ids[:7])
        self.assertIsNotNone(self.kept()._bound)

    def test_two_listings_at_a_time(self) -> None:
        """One far behind the other: they share a walk."""
        one, other = self.pages(), self.pages()
        seen: list[str] = []
        for _ in range(30):
            seen += next(one)
        ahead = list(other)
        self.assertEqual([name for page in ahead for name in page], self.ids)
        third = self.pages()
        begun = next(third)
        seen += [name for page in one for name in page]
        self.assertEqual(seen, self.ids)
        self.assertEqual(begun + [name for page in third for name in page], self.ids)

    def test_two_shards_have_different_beginnings(self) -> None:
        """Nothing of the one is passed over because the other knows more."""
        other = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        other.up()
        assert other.shard is not None
        other.shard.name, other.shard.layout.code = "1", "01"
        self.fill(other, 100)
        parts = {"0": self.shard, "1": other.shard}
        self.view = QueueOperations(
            lambda: parts_of(parts), self.world.config, self.world.clock.seconds, self.world.switches, in_thread
        )
        seen = [one for page in self.pages() for one in page]
        self.assertEqual(len(seen), COUNT + 100)
        self.assertEqual(seen, sorted(set(seen)))
        self.assertEqual([one for one in seen if one.endswith("00")], self.ids)
