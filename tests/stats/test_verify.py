"""Do the books balance: what verify tells, and what it does not miss."""

from __future__ import annotations

import time

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.records.logfile import CURRENT, roll
from qmailpy.records.record import Action, LogRecord
from qmailpy.stats.counters import thd_read
from qmailpy.stats.items import ITEMS, QUEUE_COUNT, QUEUE_TIME_MS, RECEIVED, STORED
from qmailpy.stats.today import thd_today
from qmailpy.stats.verify import Verdict, thd_verify
from qmailpy.testing.crashdisk import CrashDisk
from tests.stats import strategies
from tests.stats.test_recorder import LOG, OPTIONS, Home, dequeue, enqueue


def verdict(home: Home, options: LogConfig = OPTIONS) -> Verdict:
    return thd_verify(home.disk, LOG, options, thd_read(home.counters)[1])


class VerifyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Home()
        self.addCleanup(self.home.end)
        self.recorder, _ = self.home.start()

    def write(self, *records: LogRecord) -> None:
        self.recorder.write(records)
        self.recorder.flush()

    @given(strategies.histories(most=12), st.lists(st.sampled_from(["roll", "clear", "keep"]), max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_they_balance_after_any_number_of_clears_and_rolls(
        self, history: list[LogRecord], events: list[str]
    ) -> None:
        """Received = Delivered + Stored; counters = fold of the log since the last clear (the books balance)."""
        home = Home()
        try:
            lanes = [home.start(lane=name)[0] for name in ("0", "1")]
            todo = list(history)
            for event in [*events, ""]:
                for recorder in lanes:
                    batch, todo = todo[:5], todo[5:]
                    recorder.write(batch)
                    recorder.flush()
                    if event in {"clear", "keep"}:
                        recorder.clear(keep_stored=event == "keep")
                if event == "roll":
                    roll(home.disk, LOG)
            found = verdict(home)
            self.assertTrue(found.equal, found)
            self.assertEqual((found.differences, found.notes), ((), ()))
        finally:
            home.end()

    def test_each_item_that_differs_is_named(self) -> None:
        """Every slot is compared: one more or less in any is found."""
        self.write(enqueue(1), enqueue(2), dequeue(1))
        self.assertEqual(verdict(self.home).records, 3)
        lanes = thd_read(self.home.counters)[1]
        for index, item in enumerate(ITEMS):
            lanes[0].table["local"][index] += 1
            found = thd_verify(self.home.disk, LOG, OPTIONS, lanes)
            self.assertFalse(found.equal)
            self.assertIn(f"local {item}: counted", found.differences[0])
            lanes[0].table["local"][index] -= 1
        lanes[0].table["local"][RECEIVED] += 1
        found = thd_verify(self.home.disk, LOG, OPTIONS, lanes)
        self.assertEqual(
            found.differences,
            (
                "lane 0: local received_messages: counted 3, in the log 2",
                "lane 0: local: Received is not Delivered + Stored",
            ),
        )

    def test_a_lost_line_is_named(self) -> None:
        self.write(*(enqueue(number) for number in range(5)))
        whole = self.home.disk.read(f"{LOG}/{CURRENT}").splitlines(keepends=True)
        for left_out, expected in (
            (0, "the log does not reach back to the last clear: it begins behind line 1, lines from 1 on are needed"),
            (2, "the log lacks the lines 3 to 3"),
            (4, "the log ends at line 4, the counters stand for line 5"),
        ):
            handle = self.home.disk.open(f"{LOG}/{CURRENT}", append=True)
            self.home.disk.truncate(handle, 0)
            self.home.disk.append(handle, b"".join(whole[:left_out] + whole[left_out + 1 :]))
            self.home.disk.close(handle)
            found = verdict(self.home)
            self.assertFalse(found.equal)
            self.assertIn(f"lane 0: {expected}", found.differences)

    def test_lines_that_are_kept_no_more_are_no_difference(self) -> None:
        """What is left must fit: nothing counted less than it tells, nothing missing in its middle."""
        options = evolve(OPTIONS, keep_days=30)
        self.write(*(enqueue(number) for number in range(4)), dequeue(0))
        whole = self.home.disk.read(f"{LOG}/{CURRENT}").splitlines(keepends=True)

        def left(*numbers: int) -> Verdict:
            handle = self.home.disk.open(f"{LOG}/{CURRENT}", append=True)
            self.home.disk.truncate(handle, 0)
            self.home.disk.append(handle, b"".join(whole[number - 1] for number in numbers))
            self.home.disk.close(handle)
            return thd_verify(self.home.disk, LOG, options, lanes)

        lanes = thd_read(self.home.counters)[1]
        found = left(3, 4, 5)
        self.assertEqual((found.equal, found.whole, found.differences, found.records), (True, False, (), 3))
        day = time.strftime("%Y-%m-%d", time.localtime(enqueue(2).time))
        self.assertIn(
            f"lane 0: of the lines since the last clear the log has those from 3 on, of {day}; ", found.notes[0]
        )
        self.assertTrue(left(1, 2, 3, 4, 5).whole)
        self.assertFalse(left(3, 5).equal)
        self.assertFalse(left(1, 2, 4, 5).equal)
        self.assertFalse(left(3, 4).equal)
        for item, value in ((RECEIVED, 1), (STORED, 0), (QUEUE_COUNT, 0)):
            lanes = thd_read(self.home.counters)[1]
            lanes[0].table["local"][item] = value
            self.assertFalse(left(3, 4, 5).equal, item)

    def test_lines_newer_than_the_counters_are_left_out(self) -> None:
        """Beside a running daemon."""
        self.write(enqueue(1))
        lanes = thd_read(self.home.counters)[1]
        self.write(enqueue(2))
        self.assertTrue(thd_verify(self.home.disk, LOG, OPTIONS, lanes).equal)

    def test_torn_and_foreign_lines_are_counted_apart(self) -> None:
        self.write(enqueue(1))
        handle = self.home.disk.open(f"{LOG}/{CURRENT}", append=True)
        self.home.disk.append(handle, b"torn \\\nforeign\n")
        self.write(dequeue(1))
        found = verdict(self.home)
        self.assertTrue(found.equal)
        self.assertEqual(found.unreadable, 2)
        self.assertEqual(len(found.notes), 1)

    def test_what_the_options_leave_out_is_said(self) -> None:
        for options, compared in (
            (LogConfig(queue_time=False), True),
            (LogConfig(filename=False), True),
            (LogConfig(connections=False), True),
            (LogConfig(process=False), False),
        ):
            home = Home()
            self.addCleanup(home.end)
            recorder, _ = home.start(options=options)
            opened = LogRecord(action=Action.OPENED, time=1e9, source="tcp_local", direction="+")
            recorder.write([enqueue(1, remaining=2), enqueue(1, remaining=2), dequeue(1), opened])
            recorder.flush()
            found = verdict(home, options)
            self.assertEqual((found.equal, len(found.notes)), (compared, 1 if compared else 0), found)

    def test_all_of_the_logs_files_are_read(self) -> None:
        for number in range(4):
            self.write(enqueue(number), dequeue(number))
            roll(self.home.disk, LOG)
        found = verdict(self.home)
        self.assertEqual((found.equal, found.records), (True, 8))

    def test_a_clear_shortens_the_work(self) -> None:
        """Reading begins where the clear was."""
        self.write(*(enqueue(number) for number in range(50)))
        self.recorder.clear(keep_stored=False)
        self.write(dequeue(1))
        reads: list[int] = []
        disk = self.home.disk
        assert isinstance(disk, CrashDisk)
        pread = disk.pread

        def watched(handle: int, length: int, offset: int) -> bytes:
            reads.append(offset)
            return pread(handle, length, offset)

        disk.pread = watched  # type: ignore[method-assign]
        found = verdict(self.home)
        self.assertEqual((found.equal, found.records, found.unreadable), (True, 1, 0))
        self.assertEqual(
            min(offset for offset in reads if offset), thd_read(self.home.counters)[1][0].baseline.position.offset
        )

    def test_reading_begins_where_the_oldest_clear_was(self) -> None:
        """A lane that was never cleared needs the whole log, whatever the others say."""
        other, _ = self.home.start(lane="1")
        self.write(*(enqueue(number) for number in range(50)))
        other.write([enqueue(1)])
        other.flush()
        other.clear(keep_stored=False)
        found = verdict(self.home)
        self.assertEqual((found.equal, found.records), (True, 50))

    def test_many_differences_are_cut_short(self) -> None:
        self.write(*(enqueue(number, f"c{number}") for number in range(60)))
        lanes = thd_read(self.home.counters)[1]
        for row in lanes[0].table.values():
            row[:] = [value + 1 for value in row]
        found = thd_verify(self.home.disk, LOG, OPTIONS, lanes)
        self.assertEqual(len(found.differences), 201)
        self.assertTrue(found.differences[-1].endswith(" more"))

    def test_queue_times_survive_the_text(self) -> None:
        """Counted as they are written: whole milliseconds, though the value had more."""
        self.write(*(evolve(dequeue(number), queue_time=0.0004999 + number / 7) for number in range(50)))
        self.assertTrue(verdict(self.home).equal)
        self.assertGreater(thd_read(self.home.counters)[1][0].table["local"][QUEUE_TIME_MS], 0)


class TodayTests(SynchronousTestCase):
    def test_only_todays_messages_count(self) -> None:
        home = Home()
        self.addCleanup(home.end)
        recorder, _ = home.start()
        now = time.mktime((2020, 1, 15, 12, 0, 0, 0, 0, -1))
        self.assertEqual(thd_today(home.disk, LOG, OPTIONS, now), 0)
        for at in (now - 86400, now - 13 * 3600, now - 11 * 3600, now - 60):
            recorder.write([evolve(enqueue(1), time=at), evolve(dequeue(1), time=at)])
            recorder.flush()
            if at == now - 11 * 3600:
                roll(home.disk, LOG)
        self.assertEqual(thd_today(home.disk, LOG, OPTIONS, now), 2)
        roll(home.disk, LOG)  # by hand, for some reason
        roll(home.disk, LOG)
        self.assertEqual(thd_today(home.disk, LOG, OPTIONS, now), 2)
