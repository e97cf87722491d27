"""
The facts that travel between the parts: frozen, without behaviour of their own.

Words are those of RFC 5321, RFC 5598 and the channel model (docs/glossary.md). Addresses are C{str}
here: C{local@domain} with the domain in lower case, or the empty string for the null sender.
Times are seconds since the epoch as C{float}; sizes are octets unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, IntEnum
from typing import Protocol, runtime_checkable

from attrs import field, frozen

BLOCK = 1024
"""Octets in a block, the unit of size in the transaction log and the counters (iMTA BLOCK_SIZE)."""


def blocks(size_octets: int) -> int:
    """Size in blocks, rounded up: the form the transaction log and the counters use."""
    return -(-size_octets // BLOCK)


@frozen
class Reply:
    """An SMTP reply, ours or a peer's (RFC 5321 s.4.2, RFC 3463)."""

    code: int
    enhanced: str  # "5.1.1", or "" when the peer gave none
    text: str  # may hold LF between the lines of a multi-line reply

    @property
    def temporary(self) -> bool:
        """Whether this is a 4yz reply."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """Whether this is a 5yz reply."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text.replace("\n", " ")) if part)


class Priority(IntEnum):
    """How soon a message is tried when many wait; smaller goes first."""

    URGENT = 0
    NORMAL = 1
    NONURGENT = 2


class Notify(IntEnum):
    """Bits of RFC 3461 NOTIFY; 0 means the parameter was absent."""

    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


@frozen(kw_only=True)
class Recipient:
    """One envelope recipient as it stands in the queue."""

    address: str  # the active address: where it goes now
    original: str  # the address the peer named in RCPT TO (after which came aliases and rewriting)
    channel: str  # name of the channel that will dequeue it
    host: str = ""  # next-hop domain or host for remote channels; "" for local ones
    orcpt: str = ""  # RFC 3461 ORCPT as received, decoded: "rfc822;a@b"; "" when absent
    notify: int = 0  # bits of Notify


@frozen(kw_only=True)
class Envelope:
    """All that is known of a message beside its content, fixed when it is accepted."""

    sender: str  # reverse-path; "" is the null sender
    recipients: tuple[Recipient, ...]
    source: str  # channel that enqueues it, e.g. "tcp_local"
    arrival: float
    envid: str = ""  # RFC 3461 ENVID
    ret: str = ""  # RFC 3461 RET: "FULL", "HDRS" or ""
    body: str = "8BITMIME"  # "7BIT", "8BITMIME" or "BINARYMIME"
    smtputf8: bool = False
    priority: Priority = Priority.NORMAL
    message_id: str = ""  # the Message-ID field's value, for the log only
    subject: str = ""  # the Subject field's, decoded and cut (wire.mime_values.subject_of), for the log only
    protocol: str = "ESMTP"  # RFC 3848 keyword: SMTP, ESMTP, ESMTPS, ESMTPA, ESMTPSA, LMTP...; "": a notice of ours
    user: str = ""  # authenticated login, "" when none
    source_system: str = ""  # "helo-name (rdns [ip])", the form of the transaction log; of our own making: queue id
    hold_until: float = 0.0  # RFC 4865: no attempt before; 0 = at once
    deliver_by: float = 0.0  # RFC 2852: when the sender's patience ends; 0 = with the queue's
    by_mode: str = ""  # RFC 2852 by-mode and by-trace: "N", "R", "NT", "RT"; "" without deliver_by
    mt_priority: int = 0  # RFC 6710, -9 to 9
    require_tls: bool = False  # RFC 8689: only over verified TLS, hop by hop
    tls_optional: bool = False  # RFC 8689 s.5, "TLS-Required: No": rather without TLS than not at all
    converted: bool = (
        False  # a conversion channel has passed it on: what waits in a hold channel is not converted again
    )


class Content(Protocol):
    """
    A message's header and body: octets with CRLF line ends, not dot-stuffed, as on the wire.

    C{in_memory} tells whether reading is free; when it is false the reading methods touch the disk and are for
    worker threads only.
    """

    @property
    def size(self) -> int:
        """Octets."""

    @property
    def in_memory(self) -> bool:
        """Whether reading is free."""

    def read(self) -> bytes:
        """The whole content; for contents known to be small or in memory."""

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        """The content from its beginning, in pieces of at most C{octets}."""

    def header(self, limit: int = 65536) -> bytes:
        """The header section with its closing empty line, at most C{limit} octets of it."""


