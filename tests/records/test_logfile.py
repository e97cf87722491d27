"""The log's files: appending, failing disks, rolling over under power cuts."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qmailpy.disk.files import Files, RealFiles
from qmailpy.records import reading
from qmailpy.records.logfile import (
    CUMULATIVE,
    CURRENT,
    ROLLING,
    YESTERDAY,
    LogFile,
    LogPosition,
    file_number,
    log_files,
    roll,
)
from qmailpy.records.reading import last_lines, lines, whole_end
from qmailpy.records.text import TORN
from qmailpy.testing.crashdisk import CrashDisk, PowerCut

LOG = "/home/log"


def put(files: Files, name: str, octets: bytes, directory: str = LOG) -> None:
    handle = files.open(f"{directory}/{name}", create=True, append=True)
    files.append(handle, octets)
    files.fsync(handle)
    files.close(handle)
    files.sync_directory(directory)


def content(files: Files, name: str, directory: str = LOG) -> bytes:
    path = f"{directory}/{name}"
    return files.read(path) if files.exists(path) else b""


def everything(files: Files, directory: str = LOG) -> bytes:
    return b"".join(content(files, name, directory) for name in (CUMULATIVE, YESTERDAY, CURRENT))


class AppendTests(SynchronousTestCase):
    """One writer."""

    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[LOG])
        self.file = LogFile(self.disk, LOG, pending_octets=100)
        self.said: list[str] = []

        @implementer(ILogObserver)
        def hear(event: LogEvent) -> None:
            if event.get("log_namespace") == "qmailpy.records.logfile.LogFile":
                self.said.append(event["log_format"].split(",")[0].split(":")[0])

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def test_what_may_wait_is_as_much_each_time(self) -> None:
        """What has been written does not count any more, nor has the log's first trouble any bearing on its next."""
        for number in range(20):
            self.assertTrue(self.file.append(b"x" * 59 + b"\n"))
            if number == 10:
                self.disk.fail("append", number=errno.ENOSPC)
                self.assertTrue(self.file.append(b"y" * 29 + b"\n"))
                self.assertTrue(self.file.pending)
        self.assertEqual(content(self.disk, CURRENT).count(b"x" * 59 + b"\n"), 20)

    def test_a_batch_is_one_write_and_the_position_is_known(self) -> None:
        self.file.append(b"one\ntwo\n")
        self.file.append(b"three\n")
        self.assertEqual(self.disk.count("append"), 2)
        self.assertEqual(content(self.disk, CURRENT), b"one\ntwo\nthree\n")
        self.assertEqual(self.file.position(), LogPosition(0, 14))
        self.file.append(b"x" * 60 + b"\n")
        position = self.file.position()
        self.assertEqual(position.offset, 75)
        self.assertNotEqual(position.file, 0)
        roll(self.disk, LOG)
        handle = self.disk.open(f"{LOG}/{YESTERDAY}")
        self.assertEqual(file_number(self.disk, handle), position.file)

    def test_a_file_number_is_more_than_an_inode_number(self) -> None:
        """Which ext4 gives to the next new file at once."""
        numbers = set()
        for head in (b"a" * 64, b"b" * 64):
            self.disk.identity = lambda where: 7  # type: ignore[method-assign]
            put(self.disk, head[:1].decode(), head)
            numbers.add(file_number(self.disk, self.disk.open(f"{LOG}/{head[:1].decode()}")))
        self.assertEqual(len(numbers), 2)

    def test_lines_wait_while_the_disk_is_full(self) -> None:
        """ENOSPC in the middle of a write: one line in the daemon's log, the torn piece is marked, nothing is lost."""
        self.file.append(b"one\n")
        self.disk.fail("append", number=errno.ENOSPC, times=3)
        for line in (b"two two two\n", b"three\n", b"four\n"):
            self.assertTrue(self.file.append(line))
            self.assertTrue(self.file.pending)
        self.assertEqual(self.file.position().offset, 4)
        self.assertTrue(self.file.append(b""))
        self.assertFalse(self.file.pending)
        found = content(self.disk, CURRENT)
        self.assertTrue(found.startswith(b"one\ntwo tw" + TORN))
        self.assertTrue(found.endswith(b"two two two\nthree\nfour\n"))
        self.assertEqual(self.file.position().offset, len(found))
        self.assertEqual(
            self.said, ["the transaction log cannot be written", "the transaction log can be written again"]
        )

    def test_what_waits_is_bounded(self) -> None:
        self.disk.fail("append", number=errno.ENOSPC, times=1000)
        self.assertTrue(self.file.append(b"x" * 79 + b"\n"))
        self.assertFalse(self.file.append(b"y" * 79 + b"\n"))
        self.disk.heal()
        self.file.append(b"z\n")
        found = content(self.disk, CURRENT)
        self.assertTrue(found.endswith(b"x" * 79 + b"\nz\n"))
        self.assertNotIn(b"y", found)

    def test_a_file_that_was_removed_is_made_again(self) -> None:
        self.file.append(b"one\n")
        self.disk.unlink(f"{LOG}/{CURRENT}")
        self.file.append(b"two\n")
        self.assertEqual(content(self.disk, CURRENT), b"two\n")

    def test_a_writer_follows_a_roll(self) -> None:
        """What is written before it notices is in yesterday's file, the rest in the new one."""
        self.file.append(b"one\n")
        roll(self.disk, LOG)
        self.file.append(b"two\n")
        self.file.append(b"three\n")
        self.assertEqual((content(self.disk, YESTERDAY), content(self.disk, CURRENT)), (b"one\ntwo\n", b"three\n"))
        roll(self.disk, LOG)
        self.file.reopen()
        self.file.append(b"four\n")
        self.assertEqual((content(self.disk, YESTERDAY), content(self.disk, CURRENT)), (b"three\n", b"four\n"))

    def test_a_writer_outrun_by_two_rolls_writes_again(self) -> None:
        """The file it holds has been copied and removed: the line would be in no file."""
        self.file.append(b"one\n")
        roll(self.disk, LOG)
        roll(self.disk, LOG)
        self.file.append(b"two\n")
        self.assertEqual((content(self.disk, CUMULATIVE), content(self.disk, CURRENT)), (b"one\n", b"two\n"))

    def test_sync_covers_a_rolled_file_and_the_new_name(self) -> None:
        """Each fsync and the directory's are needed."""
        for left_out in ("", "fdatasync", "sync_directory"):
            disk = CrashDisk(directories=[LOG])
            disk.ignore_sync = lambda kind, path, left_out=left_out: kind == left_out
            file = LogFile(disk, LOG)
            file.append(b"one\n")
            file.thd_sync()
            disk.rename(f"{LOG}/{CURRENT}", f"{LOG}/{YESTERDAY}")
            file.append(b"two\n")
            file.append(b"three\n")
            file.thd_sync()
            self.assertEqual(len(disk.open_paths()), 1)
            found = sorted(everything(disk.reboot("none")).splitlines())
            self.assertEqual(found == [b"one", b"three", b"two"], left_out == "", left_out)

    def test_a_failed_sync_is_told_and_tried_again(self) -> None:
        self.file.append(b"one\n")
        self.disk.fail("fdatasync")
        self.assertRaises(OSError, self.file.thd_sync)
        self.file.thd_sync()
        self.file.close()
        self.assertEqual(self.disk.open_paths(), [])

    def test_a_torn_end_is_cut_off_by_who_is_alone(self) -> None:
        put(self.disk, CURRENT, b"one\ntw")
        self.file.repair(alone=True)
        self.file.append(b"three\n")
        self.assertEqual(content(self.disk, CURRENT), b"one\nthree\n")

    def test_a_torn_end_is_closed_by_who_is_not_alone(self) -> None:
        put(self.disk, CURRENT, b"one\ntw")
        self.file.repair(alone=False)
        self.file.append(b"three\n")
        self.assertEqual(content(self.disk, CURRENT), b"one\ntw \\\nthree\n")

    def test_the_real_disk_does_the_same(self) -> None:
        directory = self.mktemp()
        file = LogFile(RealFiles(), os.path.abspath(directory))
        file.append(b"one\n")
        roll(RealFiles(), os.path.abspath(directory))
        file.append(b"two\n")
        file.append(b"three\n")
        file.thd_sync()
        file.close()
        self.assertEqual(everything(RealFiles(), os.path.abspath(directory)), b"one\ntwo\nthree\n")


