"""A sync of the log that failed is not made good by one that did not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.logfile import CURRENT, YESTERDAY, LogFile
from qmailpy.testing.crashdisk import CrashDisk

LINE = b"a line that is long enough to be one\n"


class SyncTests(SynchronousTestCase):
    """The next power cut tells."""

    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/log"])
        self.log = LogFile(self.disk, "/log")

    def sync(self) -> None:
        """Not, and then."""
        self.disk.fail("fdatasync", path="/log")
        self.assertRaises(OSError, self.log.thd_sync)
        self.log.thd_sync()

    def test_what_a_failed_sync_has_lost_is_written_again(self) -> None:
        """Linux takes it for clean, and would never write it."""
        self.log.append(LINE)
        self.log.thd_sync()
        self.log.append(LINE)
        self.sync()
        self.assertEqual(self.disk.reboot("none").read(f"/log/{CURRENT}"), LINE * 2)

    def test_also_when_the_log_has_been_rolled_meanwhile(self) -> None:
        """It has another name then."""
        self.log.append(LINE)
        self.disk.rename(f"/log/{CURRENT}", f"/log/{YESTERDAY}")
        self.log.append(LINE)
        self.sync()
        after = self.disk.reboot("none")
        self.assertIn(LINE, after.read(f"/log/{YESTERDAY}"))
