"""Pieces of files are read and written whole, however little the system takes at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk import placing_child
from qmailpy.disk.files import RealFiles
from qmailpy.disk.pieces import thd_pieces, thd_write

CONTENT = bytes(range(256)) * 40


class PieceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def little(self, most: int) -> None:
        """The system takes so many octets at a time."""
        real = os.pwrite
        self.patch(os, "pwrite", lambda handle, octets, offset: real(handle, bytes(octets[:most]), offset))

    def read(self) -> bytes:
        with open(self.path, "rb") as source:
            return source.read()

    def test_what_the_system_takes_in_parts_is_written_whole(self) -> None:
        """By the worker, and by its process that places files."""
        self.little(1000)
        for files in (RealFiles(), placing_child._System()):
            thd_write(files, self.path, [CONTENT, b"more", CONTENT])
            self.assertEqual(self.read(), CONTENT + b"more" + CONTENT)
            os.unlink(self.path)

    def test_a_disk_that_fills_up_amid_a_piece_is_an_error(self) -> None:
        real, left = os.pwrite, [5000]

        def pwrite(handle: int, octets: bytes, offset: int) -> int:
            taken = min(left[0], len(octets))
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            left[0] -= taken
            return real(handle, bytes(octets[:taken]), offset)

        self.patch(os, "pwrite", pwrite)
        problem = self.assertRaises(OSError, thd_write, RealFiles(), self.path, [CONTENT])
        self.assertEqual(problem.errno, errno.ENOSPC)

    def test_a_file_that_is_shorter_than_it_should_be_is_an_error(self) -> None:
        files = RealFiles()
        thd_write(files, self.path, [CONTENT])
        self.assertEqual(b"".join(thd_pieces(files, self.path, 9000, 1000)), CONTENT[:9000])
        self.assertRaises(OSError, list, thd_pieces(files, self.path, len(CONTENT) + 1, 1000))

    def test_the_process_that_places_files_loads_little(self) -> None:
        """Nothing but the standard library and the few modules of ours that it works with: it is to be small."""
        code = "import sys, qmailpy.disk.placing_child; print(*sorted(sys.modules))"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
        ours = [name for name in loaded if name.startswith("qmailpy.") and name.count(".") == 2]
        self.assertEqual(
            ours, [f"qmailpy.{name}" for name in ("disk.pieces", "disk.placing_child", "wire.lines", "wire.stored")]
        )
        self.assertNotIn("attr", loaded)
        self.assertNotIn("twisted", loaded)
