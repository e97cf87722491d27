"""
One message on its way in: in memory while it is small, in mess/ as soon as it is not.

A large message goes to its file from a thread, a piece at a time, while more of it arrives; when the disk is the slower
side the source is asked to pause. The journal record comes after the file and its name are durable.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.disk.files import Files
from qmailpy.errors import Temporary
from qmailpy.interfaces import IFlow, IIntake
from qmailpy.queue.codec import Enqueued
from qmailpy.queue.ids import to_number
from qmailpy.queue.journal import JournalBroken
from qmailpy.values import Envelope, Reply

FULL = Reply(452, "4.3.1", "Insufficient system storage")
TROUBLE = Reply(451, "4.3.0", "Local trouble; try again later")
STOPPING = Reply(451, "4.3.2", "System not accepting mail now; try again later")

HIGH = 1024 * 1024  # octets waiting for the disk: pause
LOW = 256 * 1024  # resume

PIECE = 262_144
"""
Octets that are handed to a thread at once: each time costs half a dozen switches between threads. Where many messages
arrive and memory is short, it is L{SMALL_PIECE}.
"""

SMALL_PIECE = 65536


def reply_for(problem: BaseException) -> Reply:
    """What a peer is told about a failure to store its mail."""
    number = getattr(problem, "errno", None)
    return FULL if number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE) else TROUBLE


@define(eq=False)
class Budget:
    """What intakes of a shard may keep in memory together."""

    octets: int  # the limit
    used: int = 0


@implementer(IIntake)
class Intake:
    """L{IIntake} of one message."""

    _log = Logger()

    def __init__(
        self,
        *,
        queue_id: str,
        files: Files,
        path: str,
        spill_octets: int,
        budget: Budget,
        flow: IFlow | None,
        in_thread: Callable[..., Deferred[Any]],
        enqueue: Callable[[Enqueued, Callable[[OSError | None], None]], None],
        large: bool,
    ) -> None:
        """
        @param path: the message's file below mess/, should it need one.
        @param spill_octets: a message larger than this goes there.
        @param large: it is known to become so.
        """
        self.id = queue_id
        self.size = 0
        self._files = files
        self._path = path
        self._spill_octets = 0 if large else spill_octets
        self._budget = budget
        self._flow = flow
        self._in_thread = in_thread
        self._enqueue = enqueue
        self._crc = 0  # of what is in the file
        self._at = 0  # octets of it
        self._pieces: list[bytes] = []
        self._held = 0  # octets of them
        self._file: int | None = None
        self._spilled = False
        self._writing = False
        self._paused = False
        self._over = False
        self._committing = False
        self._problem: BaseException | None = None
        self._still: Deferred[None] | None = None  # fires when the thread comes back

    def write(self, octets: bytes) -> None:
        self.size += len(octets)
        if self._problem is not None:
            return
        self._pieces.append(octets)
        self._held += len(octets)
        self._budget.used += len(octets)
        if not self._spilled and self.size > self._spill_octets:
            self._spilled = True
        elif not self._spilled and self._budget.used > self._budget.octets and self.size > 8192:
            self._spilled = True  # memory is short: smaller ones go to the disk, too
        if self._spilled and not self._writing and self._held >= self._piece():
            self._spill()
        if self._spilled and self._held > HIGH and not self._paused and self._flow is not None:
            self._paused = True
            self._flow.pause()

    def commit(self, envelope: Envelope) -> Deferred[None]:
        result: Deferred[None] = Deferred()
        self._committing = True

        def answer(problem: OSError | None) -> None:
            if problem is None:
                self._release()
                result.callback(None)
            else:
                self._give_up(result, problem)

        def enqueue(crc: int, content: bytes | None) -> None:
            try:
                self._enqueue(Enqueued(to_number(self.id), envelope, self.size, crc, content), answer)
            except Exception as problem:  # an envelope that cannot be written down
                self._give_up(result, problem)

        if not self._spilled:
            content = b"".join(self._pieces)
            enqueue(zlib.crc32(content), content)
            return result

        def written(outcome: object) -> None:
            if isinstance(outcome, Failure):
                self._give_up(result, outcome.value or OSError(errno.EIO, "unknown"))
                return
            enqueue(self._crc, None)

        self._at_rest().addCallback(lambda _: self._in_thread(self._thd_end, self._take())).addBoth(written)
        return result

    def abort(self) -> None:
        if not self._committing:  # else it is the queue's: what a record may refer to stays
            self._abort()

    def _abort(self) -> None:
        if self._over:
            return
        self._over = True
        if self._spilled:
            self._at_rest().addBoth(self._remove).addErrback(
                lambda failure: self._log.error(
                    "cannot remove {path}: {problem}", path=self._path, problem=failure.value
                )
            )
        else:
            self._release()

    def _give_up(self, result: Deferred[None], problem: BaseException) -> None:
        if isinstance(problem, JournalBroken):
            self._release()  # the record may be there after all: recovery decides about the file
        else:
            self._abort()
        if not isinstance(problem, OSError):
            self._log.failure("bug while storing a message", Failure(problem))
        result.errback(Temporary(reply_for(problem), f"cannot store message {self.id}: {problem}"))

    def _release(self) -> None:
        self._budget.used -= self._held
        self._held = 0
        self._pieces = []
        self._go_on()

    def _go_on(self) -> None:
        """Let more come, if nothing speaks against it any more."""
        if self._paused and self._held < LOW and self._flow is not None:
            self._paused = False
            self._flow.resume()

    # --- the file --------------------------------------------------------------------------------------------

    def _piece(self) -> int:
        """How much is to gather before it is written."""
        budget = self._budget
        return PIECE if budget.used * 2 < budget.octets else SMALL_PIECE

    def _take(self) -> bytes:
        """What has gathered; it counts as held until it is written."""
        octets = b"".join(self._pieces)
        self._pieces = []
        return octets

    def _spill(self) -> None:
        """Hand what has gathered to the thread; again when it comes back and there is more."""
        octets = self._take()
        self._writing = True
        self._in_thread(self._thd_append, octets).addBoth(self._spilled_some, len(octets))

    def _spilled_some(self, outcome: object, length: int) -> None:
        self._writing = False
        self._held -= length
        self._budget.used -= length
        if isinstance(outcome, Failure):
            self._problem = outcome.value
            self._release()
        self._go_on()
        if self._still is not None:
            still, self._still = self._still, None
            if self._problem is not None:
                still.errback(self._problem)
            else:
                still.callback(None)
        elif self._held >= self._piece():
            self._spill()

    def _at_rest(self) -> Deferred[None]:
        """Fires when nothing is being written; what has gathered since then is still here."""
        if self._problem is not None:
            return fail(self._problem)
        if not self._writing:
            return succeed(None)
        self._still = Deferred()
        return self._still

    def _thd_append(self, octets: bytes) -> None:
        if self._file is None:
            self._file = self._files.open(self._path, create=True)
            self._files.truncate(self._file, 0)
            self._at = 0
        self._crc = zlib.crc32(octets, self._crc)  # here, where it costs the reactor nothing
        self._files.pwrite(self._file, octets, self._at)
        self._at += len(octets)

    def _thd_end(self, octets: bytes) -> None:
        """The rest of it, and all of it durable."""
        if octets:
            self._thd_append(octets)
        assert self._file is not None
        try:
            self._files.fsync(self._file)
        finally:
            self._files.close(self._file)
            self._file = None
        self._files.sync_directory(self._path.rpartition("/")[0])

    def _remove(self, _: object) -> Deferred[Any]:
        self._release()
        return self._in_thread(self._thd_remove)

    def _thd_remove(self) -> None:
        if self._file is not None:
            self._files.close(self._file)
            self._file = None
        if self._files.exists(self._path):
            self._files.unlink(self._path)
