"""The mapped counters file: never in the way, never wrong for long."""

from __future__ import annotations

import os
import random
import threading
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qmailpy.stats import counters, lanes
from qmailpy.stats.counters import (
    HEADER_OCTETS,
    CountersError,
    Mapped,
    Position,
    Sizes,
    create,
    shown,
    thd_clear,
    thd_read,
    total,
)
from qmailpy.stats.items import ITEMS, LOWEST, RECEIVED, STORED, Table
from qmailpy.stats.lanes import Lane


def rows(**values: int) -> Table:
    """A table whose rows hold one number in all items."""
    return {channel: [value] * len(ITEMS) for channel, value in values.items()}


class LaneTests(SynchronousTestCase):
    def setUp(self) -> None:
        os.mkdir(directory := os.path.abspath(self.mktemp()))
        self.path = f"{directory}/counters"
        self.clock = Clock()
        self.clock.advance(1000)
        self.said: list[str] = []

        @implementer(ILogObserver)
        def hear(event: LogEvent) -> None:
            if event.get("log_namespace") == "qmailpy.stats.lanes.Lane":
                self.said.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def lane(self, name: str = "0", sizes: Sizes | None = None) -> Lane:
        lane = Lane(self.path, name, self.clock.seconds, sizes)
        self.addCleanup(lane.close)
        lane.open()
        return lane

    def stored(self) -> Table:
        return total(thd_read(self.path)[1])

    def test_lanes_add_up(self) -> None:
        """C3: every process has a lane; the reader sums."""
        first, second = self.lane("0"), self.lane("1")
        first.store(rows(local=5, tcp_local=1), ["local", "tcp_local"], Position(7, 1, 100))
        second.store(rows(local=-3), ["local"], Position(9, 1, 200))
        found = self.stored()
        self.assertEqual((found["local"][RECEIVED], found["tcp_local"][RECEIVED]), (2, 1))
        self.assertEqual([lane.position.sequence for lane in thd_read(self.path)[1]], [7, 9])
        self.assertEqual(self.said, [])

    def test_only_what_changed_is_stored(self) -> None:
        lane = self.lane()
        table = rows(a=1, b=1)
        lane.store(table, ["a", "b"], Position())
        table["a"][0] = table["b"][0] = 2
        lane.store(table, ["a", "none"], Position())
        self.assertEqual([self.stored()[name][0] for name in "ab"], [2, 1])

    def test_the_next_owner_takes_the_lane_up(self) -> None:
        self.lane().store(rows(a=1), ["a"], Position(1))
        second = self.lane()
        second.store_all(rows(b=2), Position(2))
        self.assertEqual(len(thd_read(self.path)[1]), 1)
        self.assertEqual((self.stored()["a"][0], self.stored()["b"][0]), (0, 2))

    def test_a_clear_subtracts_and_survives_the_file(self) -> None:
        """C9; and a file that is deleted comes back with the same true totals and the same clear."""
        lane = self.lane()
        table = rows(a=5)
        lane.store(table, ["a"], Position(3))
        lane.clear(table, Position(3), keep_stored=False)
        lane.thd_flush()
        table["a"][RECEIVED] += 2
        table["a"][STORED] -= 4
        table["a"][LOWEST] = 1
        lane.store(table, ["a"], Position(4))
        for _ in range(2):
            found = self.stored()["a"]
            self.assertEqual((found[RECEIVED], found[STORED], found[LOWEST]), (2, -4, -4))
            os.unlink(self.path)
            lane.store(table, ["a"], Position(4))
            self.assertFalse(os.path.exists(self.path))  # looked for once a second only
            self.clock.advance(1.1)
            lane.store(table, ["a"], Position(4))
        self.assertEqual(self.said, [])
        self.assertEqual(self.lane().baseline, lane.baseline)

    def test_a_clear_can_keep_stored(self) -> None:
        """imta.md 2.3 step 3: Stored shows the queue's true content, never negative."""
        lane = self.lane()
        table = rows(a=5)
        lane.clear(table, Position(3), keep_stored=True)
        found = self.stored()["a"]
        self.assertEqual((found[RECEIVED], found[STORED], found[LOWEST]), (0, 5, 0))

    def test_a_stopped_home_is_cleared_on_the_file(self) -> None:
        for keep, expected in ((False, 0), (True, 5)):
            lane = self.lane()
            lane.store_all(rows(a=5, b=5), Position(3, 4, 5))
            lane.close()
            thd_clear(self.path, keep, 123.0)
            state = thd_read(self.path)[1][0]
            self.assertEqual((state.baseline.time, state.baseline.position), (123.0, Position(3, 4, 5)))
            self.assertEqual([shown(state)[name][:4] for name in "ab"], [[0, 0, 0, expected]] * 2)

    def test_a_truncated_file_is_replaced(self) -> None:
        """Truncated while mapped: no SIGBUS, no lost count, one line in the log."""
        lane = self.lane()
        table = rows(a=1)
        lane.store(table, ["a"], Position())
        for size in (0, 10, HEADER_OCTETS, 5000):
            table["a"][0] += 1
            os.truncate(self.path, size)
            lane.store(table, ["a"], Position())
            self.assertEqual(len(self.said), 1)
            self.assertRaises(CountersError, thd_read, self.path)
            lane.store(table, ["a"], Position())
            self.assertEqual(self.stored()["a"][:LOWEST], table["a"][:LOWEST])
            self.assertEqual(self.said.pop(), "the counters file is kept again")
            self.assertEqual(self.said.pop(), "the counters file is not kept: the counters file has been truncated")

    def test_a_file_overwritten_in_place_is_replaced(self) -> None:
        lane = self.lane()
        lane.store(rows(a=1), ["a"], Position())
        size = os.path.getsize(self.path)
        for content in (bytes(size), random.Random(1).randbytes(size), bytes(HEADER_OCTETS)):
            with open(self.path, "r+b") as file:
                file.write(content)
            self.assertRaises(CountersError, thd_read, self.path)
            self.clock.advance(1.1)
            lane.store(rows(a=2), ["a"], Position())
            self.assertEqual(self.stored(), rows(a=2) | {"a": [*[2] * LOWEST, 0, 0, 0]})

    def test_a_file_that_cannot_be_made_costs_one_line(self) -> None:
        self.path = f"{self.path}/none/counters"
        lane = self.lane()
        for _ in range(5):
            self.clock.advance(1.1)
            lane.store(rows(a=1), ["a"], Position())
        lane.clear(rows(a=1), Position(), keep_stored=False)
        lane.thd_flush()
        self.assertEqual(self.said, ["the counters file is not kept: No such file or directory"])

    def test_a_file_that_was_let_go_of_is_not_open(self) -> None:
        """However often another takes its place, or it is read."""
        lane = self.lane()
        before = len(os.listdir("/proc/self/fd"))
        for at in range(3):
            os.unlink(self.path)
            self.clock.advance(2)
            lane.store(rows(a=at), ["a"], Position())
            self.stored()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_another_file_put_in_place_is_taken_up(self) -> None:
        lane = self.lane()
        create(self.path, Sizes(), replace=True)
        self.clock.advance(1.1)
        lane.store(rows(a=1), ["a"], Position())
        self.assertEqual(self.stored()["a"][0], 1)

    def test_a_full_file_counts_what_it_has_room_for(self) -> None:
        sizes = Sizes(lanes=1, channels=2)
        lane = self.lane(sizes=sizes)
        table = rows(a=1, b=2, c=3, d=4)
        for _ in range(3):
            lane.store(table, list(table), Position())
        self.assertEqual(sorted(self.stored()), ["a", "b"])
        self.assertEqual(self.said, ["the counters file has no room for channel c"])
        other = self.lane("1")
        other.store(table, list(table), Position())
        self.assertEqual(len(thd_read(self.path)[1]), 1)
        self.assertEqual(
            self.said[1:], ["the counters file is not kept: the counters file has no room for another lane"]
        )

    def test_names_that_do_not_fit_are_left_out(self) -> None:
        lane = self.lane()
        table = rows(**{"x" * 65: 1, "": 1, "a\0b": 1, "x" * 64: 2})
        lane.store(table, list(table), Position())
        self.assertEqual(list(self.stored()), ["x" * 64])

    def test_a_reader_never_sees_half_a_change(self) -> None:
        """While another thread stores as fast as it can, all values read are of one store."""
        lane = self.lane()
        stop = threading.Event()

        def keep_storing() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                lane.store(rows(a=number, b=number), ["a", "b"], Position(number))

        lane.store(rows(a=0, b=0), ["a", "b"], Position())
        writer = threading.Thread(target=keep_storing)
        writer.start()
        try:
            for _ in range(200):
                state = thd_read(self.path)[1][0]
                if state.settled:
                    self.assertEqual(
                        {value for row in state.table.values() for value in row}, {state.position.sequence}
                    )
        finally:
            stop.set()
            writer.join()

    def test_a_lane_says_that_it_is_being_changed(self) -> None:
        """Deterministic: looked at from within each kind of change."""
        lane = self.lane()
        lane.store(rows(a=1), ["a"], Position())
        store_row = counters.store_row
        seen: list[bool] = []

        def look(*arguments: Any, **more: Any) -> None:
            seen.append(thd_read(self.path)[1][0].settled)
            store_row(*arguments, **more)

        self.patch(counters, "_READ_TRIES", 2)
        self.patch(lanes, "store_row", look)
        lane.store(rows(a=2), ["a"], Position())
        lane.clear(rows(a=2), Position(), keep_stored=False)
        self.assertEqual(seen, [False] * 3)
        self.assertTrue(thd_read(self.path)[1][0].settled)

    def test_an_owner_killed_in_a_change_is_told_apart(self) -> None:
        lane = self.lane()
        lane.store(rows(a=1), ["a"], Position())
        mapped = Mapped(self.path, write=True)
        self.addCleanup(mapped.close)
        at = mapped.sizes.lane_at(0) + 64
        mapped.map[at] |= 1
        self.assertFalse(thd_read(self.path)[1][0].settled)
        self.assertRaises(CountersError, thd_clear, self.path, False, 0.0)
        lane.store(rows(a=1), ["a"], Position())
        self.assertTrue(thd_read(self.path)[1][0].settled)

    def test_what_is_no_counters_file_is_said(self) -> None:
        self.assertRaises(CountersError, thd_read, self.path)
        self.assertRaises(CountersError, thd_clear, self.path, False, 0.0)
        for content in (b"", b"x" * 100, Sizes().header()):
            with open(self.path, "wb") as file:
                file.write(content)
            self.assertRaises(CountersError, thd_read, self.path)

    def test_a_new_file_has_no_holes(self) -> None:
        """A full disk would kill (SIGBUS) whoever touches one, reader or writer."""
        create(self.path, Sizes())
        found = os.stat(self.path)
        self.assertGreaterEqual(found.st_blocks * 512, found.st_size)

    def test_create_keeps_what_is_there(self) -> None:
        self.lane().store(rows(a=1), ["a"], Position())
        create(self.path, Sizes())
        self.assertEqual(self.stored()["a"][0], 1)
        create(self.path, Sizes(channels=3), replace=True)
        self.assertEqual(thd_read(self.path), (Sizes(channels=3), []))
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["counters"])
