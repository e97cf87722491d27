"""
The C{defragment} kind of channel: messages that come in pieces (message/partial) go on whole.

Pieces wait in the queue as any deferred mail; so a crash loses none. A copy of each lies in HOME/run/defragment, for
the attempt that finds the last one there: it makes the whole message, and the queue takes that and lets go of this
piece in one transaction. The other pieces leave at their next attempt: that they may is known from a file C{done-...}
written behind that transaction. Should the power fail just between the two, the rest goes on in pieces later, besides
the whole.

After C{gather_s} a piece goes on as it is. So does whatever is no piece. Pieces that came in by different workers do
not find each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from attrs import Factory, define, evolve, frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.conversions.engine import InThread
from qmailpy.channels.conversions.part import pieces
from qmailpy.channels.conversions.scratch import Once, thd_content
from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel, IRecorded
from qmailpy.routing.selection import way
from qmailpy.values import Content, Disposition, Job, NewMail, Recipient, Refused, Reply, Verdict
from qmailpy.wire.partial import Piece, piece_of, whole_header

HEADER = 262_144
"""Octets of a header, of a piece or enclosed in the first, that are looked at."""

SETS = 10_000
"""Messages of which pieces are gathered at once."""

_PASSED = Reply(250, "2.6.0", "Passed on")
_WHOLE = Reply(250, "2.6.0", "The pieces are together, the message goes on whole")
_GONE = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.6.0", "It has gone on in the whole message"))
_WAITS = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.7", "Waiting for the other pieces of the message"))
_TROUBLE = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "The pieces cannot be gathered now"))
_CIRCLE = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.5", "The route of this address leads back here"))


@frozen
class _Kept:
    """A piece that is here."""

    path: str
    size: int
    digest: bytes


@define(eq=False)
class _Set:
    """The pieces of one message, for the same recipients."""

    seen: float  # when the last one came
    kept: dict[int, _Kept] = Factory(dict)
    total: int = 0
    leader: str = ""  # queue id of the piece that takes the whole along

    @property
    def complete(self) -> bool:
        return 0 < self.total == len(self.kept)


@implementer(IChannel, IRecorded)
class DefragmentChannel:
    """Gathers; see the module's text."""

    _log = Logger()

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts, in_thread: InThread | None = None) -> None:
        """@param in_thread: for tests; by default the reactor's pool."""
        self.name = channel.name
        self._gather_s = channel.gather_s
        self._largest = config.queue.message_octets
        self._router = parts.router
        self._seconds = parts.seconds
        self._in_thread = in_thread or partial(_in_pool, parts.reactor)
        self._root = config.path("run", "defragment", f"{parts.recorder.lane or '0'}-{channel.name}")
        self._sets: dict[str, _Set] = {}
        self._leaders: dict[str, str] = {}  # queue id: key of the set whose whole goes with it
        self._cleaned = Once(self._in_thread, self._thd_clean)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        try:
            return await self._dequeue(job)
        except OSError as problem:
            self._log.error("message {id} cannot be gathered: {problem}", id=job.id, problem=str(problem))
            return [_TROUBLE] * len(job.recipients)

    async def stop(self) -> None:
        """Nothing is open."""

    def recorded(self, job: Job, done: bool) -> None:
        key = self._leaders.pop(job.id, "")
        gathered = self._sets.get(key)
        if gathered is not None:
            gathered.leader = ""
            if done:
                del self._sets[key]
                self._later(self._thd_done, key, gathered)

    async def _dequeue(self, job: Job) -> Sequence[Disposition]:
        piece = await self._looked_at(job.content, _thd_piece)
        if piece is None:
            return await self._on(job, job.content, _PASSED)
        await self._cleaned.done()
        key = _key(job, piece)
        done = await self._in_thread(self._thd_is_done, key, piece.number, job.content)
        if done is not None:
            return [_GONE] * len(job.recipients) if done else await self._on(job, job.content, _PASSED)
        if self._seconds() - job.envelope.arrival >= self._gather_s:
            await self._forget(key, piece.number)
            return await self._on(job, job.content, _PASSED)
        gathered = await self._gathered(job, piece, key)
        if gathered is None or not gathered.complete or gathered.leader:
            return [_WAITS] * len(job.recipients)
        if sum(one.size for one in gathered.kept.values()) > self._largest:
            return await self._on(job, job.content, _PASSED)
        gathered.leader = job.id
        try:
            whole = await self._in_thread(self._thd_whole, gathered)
            said = await self._on(job, whole, _WHOLE)
        except BaseException:
            gathered.leader = ""
            raise
        if any(one.verdict is not Verdict.FORWARDED for one in said):
            gathered.leader = ""
            return [one if one.verdict is not Verdict.FORWARDED else _WAITS for one in said]
        self._leaders[job.id] = key
        return said

    async def _looked_at(self, content: Content, thd_look: Callable[[Content], Piece | None]) -> Piece | None:
        if content.in_memory:
            return thd_look(content)
        found: Piece | None = await self._in_thread(thd_look, content)
        return found

    async def _gathered(self, job: Job, piece: Piece, key: str) -> _Set | None:
        """The set of a piece, with it; C{None} when it does not belong there."""
        now = self._seconds()
        gathered = self._sets.get(key)
        if gathered is None:
            self._prune(now)
            if len(self._sets) >= SETS:
                return None
            gathered = self._sets.setdefault(key, _Set(now))
        if piece.number not in gathered.kept:
            kept = await self._in_thread(self._thd_keep, key, piece.number, job.content)
            gathered.kept.setdefault(piece.number, kept)
        gathered.total = gathered.total or piece.total
        gathered.seen = now
        if (piece.total and piece.total != gathered.total) or max(gathered.kept) > (gathered.total or 1 << 30):
            return None
        return gathered

    async def _forget(self, key: str, number: int) -> None:
        gathered = self._sets.get(key)
        if gathered is not None:
            kept = gathered.kept.pop(number, None)
            if not gathered.kept:
                del self._sets[key]
            if kept is not None:
                await self._in_thread(_thd_remove, kept.path)

    def _prune(self, now: float) -> None:
        """Pieces that somebody took out of the queue are not waited for."""
        old = [key for key, one in self._sets.items() if now - one.seen > 2 * self._gather_s and not one.leader]
        for key in old:
            gathered = self._sets.pop(key)
            self._later(_thd_remove, *[one.path for one in gathered.kept.values()])

    def _later(self, function: Callable[..., None], *arguments: Any) -> None:
        """Do something in a thread that nobody waits for."""

        async def done() -> None:
            await self._in_thread(function, *arguments)

        Deferred.fromCoroutine(done()).addErrback(
            lambda failure: self._log.error("channel {name}: {why}", name=self.name, why=str(failure.value))
        )

    async def _on(self, job: Job, content: Content, reply: Reply) -> Sequence[Disposition]:
        """Each recipient on its way, all in one message."""
        said: list[Disposition | Recipient] = [await self._way(recipient) for recipient in job.recipients]
        onward = tuple([one for one in said if isinstance(one, Recipient)])
        mail = NewMail(envelope=evolve(job.envelope, recipients=onward), content=content)
        gone = Disposition(verdict=Verdict.FORWARDED, reply=reply, mails=(mail,))
        return [gone if isinstance(one, Recipient) else one for one in said]

    async def _way(self, recipient: Recipient) -> Recipient | Disposition:
        channel, host = way(recipient)
        if channel:
            return evolve(recipient, channel=channel, host=host)
        try:
            found = await self._router.route(recipient.address, self.name)
        except Temporary as error:
            return Disposition(verdict=Verdict.DEFERRED, reply=error.reply)
        if isinstance(found, Refused):
            verdict = Verdict.DEFERRED if found.reply.temporary else Verdict.FAILED
            return Disposition(verdict=verdict, reply=found.reply)
        if len(found.recipients) != 1 or found.recipients[0].channel == self.name:
            return _CIRCLE
        return evolve(recipient, channel=found.recipients[0].channel, host=found.recipients[0].host)

    # --- files -----------------------------------------------------------------------------------------------

    def _mark(self, key: str) -> str:
        return os.path.join(self._root, f"done-{key}")

    def _thd_clean(self) -> None:
        """Pieces of a former process go: each comes again with its next attempt. Marks stay for a week."""
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        for name in os.listdir(self._root):
            path = os.path.join(self._root, name)
            if not name.startswith("done-"):
                shutil.rmtree(path, ignore_errors=True)
            elif self._seconds() - os.stat(path).st_mtime > 7 * 86400 + self._gather_s:
                _thd_remove(path)

    def _thd_is_done(self, key: str, number: int, content: Content) -> bool | None:
        """Whether a piece is in a whole that has gone on; C{None} when there is none of that name."""
        try:
            with open(self._mark(key)) as source:
                lines = source.read().splitlines()
        except FileNotFoundError:
            return None
        return f"{number} {_digest(content).hex()}" in lines

    def _thd_keep(self, key: str, number: int, content: Content) -> _Kept:
        folder = os.path.join(self._root, key)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, str(number))
        with open(path, "wb") as target:
            for chunk in content.chunks():
                target.write(chunk)
        return _Kept(path, content.size, _digest(content))

    def _thd_whole(self, gathered: _Set) -> Content:
        """The message of all pieces."""
        return thd_content(self._root, _whole([gathered.kept[number].path for number in sorted(gathered.kept)]))

    def _thd_done(self, key: str, gathered: _Set) -> None:
        """The whole is queued: its other pieces may go."""
        with open(self._mark(key), "w") as target:
            target.write("".join(f"{number} {one.digest.hex()}\n" for number, one in gathered.kept.items()))
            target.flush()
            os.fsync(target.fileno())
        shutil.rmtree(os.path.join(self._root, key), ignore_errors=True)