class RollTests(SynchronousTestCase):
    """Rolling over: current -> yesterday -> cumulative."""

    def old(self) -> CrashDisk:
        disk = CrashDisk(directories=[LOG])
        put(disk, CUMULATIVE, b"1\n2\n")
        put(disk, YESTERDAY, b"3\n" * 1 + b"4\n")
        put(disk, CURRENT, b"5\n6\n")
        return disk

    def test_each_file_moves_on_by_one(self) -> None:
        disk = self.old()
        roll(disk, LOG)
        self.assertEqual(content(disk, CUMULATIVE), b"1\n2\n3\n4\n")
        self.assertEqual((content(disk, YESTERDAY), content(disk, CURRENT)), (b"5\n6\n", b""))
        self.assertFalse(disk.exists(f"{LOG}/{ROLLING}"))

    def test_the_first_roll_of_all_needs_no_files(self) -> None:
        disk = CrashDisk(directories=[LOG])
        roll(disk, LOG)
        roll(disk, LOG)
        self.assertEqual(everything(disk), b"")

    def test_only_one_rolls_at_a_time(self) -> None:
        disk = self.old()
        disk.lock(f"{LOG}/mail.log_lock")
        self.assertRaises(BlockingIOError, roll, disk, LOG)

    def test_a_torn_last_line_stays_alone_in_the_cumulative_file(self) -> None:
        disk = CrashDisk(directories=[LOG])
        put(disk, YESTERDAY, b"1\n2")
        roll(disk, LOG)
        put(disk, YESTERDAY, b"3\n")
        roll(disk, LOG)
        self.assertEqual(content(disk, CUMULATIVE), b"1\n2 \\\n3\n")

    def test_a_state_file_that_is_no_number_is_refused(self) -> None:
        disk = self.old()
        put(disk, ROLLING, b"x")
        self.assertRaises(OSError, roll, disk, LOG)

    def crashes(self, left_out: str = "") -> Iterator[tuple[str, bytes]]:
        """Die before every step, come back with every kind of survivors, roll again: the lines there are then."""
        for die_at in count():
            disk = self.old()
            disk.die_at = len(disk.operations) + die_at
            disk.ignore_sync = lambda kind, path: f"{kind} {path}" == left_out
            try:
                roll(disk, LOG)
            except PowerCut:
                pass
            else:
                disk.cut()
            ended = len(disk.operations) < (disk.die_at or 0)
            for seed in range(24):
                survivors: random.Random | Literal["none", "all"] = (
                    "none" if seed == 0 else "all" if seed == 1 else random.Random(seed)
                )
                for reorder in (False, True):
                    after = disk.reboot(survivors, reorder=reorder)
                    try:
                        roll(after, LOG)
                    except OSError:
                        yield f"{die_at} {seed} {reorder}", b"refused"
                    else:
                        yield f"{die_at} {seed} {reorder}", everything(after)
            if ended:
                return

    def test_a_power_cut_anywhere_neither_loses_nor_doubles_a_line(self) -> None:
        for where, found in self.crashes():
            self.assertEqual(found, b"1\n2\n3\n4\n5\n6\n", where)

    def test_every_sync_of_it_is_needed(self) -> None:
        """Each one left out turns the test above red; weak tests are found so."""
        disk = self.old()
        before = len(disk.operations)
        roll(disk, LOG)
        syncs = {f"{kind} {path}" for kind, path in disk.operations[before:] if kind in {"fsync", "sync_directory"}}
        self.assertEqual(len(syncs), 3)
        for sync in syncs:
            self.assertTrue(any(found != b"1\n2\n3\n4\n5\n6\n" for _, found in self.crashes(sync)), sync)


