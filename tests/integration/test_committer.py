"""The commit thread with a real reactor: batches, order, marks that ride along, and what a failure means."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from qmailpy.disk.files import RealFiles
from qmailpy.queue.committer import LAZY_S, ThreadCommitter
from qmailpy.queue.journal import Journal, JournalBroken, Position


class CountingFiles(RealFiles):
    """Counts syncs, and fails from some point on."""

    def __init__(self) -> None:
        self.syncs = 0
        self.broken = False

    def fdatasync(self, handle: int) -> None:
        self.syncs += 1
        if self.broken:
            raise OSError(5, "Input/output error")


class CommitterTests(TestCase):
    """L{ThreadCommitter}."""

    def setUp(self) -> None:
        where = os.path.abspath(self.mktemp())
        for name in ("journal", "corrupt"):
            os.makedirs(f"{where}/{name}")
        self.files = CountingFiles()
        self.journal = Journal(self.files, f"{where}/journal", f"{where}/corrupt", 1 << 20)
        self.journal.recover()
        self.journal.start()
        self.committer = ThreadCommitter(reactor, self.journal)  # type: ignore[arg-type]
        self.committer.start()
        self.answers: list[Any] = []
        self.stopped = False
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.committer.stop()

    def submit(self, payload: bytes, essential: bool = False) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def answer(result: Position | OSError) -> None:
            self.answers.append((payload, result))
            done.callback(result)

        self.committer.submit(payload, answer, essential)
        return done

    async def _ordered(self) -> None:
        waiting = [self.submit(b"r%d" % number, essential=number % 3 == 0) for number in range(500)]
        for each in waiting:
            await each
        self.assertEqual([payload for payload, _ in self.answers], [b"r%d" % number for number in range(500)])
        sequences = [result.sequence for _, result in self.answers]
        self.assertEqual(sequences, list(range(1, 501)))
        self.assertEqual(self.committer.backlog, 0)

    def test_answers_come_in_the_order_of_submission(self) -> Deferred[None]:
        """Marks and messages alike."""
        return Deferred.fromCoroutine(self._ordered())

    async def _riding(self) -> None:
        mark = self.submit(b"mark", essential=True)
        message = self.submit(b"message")
        await message
        self.assertTrue(mark.called)
        self.assertEqual(self.files.syncs, 1)

    def test_a_mark_rides_with_the_message_behind_it(self) -> Deferred[None]:
        """No sync of its own."""
        return Deferred.fromCoroutine(self._riding())

    async def _together(self) -> None:
        while not self.committer._asleep:
            await deferLater(reactor, 0)
        for payload in (b"one", b"two"):
            done = self.submit(payload)
            self.committer._thread.join(0.05)  # it would take the first alone, were it awake
        await done
        self.assertEqual(self.files.syncs, 1)

    def test_what_one_turn_of_the_reactor_brings_is_one_batch(self) -> Deferred[None]:
        """Though the thread sleeps when the first of it comes."""
        return Deferred.fromCoroutine(self._together())

    async def _alone(self) -> None:
        before = reactor.seconds()
        await self.submit(b"mark", essential=True)
        self.assertGreaterEqual(reactor.seconds() - before, LAZY_S * 0.9)
        await deferLater(reactor, 3 * LAZY_S)
        self.assertTrue(self.committer._asleep)

    def test_a_mark_alone_waits_a_little_and_is_written(self) -> Deferred[None]:
        """And the thread sleeps again afterwards, without spinning."""
        return Deferred.fromCoroutine(self._alone())

    async def _called(self) -> None:
        self.submit(b"mark", essential=True)
        done: Deferred[Any] = Deferred()
        self.committer.call(lambda journal: journal.sequence, done.callback)
        self.assertEqual(await done, 1)

    def test_a_call_comes_behind_what_was_submitted(self) -> Deferred[None]:
        """Rolling and recycling rely on it."""
        return Deferred.fromCoroutine(self._called())

    def test_what_was_submitted_is_written_before_the_end(self) -> None:
        """An orderly stop."""
        self.submit(b"mark", essential=True)
        self.submit(b"message")
        self.stop()
        self.assertEqual(len(self.answers), 2)

    async def _broken(self) -> None:
        self.files.broken = True
        self.assertIsInstance(await self.submit(b"one"), JournalBroken)
        self.files.broken = False
        self.assertIsInstance(await self.submit(b"two"), JournalBroken)

    def test_after_a_failed_sync_nothing_is_acknowledged_any_more(self) -> Deferred[None]:
        """Final, though the next sync would succeed."""
        return Deferred.fromCoroutine(self._broken())
