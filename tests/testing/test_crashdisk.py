"""The crash-simulated disk: it behaves as the real one does, and loses all that the real one might."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import Files, RealFiles, Space, replace
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from qmailpy.testing.inodes import SECTOR


def put(files: Files, path: str, octets: bytes, *, sync: bool = False) -> None:
    handle = files.open(path, create=True)
    files.pwrite(handle, octets, 0)
    if sync:
        files.fsync(handle)
    files.close(handle)


class FilesContract:
    """What every implementation of Files does, while the power is on."""

    files: Files
    base: str

    def check(self, raises: type[BaseException], call: Callable[[], object]) -> None:
        assert isinstance(self, SynchronousTestCase)
        self.assertRaises(raises, call)

    def test_a_day_of_work_has_the_same_outcome_everywhere(self) -> None:
        """The same operations on the simulated disk and on the real one give the same answers."""
        assert isinstance(self, SynchronousTestCase)
        files, base = self.files, self.base
        files.mkdir(f"{base}/a/b/c")
        files.mkdir(f"{base}/a/b/c")
        self.check(FileNotFoundError, lambda: files.open(f"{base}/a/x"))
        self.check(FileNotFoundError, lambda: files.open(f"{base}/none/x", create=True))
        handle = files.open(f"{base}/a/x", create=True, exclusive=True)
        self.check(FileExistsError, lambda: files.open(f"{base}/a/x", create=True, exclusive=True))
        files.pwrite(handle, b"hello", 3)
        self.assertEqual(files.size(handle), 8)
        self.assertEqual(files.pread(handle, 100, 1), b"\0\0hello")
        files.truncate(handle, 5)
        files.truncate(handle, 7)
        self.assertEqual(files.pread(handle, 100, 0), b"\0\0\0he\0\0")
        files.fdatasync(handle)
        files.fsync(handle)
        files.sync_directory(f"{base}/a")
        files.syncfs(base)
        number = files.identity(handle)
        self.assertNotEqual(number, 0)
        files.rename(f"{base}/a/x", f"{base}/a/b/y")
        self.assertEqual((files.identity(f"{base}/a/x"), files.identity(f"{base}/a/b/y")), (0, number))
        self.assertFalse(files.exists(f"{base}/a/x"))
        self.assertEqual(files.pread(handle, 2, 3), b"he")
        files.close(handle)
        self.check(OSError, lambda: files.size(handle))
        self.assertEqual(files.read(f"{base}/a/b/y"), b"\0\0\0he\0\0")
        tail = files.open(f"{base}/a/log", create=True, append=True)
        self.assertEqual(files.append(tail, b"one\n"), 4)
        self.assertEqual(files.append(tail, b"two\n"), 8)
        files.close(tail)
        tail = files.open(f"{base}/a/log", append=True)
        self.assertEqual(files.append(tail, b"3\n"), 10)
        files.close(tail)
        put(files, f"{base}/a/z", b"z")
        files.rename(f"{base}/a/z", f"{base}/a/b/y")
        self.assertEqual(files.read(f"{base}/a/b/y"), b"z")
        self.check(FileNotFoundError, lambda: files.rename(f"{base}/a/z", f"{base}/a/b/y"))
        self.check(IsADirectoryError, lambda: files.rename(f"{base}/a/b/y", f"{base}/a/b/c"))
        self.check(NotADirectoryError, lambda: files.rename(f"{base}/a/b", f"{base}/a/log"))
        self.check(NotADirectoryError, lambda: files.open(f"{base}/a/log/x", create=True))
        self.check(NotADirectoryError, lambda: files.mkdir(f"{base}/a/log/x"))
        self.check(FileExistsError, lambda: files.mkdir(f"{base}/a/log"))
        self.check(NotADirectoryError, lambda: files.sync_directory(f"{base}/a/log"))
        self.check(FileNotFoundError, lambda: files.sync_directory(f"{base}/none"))
        self.check(FileNotFoundError, lambda: files.syncfs(f"{base}/none"))
        self.check(IsADirectoryError, lambda: files.read(f"{base}/a"))
        self.check(OSError, lambda: files.open(f"{base}/a/" + "n" * 256, create=True))
        self.assertEqual(sorted(files.listdir(f"{base}/a")), ["b", "log"])
        self.assertEqual(sorted(files.scan(f"{base}/a/b")), ["c", "y"])
        self.assertEqual(files.listdir(f"{base}/none"), [])
        self.assertEqual(list(files.scan(f"{base}/none")), [])
        self.check(NotADirectoryError, lambda: files.listdir(f"{base}/a/log"))
        files.unlink(f"{base}/a/b/y")
        self.check(FileNotFoundError, lambda: files.unlink(f"{base}/a/b/y"))
        self.check(OSError, lambda: files.unlink(f"{base}/a/b"))
        replace(files, f"{base}/a/r", b"first")
        replace(files, f"{base}/a/r", b"second")
        self.assertEqual(files.read(f"{base}/a/r"), b"second")
        held = files.lock(f"{base}/lock")
        self.check(BlockingIOError, lambda: files.lock(f"{base}/lock"))
        files.close(held)
        files.close(files.lock(f"{base}/lock"))
        self.assertTrue(files.space(base).octets > 0)


class RealFilesTests(FilesContract, SynchronousTestCase):
    def setUp(self) -> None:
        self.files = RealFiles()
        self.base = os.path.abspath(self.mktemp())
        os.mkdir(self.base)


class CrashDiskContractTests(FilesContract, SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/base"])
        self.files = self.disk
        self.base = "/base"

    def tearDown(self) -> None:
        self.assertEqual(self.disk.open_paths(), [])


class DurabilityTests(SynchronousTestCase):
    """What a power cut leaves when nothing beyond the synced survives, and when everything does."""

    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/d", "/e"])

    def test_content_is_lost_without_fsync(self) -> None:
        """The name was synced, the content was not: the file is there, empty."""
        put(self.disk, "/d/f", b"content")
        self.disk.sync_directory("/d")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"")
        self.assertEqual(self.disk.reboot("all").read("/d/f"), b"content")

    def test_the_name_is_lost_without_directory_sync(self) -> None:
        put(self.disk, "/d/f", b"content", sync=True)
        self.assertEqual(self.disk.reboot().listdir("/d"), [])
        self.assertEqual(self.disk.reboot("all").listdir("/d"), ["f"])

    def test_both_syncs_keep_the_file(self) -> None:
        put(self.disk, "/d/f", b"content", sync=True)
        self.disk.sync_directory("/d")
        for survivors in ("none", "all"):
            self.assertEqual(self.disk.reboot(survivors).read("/d/f"), b"content")

    def test_a_later_write_is_lost_alone(self) -> None:
        put(self.disk, "/d/f", b"old old", sync=True)
        self.disk.sync_directory("/d")
        put(self.disk, "/d/f", b"new")
        self.assertEqual(self.disk.read("/d/f"), b"new old")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"old old")

    def test_a_truncate_is_lost_without_fsync(self) -> None:
        put(self.disk, "/d/f", b"content", sync=True)
        self.disk.sync_directory("/d")
        handle = self.disk.open("/d/f")
        self.disk.truncate(handle, 0)
        self.assertEqual(self.disk.reboot().read("/d/f"), b"content")

    def test_fdatasync_makes_size_and_content_durable(self) -> None:
        handle = self.disk.open("/d/f", create=True, append=True)
        self.disk.sync_directory("/d")
        self.disk.append(handle, b"one")
        self.disk.fdatasync(handle)
        self.disk.append(handle, b"two")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"one")

    def test_syncfs_makes_everything_durable(self) -> None:
        self.disk.mkdir("/d/x/y")
        put(self.disk, "/d/x/y/f", b"content")
        self.disk.syncfs("/d")
        self.assertEqual(self.disk.reboot().read("/d/x/y/f"), b"content")

    def test_a_new_directory_needs_its_parent_synced(self) -> None:
        self.disk.mkdir("/d/x")
        put(self.disk, "/d/x/f", b"content", sync=True)
        self.disk.sync_directory("/d/x")
        self.assertEqual(self.disk.reboot().listdir("/d"), [])
        fresh = CrashDisk(directories=["/d"])
        fresh.mkdir("/d/x")
        put(fresh, "/d/x/f", b"content", sync=True)
        fresh.sync_directory("/d/x")
        fresh.sync_directory("/d")
        self.assertEqual(fresh.reboot().read("/d/x/f"), b"content")

    def test_an_unlink_comes_back_without_directory_sync(self) -> None:
        put(self.disk, "/d/f", b"content", sync=True)
        self.disk.sync_directory("/d")
        self.disk.unlink("/d/f")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"content")

    def test_a_rename_over_a_file_is_the_old_or_the_new(self) -> None:
        """replace() with each of its syncs left out loses what that sync was for."""
        replace(self.disk, "/d/f", b"old")
        handle = self.disk.open("/d/f.tmp", create=True)
        self.disk.pwrite(handle, b"new", 0)
        self.disk.fsync(handle)
        self.disk.rename("/d/f.tmp", "/d/f")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"old")
        self.assertEqual(self.disk.reboot("all").read("/d/f"), b"new")
        self.assertEqual(self.disk.reboot("all").listdir("/d"), ["f"])

    def test_a_rename_between_directories_is_whole_once_its_source_is_synced(self) -> None:
        put(self.disk, "/d/f", b"content")
        self.disk.syncfs("/")
        self.disk.rename("/d/f", "/e/f")
        self.disk.sync_directory("/d")
        for seed in range(50):
            disk = self.disk.reboot(random.Random(seed), reorder=True)
            self.assertEqual((disk.listdir("/d"), disk.listdir("/e")), ([], ["f"]))

    def test_a_rename_whose_target_alone_is_synced_is_whole_or_leaves_both_names(self) -> None:
        put(self.disk, "/d/f", b"content")
        self.disk.syncfs("/")
        self.disk.rename("/d/f", "/e/f")
        self.disk.sync_directory("/e")
        self.assertEqual(self.disk.reboot().listdir("/d"), [])
        self.assertEqual(self.disk.reboot(reorder=True).listdir("/d"), ["f"])
        for seed in range(50):
            self.assertEqual(self.disk.reboot(random.Random(seed), reorder=True).listdir("/e"), ["f"])
            self.assertEqual(self.disk.reboot(random.Random(seed)).listdir("/d"), [])

    def test_a_rename_between_directories_never_loses_both_names(self) -> None:
        """Ordered: exactly one name. Reordered: one, or the other, or both; each is seen."""
        put(self.disk, "/d/f", b"content")
        self.disk.syncfs("/")
        self.disk.rename("/d/f", "/e/g")
        seen = set()
        for seed in range(200):
            ordered = self.disk.reboot(random.Random(seed))
            self.assertEqual(len(ordered.listdir("/d") + ordered.listdir("/e")), 1)
            any_order = self.disk.reboot(random.Random(seed), reorder=True)
            names = tuple(any_order.listdir("/d") + any_order.listdir("/e"))
            seen.add(names)
        self.assertEqual(seen, {("f",), ("g",), ("f", "g")})

    def test_a_name_that_was_synced_is_not_undone_by_an_older_operation(self) -> None:
        """A rename into a directory commits, with its source's sync, what came before for the same name."""
        for name in ("f", "g"):
            put(self.disk, f"/d/{name}", name.encode())
        self.disk.syncfs("/")
        self.disk.rename("/d/f", "/e/x")
        self.disk.rename("/e/x", "/d/y")
        self.disk.rename("/d/g", "/e/x")
        self.disk.sync_directory("/d")
        for seed in range(50):
            disk = self.disk.reboot(random.Random(seed), reorder=True)
            self.assertEqual(disk.read("/d/y"), b"f")
            self.assertEqual(disk.read("/e/x"), b"g")

    def test_a_rename_that_was_synced_is_not_undone_by_an_older_file_of_its_name(self) -> None:
        put(self.disk, "/d/f", b"new")
        self.disk.syncfs("/")
        put(self.disk, "/e/f", b"old", sync=True)
        self.disk.rename("/d/f", "/e/f")
        self.disk.sync_directory("/d")
        for survivors in (random.Random(0), random.Random(1), "all", "none"):
            self.assertEqual(self.disk.reboot(survivors).read("/e/f"), b"new")

    def test_a_file_that_was_moved_out_of_the_way_is_not_lost(self) -> None:
        """However the operations are reordered, what took its name does not survive without the move."""
        put(self.disk, "/d/f", b"f")
        put(self.disk, "/d/g", b"g")
        self.disk.syncfs("/")
        self.disk.rename("/d/f", "/e/f")
        self.disk.rename("/d/g", "/d/f")
        for seed in range(100):
            disk = self.disk.reboot(random.Random(seed), reorder=True)
            found = {disk.read(f"/{at}/{name}") for at in "de" for name in disk.listdir(f"/{at}")}
            self.assertEqual(found, {b"f", b"g"})


