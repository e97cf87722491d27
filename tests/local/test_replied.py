"""Whom answers have gone to: once in some days, whatever is cut short."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.local import replied
from qmailpy.local.replied import Replied
from qmailpy.testing.crashdisk import CrashDisk

PATH = "example.org/ann/Maildir"
FILE = "/home/mail/example.org/ann/qmailpy-replied"
DAY = 86400.0
KEPT, A_DAY = 100, 30
NOW = 2e9


def disk() -> CrashDisk:
    made = CrashDisk(directories=["/home"])
    made.mkdir("/home/mail/example.org/ann")
    made.syncfs("/home/mail")
    return made


class RepliedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = disk()
        self.replied = Replied(self.disk, "/home/mail")
        self.patch(replied, "KEPT", KEPT)
        self.patch(replied, "A_DAY", A_DAY)

    def may(self, sender: str = "bob@x", queue_id: str = "q1", now: float = NOW, days: int = 7) -> bool:
        return self.replied.thd_may(PATH, sender, queue_id, now, days)

    def test_a_sender_is_answered_once_in_some_days(self) -> None:
        self.assertTrue(self.may())
        self.assertFalse(self.may("BOB@x", "q2", NOW + 6.9 * DAY))
        self.assertTrue(self.may("joe@x", "q3", NOW + 1))
        self.assertTrue(self.may("bob@x", "q4", NOW + 7.1 * DAY))
        self.assertFalse(self.may("bob@x", "q5", NOW + 7.2 * DAY, days=0))

    def test_the_same_attempt_has_its_answer_though_it_was_cut_short(self) -> None:
        self.assertTrue(self.may())
        self.assertTrue(self.may(now=NOW + 60))
        self.assertFalse(self.may(queue_id="q2", now=NOW + 60))

    def test_a_yes_is_durable(self) -> None:
        """Whatever a power cut takes, the sender has no second answer."""
        for number in range(3 * KEPT):  # the file is written anew in between
            if not self.may(f"u{number}@x", f"q{number}", NOW + number * DAY / 10):
                self.fail(str(number))
            if number % KEPT in (0, 1, 5):
                before = self.disk
                self.disk = before.kill().reboot()
                self.replied = Replied(self.disk, "/home/mail")
                self.assertFalse(self.may(f"u{number}@x", "again", NOW + number * DAY / 10), number)

    def test_torn_and_foreign_lines_count_for_nothing(self) -> None:
        handle = self.disk.open(FILE, create=True, append=True)
        self.disk.append(handle, b"nonsense\n1 2\n99 q0 \n20000000")
        self.disk.close(handle)
        self.assertTrue(self.may())
        self.assertFalse(self.may(queue_id="q2"))
        self.assertTrue(self.disk.read(FILE).endswith(b"20000000\n2000000000 q1 bob@x\n"))

    def test_the_file_is_bounded(self) -> None:
        for number in range(2 * KEPT + 10):
            self.assertTrue(self.may(f"u{number}@x", f"q{number}", NOW + number * DAY / 10))
        self.assertLess(len(self.disk.read(FILE).splitlines()), KEPT + 20)
        self.assertFalse(self.may(f"u{2 * KEPT}@x", "q", NOW + 2 * KEPT * DAY / 10))

    def test_invented_senders_do_not_make_a_storm(self) -> None:
        given = sum(self.may(f"u{number}@x", f"q{number}") for number in range(A_DAY + 50))
        self.assertEqual(given, A_DAY)
        self.assertTrue(self.may("joe@x", "q", NOW + 1.1 * DAY))

    def test_who_cannot_be_remembered_is_not_answered(self) -> None:
        self.assertRaises(OSError, self.replied.thd_may, "example.org/gone/Maildir", "bob@x", "q", NOW, 7)
        self.assertRaises(OSError, self.replied.thd_may, "../Maildir", "bob@x", "q", NOW, 7)
