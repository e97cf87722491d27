"""A queue that only takes mail in and keeps it in memory: the fake of L{IEnqueue}."""

from __future__ import annotations

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IEnqueue, IFlow, IIntake
from qmailpy.values import Envelope


@frozen
class Accepted:
    """A message that was committed."""

    id: str
    envelope: Envelope
    content: bytes


@implementer(IIntake)
@define(eq=False)
class MemoryIntake:
    """A message on its way in; C{flow} lets a test pause its source as the real queue would."""

    id: str
    queue: MemoryQueue
    flow: IFlow | None
    size_hint: int
    size: int = 0
    ended: str = ""  # "commit" or "abort"
    pieces: list[bytes] = field(factory=list)

    def write(self, octets: bytes) -> None:
        if self.ended:
            raise RuntimeError(f"write after {self.ended}")
        self.pieces.append(octets)
        self.size += len(octets)

    def commit(self, envelope: Envelope) -> Deferred[None]:
        if self.ended:
            raise RuntimeError(f"commit after {self.ended}")
        self.ended = "commit"
        return self.queue._commit(Accepted(self.id, envelope, b"".join(self.pieces)))

    def abort(self) -> None:
        if self.ended == "commit":
            raise RuntimeError("abort after commit")
        self.ended = "abort"
        self.pieces.clear()


@implementer(IEnqueue)
@define(eq=False)
class MemoryQueue:
    """
    @ivar messages: what was accepted, in order.
    @ivar intakes: every intake that was begun.
    @ivar refuse_begin: raised by L{begin}.
    @ivar refuse_commit: what commits fail with.
    @ivar held: commits wait until L{release}.
    """

    messages: list[Accepted] = field(factory=list)
    intakes: list[MemoryIntake] = field(factory=list)
    refuse_begin: Exception | None = None
    refuse_commit: Exception | None = None
    held: bool = False
    _number: int = 0
    _waiting: list[tuple[Deferred[None], Accepted]] = field(factory=list)

    def new_id(self) -> str:
        self._number += 1
        return f"{self._number:015d}"

    def begin(self, queue_id: str, flow: IFlow | None = None, size_hint: int = 0) -> MemoryIntake:
        if self.refuse_begin is not None:
            raise self.refuse_begin
        intake = MemoryIntake(queue_id, self, flow, size_hint)
        self.intakes.append(intake)
        return intake

    def release(self, error: Temporary | None = None) -> None:
        """Let the oldest commit that is held come to its end, with C{error} or well."""
        waiting, message = self._waiting.pop(0)
        if error is not None:
            waiting.errback(Failure(error))
        else:
            self.messages.append(message)
            waiting.callback(None)

    def _commit(self, message: Accepted) -> Deferred[None]:
        if self.refuse_commit is not None:
            return fail(self.refuse_commit)
        if self.held:
            waiting: Deferred[None] = Deferred()
            self._waiting.append((waiting, message))
            return waiting
        self.messages.append(message)
        return succeed(None)
