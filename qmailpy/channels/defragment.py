"""
The C{defragment} kind of channel: messages that come in pieces (message/partial) go on whole.

Pieces wait in the queue as any deferred mail; so a crash loses none. A copy of each lies in HOME/run/defragment, where
the pieces of all workers meet (L{qmailpy.channels.pieces}). The attempt that finds them complete makes the whole
message, and the queue takes that and lets go of this piece in one transaction. The other pieces leave at their next
attempt: that they may is known from a file written behind that transaction.

After C{gather_s} a piece goes on as it is. So does whatever is no piece.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.conversions.part import pieces
from qmailpy.channels.conversions.scratch import Once, thd_content
from qmailpy.channels.parts import Parts
from qmailpy.channels.pieces import Fate, Found, Lead, PieceStore, thd_boot
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel, InThread, IRecorded
from qmailpy.routing.selection import way
from qmailpy.threads import in_pool
from qmailpy.values import Content, Disposition, Job, NewMail, Recipient, Refused, Reply, Verdict
from qmailpy.wire.headers import find
from qmailpy.wire.mime_values import subject_of
from qmailpy.wire.partial import WAITS, Piece, piece_of, whole_header

HEADER = 262_144
"""Octets of a header, of a piece or enclosed in the first, that are looked at."""

_ID_CHARACTERS = 250  # as of mail that arrives

_PASSED = Reply(250, "2.6.0", "Passed on")
_WHOLE = Reply(250, "2.6.0", "The pieces are together, the message goes on whole")
_GONE = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.6.0", "It has gone on in the whole message"))
_WAITS = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.7", WAITS))
_TROUBLE = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.0", "The pieces cannot be gathered now"))
_CIRCLE = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.5", "The route of this address leads back here"))


@implementer(IChannel, IRecorded)
class DefragmentChannel:
    """Gathers; see the module's text."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        channel: ChannelConfig,
        parts: Parts,
        in_thread: InThread | None = None,
        boot: Callable[[], str] = thd_boot,
    ) -> None:
        """
        @param in_thread: for tests; by default the reactor's pool.
        @param boot: for tests: see L{qmailpy.channels.pieces}.
        """
        self.name = channel.name
        self._router = parts.router
        self._seconds = parts.seconds
        self._in_thread = in_thread or in_pool(parts.reactor)
        self._store = PieceStore(
            config.path("run", "defragment", channel.name),
            gather_s=channel.gather_s,
            largest=config.queue.message_octets,
            seconds=parts.seconds,
            boot=boot,
        )
        self._leads: dict[str, Lead] = {}  # queue id: the set whose whole goes with it
        self._begun = Once(self._in_thread, self._store.thd_begin)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        try:
            return await self._dequeue(job)
        except OSError as problem:
            self._log.error("message {id} cannot be gathered: {problem}", id=job.id, problem=str(problem))
            return [_TROUBLE] * len(job.recipients)

    async def stop(self) -> None:
        """Nothing is open."""

    def recorded(self, job: Job, done: bool) -> None:
        lead = self._leads.pop(job.id, None)
        if lead is not None:
            self._later(self._store.thd_led, lead, done)

    async def _dequeue(self, job: Job) -> Sequence[Disposition]:
        piece = await self._looked_at(job.content, _thd_piece)
        if piece is None:
            return await self._on(job, job.content, _PASSED)
        await self._begun.done()
        age = self._seconds() - job.envelope.arrival
        found: Found = await self._in_thread(self._store.thd_piece, _key(job, piece), piece, job.content, job.id, age)
        if found.fate is Fate.PASSES:
            return await self._on(job, job.content, _PASSED)
        if found.lead is None:
            return [_GONE if found.fate is Fate.GONE else _WAITS] * len(job.recipients)
        return await self._led(job, found.lead)

    async def _led(self, job: Job, lead: Lead) -> Sequence[Disposition]:
        """The whole goes on with this piece."""
        try:
            whole = await self._in_thread(lambda: thd_content(self._store.root, _whole(lead.paths)))
            named = await self._in_thread(_thd_named, whole)
            said = await self._on(evolve(job, envelope=evolve(job.envelope, **named)), whole, _WHOLE)
            if all(one.verdict is Verdict.FORWARDED for one in said):
                self._leads[job.id] = lead
                return said
        except BaseException:
            await self._in_thread(self._store.thd_led, lead, False)
            raise
        await self._in_thread(self._store.thd_led, lead, False)
        return [one if one.verdict is not Verdict.FORWARDED else _WAITS for one in said]

    async def _looked_at(self, content: Content, thd_look: Callable[[Content], Piece | None]) -> Piece | None:
        if content.in_memory:
            return thd_look(content)
        found: Piece | None = await self._in_thread(thd_look, content)
        return found

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


def _thd_named(content: Content) -> dict[str, str]:
    """What the log, and with it a trace, calls the whole message: not as the piece that it goes on with."""
    found = find(content.header(HEADER), "message-id", "subject")
    return {
        "message_id": found.get("message-id", "")[:_ID_CHARACTERS],
        "subject": subject_of(found.get("subject", "")),
    }


def _thd_piece(content: Content) -> Piece | None:
    header = content.header(HEADER)
    return piece_of(header) if len(header) < HEADER else None


def _key(job: Job, piece: Piece) -> str:
    """Names a set: what the sender calls it, and for whom it is."""
    words = [piece.id, job.envelope.sender, *(f"{one.address} {one.host}" for one in job.recipients)]
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