class ChanceTests(SynchronousTestCase):
    """What survives by chance is a part of what was written, and every kind of part comes up."""

    def test_an_append_may_be_torn_at_sectors_or_leave_zeros(self) -> None:
        disk = CrashDisk(directories=["/d"])
        handle = disk.open("/d/f", create=True)
        disk.pwrite(handle, b"o" * 100, 0)
        disk.fsync(handle)
        disk.sync_directory("/d")
        disk.pwrite(handle, b"n" * 3000, 100)
        seen = set()
        for seed in range(400):
            content = disk.reboot(random.Random(seed)).read("/d/f")
            self.assertEqual(content[:100], b"o" * 100)
            tail = content[100:]
            self.assertEqual(tail.strip(b"n\0"), b"")
            for at in range(100, len(content)):  # changes happen between sectors only
                if at % SECTOR and at > 100:
                    self.assertEqual(content[at], content[at - 1])
            if len(tail) == 3000:
                seen.add("whole" if b"\0" not in tail else "zeros" if b"n" not in tail else "mixed")
            else:
                seen.add("nothing" if not tail else "prefix")
        self.assertEqual(seen, {"whole", "zeros", "mixed", "nothing", "prefix"})

    def test_of_two_overwrites_either_may_survive(self) -> None:
        disk = CrashDisk(directories=["/d"])
        handle = disk.open("/d/f", create=True)
        disk.pwrite(handle, b"0", 0)
        disk.syncfs("/")
        disk.pwrite(handle, b"1", 0)
        disk.pwrite(handle, b"2", 0)
        seen = {disk.reboot(random.Random(seed)).read("/d/f") for seed in range(100)}
        self.assertEqual(seen, {b"0", b"1", b"2"})

    def test_names_survive_as_a_prefix_unless_reordered(self) -> None:
        disk = CrashDisk(directories=["/d"])
        names = [f"f{number}" for number in range(6)]
        for name in names:
            put(disk, f"/d/{name}", b"")
        ordered, reordered = set(), set()
        for seed in range(400):
            found = sorted(disk.reboot(random.Random(seed)).listdir("/d"))
            self.assertEqual(found, names[: len(found)])
            ordered.add(len(found))
            reordered.add(tuple(sorted(disk.reboot(random.Random(seed), reorder=True).listdir("/d"))))
        self.assertEqual(ordered, set(range(7)))
        self.assertIn(("f5",), reordered)
        self.assertTrue(len(reordered) > 40)

    def test_what_is_synced_always_survives(self) -> None:
        disk = CrashDisk(directories=["/d"])
        put(disk, "/d/f", b"x" * 5000, sync=True)
        disk.sync_directory("/d")
        put(disk, "/d/g", b"y" * 5000)
        for seed in range(100):
            for reorder in (False, True):
                self.assertEqual(disk.reboot(random.Random(seed), reorder=reorder).read("/d/f"), b"x" * 5000)

    def test_a_reboot_does_not_touch_the_disk_it_comes_from(self) -> None:
        """Copies on write share octets: what one life writes is not seen by another."""
        disk = CrashDisk(directories=["/d"])
        put(disk, "/d/f", b"one", sync=True)
        disk.sync_directory("/d")
        first = disk.reboot()
        put(first, "/d/f", b"two", sync=True)
        self.assertEqual(disk.reboot().read("/d/f"), b"one")
        second = first.reboot()
        put(second, "/d/f", b"3", sync=True)
        self.assertEqual(first.reboot("all").read("/d/f"), b"two")


