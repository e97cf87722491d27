"""
An SMTP transaction, from MAIL to its end: who it is for, and the message on its way to the queue.

    MAIL --> Transaction --RCPT--> take | reject --DATA, BDAT--> begin --> write ... --> end --> the intake's commit

The session answers; here is what becomes of the message. What is refused leaves a J record for each recipient, what
was accepted and never used leaves a V record for each.

What fails and how: an exception of the intake is a reply, by L{reply_to}. One that comes while data arrives is kept
until the data is over, since only then can it be answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.errors import MailError
from qmailpy.interfaces import IFlow, IIntake
from qmailpy.records.record import Action, QueueFile
from qmailpy.servers.lastcheck import refusals
from qmailpy.servers.mail_options import with_options
from qmailpy.servers.site import Site
from qmailpy.servers.smtp_records import Origin, session_record
from qmailpy.servers.submission import Head
from qmailpy.values import Envelope, Notify, Posting, Recipient, Reply
from qmailpy.wire.headers import find, priority, received_field
from qmailpy.wire.mime_values import subject_of
from qmailpy.wire.smtp_events import DataEnded, MailFrom, RcptTo

INTERNAL = Reply(451, "4.3.0", "Internal error, try again later")
TAGS_FIELD = "X-Qmailpy-Tags"
_FIELDS = ("message-id", "priority", "tls-required", "subject")  # what is looked for in a header
_ID_CHARACTERS = 250  # of a Message-ID, for the log
_TAKING, _COMMITTING = "taking a message in", "committing a message"


def reply_to(log: Logger, failure: Failure, what: str, ip: str) -> Reply:
    """
    What the client is told of a failure; the unknown is temporary, and logged.

    @param what: what was being done.
    """
    if failure.check(MailError) is not None:
        return cast(MailError, failure.value).reply
    log.failure("{what} from {ip}", failure=failure, what=what, ip=ip)
    return INTERNAL


class Transaction:
    """
    One message of a session.

    @ivar id: its name in the queue, and in the records whatever becomes of it.
    @ivar about: what routing may want to know of it.
    @ivar sized: names whose answer depends on its size (C{Routed.sized}).
    @ivar committing: the queue has it; a session that ends now takes nothing back.
    """

    _log = Logger()

    __slots__ = (
        "_fault",
        "_head",
        "_intake",
        "_origin",
        "_rcpts",
        "_rejected",
        "_site",
        "_tags",
        "about",
        "committing",
        "id",
        "mail",
        "named",
        "sized",
        "to",
    )

    def __init__(self, site: Site, origin: Origin, mail: MailFrom) -> None:
        self._site = site
        self._origin = origin
        self.id = site.enqueue.new_id()
        self.mail = mail
        self.about = Posting(
            sender=mail.address,
            user=origin.user,
            size_octets=mail.size,
            handed_on=site.listener.kind == "lmtp" and bool(origin.ip),
        )
        self.sized: list[str] = []
        self.to: dict[tuple[str, str, str], Recipient] = {}  # by channel, host and address
        self.named: dict[
            str, str
        ] = {}  # what the client named and we accepted, in order; the channel (the first) of each
        self.committing = False
        self._intake: IIntake | None = None
        self._head: Head | None = None  # of a submission, while it may lack something
        self._rcpts: list[tuple[str, list[tuple[str, str, str]]]] = []  # each RCPT: its name, and who that is in C{to}
        self._fault: Reply | None = None  # of ours, while data arrived
        self._rejected = False  # a J record was written
        self._tags: tuple[str, ...] = ()  # what it is marked with

    @property
    def arriving(self) -> bool:
        """Whether the message is on its way."""
        return self.committing or self._intake is not None

    @property
    def full(self) -> bool:
        """Several names may stand for one recipient, and the other way round: both are bounded."""
        return max(len(self.to), len(self.named)) >= self._site.queue.recipients

    def take(self, event: RcptTo, recipients: Iterable[Recipient]) -> None:
        """
        It goes to these, too.

        @param event: what the client has named.
        @param recipients: whom that stands for.
        """
        several = tuple(recipients)
        if len(several) > 1 and event.notify & Notify.SUCCESS and self.mail.address:
            # The sender is to be told that the address was expanded, once the message is ours and in one transaction
            # with that: by the channel that expands what could not be at the door.
            several = (Recipient(address=event.address, original=event.address, channel=self._site.process),)
        keys: list[tuple[str, str, str]] = []
        for found in several:
            recipient = evolve(found, notify=event.notify, orcpt=event.orcpt) if event.notify or event.orcpt else found
            key = (recipient.channel, recipient.host, recipient.address)
            self.to.setdefault(key, recipient)
            keys.append(key)
        self.named[event.address] = several[0].channel if several else ""
        if self._site.last_checks:
            self._rcpts.append((event.address, keys))

    async def refusals(self, size: int) -> list[Reply | None]:
        """What the last checks say of each RCPT, in order; C{None}: nothing."""
        asked = [[self.to[key] for key in keys] for _, keys in self._rcpts]
        return await refusals(self._site.last_checks, asked, size)

    def refuse(self, found: Sequence[Reply | None], size: int) -> None:
        """Leave out the RCPTs that have a reply, with a J record for each."""
        left: dict[tuple[str, str, str], Recipient] = {}
        for (name, keys), reply in zip(self._rcpts, found, strict=True):
            if reply is None:
                left.update({key: self.to[key] for key in keys})
            else:
                self.reject({name: keys[0][0] if keys else ""}, reply, size)
                self.named.pop(name, None)
        self.to = left

    def mark(self, tags: Iterable[str]) -> None:
        """The message gets these in a header field: L{TAGS_FIELD}, on top of everything, Received too."""
        self._tags = tuple(dict.fromkeys((*self._tags, *tags)))

    def minding(self, size: int) -> Posting | None:
        """
        What is to be asked of L{sized} once more, now that the size is known.

        @return: C{None}: they were asked with no less.
        """
        return evolve(self.about, size_octets=size) if self.sized and size > self.mail.size else None

    def begin(self, flow: IFlow) -> Reply | None:
        """
        Data is about to come.

        @param flow: holds the client back while the intake cannot keep up.
        @return: what refuses it; the recipients stay.
        """
        site, origin = self._site, self._origin
        now = site.wall()
        intake: IIntake | None = None
        try:
            intake = site.enqueue.begin(self.id, flow, self.mail.size)
            if self._tags:
                intake.write(f"{TAGS_FIELD}: {', '.join(self._tags)}\r\n".encode("ascii"))
            intake.write(
                received_field(
                    helo=origin.helo,
                    name=origin.name,
                    ip=origin.ip,
                    host=site.hostname,
                    protocol=origin.protocol(utf8=self.mail.smtputf8),
                    queue_id=self.id,
                    moment=now,
                    recipient=next(iter(self.named)) if len(self.named) == 1 else "",
                    tls=origin.tls,
                )
            )
        except Exception as error:
            if intake is not None:
                intake.abort()
            reply = self._reply_to(error, "beginning a message")
            self.reject(self.named, reply, self.mail.size)
            return reply
        self._intake = intake
        if origin.user and site.listener.kind == "submission":
            self._head = Head(sender=self.mail.address or origin.user, host=site.hostname, unique=self.id, moment=now)
        return None

    def write(self, octets: bytes) -> None:
        """Take content."""
        intake, head = self._intake, self._head
        if intake is None:
            return  # failed before; the rest is read for its end
        try:
            intake.write(octets if head is None else head.feed(octets))
        except Exception as error:
            self._fault = self._reply_to(error, _TAKING)
            self.abort()

    def end(self, event: DataEnded) -> Deferred[None] | Reply:
        """
        The message is complete: have it committed.

        @return: fires when it is durable, fails as L{IIntake.commit} does; or what refuses it at once.
        """
        site, mail, intake, origin = self._site, self.mail, self._intake, self._origin
        names = _FIELDS if site.log.subject else _FIELDS[:-1]
        wanted = find(event.head, *names)
        if intake is None:
            return self._fault or INTERNAL
        if self._head is not None:
            try:
                intake.write(self._head.end())
            except Exception as error:
                intake.abort()
                return self._reply_to(error, _TAKING)
            wanted.setdefault("message-id", self._head.message_id)
        arrival = site.wall()
        envelope = Envelope(
            sender=mail.address,
            recipients=tuple(self.to.values()),
            source=site.listener.channel,
            arrival=arrival,
            body=mail.body or "8BITMIME",
            priority=priority(wanted.get("priority", "")),
            message_id=wanted.get("message-id", "")[:_ID_CHARACTERS],
            subject=subject_of(wanted.get("subject", "")),
            protocol=origin.protocol(),
            user=origin.user,
            source_system=origin.system,
            envid=mail.envid,
            ret=mail.ret,
            smtputf8=mail.smtputf8,
        )
        envelope = with_options(envelope, mail, wanted.get("tls-required", ""))
        self.committing = True
        try:
            return intake.commit(envelope)
        except Exception as error:
            return self._reply_to(error, _COMMITTING)

    def not_committed(self, failure: Failure) -> Reply:
        """What the client is told when the Deferred of L{end} fails."""
        return reply_to(self._log, failure, _COMMITTING, self._origin.ip)

    def reject(self, addresses: Mapping[str, str], reply: Reply, size: int = 0) -> None:
        """
        A J record for each address.

        @param addresses: with the channel it would have gone to, where that is known.
        @param size: octets of the message, if it is the message that is refused.
        """
        source = self._site.listener.channel
        for address, channel in addresses.items():
            session_record(
                self._site,
                self._origin,
                Action.REJECTED,
                destination=channel or source,
                size_octets=size,
                sender=self.mail.address,
                original_to=address,
                current_to=address,
                file=QueueFile(channel=source, id=self.id, attempts=0, continued=self._rejected),
                diagnostic=str(reply),
            )
            self._rejected = True

    def abort(self) -> None:
        """What has come of the message is not wanted: the client gave it up, as it may, or it was refused."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.abort()

    def give_up(self) -> None:
        """The session ends; what the client was promised for its recipients and never used is recorded."""
        if self.committing:
            return
        self.abort()
        for named in self.named:
            session_record(
                self._site,
                self._origin,
                Action.ABORTED,
                sender=self.mail.address,
                original_to=named,
                current_to=named,
            )

    def _reply_to(self, error: Exception, what: str) -> Reply:
        return reply_to(self._log, Failure(error), what, self._origin.ip)
