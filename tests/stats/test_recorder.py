"""The recorder: log and counters agree, whatever is cut."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from typing import Literal, cast

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import Files, RealFiles
from qmailpy.interfaces import BooksCheckpoint, IRecorder
from qmailpy.records.fields import Unreadable
from qmailpy.records.logfile import CUMULATIVE, CURRENT, YESTERDAY, roll
from qmailpy.records.reading import lines
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import TORN, LineFormat
from qmailpy.stats.counters import shown, thd_read
from qmailpy.stats.fold import apply
from qmailpy.stats.items import LOWEST, RECEIVED, STORED, Table
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder
from qmailpy.testing.crashdisk import CrashDisk
from tests.stats import strategies

LOG = "/home/log"
OPTIONS = LogConfig()


def folded(records: Sequence[LogRecord]) -> Table:
    table: Table = {}
    for record in records:
        apply(table, record)
    return table


def logged(files: Files, lane: str = "0", directory: str = LOG, options: LogConfig = OPTIONS) -> list[LogRecord]:
    """A lane's records in the whole log, repeated ones dropped, as verify does."""
    found: list[LogRecord] = []
    form = LineFormat(options)
    last = 0
    for name in (CUMULATIVE, YESTERDAY, CURRENT):
        if not files.exists(f"{directory}/{name}"):
            continue
        handle = files.open(f"{directory}/{name}")
        for line in lines(files, handle):
            try:
                record = form.record(line)
            except Unreadable:
                continue
            if record.lane == lane and record.sequence > last:
                last = record.sequence
                found.append(record)
        files.close(handle)
    return found


def enqueue(number: int, channel: str = "local", remaining: int = 1) -> LogRecord:
    return LogRecord(
        action=Action.ENQUEUED,
        time=1e9,
        source="tcp_local",
        destination=channel,
        size_octets=2048,
        sender="a@example.net",
        original_to="b@example.com",
        current_to="b@example.com",
        file=QueueFile(channel=channel, id=f"{number:015d}", attempts=0, remaining=remaining),
    )


def dequeue(number: int, channel: str = "local") -> LogRecord:
    return evolve(enqueue(number, channel, 0), action=Action.DEQUEUED, source=channel, destination="", queue_time=1.5)


class Home:
    """A disk with a log and a directory with a counters file, and recorders that come and go."""

    def __init__(self, disk: Files | None = None) -> None:
        self.run = tempfile.mkdtemp()
        self.counters = f"{self.run}/counters"
        self.disk = disk or CrashDisk(directories=[LOG])
        self.clock = Clock()
        self.clock.advance(1e6)

    def start(
        self, base: BooksCheckpoint | None = None, lane: str = "0", *, alone: bool = True, options: LogConfig = OPTIONS
    ) -> tuple[Recorder, Sequence[LogRecord]]:
        kept = Lane(self.counters, lane, self.clock.seconds)
        recorder = Recorder(self.clock, self.disk, LOG, kept, lane, options, process=99, alone=alone)
        return recorder, recorder.thd_recover(base)

    def end(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)


class RecorderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Home()
        self.addCleanup(self.home.end)
        assert isinstance(self.home.disk, CrashDisk)
        self.disk = self.home.disk

    def test_it_is_a_recorder(self) -> None:
        recorder, found = self.home.start()
        verifyObject(IRecorder, recorder)
        self.assertEqual((recorder.lane, list(found)), ("0", []))
        self.assertEqual(recorder.checkpoint(), BooksCheckpoint(0, 0, 0, {}))

    def test_a_turns_records_are_one_write(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(1), enqueue(2)])
        recorder.write([dequeue(1)])
        self.assertEqual(self.disk.count("append"), 0)
        self.home.clock.advance(0)
        self.assertEqual(self.disk.count("append"), 1)
        found = logged(self.disk)
        self.assertEqual(
            [(record.lane, record.sequence, record.process) for record in found], [("0", n, 99) for n in (1, 2, 3)]
        )
        self.assertEqual(thd_read(self.home.counters)[1][0].table, folded(found))
        self.assertEqual(self.home.clock.getDelayedCalls(), [])

    def test_a_checkpoint_tells_what_is_written(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(1), dequeue(1)])
        found = recorder.checkpoint()
        self.assertEqual((found.offset, found.sequence), (len(self.disk.read(f"{LOG}/{CURRENT}")), 2))
        self.assertEqual({name: list(row) for name, row in found.counters.items()}, folded(logged(self.disk)))
        recorder.thd_sync()
        self.assertEqual(len(logged(self.disk.reboot("none"))), 2)

    def test_it_tells_what_waits_and_what_is_stored(self) -> None:
        recorder, _ = self.home.start()
        self.assertEqual((recorder.behind, recorder.stored("local")), (False, (0, 0, 0)))
        self.disk.fail("append", number=errno.ENOSPC)
        recorder.write([enqueue(1)])
        recorder.flush()
        self.assertTrue(recorder.behind)
        recorder.flush()
        self.assertEqual((recorder.behind, recorder.stored("local")), (False, (1, 1, 2)))

    def test_a_record_that_cannot_be_written_costs_only_itself(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(1), evolve(enqueue(2), size_octets=cast("int", "x")), enqueue(3)])
        recorder.flush()
        self.assertEqual([record.sequence for record in logged(self.disk)], [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_a_full_disk_delays_lines_and_counts_together(self) -> None:
        """Counters are never ahead of the log, so that the books balance after a crash too."""
        recorder, _ = self.home.start()
        recorder.write([enqueue(1)])
        recorder.flush()
        self.disk.fail("append", number=errno.ENOSPC, times=2)
        recorder.write([enqueue(2)])
        recorder.flush()
        recorder.write([enqueue(3)])
        recorder.flush()
        self.assertEqual(recorder.table["local"][RECEIVED], 1)
        self.assertEqual(recorder.checkpoint().sequence, 3)  # the third try
        self.assertEqual(recorder.table["local"][RECEIVED], 3)
        self.assertEqual(folded(logged(self.disk)), recorder.table)

    def test_lines_that_wait_are_tried_again_by_themselves(self) -> None:
        recorder, _ = self.home.start()
        self.disk.fail("append", number=errno.ENOSPC, times=3)
        recorder.write([enqueue(1)])
        self.home.clock.pump([0, 0.5, 0.6, 1.1, 1.1])
        self.assertEqual(len(logged(self.disk)), 1)
        self.assertEqual(self.home.clock.getDelayedCalls(), [])

    def test_lines_lost_for_want_of_memory_leave_the_books_equal(self) -> None:
        recorder, _ = self.home.start()
        recorder._file._limit = 500
        self.disk.fail("append", number=errno.ENOSPC, times=1000)
        for number in range(10):
            recorder.write([enqueue(number)])
            recorder.flush()
        self.disk.heal()
        recorder.write([enqueue(11)])
        recorder.flush()
        found = logged(self.disk)
        self.assertTrue(1 <= len(found) < 11)
        self.assertEqual([record.sequence for record in found], list(range(1, len(found) + 1)))
        self.assertEqual(folded(found), recorder.table)

    def test_connections_that_are_not_logged_are_counted(self) -> None:
        recorder, _ = self.home.start(options=LogConfig(connections=False))
        opened = LogRecord(action=Action.OPENED, time=1e9, source="tcp_local", direction="+")
        recorder.write([opened, enqueue(1), opened])
        recorder.flush()
        self.assertEqual(len(logged(self.disk)), 1)
        self.assertEqual(recorder.table, folded([opened, enqueue(1), opened]))

    def test_nothing_at_all_can_be_written_and_mail_goes_on(self) -> None:
        """Neither log nor counters: no exception reaches the caller."""
        home = Home(CrashDisk(directories=["/"]))
        self.addCleanup(home.end)
        home.counters = "/nowhere/at/all"
        assert isinstance(home.disk, CrashDisk)
        home.disk.fail("mkdir", number=errno.EACCES, times=1000)
        recorder, _ = home.start()
        recorder.write([enqueue(1)])
        recorder.flush()
        recorder.clear(keep_stored=False)
        recorder.checkpoint()
        recorder.thd_sync()
        recorder.close()

    def test_killed_between_line_and_count_it_counts_at_the_next_start(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(1)])
        base = recorder.checkpoint()
        recorder.write([enqueue(2), dequeue(1)])
        recorder.flush()
        os.unlink(self.home.counters)
        self.home.disk = self.disk.kill()
        again, found = self.home.start(base)
        self.assertEqual([record.sequence for record in found], [2, 3])
        self.assertEqual(again.table, recorder.table)
        self.assertEqual(thd_read(self.home.counters)[1][0].table, recorder.table)
        again.write([dequeue(2)])
        again.flush()
        self.assertEqual([record.sequence for record in logged(self.home.disk)], [1, 2, 3, 4])

    def test_recovery_finds_its_lines_after_any_number_of_rolls(self) -> None:
        for rolls in range(4):
            home = Home()
            self.addCleanup(home.end)
            recorder, _ = home.start()
            recorder.write([enqueue(1)])
            base = recorder.checkpoint()
            recorder.write([dequeue(1)])
            recorder.flush()
            for number in range(rolls):
                roll(home.disk, LOG)
                recorder.write([enqueue(number + 2)])
                recorder.flush()
            for checkpoint in (base, None):
                again, found = home.start(checkpoint)
                self.assertEqual(again.table, recorder.table)
                self.assertEqual(len(found), rolls + (1 if checkpoint else 2))

    def test_lanes_share_a_log(self) -> None:
        one, _ = self.home.start(lane="0")
        two, _ = self.home.start(lane="10", alone=False)
        base = one.checkpoint()
        for number in range(3):
            for recorder in (two, one):
                recorder.write([enqueue(number)])
                recorder.flush()
        again, found = self.home.start(base)
        self.assertEqual([(record.lane, record.sequence) for record in found], [("0", 1), ("0", 2), ("0", 3)])
        self.assertEqual(again.table, one.table)

    def test_a_torn_line_is_not_counted_and_written_again_whole(self) -> None:
        for alone in (True, False):
            disk = CrashDisk(directories=[LOG])
            home = Home(disk)
            self.addCleanup(home.end)
            recorder, _ = home.start()
            recorder.write([enqueue(1), dequeue(1)])
            recorder.flush()
            handle = disk.open(f"{LOG}/{CURRENT}")
            disk.truncate(handle, disk.size(handle) - 3)  # in the queue time: what is left would be a record
            again, found = home.start(BooksCheckpoint(0, 0, 0, {}), alone=alone)
            self.assertEqual(len(found), 1)
            self.assertEqual(disk.read(f"{LOG}/{CURRENT}").count(TORN), 0 if alone else 1)
            again.write([dequeue(1)])
            again.flush()
            self.assertEqual(again.table, recorder.table)
            self.assertEqual(folded(logged(disk)), recorder.table)

    def test_a_line_glued_to_a_torn_one_of_another_lane_counts(self) -> None:
        """The other process was killed in the middle of its write, while ours went on."""
        recorder, _ = self.home.start()
        handle = self.disk.open(f"{LOG}/{CURRENT}", append=True)
        recorder.write([enqueue(1)])
        recorder.flush()
        whole = self.disk.read(f"{LOG}/{CURRENT}").replace(b".0.1 ", b".1.77 ")
        self.disk.append(handle, whole[:-20])
        recorder.write([dequeue(1)])
        recorder.flush()
        again, found = self.home.start(BooksCheckpoint(0, 0, 0, {}))
        self.assertEqual([record.action for record in found], [Action.ENQUEUED, Action.DEQUEUED])
        self.assertEqual(again.table, recorder.table)

    def test_a_log_that_lost_more_than_it_may_does_not_stop_the_start(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(number) for number in range(5)])
        base = recorder.checkpoint()
        for name in ("", CURRENT):
            if name:
                self.disk.unlink(f"{LOG}/{name}")
            else:
                handle = self.disk.open(f"{LOG}/{CURRENT}")
                self.disk.truncate(handle, 100)
            again, found = self.home.start(base)
            self.assertEqual((list(found), again.table), ([], recorder.table))
            again.write([enqueue(6)])
            self.assertEqual(again.checkpoint().sequence, 6)

    def test_an_inode_number_used_again_does_not_mislead(self) -> None:
        """On ext4 a new file gets the number of one just removed."""
        os.mkdir(directory := os.path.abspath(self.mktemp()))
        files = RealFiles()
        lane = Lane(f"{directory}/counters", "0", self.home.clock.seconds)
        recorder = Recorder(self.home.clock, files, directory, lane, "0", OPTIONS)
        recorder.thd_recover(None)
        for number in range(6):
            recorder.write([enqueue(number)])
            base = recorder.checkpoint()
            for extra in range(3):
                roll(files, directory)
                recorder.write([enqueue(100 + 10 * number + extra)] * 2)
                recorder.flush()
            again = Recorder(
                self.home.clock, files, directory, Lane(f"{directory}/c2", "0", self.home.clock.seconds), "0", OPTIONS
            )
            self.assertEqual(len(again.thd_recover(base)), 6)
            self.assertEqual(again.table, recorder.table)
            again.close()
        recorder.close()

    def test_writes_may_be_some_way_apart(self) -> None:
        """The first after a pause at the end of the turn; what comes then together, in time or when asked."""
        home = self.home
        recorder = Recorder(
            home.clock, home.disk, LOG, Lane(f"{home.run}/apart", "0", home.clock.seconds), "0", OPTIONS, apart_s=0.01
        )
        self.addCleanup(recorder.close)
        recorder.thd_recover(None)

        def written() -> int:
            return home.disk.read(f"{LOG}/{CURRENT}").count(b"\n")

        recorder.write([enqueue(0)])
        home.clock.advance(0)
        self.assertEqual(written(), 1)
        for number in (1, 2, 3):
            recorder.write([enqueue(number)])
            home.clock.advance(0.003)
        self.assertEqual(written(), 1)
        self.assertTrue(recorder.behind)
        home.clock.advance(0.002)
        self.assertEqual((written(), recorder.behind), (4, False))
        recorder.write([enqueue(4)])
        recorder.flush()
        self.assertEqual((written(), home.clock.getDelayedCalls()), (5, []))

    def test_a_clear_is_remembered_over_a_crash(self) -> None:
        """C6, C9: what was queued at the clear goes negative, the smallest value is kept through recovery."""
        recorder, _ = self.home.start()
        recorder.write([enqueue(1), enqueue(2)])
        base = recorder.checkpoint()
        recorder.clear(keep_stored=False)
        recorder.thd_sync()
        recorder.write([dequeue(1), enqueue(3)])
        recorder.flush()
        for _ in range(2):
            lane = thd_read(self.home.counters)[1][0]
            found = shown(lane)["local"]
            self.assertEqual((found[RECEIVED], found[STORED], found[STORED + 25]), (1, 0, -1))
            again, _found = self.home.start(base)
            self.assertEqual(again.table, recorder.table)

    def test_a_clear_that_is_forgotten_has_no_smallest_value_of_its_own(self) -> None:
        """
        The counters file was removed while nothing ran: the counts come back since the first day, when nothing was
        stored, as a verification adds them up.
        """
        recorder, _ = self.home.start()
        recorder.write([enqueue(1), enqueue(2)])
        recorder.clear(keep_stored=True)
        recorder.write([enqueue(3)])
        base = recorder.checkpoint()
        recorder.thd_sync()
        recorder.close()
        os.unlink(self.home.counters)
        again, _ = self.home.start(base)
        self.assertEqual(again.table["local"][STORED : STORED + 3], [3, 3, 6])
        self.assertEqual(again.table["local"][LOWEST : LOWEST + 3], [0, 0, 0])
        [lane] = thd_read(self.home.counters)[1]
        self.assertEqual(lane.table["local"], folded(logged(self.home.disk))["local"])

    def test_what_was_written_in_the_turn_of_a_clear_is_from_before_it(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(1), enqueue(2)])
        recorder.clear(keep_stored=False)
        recorder.flush()
        [lane] = thd_read(self.home.counters)[1]
        self.assertEqual((shown(lane)["local"][RECEIVED], lane.table["local"][RECEIVED]), (0, 2))

    def test_a_clear_that_is_ahead_of_a_shortened_log_is_taken_as_of_now(self) -> None:
        recorder, _ = self.home.start()
        recorder.write([enqueue(1)])
        base = recorder.checkpoint()
        recorder.thd_sync()
        recorder.write([dequeue(1)])
        recorder.clear(keep_stored=False)
        self.home.disk = self.disk.reboot("none")
        again, _ = self.home.start(base)
        again.write([dequeue(1)])
        again.flush()
        lane = thd_read(self.home.counters)[1][0]
        self.assertEqual(lane.baseline.position.sequence, 1)
        self.assertEqual(shown(lane)["local"][STORED], -1)

    @given(
        strategies.histories(),
        st.lists(st.sampled_from(["flush", "checkpoint", "sync", "roll", "full"]), max_size=12),
        st.integers(0, 2**32),
        st.integers(1, 3),
        st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def test_the_books_balance_after_any_crash(
        self, history: list[LogRecord], events: list[str], seed: int, lives: int, power: bool
    ) -> None:
        """
        Random mail, checkpoints, rolls and full disks; then the process or the power dies, a random part of what was
        not synced survives; recover, write again what lacks its line, die again. The counters equal the fold of the log
        and of the history, lowest values apart, which depend on the order.
        """
        chance = random.Random(seed)
        disk = CrashDisk(directories=[LOG])
        home = Home(disk)
        try:
            history = [
                evolve(record, transport=f"{number}", sender=f"{number}") for number, record in enumerate(history)
            ]
            durable: BooksCheckpoint | None = None
            covered: list[LogRecord] = []  # has its line at or before the durable checkpoint
            pending = list(history)
            for _ in range(lives):
                recorder, found = home.start(durable, alone=chance.random() < 0.8)
                known = {key(record) for record in [*covered, *found]}
                pending = [record for record in history if key(record) not in known]
                written = [record for record in history if key(record) in known]
                self.assertEqual(recorder.table, folded([*covered, *found]))
                todo = list(pending)
                for event in events:
                    batch, todo = todo[:3], todo[3:]
                    recorder.write(batch)
                    written += batch
                    if event == "full":
                        disk.fail("append", number=errno.ENOSPC)
                    elif event == "roll":
                        with contextlib.suppress(OSError):  # full too; the next roll goes on where this one ended
                            roll(disk, LOG)
                    elif event == "flush":
                        recorder.flush()
                    else:
                        point = recorder.checkpoint()
                        if event == "sync" and point.sequence == recorder._numbered:
                            recorder.thd_sync()
                            durable, covered = point, in_order(disk)
                            disk.heal()
                disk.heal()
                survivors: random.Random | Literal["none", "all"] = chance.choice(["none", "all", chance])
                home.disk = disk = disk.reboot(survivors) if power else disk.kill()
            recorder, found = home.start(durable)
            known = {key(record) for record in [*covered, *found]}
            recorder.write([record for record in history if key(record) not in known])
            recorder.flush()
            log = logged(disk)
            self.assertEqual(sorted(map(key, log)), sorted(map(key, history)))
            self.assertEqual(recorder.table, folded(log))
            self.assertEqual(
                {c: row[:28] for c, row in recorder.table.items()}, {c: row[:28] for c, row in folded(history).items()}
            )
            self.assertEqual(thd_read(home.counters)[1][0].table, recorder.table)
        finally:
            home.end()


def in_order(disk: Files) -> list[LogRecord]:
    return logged(disk)


def key(record: LogRecord) -> str:
    return record.sender or record.transport
