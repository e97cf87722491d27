"""
The C{autoreply} kind of channel: answers of users who are away (RFC 3834).

When the local channel has delivered to such a user, the header of the message comes here, in the transaction of the
delivery (L{Answers}); so a delivery never waits for an answer. Here it is decided whether there is one: to people, not
to programs and lists (L{qmailpy.wire.autoreply}), in the time the user has set, and to each sender once in some days
(L{qmailpy.local.replied}). An answer has the null sender and goes to the sender of the envelope; nobody is told when it
does not get there. It is queued in the transaction in which what came here is done.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

from attrs import frozen
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel, InThread, IReconfigured
from qmailpy.local.replied import Replied
from qmailpy.routing.posting import accepted
from qmailpy.threads import in_pool
from qmailpy.values import (
    AutoReply,
    Content,
    Disposition,
    Envelope,
    Job,
    Mailbox,
    MemoryContent,
    NewMail,
    Notify,
    Recipient,
    Refused,
    Reply,
    Verdict,
)
from qmailpy.wire.autoreply import Answer, answer, why_not
from qmailpy.wire.mime_values import subject_in
from qmailpy.wire.notice_id import NoticeKind, notice_id

_ANSWERED = Reply(250, "2.0.0", "Answered")
_TROUBLE = Reply(451, "4.3.0", "The answer cannot be made now")
HEADER = 65536  # octets of a header that are looked at


@frozen
class HeaderOnly:
    """The header of a content, as a content of its own."""

    content: Content

    @property
    def size(self) -> int:
        """At most so many octets."""
        return min(self.content.size, HEADER)

    @property
    def in_memory(self) -> bool:
        return self.content.in_memory

    def read(self) -> bytes:
        return self.content.header(HEADER)

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        yield from MemoryContent(self.read()).chunks(octets)

    def header(self, limit: int = 65536) -> bytes:
        return self.content.header(min(limit, HEADER))


def in_force(reply: AutoReply | None, now: float) -> bool:
    """Whether somebody is away."""
    return reply is not None and reply.begins <= now and (not reply.ends or now < reply.ends)


class Answers:
    """What the local channel does for users who are away."""

    def __init__(self, config: Config, seconds: Callable[[], float]) -> None:
        """@param seconds: the time of day."""
        self._seconds = seconds
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        self._channel = next((name for name, one in config.channels.items() if one.kind == "autoreply"), "")

    def mail(self, job: Job, recipient: Recipient, mailbox: Mailbox) -> NewMail | None:
        """
        What goes to the autoreply channel, of a message that was delivered; C{None} when there is nothing to answer,
        so far as that is cheap to see.
        """
        envelope = job.envelope
        if not self._channel or not envelope.sender or not in_force(mailbox.auto_reply, self._seconds()):
            return None
        content = HeaderOnly(job.content)
        if content.in_memory and why_not(content.read(), envelope.sender, addresses_of(recipient, mailbox)):
            return None
        user = Recipient(
            address=mailbox.address, original=recipient.original, channel=self._channel, notify=int(Notify.NEVER)
        )
        return NewMail(
            envelope=Envelope(
                sender=envelope.sender,
                recipients=(user,),
                source=job.channel,
                arrival=envelope.arrival,
                body=envelope.body,
                smtputf8=envelope.smtputf8,
                message_id=envelope.message_id,
                protocol=envelope.protocol,
            ),
            content=content,
            courtesy=True,
        )


def addresses_of(recipient: Recipient, mailbox: Mailbox) -> frozenset[str]:
    """What a message may be addressed to that this recipient has got, in lower case."""
    return frozenset(one.lower() for one in (recipient.original, recipient.address, mailbox.address))


@implementer(IChannel, IReconfigured)
class AutoReplyChannel:
    """Answers; see the module's text."""

    log = Logger()

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts, in_thread: InThread | None = None) -> None:
        """@param in_thread: for tests; by default the reactor's pool."""
        self.name = channel.name
        self._parts = parts
        self._in_thread = in_thread or in_pool(parts.reactor)
        self._replied = Replied(parts.files, config.path("mail"))
        self._one_by_one = DeferredLock()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        self._hostname = config.server.hostname

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        said = []
        for recipient in job.recipients:
            try:
                said.append(await self._one(job, recipient))
            except Temporary as error:
                said.append(Disposition(verdict=Verdict.DEFERRED, reply=error.reply))
            except OSError as problem:
                self.log.warn(
                    "{channel}: no answer of {user} to message {id} now: {why}",
                    channel=self.name,
                    user=recipient.address,
                    id=job.id,
                    why=str(problem),
                )
                said.append(Disposition(verdict=Verdict.DEFERRED, reply=_TROUBLE))
        return said

    async def stop(self) -> None:
        """Nothing is open."""

    async def _one(self, job: Job, recipient: Recipient) -> Disposition:
        """@raise Temporary: the directory is away. @raise OSError: the header or the user's file cannot be read."""
        parts, sender = self._parts, job.envelope.sender
        user = await parts.directory.lookup(recipient.address)
        now = parts.seconds()
        if not isinstance(user, Mailbox) or not user.active or user.auto_reply is None:
            return _no_answer("the user is not away any more")
        reply = user.auto_reply
        if not in_force(reply, now):
            return _no_answer("the user is not away now")
        content = job.content
        header: bytes = content.header(HEADER) if content.in_memory else await self._in_thread(content.header, HEADER)
        why = why_not(header, sender, addresses_of(recipient, user))
        if why:
            return _no_answer(why)
        route = await parts.router.route(sender, self.name, accepted(job.envelope))
        if isinstance(route, Refused):
            if route.reply.temporary:
                return Disposition(verdict=Verdict.DEFERRED, reply=route.reply)
            return _no_answer("nobody is at its sender's address")
        await self._one_by_one.acquire()
        try:
            may: bool = await self._in_thread(self._replied.thd_may, user.path, sender, job.id, now, reply.days)
        finally:
            self._one_by_one.release()
        if not may:
            return _no_answer("the sender has had one, or too many have today")
        made = Answer(
            id=notice_id(NoticeKind.REPLY, secrets.token_hex(12)),
            hostname=self._hostname,
            user=user.address,
            to=sender,
            time=now,
            text=reply.text,
            subject=reply.subject,
        )
        octets = answer(made, header)
        told = [
            Recipient(
                address=one.address,
                original=one.original,
                channel=one.channel,
                host=one.host,
                notify=int(Notify.NEVER),
            )
            for one in route.recipients
        ]
        envelope = Envelope(
            sender="",
            recipients=tuple(told),
            source=self.name,
            arrival=now,
            body="7BIT" if octets.isascii() else "8BITMIME",
            smtputf8=not all(one.isascii() for one in (sender, user.address)),
            message_id=f"<{made.id}@{self._hostname}>",
            subject=subject_in(octets),
        )
        mail = NewMail(envelope=envelope, content=MemoryContent(octets))
        return Disposition(verdict=Verdict.DELIVERED, reply=_ANSWERED, mails=(mail,))


def _no_answer(why: str) -> Disposition:
    return Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", f"No answer: {why}"))
