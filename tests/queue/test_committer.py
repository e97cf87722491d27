"""The thread that writes the journal: everything submitted is answered, whatever becomes of it."""

from __future__ import annotations

import select
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.committer import BATCH, LAZY_S, ThreadCommitter
from qmailpy.queue.journal import Journal, JournalBroken, Position
from qmailpy.testing.crashdisk import CrashDisk


class _Reactor(Clock):
    """Timers, and readers that the test calls."""

    def addReader(self, reader: object) -> None:
        """The test looks by itself."""

    def removeReader(self, reader: object) -> None:
        """Likewise."""


class ThreadTests(SynchronousTestCase):
    """A real thread, and a disk in memory."""

    def setUp(self) -> None:
        self.clock = _Reactor()
        disk = CrashDisk(directories=["/q/journal", "/q/corrupt"])
        self.journal = Journal(disk, "/q/journal", "/q/corrupt", 1024 * 1024)
        self.journal.recover()
        self.journal.start()
        self.committer = ThreadCommitter(cast(Any, self.clock), self.journal)
        self.committer.start()
        self.answers: list[object] = []

    def answered(self, count: int) -> int:
        """How many answers there are, once there are so many or none comes for some time."""
        self.clock.advance(0)  # the turn in which it was submitted is over
        while len(self.answers) < count and select.select([self.committer], [], [], 1.0)[0]:
            self.committer.doRead()
        return len(self.answers)

    def test_more_marks_than_a_batch_holds_do_not_wait_for_other_mail(self) -> None:
        """They come together behind a slow sync; a stop waits for them."""
        for _ in range(BATCH * 2 + 500):
            self.committer.submit(b"mark", self.answers.append, essential=True)
        self.clock.advance(LAZY_S)
        self.assertEqual(self.answered(BATCH * 2 + 500), BATCH * 2 + 500)
        self.committer.stop()

    def test_a_bug_is_answered_and_final(self) -> None:
        """What is on the disk is not known then; nobody waits for ever."""

        def bug(items: object) -> list[Position | OSError]:
            raise ZeroDivisionError

        self.patch(self.journal, "write", bug)
        self.committer.submit(b"mail", self.answers.append)
        self.assertEqual(self.answered(1), 1)
        self.committer.submit(b"mail", self.answers.append)
        self.committer.call(lambda journal: journal.recycle(17), self.answers.append)
        self.assertEqual(self.answered(3), 3)
        for answer in self.answers:
            self.assertIsInstance(answer, JournalBroken)
        self.committer.stop()