class LifeAndDeathTests(SynchronousTestCase):
    def test_the_power_fails_before_each_step_in_turn(self) -> None:
        """die_at carries out so many calls and no more; replace() is then the old content or the new, at every step."""
        for die_at in count():
            disk = CrashDisk(die_at, directories=["/d"])
            try:
                replace(disk, "/d/f", b"old")
                replace(disk, "/d/f", b"new")
                break
            except PowerCut:
                self.assertEqual(disk.count(), die_at)
                self.assertRaises(PowerCut, disk.listdir, "/d")
                self.assertRaises(PowerCut, disk.open, "/d/f")
            for seed in range(20):
                after = disk.reboot(random.Random(seed), reorder=True)
                if after.exists("/d/f"):
                    self.assertIn(after.read("/d/f"), (b"old", b"new"))
                else:
                    self.assertTrue(die_at < 6)
        self.assertEqual(die_at, 12)
        self.assertEqual(disk.reboot().read("/d/f"), b"new")

    def test_a_power_cut_is_no_exception_that_code_might_swallow(self) -> None:
        self.assertFalse(issubclass(PowerCut, Exception))

    def test_a_killed_process_leaves_what_it_wrote_and_no_locks(self) -> None:
        disk = CrashDisk(directories=["/d"])
        disk.lock("/d/lock")
        put(disk, "/d/f", b"content")
        after = disk.kill()
        self.assertRaises(PowerCut, disk.read, "/d/f")
        self.assertEqual(after.read("/d/f"), b"content")
        self.assertEqual(after.open_paths(), [])
        after.lock("/d/lock")
        self.assertEqual(after.reboot().listdir("/d"), [])  # nothing became durable by dying

    def test_what_a_killed_process_wrote_can_be_synced_by_the_next(self) -> None:
        disk = CrashDisk(directories=["/d", "/e"])
        put(disk, "/d/f", b"content")
        disk.rename("/d/f", "/e/f")
        after = disk.kill()
        after.close(after.open("/e/f"))
        handle = after.open("/e/f")
        after.fsync(handle)
        after.sync_directory("/e")
        self.assertEqual(after.reboot().read("/e/f"), b"content")

    def test_locks_vanish_with_a_reboot(self) -> None:
        disk = CrashDisk(directories=["/d"])
        disk.lock("/d/lock")
        disk.syncfs("/")
        disk.reboot().lock("/d/lock")


class FaultTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/d"])

    def test_the_chosen_call_fails_with_the_chosen_error(self) -> None:
        self.disk.fail("open", 2, errno.EMFILE)
        put(self.disk, "/d/f", b"")
        failure = self.assertRaises(OSError, self.disk.open, "/d/g", create=True)
        self.assertEqual(failure.errno, errno.EMFILE)
        put(self.disk, "/d/g", b"")

    def test_a_fault_may_be_for_some_paths_and_for_ever(self) -> None:
        self.disk.fail("mkdir", number=errno.EACCES, path="/d/x", times=1 << 30)
        for _ in range(3):
            self.assertRaises(PermissionError, self.disk.mkdir, "/d/x")
        self.disk.mkdir("/d/y")
        self.disk.heal()
        self.disk.mkdir("/d/x")

    def test_a_write_to_a_full_disk_leaves_a_part(self) -> None:
        self.disk.fail("pwrite", 1, errno.ENOSPC)
        failure = self.assertRaises(OSError, put, self.disk, "/d/f", b"abcd")
        self.assertEqual(failure.errno, errno.ENOSPC)
        self.assertEqual(self.disk.read("/d/f"), b"ab")

    def test_after_a_failed_fsync_a_second_one_saves_nothing(self) -> None:
        """Linux marks the pages clean: they can still be read, yet never reach the disk."""
        handle = self.disk.open("/d/f", create=True)
        self.disk.sync_directory("/d")
        self.disk.pwrite(handle, b"lost", 0)
        self.disk.fail("fsync")
        self.assertRaises(OSError, self.disk.fsync, handle)
        self.disk.fsync(handle)
        self.assertEqual(self.disk.read("/d/f"), b"lost")
        for survivors in ("none", "all"):
            self.assertEqual(self.disk.reboot(survivors).read("/d/f"), b"")

    def test_a_failed_syncfs_loses_every_pending_write(self) -> None:
        put(self.disk, "/d/f", b"lost")
        self.disk.fail("syncfs")
        self.assertRaises(OSError, self.disk.syncfs, "/d")
        self.disk.syncfs("/d")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"")

    def test_a_sync_can_be_left_out(self) -> None:
        """With ignore_sync a test proves that it would notice the sync's absence."""
        self.disk.ignore_sync = lambda kind, path: kind == "fsync"
        put(self.disk, "/d/f", b"content", sync=True)
        self.disk.sync_directory("/d")
        self.assertEqual(self.disk.reboot().read("/d/f"), b"")

    def test_free_space_is_what_the_test_says(self) -> None:
        self.disk.free = Space(5, 6)
        self.assertEqual(self.disk.space("/d"), Space(5, 6))
        self.assertEqual(self.disk.reboot().space("/d"), Space(5, 6))

    def test_operations_are_counted_by_kind(self) -> None:
        put(self.disk, "/d/f", b"x", sync=True)
        self.assertEqual(self.disk.operations, [("create", "/d/f"), ("pwrite", "/d/f"), ("fsync", "/d/f")])
        self.assertEqual(self.disk.count("fsync", "pwrite"), 2)