class FilesTests(SynchronousTestCase):
    """L{log_files}."""

    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[LOG])

    def read(self, handles: list[int]) -> list[bytes]:
        return [line for handle in handles for line in lines(self.disk, handle)]

    def test_they_are_those_that_there_are_the_oldest_first(self) -> None:
        for names in ((), (CURRENT,), (CURRENT, CUMULATIVE), (YESTERDAY, CURRENT, CUMULATIVE)):
            for name in names:
                if not self.disk.exists(f"{LOG}/{name}"):
                    put(self.disk, name, name.encode() + b"\n")
            with log_files(self.disk, LOG) as handles:
                found = self.read(handles)
            self.assertEqual(found, [one.encode() for one in (CUMULATIVE, YESTERDAY, CURRENT) if one in names])

    def test_a_roll_while_they_are_opened_takes_no_line_away(self) -> None:
        """Before whichever of them, once or twice."""
        for moments in ({0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}):
            self.setUp()
            put(self.disk, CURRENT, b"2\n")
            put(self.disk, CUMULATIVE, b"1\n")
            real, looks, rolling = self.disk.exists, count(), [False]

            def exists(
                path: str,
                real: Callable[[str], bool] = real,
                looks: Iterator[int] = looks,
                rolling: list[bool] = rolling,
                moments: set[int] = moments,
            ) -> bool:
                if not rolling[0] and next(looks) in moments:
                    rolling[0] = True
                    roll(self.disk, LOG)
                    rolling[0] = False
                return real(path)

            self.patch(self.disk, "exists", exists)
            with log_files(self.disk, LOG) as handles:
                self.assertEqual(sorted(set(self.read(handles))), [b"1", b"2"], moments)

    def test_they_are_closed_whatever_happens(self) -> None:
        put(self.disk, CURRENT, b"2\n")
        put(self.disk, CUMULATIVE, b"1\n")
        opened = len(self.disk.open_paths())

        def fail() -> None:
            with log_files(self.disk, LOG):
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        self.disk.fail("open", number=errno.EMFILE, path=f"{LOG}/{CUMULATIVE}")
        self.assertRaises(OSError, fail)
        self.assertEqual(len(self.disk.open_paths()), opened)


