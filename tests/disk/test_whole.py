"""A file system is synced as a whole, and each failure is heard."""

from __future__ import annotations

import errno
import os
from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import Files, RealFiles, SyncLost
from qmailpy.disk.whole import WholeSync
from qmailpy.testing.crashdisk import CrashDisk


class Moved(RealFiles):
    """A disk on which something is mounted over the directory when told so."""

    def __init__(self) -> None:
        self.elsewhere = False
        self.synced: list[int | None] = []

    def holds(self, handle: int, path: str) -> bool:
        return super().holds(handle, path) and not self.elsewhere

    def hold(self, path: str) -> int:
        self.elsewhere = False
        return super().hold(path)

    def syncfs(self, path: str, held: int | None = None) -> None:
        self.synced.append(held)
        super().syncfs(path, held)


def _open_handles() -> int:
    return len(os.listdir("/proc/self/fd"))


class WholeSyncTests(SynchronousTestCase):
    def test_a_failure_that_somebody_else_was_told_of_is_heard_once(self) -> None:
        disk = CrashDisk(directories=["/d"])
        whole = WholeSync(disk, "/d")
        whole.thd_begin()
        disk.lose("/d")
        disk.syncfs("/d")
        self.assertRaises(SyncLost, whole.thd_sync)
        whole.thd_sync()

    def test_each_owner_hears_it(self) -> None:
        disk = CrashDisk(directories=["/d"])
        one, other = WholeSync(disk, "/d"), WholeSync(disk, "/d")
        one.thd_begin()
        other.thd_begin()
        disk.lose("/d")
        self.assertRaises(SyncLost, one.thd_sync)
        self.assertRaises(SyncLost, other.thd_sync)

    def test_the_directory_may_come_later(self) -> None:
        disk = CrashDisk(directories=["/d"])
        whole = WholeSync(disk, "/d/mail")
        whole.thd_begin()
        disk.mkdir("/d/mail")
        whole.thd_sync()
        disk.lose("/d")
        self.assertRaises(SyncLost, whole.thd_sync)

    def test_without_descriptors_it_is_synced_all_the_same(self) -> None:
        disk = CrashDisk(directories=["/d"])
        disk.fail("hold", number=errno.EMFILE, times=2)
        whole = WholeSync(disk, "/d")
        whole.thd_begin()
        whole.thd_sync()
        self.assertEqual(disk.count("syncfs"), 1)

    def test_a_directory_that_is_gone_is_a_failure(self) -> None:
        whole = WholeSync(cast(Files, RealFiles()), self.mktemp())
        self.assertEqual(self.assertRaises(SyncLost, whole.thd_sync).errno, errno.ENOENT)

    def test_a_file_system_that_is_mounted_over_it_is_synced_too(self) -> None:
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        files = Moved()
        whole = WholeSync(files, path)
        before = _open_handles()
        whole.thd_sync()
        files.elsewhere = True
        whole.thd_sync()
        whole.thd_sync()
        self.assertEqual(len(files.synced), 4)
        self.assertNotIn(None, files.synced)
        self.assertEqual(_open_handles(), before + 1)

    def test_a_held_directory_may_be_renamed_and_a_sync_needs_none_of_its_own(self) -> None:
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        whole = WholeSync(RealFiles(), path)
        whole.thd_begin()
        before = _open_handles()
        whole.thd_sync()
        self.assertEqual(_open_handles(), before)
