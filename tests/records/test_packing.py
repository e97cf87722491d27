"""Packing the log away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.records.archive import thd_batches, thd_sources
from qmailpy.records.logfile import LOCK, roll
from qmailpy.records.packing import thd_pack

_NOW = time.mktime((2026, 3, 5, 12, 0, 0, 0, 0, -1))


def _line(day: int, number: int = 0, hour: int = 8) -> bytes:
    return b"%02d-Mar-2026 %02d:00:00.00 line %d" % (day, hour, number)


def _cutting(files: RealFiles, name: str, left: list[int]) -> Callable[..., Any]:
    """The method, until there is nothing left of what may be called."""
    real = getattr(files, name)

    def call(*words: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*words, **more)

    return call


class PackingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = os.path.abspath(self.mktemp())
        os.makedirs(self.log)
        self.files = RealFiles()

    def write(self, name: str, *lines: bytes) -> None:
        with open(f"{self.log}/{name}", "ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    def read(self) -> list[bytes]:
        return [line for batch in thd_batches(thd_sources(self.log)) for line in batch]

    def pack(self, compress: str = "zstd", keep_days: int = 0, now: float = _NOW) -> int:
        return thd_pack(self.files, self.log, compress, keep_days, now)

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.log) if name != LOCK)

    def test_the_cumulative_log_is_packed_under_its_last_day(self) -> None:
        lines = [_line(3, number) for number in range(20000)]
        self.write("mail.log", *lines)
        self.write("mail.log_yesterday", _line(4))
        for compress, ending in (("zstd", "zst"), ("gzip", "gz")):
            self.pack(compress)
            self.assertEqual(self.names(), [f"mail.log.2026-03-03.{ending}", "mail.log_yesterday"])
            self.assertEqual(self.read(), [*lines, _line(4)])
            self.assertLess(os.path.getsize(f"{self.log}/{self.names()[0]}"), len(lines) * 10)
            os.unlink(f"{self.log}/{self.names()[0]}")
            self.write("mail.log", *lines)

    def test_day_after_day_every_line_is_read_once_and_in_order(self) -> None:
        lines = []
        for day in range(1, 9):
            lines.append(_line(day))
            self.write("mail.log_current", _line(day))
            roll(self.files, self.log)
            self.pack(now=_NOW + (day - 4) * 86400)
            self.assertEqual([line for line in self.read() if line], lines)
        self.assertEqual(len([name for name in self.names() if name.endswith(".zst")]), 7)

    def test_a_day_that_is_packed_twice_has_two_files(self) -> None:
        for number in range(3):
            self.write("mail.log", _line(3, number))
            self.pack()
        self.assertEqual(self.read(), [_line(3, number) for number in range(3)])
        self.assertIn("mail.log.2026-03-03-3.zst", self.names())

    def test_what_is_young_or_without_time_or_not_asked_for_stays(self) -> None:
        for line in (_line(5), _line(5, hour=1), b"what is this"):
            self.write("mail.log", line)
            self.pack()
            self.assertEqual(self.names(), ["mail.log"])
            os.unlink(f"{self.log}/mail.log")
        self.write("mail.log", _line(3))
        self.pack("")
        self.assertEqual(self.names(), ["mail.log"])

    def test_nothing_is_taken_from_a_roll(self) -> None:
        self.write("mail.log", _line(3))
        lock = self.files.lock(f"{self.log}/{LOCK}")
        self.pack()
        self.assertEqual(self.names(), ["mail.log"])
        self.files.close(lock)
        self.write("mail.log_rolling", b"0")
        self.pack()
        self.assertIn("mail.log", self.names())

    def test_cut_anywhere_no_line_is_lost_or_doubled(self) -> None:
        lines = [_line(3, number) for number in range(100)]
        cuts = 0
        for at in range(1, 40):
            self.setUp()
            self.write("mail.log", *lines)
            self.write("mail.log_current", _line(5))
            left = [at]

            with ExitStack() as stack:
                for name in ("rename", "unlink", "append", "fsync", "sync_directory", "open"):
                    stack.enter_context(mock.patch.object(self.files, name, _cutting(self.files, name, left)))
                try:
                    self.pack()
                except KeyboardInterrupt:
                    cuts += 1
            self.assertEqual(self.read(), [*lines, _line(5)], at)
            self.pack()
            self.assertEqual(self.read(), [*lines, _line(5)], at)
            self.assertEqual(self.names(), ["mail.log.2026-03-03.zst", "mail.log_current"])
        self.assertGreater(cuts, 8)

    def test_old_ones_are_removed_and_nothing_else(self) -> None:
        for name in ("mail.log.2026-03-02.zst", "mail.log.2026-03-01-2.gz", "mail.log.2026-02-01", "mail.log-old.gz"):
            self.write(name, b"")
        self.write("mail.log", _line(3))
        self.pack(keep_days=3)
        self.assertEqual(self.names(), ["mail.log-old.gz", "mail.log.2026-03-02.zst", "mail.log.2026-03-03.zst"])
