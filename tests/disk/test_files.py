"""What the file operations say when the disk says nothing."""

from __future__ import annotations

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles


class ExistsTests(SynchronousTestCase):
    def test_a_name_that_is_not_there_is_not_there(self) -> None:
        """Nor is one below a file, nor one that is too long."""
        path = self.mktemp()
        self.assertFalse(RealFiles().exists(path))
        with open(path, "w"):
            pass
        self.assertTrue(RealFiles().exists(path))
        for none in (f"{path}/below", f"{path}{'x' * 300}"):
            self.assertFalse(RealFiles().exists(none))

    def test_a_link_to_nowhere_is_there(self) -> None:
        path = self.mktemp()
        os.symlink("nowhere", path)
        self.assertTrue(RealFiles().exists(path))

    def test_a_disk_that_does_not_tell_is_no_answer(self) -> None:
        """What belongs to a file that is taken for gone is removed by some who ask."""

        def lstat(path: str) -> os.stat_result:
            raise OSError(errno.EIO, "Input/output error", path)

        self.patch(os, "lstat", lstat)
        self.assertRaises(OSError, RealFiles().exists, "/x")


class ReadTests(SynchronousTestCase):
    def test_what_the_disk_does_not_give_back_has_a_name(self) -> None:
        """The system tells one only when a file cannot be opened."""
        path = self.mktemp()
        with open(path, "wb") as target:
            target.write(b"x")

        def broken(handle: int, size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "read", broken)
        with self.assertRaises(OSError) as caught:
            RealFiles().read(path)
        self.assertEqual(str(caught.exception), f"[Errno 5] Input/output error: '{path}'")
