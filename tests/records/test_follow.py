"""Following the log."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.follow import Follower
from qmailpy.records.logfile import CURRENT, LogFile, roll
from qmailpy.testing.crashdisk import CrashDisk
from tests.records.test_logfile import LOG, put


class FollowTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=[LOG])
        self.follower = Follower(self.disk, LOG)

    def test_the_last_lines_come_first_then_the_new_ones(self) -> None:
        put(self.disk, CURRENT, b"1\n2\n3\n4")
        self.assertEqual(self.follower.thd_last(2), [b"2", b"3"])
        self.assertEqual(self.follower.thd_more(), [])
        put(self.disk, CURRENT, b"4\n5\n")
        self.assertEqual(self.follower.thd_more(), [b"44", b"5"])

    def test_none_of_the_old_ones_may_be_asked_for(self) -> None:
        put(self.disk, CURRENT, b"1\n")
        self.assertEqual(self.follower.thd_last(0), [])
        put(self.disk, CURRENT, b"2\n")
        self.assertEqual(self.follower.thd_more(), [b"2"])

    def test_it_goes_on_over_rollovers(self) -> None:
        """Also with what a writer puts into the renamed file because it is late to change."""
        prompt, late = LogFile(self.disk, LOG), LogFile(self.disk, LOG)
        prompt.append(b"1\n")
        late.append(b"2\n")
        self.assertEqual(self.follower.thd_last(9), [b"1", b"2"])
        for _ in range(3):
            roll(self.disk, LOG)
            prompt.reopen()
            prompt.append(b"3\n")
            self.assertEqual(self.follower.thd_more(), [b"3"])
            late.append(b"4\n")
            self.assertEqual(self.follower.thd_more(), [b"4"])
        self.assertTrue(len(self.disk.open_paths()) < 12)
        self.follower.close()

    def test_shortly_after_a_roll_the_last_lines_are_those_of_the_file_before(self) -> None:
        put(self.disk, CURRENT, b"1\n2\n3\n")
        roll(self.disk, LOG)
        put(self.disk, CURRENT, b"4\n")
        self.assertEqual(self.follower.thd_last(3, lambda line: line != b"2"), [b"1", b"3", b"4"])
        put(self.disk, CURRENT, b"5\n")
        self.assertEqual(self.follower.thd_more(), [b"5"])

    def test_a_file_that_was_emptied_is_new(self) -> None:
        """As by a site's own rotation, that copies it away."""
        put(self.disk, CURRENT, b"1\n2\n")
        self.assertEqual(self.follower.thd_last(1), [b"2"])
        handle = self.disk.open(f"{LOG}/{CURRENT}")
        self.disk.truncate(handle, 0)
        self.assertEqual(self.follower.thd_more(), [])
        put(self.disk, CURRENT, b"3\n")
        self.assertEqual(self.follower.thd_more(), [b"3"])
        self.disk.truncate(handle, 0)
        put(self.disk, CURRENT, b"4\n5\n")  # longer than before, at the next look
        self.assertEqual(self.follower.thd_more(), [b"4", b"5"])
        put(self.disk, CURRENT, b"6\n")
        self.assertEqual(self.follower.thd_more(), [b"6"])

    def test_two_rolls_between_looks_hide_no_line(self) -> None:
        """And a file that was moved away without them, with yesterday's untouched, brings none twice."""
        put(self.disk, CURRENT, b"0\n")
        roll(self.disk, LOG)
        put(self.disk, CURRENT, b"1\n")
        self.assertEqual(self.follower.thd_last(1), [b"1"])
        put(self.disk, CURRENT, b"2\n")
        self.disk.rename(f"{LOG}/{CURRENT}", f"{LOG}/elsewhere")
        put(self.disk, CURRENT, b"3\n")
        self.assertEqual(self.follower.thd_more(), [b"2", b"3"])
        roll(self.disk, LOG)
        put(self.disk, CURRENT, b"4\n")
        roll(self.disk, LOG)
        put(self.disk, CURRENT, b"5\n")
        self.assertEqual(self.follower.thd_more(), [b"4", b"5"])

    def test_a_last_line_with_a_torn_piece_before_it_is_not_read_again(self) -> None:
        line = b"16-Feb-2007 14:54:13.78 409f.0.18 local                     D 2 a@b rfc822;c@d c@d"
        put(self.disk, CURRENT, b"16-Feb-2007 14:5" + line + b"\n")
        self.assertEqual(self.follower.thd_last(1), [line])
        self.assertEqual(self.follower.thd_more(), [])

    def test_there_need_be_no_log_yet(self) -> None:
        self.assertRaises(FileNotFoundError, self.follower.thd_last, 3)
        self.assertEqual(self.follower.thd_more(), [])
        put(self.disk, CURRENT, b"1\n")
        self.assertEqual(self.follower.thd_more(), [b"1"])
