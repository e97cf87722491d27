"""
Where the parts plug into each other. Each interface has a fake in L{qmailpy.testing} that passes the same contract
tests as the real part.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from qmailpy.config.schema import Config
from qmailpy.records.record import LogRecord
from qmailpy.values import (
    Alias,
    Disposition,
    Domain,
    Envelope,
    Group,
    Job,
    Mailbox,
    Posting,
    Recipient,
    Reply,
    Room,
    RouteResult,
    ScramSecret,
)
from qmailpy.wire.tlsa import Tlsa

InThread = Callable[..., Deferred[Any]]
"""
in_thread(function, *arguments): calls it in a worker thread and fires with its result, as C{partial(deferToThreadPool,
reactor, pool)} does; in tests, at once.
"""


class IChannel(Interface):
    """A way out of the queue."""

    name: str = Attribute("As written in the configuration and in the records.")

    async def dequeue(job: Job) -> Sequence[Disposition]:
        """
        Try each recipient of C{job} once.

        Called by the queue within the channel's concurrency. One Disposition each, in the order of
        C{job.recipients}. A refusal is a Disposition, never an exception; an exception is a bug, is logged with
        its traceback and counts as a deferral of every recipient.
        """

    async def stop() -> None:
        """End idle connections and threads; called once, after the last C{dequeue} has ended."""


class IReconfigured(Interface):
    """An ability of a channel that is not made anew when the configuration was reread."""

    def reconfigure(config: Config) -> None:
        """Use these settings from the next job on."""


class IRecorded(Interface):
    """An ability of a channel that wants to know when what it has said of a job is durable."""

    def recorded(job: Job, done: bool) -> None:
        """
        An attempt is in the journal. Cheap; called once for each C{dequeue} that ended, unless the journal broke.

        @param done: no recipient of the job is left to be tried again, and what it was to send on is queued.
        """


class IShaped(Interface):
    """An ability of a channel that learns how much each of its hosts can bear."""

    def limit(host: str) -> int | None:
        """
        Jobs at once for a host, at least 1; C{None} = the channel's C{destination_concurrency}.

        Asked each time a job for that host has ended. Cheap.

        @param host: as in C{Recipient.host}.
        """


class IConnected(Interface):
    """An ability of a channel that keeps connections to other hosts."""

    def connections() -> tuple[int, int]:
        """How many there are, and how many of these wait for mail."""


class IRunsPrograms(Interface):
    """An ability of a channel that has programs work on mail."""

    def end_programs() -> None:
        """
        Kill those that run, and start no more: their mail waits.

        Called when the server stops and has waited long enough for what is in flight; C{IChannel.stop} follows.
        """


class IForgiving(Interface):
    """An ability of a channel that passes over hosts which failed, or asked for less mail, for a while."""

    def forgive(host: str) -> None:
        """
        Forget that: the next attempt is made as if it were the first.

        Called when an operator has a destination's mail tried now. Cheap.

        @param host: as in C{Recipient.host}, or the domain of an address; ".domain" = all below it; "" = every host.
        """

    def trouble(host: str) -> str:
        """Why nothing is tried at a host for the moment, for people; "" when nothing is known of that. Cheap."""


class IDurableDelivery(Interface):
    """
    An ability of a channel that writes where the journal can write again: a delivery need not be durable when
    C{dequeue} returns, for the queue keeps the message until it is.
    """

    def thd_sync_deliveries(ids: Iterable[str]) -> None:
        """
        Make durable what was delivered of these messages and forget them; unknown ids are no error.

        Called before the journal segment that covers them is retired. Blocks.

        @param ids: queue ids.
        @raise OSError: something is not durable; it is remembered still, and the segment must be kept until a later
            call has succeeded. After a failed fsync that call writes the deliveries anew first.
        """

    def sync_lost() -> None:
        """
        A sync of a whole file system failed, and whatever was delivered is to be written anew: Linux does not tell
        again. At once.
        """

    def doubts() -> bool:
        """Whether a sync has failed and what it was of is not durable yet. At once."""

    def thd_sync_former() -> None:
        """
        After the death of our process alone: make durable whatever it had delivered; the machine still knows it all.
        Blocks.

        @raise OSError: it may not be; each delivery has to be replayed.
        """

    def thd_replay(job: Job, doubtful: bool = False) -> bool:
        """
        After an unclean stop: see to it that each recipient of C{job}, which had been delivered, has its message
        whole, and durable on return of a later C{thd_sync_deliveries}.

        Idempotent. What cannot be written now is remembered, and tried again by each C{thd_sync_deliveries} of the
        message, which fails until it is there; so the queue opens, and keeps the segment. Blocks.

        @param job: its C{said} are the texts of the replies with which the channel had reported them, its C{places}
            where it had delivered them to.
        @param doubtful: what can be read of them may never reach the disk (after a failed sync).
        @return: whether all of it is there; until then the next process has to replay again, though only we may die.
        """

    def owed(ids: Iterable[str]) -> Sequence[Job]:
        """
        What of these messages could not be written again so far, as jobs for those recipients alone. At once.

        @param ids: queue ids.
        """

    def let_go(job: Job) -> None:
        """What a job of L{owed} asks for is owed no more: it is other mail by now. Not while replaying goes on."""


class IFlow(Interface):
    """What the queue may ask of the source that feeds it a large message."""

    def pause() -> None:
        """Stop sending: what arrived has yet to be written."""

    def resume() -> None:
        """Go on."""


class IIntake(Interface):
    """One message on its way into the queue: C{write}* then C{commit} or C{abort}, once."""

    id: str = Attribute("The queue id the message will have; for the Received field and the reply.")
    size: int = Attribute("Octets written so far.")

    def write(octets: bytes) -> None:
        """
        Take the next octets of the content: CRLF line ends, not dot-stuffed, our own Received field included.

        Never blocks: large content goes to disk in a thread, which may ask the flow to pause.
        """

    def commit(envelope: Envelope) -> Deferred[None]:
        """
        Make the message durable.

        Fires when it is, and only then may the peer be told 250. Fails with L{Temporary} when nothing was
        accepted (452 4.3.1 for want of space, 451 4.3.0 for anything else).
        """

    def abort() -> None:
        """Forget the message; what was written of it is removed."""


class IEnqueue(Interface):
    """The way into the queue: all that servers see of it."""

    def new_id() -> str:
        """A queue id never used before; cheap, need not be used."""

    def begin(queue_id: str, flow: IFlow | None = None, size_hint: int = 0) -> IIntake:
        """
        Start taking a message.

        @param queue_id: from L{new_id}.
        @param flow: asked to pause and resume while a large message is written.
        @param size_hint: octets announced by SIZE, 0 when unknown.
        @raise Temporary: 452 4.3.1 while space is short, 451 4.3.2 while the queue is stopping or broken.
        """


class IDirectory(Interface):
    """Who exists and where they live. Every call may fail with L{Temporary} when the directory is away."""

    async def domain(name: str) -> Domain | None:
        """The domain of that (lower-case) name, or C{None} when it is not ours."""

    async def lookup(address: str) -> Mailbox | Alias | Group | None:
        """What mail for that exact address (case-blind) means; C{None} when there is nobody. No catch-all here."""

    async def authenticate(login: str, password: bytes) -> Mailbox | None:
        """The mailbox whose password that is; C{None} for a wrong one and for an unknown login alike."""

    async def scram(login: str) -> ScramSecret | None:
        """
        What SCRAM needs of whoever may log in as C{login}; C{None} for an unknown login, and where it was not kept.

        For whoever checks logins alone; no copy is to be kept.
        """

    async def logged_in(address: str, service: str, ip: str) -> None:
        """
        Keep that the mailbox with that main address was opened now; nobody waits for it.

        @param service: "pop3", "submission"...
        @param ip: the client's IP address, "" when it has none.
        """


class IEvents(Interface):
    """Where what an operator may want to be told of is said: limits that were broken, attacks, trouble, restarts."""

    def happened(name: str, **fields: str | int | float) -> None:
        """
        Say it. Cheap, and never fails: an event that cannot be kept is counted, and logged once.

        Called on the reactor thread. The same event again within the catalogue's interval for it, with the same key
        field, is only counted.

        @param name: of the catalogue (events.catalogue); one that is not there is a bug, and logged as such.
        @param fields: those the catalogue lists for it.
        """


class IHolder(Interface):
    """A session that has a mailbox for itself: what the store asks when another one wants it."""

    def silent_s() -> float:
        """Seconds since its client was last heard of; 0 while it is being served."""

    def evict() -> None:
        """End the session without its update, and let go of the mailbox."""


class IMessagePieces(Interface):
    """A message on its way to a client: as POP3 sends it (CRLF, dot-stuffed), the final dot line included."""

    more: bool = Attribute("Whether there is another piece.")

    async def next() -> bytes:
        """
        The next piece, at most about 256 KiB.

        @raise OSError: it cannot be read on.
        """

    def close() -> None:
        """Let go of it; called once, at its end or before, never while C{next} is under way."""


class IMaildrop(Interface):
    """
    A mailbox as one session has it: for itself, with the messages that were there when it was opened, oldest first.

    Messages are counted from 0. One question at a time.
    """

    sizes: Sequence[int] = Attribute("Octets of each message with CRLF line ends, not dot-stuffed.")

    def uid(index: int) -> str:
        """
        Its unique-id, 1 to 70 characters from 0x21 to 0x7E: no two messages of the mailbox ever have the same, and it
        stays when the message is moved or flagged.
        """

    def at_hand(index: int) -> bytes | None:
        """The message as POP3 sends it, without the final dot line, when it is in memory already; given out once."""

    async def fetch(index: int, lines: int | None) -> IMessagePieces:
        """
        Begin to read a message.

        @param lines: of the body, behind the header; C{None} = everything.
        @raise FileNotFoundError: somebody else has removed it.
        @raise OSError: it cannot be read.
        """

    async def update(deleted: Sequence[int], seen: Sequence[int]) -> int:
        """
        Remove messages, durably, and note of others that they were seen.

        @return: how many could not be removed.
        """

    def release() -> Deferred[None]:
        """Let others have the mailbox; fires when they can, which is behind what is under way. May be called again."""


class IMailStore(Interface):
    """Where mail is fetched from."""

    async def open(mailbox: Mailbox, holder: IHolder) -> IMaildrop:
        """
        Take a mailbox for one session.

        A holder that has been silent for long is evicted; a session must not be shut out by its own dead predecessor.

        @raise MailboxInUse: another session has it.
        @raise OSError: it cannot be opened.
        """


class IRouter(Interface):
    """From an address to a channel: the rewrite rules and the directory behind one question."""

    def route_now(address: str, source: str, about: Posting | None = None) -> RouteResult | None:
        """The answer when it is known without waiting (rules, cache); C{None} when L{route} must be asked."""

    async def route(address: str, source: str, about: Posting | None = None) -> RouteResult:
        """
        Where mail for C{address} goes.

        @param address: C{local@domain} as parsed from RCPT TO, the domain lower-case.
        @param source: channel the mail comes from; rules may look at it.
        @param about: the message, so far as it is known; C{None}: it was accepted before, and neither quotas nor who
            may write to a group is asked any more.
        """


class IRoom(Interface):
    """How full mailboxes are, for whoever takes mail for them. Figures may be some seconds old."""

    def room_now(mailbox: Mailbox, domain: Domain, size_octets: int) -> Room | None:
        """
        The answer when the figures are at hand; C{None} when L{room} must be asked.

        Asked only of mailboxes that have a quota, or whose domain has one.

        @param size_octets: of the message; 0 = not known.
        """

    async def room(mailbox: Mailbox, domain: Domain, size_octets: int) -> Room:
        """
        Whether the mailbox takes a message of that size: 552 5.2.3 when it never can, 4.2.2 when it is full, 5.2.2 when
        it has been for long. A figure that cannot be found out refuses nothing.
        """


class ILastCheck(Interface):
    """Says whether a recipient can have a message that has come by LMTP, where each is answered for itself."""

    async def refusal(recipient: Recipient, size_octets: int) -> Reply | None:
        """
        Why not, as a 4yz or 5yz reply; C{None} = it can. A L{Temporary} or L{Permanent} that is raised says the same.

        @param recipient: as routed; its channel need not be a local one.
        @param size_octets: of the content.
        """


class IResolver(Interface):
    """The questions mail asks the DNS. Names and addresses are C{str}; failures are L{Temporary}."""

    async def mx(domain: str) -> Sequence[tuple[int, str]]:
        """(preference, host) pairs as published, unsorted; empty when there is no MX record; a null MX is (0, "")."""

    async def addresses(host: str) -> Sequence[str]:
        """IPv6 and IPv4 addresses of C{host}, in the order to try; empty when the name has none or is unknown."""

    async def ipv4(host: str) -> Sequence[str]:
        """IPv4 addresses of C{host} alone, as lists in the DNS answer (RFC 5782); empty when there are none."""

    async def exists(domain: str) -> bool:
        """False when the DNS says the domain does not exist (NXDOMAIN)."""

    async def reverse(address: str) -> str:
        """The name of an IP address, "" when it has none."""

    async def text(name: str) -> Sequence[str]:
        """The TXT records of C{name}, the strings of each joined (RFC 7208 s.3.3); empty when there are none."""


class ISecureResolver(Interface):
    """An ability of a resolver: to tell which answers were validated by DNSSEC, as DANE needs it (RFC 7672 s.2)."""

    validating: bool = Attribute("Whether any answer can be; the rest is not to be asked without.")

    async def secure_mx(domain: str) -> bool:
        """Whether what the DNS says of the domain's MX records, be it that there are none, was validated."""

    async def tlsa_bases(host: str) -> Sequence[str]:
        """
        The names whose TLSA records are those of C{host}: what it is an alias for first, and the first that has any
        counts. Empty when its addresses were not validated (RFC 7672 s.2.2.2): TLSA is not to be asked for then.
        """

    async def tlsa(name: str) -> tuple[Sequence[Tlsa], bool]:
        """
        The TLSA records of C{name}, as in C{_25._tcp.mx.example}, and whether that answer was validated.

        @raise Temporary: no answer, or one that is forged: the host is not to be used.
        """