def _whole(paths: Sequence[str]) -> Iterator[bytes]:
    """The octets of a whole message."""
    for place, path in enumerate(paths):
        with open(path, "rb") as source:
            beginning = source.read(HEADER)
        outer = _end_of_header(beginning)
        start = outer
        if place == 0:
            inner = outer + _end_of_header(beginning[outer:])
            yield whole_header(beginning[:outer], beginning[outer:inner])
            start = inner
        skipped = 0
        for chunk in pieces(path):
            if skipped < start:
                gone = min(start - skipped, len(chunk))
                skipped += gone
                chunk = chunk[gone:]  # noqa: PLW2901
            if chunk:
                yield chunk


def _end_of_header(octets: bytes) -> int:
    if octets.startswith(b"\r\n"):
        return 2
    end = octets.find(b"\r\n\r\n")
    return len(octets) if end < 0 else end + 4


def _digest(content: Content) -> bytes:
    digest = hashlib.sha256()
    for chunk in content.chunks():
        digest.update(chunk)
    return digest.digest()


def _thd_piece(content: Content) -> Piece | None:
    header = content.header(HEADER)
    return piece_of(header) if len(header) < HEADER else None


def _thd_remove(*paths: str) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def _key(job: Job, piece: Piece) -> str:
    """Names a set: what the sender calls it, and for whom it is."""
    words = [piece.id, job.envelope.sender, *(f"{one.address} {one.host}" for one in job.recipients)]
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _in_pool(reactor: Any, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)