class ReadingTests(SynchronousTestCase):
    """Whole lines, forwards and backwards."""

    @given(st.lists(st.binary(max_size=8).map(lambda b: b.replace(b"\n", b"")), max_size=12), st.binary(max_size=5))
    @settings(max_examples=150, deadline=None)
    def test_both_directions_tell_the_same(self, body: list[bytes], torn: bytes) -> None:
        """Whatever the size of a chunk; a torn end counts in neither."""
        torn = torn.replace(b"\n", b"")
        disk = CrashDisk(directories=[LOG])
        put(disk, CURRENT, b"".join(line + b"\n" for line in body) + torn)
        handle = disk.open(f"{LOG}/{CURRENT}")
        for chunk in (1, 3, 7, 1 << 20):
            self.patch(reading, "CHUNK", chunk)
            self.assertEqual(list(lines(disk, handle)), body)
            back = list(last_lines(disk, handle, disk.size(handle)))
            self.assertEqual([line for _, line in reversed(back)], body)
            for at, line in back:
                self.assertEqual(disk.pread(handle, len(line), at), line)
            self.assertEqual(whole_end(disk, handle), disk.size(handle) - len(torn))

    def test_a_line_without_end_costs_no_memory(self) -> None:
        disk = CrashDisk(directories=[LOG])
        put(disk, CURRENT, b"one\n" + b"x" * 3_000_000 + b"\ntwo\n")
        handle = disk.open(f"{LOG}/{CURRENT}")
        self.assertEqual(list(lines(disk, handle)), [b"one", b"two"])
        back = [line for _, line in last_lines(disk, handle, disk.size(handle))]
        self.assertEqual((back[0], back[-1]), (b"two", b"one"))
        self.assertTrue(all(len(line) < 2_000_000 for line in back))