@frozen
class BooksCheckpoint:
    """A point in the transaction log up to which it is durable, and what one lane's counters were there."""

    file: int  # number of the log file (records.logfile.file_number), below 2^63; 0 = not known
    offset: int  # octets of it
    sequence: int  # last line of the lane before that point
    counters: Mapping[str, tuple[int, ...]]  # channel: values in the order of stats.items


class IRecorder(Interface):
    """
    The one writer of the transaction log and of a lane of the counters.

    A lane belongs to a queue shard (whoever holds its lock writes it). Nothing here fails or delays mail: trouble with
    the counters is logged once and mail goes on without them; trouble with the log too, and lines wait in memory
    (bounded) until it can be written.
    """

    lane: str = Attribute("The lane's name: the shard's.")
    behind: bool = Attribute("Whether lines wait in memory: after L{flush} because the log cannot be written.")
    sequence: int = Attribute("Number of the lane's last line in the log.")

    def write(records: Iterable[LogRecord]) -> None:
        """Add records, in order; they go out with one write(2) for everything of this reactor turn."""

    def flush() -> None:
        """Write out now and bring the mapped lane up to date."""

    def checkpoint() -> BooksCheckpoint:
        """Flush, then tell where we are. Durable only once L{thd_sync} has returned after it."""

    def stored(channel: str) -> tuple[int, int, int]:
        """Messages, recipients and blocks of a channel that are in the queue by the lane's counters, up to a flush."""

    def thd_sync() -> None:
        """Make the log durable up to the last flush (fdatasync of the file, and of a just rolled one). Blocks."""

    def thd_recover(base: BooksCheckpoint | None, ids: Container[str] | None = None) -> Sequence[LogRecord]:
        """
        Take up the lane after a restart, before anything else: rebuild its counters from C{base} (C{None}: from
        nothing) and the lane's lines that the log holds after it.

        Repairs a torn last line. Returns the lane's records found after the base in order, those of the messages with
        these ids (C{None}: all; they take four times as long), so that the queue can tell which of its journalled
        transitions still lack their lines. Blocks.
        """
