"""A file in which processes keep things for each other."""

from __future__ import annotations

import gc
import os

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.shared_file import SharedFile
from tests.disk.full import full_disk


class SharedFileTests(SynchronousTestCase):
    """L{SharedFile}."""

    def test_what_one_writes_the_other_sees(self) -> None:
        path = self.mktemp()
        one, two = SharedFile(path, 100), SharedFile(path, 50)
        self.assertTrue(one.write(10, b"abc"))
        self.assertEqual((two.read(9, 5), one.size, two.size), (b"\0abc\0", 100, 50))
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_a_longer_file_is_used_as_far_as_is_wanted(self) -> None:
        path = self.mktemp()
        SharedFile(path, 100)
        self.assertEqual([SharedFile(path, 10, most).size for most in (0, 60, 200)], [10, 60, 100])

    def test_what_was_cut_off_is_zeros_until_it_is_written_again(self) -> None:
        path = self.mktemp()
        file = SharedFile(path, 100)
        file.write(0, b"x" * 100)
        os.truncate(path, 50)
        self.assertEqual(file.read(40, 20), b"x" * 10 + b"\0" * 10)
        self.assertTrue(file.write(80, b"y"))
        self.assertEqual(file.read(79, 3), b"\0y\0")

    def test_a_full_disk_is_told_once_each_time(self) -> None:
        file = SharedFile(self.mktemp(), 100)
        for _ in range(2):
            with full_disk(self), capturedLogs() as logs:
                self.assertEqual([file.write(0, b"x"), file.write(1, b"x")], [False, False])
            self.assertEqual([str(one["error"]) for one in logs], ["No space left on device"])
            self.assertTrue(file.write(0, b"y"))

    def test_its_descriptor_goes_with_it_and_with_what_fails(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        file = SharedFile(self.mktemp(), 100)
        del file
        gc.collect()
        os.mkfifo(pipe := self.mktemp())
        os.symlink("/dev/null", link := self.mktemp())
        for path in (pipe, link, os.getcwd()):
            self.assertRaises(OSError, SharedFile, path, 100)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
