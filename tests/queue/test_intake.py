"""One message on its way in: what goes to the disk when, in which pieces, and what is left of one that fails."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IFlow
from qmailpy.queue.codec import Enqueued
from qmailpy.queue.ids import to_id
from qmailpy.queue.intake import HIGH, LOW, PIECE, SMALL_PIECE, Budget, Intake
from qmailpy.queue.journal import JournalBroken
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Envelope

PATH = "/mess/message"
ENVELOPE = Envelope(sender="a@example.net", recipients=(), source="tcp_local", arrival=1.0)


@implementer(IFlow)
class Tap:
    def __init__(self) -> None:
        self.said: list[str] = []

    def pause(self) -> None:
        self.said.append("pause")

    def resume(self) -> None:
        self.said.append("resume")


class IntakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/mess"])
        self.calls: deque[tuple[Deferred[Any], Callable[[], Any]]] = deque()  # what waits for a thread
        self.handed = 0
        self.enqueued: list[Enqueued] = []
        self.refusal: OSError | None = None
        self.budget = Budget(16 * PIECE)
        self.tap = Tap()
        self.intake = Intake(
            queue_id=to_id(1, "00"),
            files=self.disk,
            path=PATH,
            spill_octets=1024,
            budget=self.budget,
            flow=self.tap,
            in_thread=self.in_thread,
            enqueue=self.enqueue,
            large=False,
        )

    def in_thread(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.calls.append((done, lambda: work(*args)))
        self.handed += 1
        return done

    def enqueue(self, record: Enqueued, answer: Callable[[OSError | None], None]) -> None:
        self.enqueued.append(record)
        answer(self.refusal)

    def turn(self) -> None:
        """The thread does one thing."""
        done, work = self.calls.popleft()
        maybeDeferred(work).chainDeferred(done)

    def turns(self) -> None:
        while self.calls:
            self.turn()

    def pieces(self) -> int:
        return self.disk.count("pwrite")

    def test_a_large_message_is_written_by_large_pieces_and_ended_in_one_go(self) -> None:
        octets = bytes(range(256)) * 4 * 1024 + b"more"
        for at in range(0, len(octets), 65536):
            self.intake.write(octets[at : at + 65536])
            self.turns()
        self.assertEqual(self.pieces(), 4)
        self.assertEqual(self.handed, 4)
        result = self.intake.commit(ENVELOPE)
        self.assertEqual(self.enqueued, [])
        self.turn()
        self.assertEqual(self.handed, 5)
        self.successResultOf(result)
        [record] = self.enqueued
        self.assertEqual((record.size, record.crc, record.content), (len(octets), crc32(octets), None))
        self.assertEqual(self.disk.reboot().read(PATH), octets, "durable, with its name")
        self.assertEqual(self.disk.open_paths(), [])
        self.assertEqual(self.budget.used, 0)

    def test_what_comes_while_the_thread_is_busy_waits_for_it(self) -> None:
        self.intake.write(b"a" * PIECE)
        self.intake.write(b"b" * PIECE)
        self.intake.write(b"c" * 10)
        self.assertEqual(self.handed, 1)
        result = self.intake.commit(ENVELOPE)
        self.assertEqual(self.handed, 1)
        self.turn()
        self.turn()
        self.successResultOf(result)
        self.assertEqual(self.disk.read(PATH), b"a" * PIECE + b"b" * PIECE + b"c" * 10)

    def test_where_memory_is_short_pieces_are_smaller(self) -> None:
        self.budget.used = 8 * PIECE
        self.intake.write(b"a" * SMALL_PIECE)
        self.assertEqual(self.handed, 1)

    def test_a_source_that_is_faster_than_the_disk_is_held_back(self) -> None:
        for _ in range(HIGH // 65536 + 1):
            self.assertEqual(self.tap.said, [])
            self.intake.write(bytes(65536))
        self.assertEqual(self.tap.said, ["pause"])
        while len(self.tap.said) < 2:
            self.turn()
        self.assertEqual(self.tap.said, ["pause", "resume"])
        self.assertLess(self.budget.used, LOW)
        self.turns()
        self.assertEqual(self.disk.size(self.disk.open(PATH)), self.intake.size)

    def test_a_source_that_was_held_back_goes_on_however_the_message_ends(self) -> None:
        """The next message comes over the same connection."""
        for how in ("committed", "given up", "refused by the queue", "refused by the disk"):
            self.setUp()
            for _ in range(HIGH // 65536 + 1):
                self.intake.write(bytes(65536))
            self.assertEqual(self.tap.said, ["pause"])
            if how == "given up":
                self.intake.abort()
            else:
                if how == "refused by the queue":
                    self.refusal = JournalBroken(errno.EIO, "broken")
                elif how == "refused by the disk":
                    self.disk.fail("fsync", 1, errno.EIO)
                self.intake.commit(ENVELOPE).addErrback(lambda failure: failure.trap(Temporary))
            self.turns()
            self.assertEqual(self.tap.said, ["pause", "resume"], how)
            self.assertEqual(self.budget.used, 0)

    def test_a_message_a_little_too_large_to_stay_in_memory_is_in_its_file(self) -> None:
        self.intake.write(b"x" * 1025)
        result = self.intake.commit(ENVELOPE)
        self.turns()
        self.successResultOf(result)
        self.assertEqual(self.disk.reboot().read(PATH), b"x" * 1025)

    def test_an_abort_waits_for_the_thread_and_leaves_nothing(self) -> None:
        for first in (1025, PIECE, PIECE + 1):
            self.setUp()
            self.intake.write(bytes(first))
            self.intake.write(bytes(PIECE))
            self.intake.abort()
            self.turns()
            self.assertEqual(self.disk.listdir("/mess"), [])
            self.assertEqual(self.disk.open_paths(), [])
            self.assertEqual(self.budget.used, 0)

    def test_whatever_fails_is_told_and_leaves_nothing(self) -> None:
        for operation, nth in (("open", 1), ("pwrite", 1), ("pwrite", 2), ("fsync", 1), ("sync_directory", 1)):
            self.setUp()
            self.disk.fail(operation, nth, errno.ENOSPC)
            self.intake.write(bytes(PIECE))
            self.intake.write(bytes(PIECE))
            self.turn()
            self.intake.write(bytes(10))
            result = self.intake.commit(ENVELOPE)
            self.turns()
            self.assertEqual(self.failureResultOf(result, Temporary).value.reply.code, 452)
            self.assertEqual(self.enqueued, [])
            self.assertEqual(self.disk.listdir("/mess"), [], (operation, nth))
            self.assertEqual(self.disk.open_paths(), [])
            self.assertEqual(self.budget.used, 0)