@runtime_checkable
class ContentInFile(Content, Protocol):
    """Content that is a file, from its beginning: whoever may read it needs no more than the name."""

    @property
    def path(self) -> str:
        """Absolute."""


@frozen
class MemoryContent:
    """Content that is in memory."""

    octets: bytes
    size: int = field(init=False)
    in_memory: bool = field(init=False, default=True)

    @size.default
    def _size(self) -> int:
        return len(self.octets)

    def read(self) -> bytes:
        return self.octets

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        view = self.octets
        for at in range(0, len(view), octets):
            yield view[at : at + octets]

    def header(self, limit: int = 65536) -> bytes:
        end = self.octets.find(b"\r\n\r\n", 0, limit)
        return self.octets[: end + 4] if end >= 0 else self.octets[:limit]


@frozen(kw_only=True)
class Job:
    """
    One attempt handed to a channel: some recipients of one message, all for the same channel and host.

    C{recipients} are in envelope order; C{numbers} are their positions in the envelope and stay the same
    through all attempts: a Maildir name may be made of (id, number).
    """

    id: str  # queue id of the message
    channel: str
    envelope: Envelope
    content: Content
    recipients: tuple[Recipient, ...]
    numbers: tuple[int, ...]
    attempt: int  # 1 for the first attempt
    released: bool = False  # an operator has let it go since it was held
    said: tuple[str, ...] = ()  # of a replay: what was recorded of each recipient's delivery
    places: tuple[str, ...] = ()  # of a replay: the C{Disposition.place} of each, "" where none is known


class Verdict(Enum):
    """What an attempt came to for one recipient."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    FORWARDED = "forwarded"  # done here: the same content goes on to C{Disposition.onward}, in the same transaction
    HELD = "held"  # stays queued until an operator releases it


@frozen(kw_only=True)
class NewMail:
    """
    A message of our own making, or one that was changed on its way, as a channel hands it to the queue.

    The same object in several dispositions of one attempt is queued once.
    """

    envelope: Envelope  # the queue sets source, source_system and arrival, and clears user; recipients are routed
    content: Content
    journal: bool = False  # a copy to be kept, beside the message: mail of its own for whoever adds the log up
    courtesy: bool = False  # when it cannot be queued it is left out: what it comes with has happened all the same


@frozen(kw_only=True)
class Disposition:
    """What became of one recipient in one attempt; a job ends with exactly one for each, in order."""

    verdict: Verdict
    reply: Reply  # the peer's words or ours
    remote_mta: str = ""  # who said it, "mx.example.org" or "" when it was us
    diagnostic: str = ""  # transaction log text, e.g. "dns;mx (TCP|a|p|b|q) (banner) smtp;250 ok"; "" = from reply
    transferred: int = 0  # octets that had been sent when a deferral struck (0 for a connect failure)
    modifiers: str = ""  # transaction log modifiers of the dequeue: "E", "S", "C", "L"...
    retry_after: float | None = None  # seconds; a peer's or channel's wish to wait at least this long
    onward: tuple[Recipient, ...] = ()  # FORWARDED: who gets the message instead, routed
    mails: tuple[NewMail, ...] = ()  # go into the queue in the same transaction: FORWARDED with another sender or
    # content, or DELIVERED with an answer; a FORWARDED has at least one of onward and mails
    relayed: bool = False  # DELIVERED to a peer that does not take DSN: we tell, where success was to be told
    told_there: bool = False  # DELIVERED to a peer that takes DSN: what is to be told of success is told there
    place: str = ""  # DELIVERED but not durable yet (IDurableDelivery): where, for the channel to find it again


@frozen(kw_only=True)
class AutoReply:
    """An answer to everybody who writes, as long as somebody is away (RFC 3834)."""

    text: str
    subject: str = ""  # "" = made from the message's own
    days: int = 7  # the same sender is told again after so many
    begins: float = 0.0  # seconds since the epoch; 0 = at once
    ends: float = 0.0  # 0 = until it is taken away


FEATURES = frozenset({"pop3", "imap", "webmail", "submission", "forwarding", "autoreply", "programs", "sms"})
"""What a service plan may allow its users."""


@frozen(kw_only=True)
class Mailbox:
    """
    A directory entry that mail can be stored for, with what its service plan and its domain add to it.

    Limits are the effective ones: the user's own, else the plan's, else the domain's; 0 = none.
    """

    address: str  # the main address, "user@domain"
    path: str  # Maildir relative to HOME/mail: "domain/user/Maildir"
    active: bool = True  # false: suspended, mail is refused (5.2.1)
    status: str = "active"  # accountStatus: "active", "nopop" (no fetching), "noaccess" (no login), "disabled"
    quota_octets: int = 0
    quota_messages: int = 0
    size_octets: int = 0  # largest message it takes, and may send
    sends_a_day: int = 0  # recipients it may write to in 24 hours
    forwards: tuple[str, ...] = ()  # addresses that get a copy beside the mailbox
    host: str = ""  # the node that stores its mail (mailHost); "" = the one that asks
    pop_host: str = ""  # the node that serves its POP3; "" = host
    plan: str = ""  # name of its service plan; "" = none
    features: frozenset[str] = FEATURES  # what it may use
    auto_reply: AutoReply | None = None
    subfolders: bool = False  # user+tag goes to the folder "tag" when there is one
    dot_qmail: bool = False  # its own .qmail files say what is done with its mail


@frozen(kw_only=True)
class Group:
    """A directory entry that stands for its members, and may say who writes to them."""

    address: str
    members: tuple[str, ...]  # addresses; some may be groups themselves
    posters: str = "anyone"  # "anyone", "members" (of it or of groups in it), "listed" or "domain" (its own domain)
    listed: tuple[str, ...] = ()  # who may write besides, whatever posters says
    owner: str = ""  # who gets the notices when a member cannot be reached; "" = the writer


@frozen(kw_only=True)
class ScramSecret:
    """What is kept of a password for SCRAM-SHA-256 (RFC 5802 s.3): enough to check a proof, not to make one."""

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)  # 32 octets
    server_key: bytes = field(repr=False)  # 32 octets


@frozen(kw_only=True)
class Alias:
    """A directory entry that stands for other addresses."""

    address: str
    targets: tuple[str, ...]


@frozen(kw_only=True)
class Domain:
    """A domain whose users are in the directory."""

    name: str
    active: bool = True
    catch_all: str = ""  # address that takes mail for unknown users; "" = none
    quota_octets: int = 0  # of all its mailboxes together; 0 = none
    plan: str = ""  # what its users have when they name none
    host: str = ""  # the node that stores its mail, for users that name none; "" = the one that asks


@frozen(kw_only=True)
class Posting:
    """What is known of a message while its recipients are being named: some of them mind."""

    sender: str  # reverse-path; "" is the null sender
    user: str = ""  # authenticated login
    size_octets: int = 0  # as announced, or as it turned out; 0 = not known
    handed_on: bool = False  # it comes from another node of ours (LMTP from another machine)
    accepted: bool = False  # it was accepted before: who may write to whom, and how much, is asked no more


@frozen
class Room:
    """Whether a mailbox takes a message, for its quota and its domain's."""

    refusal: Reply | None = None  # what is said when it does not


@frozen(kw_only=True)
class Routed:
    """Where an address leads: one or more recipients (several when an alias stands for them)."""

    recipients: tuple[Recipient, ...]
    local: bool  # the address belongs to a domain of ours, so that anybody may send to it
    sized: bool = False  # it depends on the message's size: to be asked again when that has become known, or larger


@frozen
class Refused:
    """An address that leads nowhere, and the reply that says so (4yz: cannot be told now)."""

    reply: Reply
    channel: str = ""  # where it would have gone, as far as that was known by then


RouteResult = Routed | Refused


@frozen
class Event:
    """Something an operator may want to be told of; what each name means: events.catalogue (docs/events.md)."""

    name: str  # of the catalogue: "auth.banned"
    fields: Mapping[str, str] = field(factory=dict)


def first_line(text: str, limit: int = 400) -> str:
    """The first line of C{text}, cut at C{limit} characters; for one-line places such as logs."""
    return text.split("\n", 1)[0][:limit]


def one_line(text: str, limit: int = 400) -> str:
    """C{text} on one line: no control characters, no blanks around it, at most C{limit} characters."""
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()


def joined(parts: Sequence[str]) -> str:
    """The parts that are not empty, with a blank between."""
    return " ".join(part for part in parts if part)
