"""
One SMTP connection: the adapter between L{SmtpCore} and Twisted.

It takes the core's events one after the other: routes recipients, feeds the intake, commits, and answers. What cannot
be answered at once (a directory that must be asked, a commit) is answered from a callback; meanwhile the core holds
back what follows, and when more arrives the transport is paused. Replies of one turn leave in one write.

Nothing here decides about mail but these rules: who may relay (RFC 5321 s.7.9: an address of ours, a client that is
trusted, a user that has logged in), that a user sends in its own name, where a login is required, how many recipients,
and how many connections.

TLS is the transport's: L{Certificates<qmailpy.servers.tls.Certificates>} are given to it, and from then on it carries
our octets inside. Logins are decided by L{Logins<qmailpy.auth.logins.Logins>}.

What fails and how: a refusal is a reply (and a J record); an unexpected exception is logged with its traceback and
answered 451 4.3.0; a connection that ends with recipients accepted and no message leaves a V record for each.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from attrs import evolve
from OpenSSL import SSL
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IProtocol, IPushProducer, ITCPTransport
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.auth.logins import Refusal, Why
from qmailpy.errors import MailError
from qmailpy.interfaces import IFlow, IIntake
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.servers.clients import plain_address
from qmailpy.servers.site import Site, Transaction
from qmailpy.servers.smtp_records import connection_record, ends, modifiers, protocol, why_ended
from qmailpy.servers.submission import Head, may_send_as
from qmailpy.servers.tls import Secured, bindings
from qmailpy.values import Envelope, Mailbox, Refused, Reply, RouteResult, ScramSecret
from qmailpy.wire.headers import find, priority, received_field, source_system
from qmailpy.wire.sasl import SecretWanted
from qmailpy.wire.smtp import SmtpCore
from qmailpy.wire.smtp_events import (
    AuthStep,
    BadCommand,
    DataBegun,
    DataChunk,
    DataEnded,
    DataRefused,
    Ended,
    Event,
    Greeted,
    MailFrom,
    RcptTo,
    Reset,
    StartTls,
)

_INTERNAL = Reply(451, "4.3.0", "Internal error, try again later")
_NO_RELAYING = Reply(550, "5.7.1", "Relaying denied")
_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
_TIMEOUT = Reply(421, "4.4.2", "Timeout")
_STOPPING = Reply(421, "4.3.2", "Server is stopping")
_FULL = Reply(421, "4.3.2", "Too many connections")
_CLIENT_FULL = Reply(421, "4.7.0", "Too many connections from your address")
_LOGIN_FIRST = Reply(530, "5.7.0", "Authentication required")  # RFC 4954 s.6
_TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 s.4
_NOT_YOURS = Reply(553, "5.7.1", "Sender address is not yours")
_LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")
_NO_LOGIN = {  # RFC 4954 s.6
    Why.WRONG: Reply(535, "5.7.8", "Authentication credentials invalid"),
    Why.MALFORMED: Reply(501, "5.5.2", "Malformed authentication message"),
    Why.BANNED: Reply(454, "4.7.0", "Too many failed logins, try again later"),
    Why.AWAY: Reply(454, "4.7.0", "Temporary authentication failure"),
}

# Why the transport is paused; it reads while there is no reason.
_ANSWER, _FLOW, _OUTPUT = 1, 2, 4
_LINGER_S = 30.0  # for a client to take our last words
_HANDSHAKE_S = 60.0  # for TLS to come up
_ID_CHARACTERS = 250  # of a Message-ID, for the log


_LOOPBACK = ("::1",)


@implementer(IProtocol, IHandshakeListener, IFlow, IPushProducer)
class SmtpSession:
    """
    A connection. Thousands may be idle, so that it is slots and a core, with no containers of its own until there is
    a transaction.
    """

    _log = Logger()

    __slots__ = (
        "_asking",
        "_bad_commands",
        "_closing",
        "_core",
        "_direct",
        "_ends",
        "_heard",
        "_ip",
        "_lost",
        "_opened",
        "_pauses",
        "_registered",
        "_running",
        "_secured",
        "_shaking",
        "_site",
        "_timer",
        "_transaction",
        "_trusted",
        "_user",
        "_why",
        "transport",
    )

    def __init__(self, site: Site) -> None:
        self._site = site
        self._core = SmtpCore(site.offers.clear)
        self.transport: Any = None
        self._direct: socket.socket | None = None  # where to write without waiting for the reactor's next turn
        self._ip = ""
        self._trusted = False
        self._ends = ""  # transport field of the connection's records
        self._why: Reply | None = None  # why it ended, when by a reply
        self._opened = False  # has an O record
        self._lost = False
        self._closing = False
        self._running = False
        self._registered = False
        self._pauses = 0
        self._heard = 0.0
        self._timer: IDelayedCall | None = None
        self._transaction: Transaction | None = None
        self._asking: Deferred[Any] | None = None  # routing, a login, whether a sender is the user's own
        self._bad_commands = 0
        self._shaking = False  # TLS has begun and is not there yet
        self._secured: Secured | None = None
        self._user = ""  # address of the mailbox that has logged in

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        site, transport = self._site, self.transport
        peer = transport.getPeer()
        self._ip = plain_address(getattr(peer, "host", ""))
        host = transport.getHost()
        # Who may open our UNIX socket is one of us: its mode says so.
        unix = isinstance(host, UNIXAddress)
        self._trusted = unix or self._ip in site.trusted
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if isinstance(transport, Connection) and not transport.TLS:
            self._direct = transport.socket
        ours = plain_address(getattr(host, "host", ""))
        if site.log.connections:
            self._ends = ends(host, peer, unix, self._ip, ours)
        site.sessions.add(self)
        count = site.counts.add(self._ip)
        self._heard = site.reactor.seconds()
        refusal = None
        if site.draining:
            refusal = _STOPPING
        elif len(site.sessions) > site.listener.connections:
            refusal = _FULL
        elif not self._trusted and count > site.listener.connections_per_client:
            refusal = _CLIENT_FULL
        if refusal is not None:
            connection_record(site, Action.REFUSED, self._ends, diagnostic=str(refusal))
            self._core.close(refusal)
            if site.listener.tls == "implicit":
                self._core.take()  # in the clear it would mean nothing to the client
        else:
            self._opened = True
            connection_record(site, Action.OPENED, self._ends)
            if site.listener.tls == "implicit":
                self._begin_tls()
            else:
                if unix or self._ip in _LOOPBACK or self._ip.startswith("127."):
                    self._core.service = site.offers.near
                self._core.greet()
            self._arm(min(site.listener.command_timeout_s, _HANDSHAKE_S))
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        core = self._core
        events = core.receive(data)
        if events or core.in_data or core.pending:
            # Not for a part of a line: who sends an octet now and then would hold the connection for ever.
            self._heard = self._site.reactor.seconds()
        if not events and core.waiting:
            self._pause(_ANSWER)
        else:
            self._run(events)

    def connectionLost(self, reason: Failure) -> None:
        site = self._site
        self._lost = True
        self._direct = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
        self._give_up()
        if self._opened:
            handshake = _tls_problem(reason) if self._shaking else ""
            connection_record(site, Action.CLOSED, self._ends, diagnostic=why_ended(self._why, handshake))
        site.sessions.discard(self)
        site.counts.remove(self._ip)
        if site.gone is not None:
            site.gone()

    # IHandshakeListener

    def handshakeCompleted(self) -> None:
        self._shaking = False
        self._secured = Secured.of(self.transport)
        self._heard = self._site.reactor.seconds()
        if self._site.listener.tls == "implicit":
            # Not before: TLS holds back whoever writes during a handshake, and we would stop reading it.
            self._core.greet()
            self._flush()

    # IFlow, for the intake

    def pause(self) -> None:
        self._pause(_FLOW)

    def resume(self) -> None:
        self._resume(_FLOW)

    # IPushProducer: what we produce is replies, and we stop by not reading commands

    def pauseProducing(self) -> None:
        self._pause(_OUTPUT)

    def resumeProducing(self) -> None:
        self._resume(_OUTPUT)

    def stopProducing(self) -> None:
        pass

    # For the factory

    @property
    def busy(self) -> bool:
        """Whether a message is arriving or being committed: what an orderly stop waits for."""
        transaction = self._transaction
        return transaction is not None and (transaction.committing or transaction.intake is not None)

    def stop(self) -> None:
        """End the session now, unless it is busy: then behind its message."""
        if self._shaking:
            self.abort()
        elif not self.busy and not self._lost:
            self._shut(_STOPPING)

    def abort(self) -> None:
        """End the connection at once."""
        if not self._lost:
            self.transport.abortConnection()

    # Events

    def _run(self, events: list[Event]) -> None:
        """Work through events, and those that follow the answers, until one must wait."""
        core = self._core
        self._running = True
        try:
            while events:
                for event in events:
                    try:
                        _HANDLERS[type(event)](self, event)
                    except Exception:
                        self._log.failure("SMTP session with {ip}", ip=self._ip)
                        if core.waiting:
                            core.answer(_INTERNAL)
                events = core.proceed()  # none while a question is out, but what an answer itself has led to
        finally:
            self._running = False
        self._flush()

    def _go_on(self) -> None:
        """A question was answered from a callback (or, when it fired at once, from within L{_run}, which goes on)."""
        if self._running or self._lost:
            return
        self._run(self._core.proceed())
        if not self._core.waiting:
            self._resume(_ANSWER)

    def _greeted(self, event: Greeted) -> None:
        self._forget()

    def _start_tls(self, event: StartTls) -> None:
        core = self._core
        self._forget()
        core.accept()
        if not core.closed:
            self._flush()  # the 220, in the clear
            self._begin_tls()

    def _begin_tls(self) -> None:
        site = self._site
        self._direct = None
        self._secured = None
        self._user = ""
        if site.certificates is None:
            self._log.error("listener {name}: there are no certificates", name=site.listener.name)
            self._core.close(_INTERNAL)
            self._core.take()
            self.abort()
            return
        self._shaking = True
        self.transport.startTLS(site.certificates)
        self._core.secure(site.offers.inside, self._bindings)

    def _bindings(self) -> Mapping[str, bytes]:
        return bindings(self.transport)

    def _auth_step(self, event: AuthStep) -> None:
        site, step = self._site, event.step
        if site.logins is None:
            raise RuntimeError("nobody to ask about logins")
        client = "" if self._trusted else self._ip  # trusted clients are free of limits
        if isinstance(step, SecretWanted):
            asking: Deferred[Any] = Deferred.fromCoroutine(site.logins.secret(step.login, client))
        else:
            asking = Deferred.fromCoroutine(site.logins.decide(step, client))
        self._ask(asking, self._login_told, "a login")

    def _login_told(self, found: Mailbox | ScramSecret | Refusal) -> None:
        if isinstance(found, ScramSecret):
            self._core.secret(found)
            return
        if isinstance(found, Refusal):
            reply, user = _NO_LOGIN[found.why], found.login
            if found.detail:
                self._log.info("login from {ip} refused: {detail!r}", ip=self._ip, detail=found.detail[:200])
        else:
            reply, user = _LOGGED_IN, found.address
            self._user = user
        connection_record(self._site, Action.AUTHENTICATED, self._ends, user=user, diagnostic=str(reply))
        self._core.answer(reply)

    def _ask(self, asking: Deferred[Any], told: Callable[[Any], None], what: str) -> None:
        """Have the question that is out answered by C{told}, when what it needs is known."""
        self._asking = asking
        asking.addCallbacks(self._asked, self._not_asked, callbackArgs=(told,), errbackArgs=(what,))

    def _asked(self, found: Any, told: Callable[[Any], None]) -> None:
        self._asking = None
        if self._lost or self._core.closed:
            return
        try:
            told(found)
        except Exception:
            self._log.failure("SMTP session with {ip}", ip=self._ip)
            if self._core.waiting:
                self._core.answer(_INTERNAL)
        self._go_on()

    def _not_asked(self, failure: Failure, what: str) -> None:
        """The directory is away, or a bug; or the session is over, and we gave it up ourselves."""
        self._asking = None
        if self._lost or self._core.closed or failure.check(CancelledError) is not None:
            return
        self._core.answer(self._reply_to(failure, what))
        self._go_on()

    def _mail_from(self, event: MailFrom) -> None:
        site = self._site
        user = self._user
        if user:
            if site.directory is None or not event.address or event.address == user:
                self._begin(event)
                return
            asking = Deferred.fromCoroutine(may_send_as(site.directory, user, event.address))
            self._ask(asking, partial(self._sender_told, event), "a sender")
        elif site.listener.login == "required":
            tls_first = site.offers.clear.starttls and self._secured is None and not self._shaking
            self._core.answer(_TLS_FIRST if tls_first and not self._may_log_in() else _LOGIN_FIRST)
        else:
            self._begin(event)

    def _may_log_in(self) -> bool:
        return bool(self._core.service.mechanisms)

    def _sender_told(self, event: MailFrom, own: bool) -> None:
        if own:
            self._begin(event)
            return
        self._bad_command(BadCommand(f"MAIL FROM:<{event.address}>".encode(), _NOT_YOURS))
        self._core.answer(_NOT_YOURS)

    def _begin(self, event: MailFrom) -> None:
        self._transaction = Transaction(self._site.enqueue.new_id(), event)
        self._core.accept()

    def _rcpt_to(self, event: RcptTo) -> None:
        site = self._site
        transaction = self._open()
        # Several names may stand for one recipient, and the other way round: both are bounded.
        if max(len(transaction.recipients), len(transaction.named)) >= site.queue.recipients:
            self._core.answer(_RECIPIENTS)  # no J: the client is to send these in a transaction of their own
            return
        address = event.address if event.address != "postmaster" else site.postmaster
        try:
            result = site.router.route_now(address, site.listener.channel)
        except MailError as error:
            result = Refused(error.reply)
        except Exception:
            self._log.failure("routing {address}", address=address)
            result = Refused(_INTERNAL)
        if result is not None:
            self._routed(result, event)
            return
        routing = Deferred.fromCoroutine(site.router.route(address, site.listener.channel))
        routing.addErrback(self._not_routed, address)
        self._ask(routing, partial(self._routed, event=event), "routing")

    def _not_routed(self, failure: Failure, address: str) -> Refused:
        if failure.check(MailError) is not None:
            return Refused(cast(MailError, failure.value).reply)
        if failure.check(CancelledError) is None:
            self._log.failure("routing {address}", failure=failure, address=address)
        return Refused(_INTERNAL)

    def _routed(self, result: RouteResult, event: RcptTo) -> None:
        """The router's word on a recipient: accept, or refuse with a J record."""
        transaction = self._open()
        if isinstance(result, Refused):
            reply = result.reply
        elif result.local or self._trusted or self._user:
            for found in result.recipients:
                recipient = (
                    evolve(found, notify=event.notify, orcpt=event.orcpt) if event.notify or event.orcpt else found
                )
                transaction.recipients.setdefault((recipient.channel, recipient.host, recipient.address), recipient)
            transaction.named[event.address] = None
            self._core.accept()
            return
        else:
            reply = _NO_RELAYING
        self._reject(transaction, [event.address], reply)
        self._core.answer(reply, counted=not (self._trusted or self._user))

    def _data_begun(self, event: DataBegun) -> None:
        site, core = self._site, self._core
        transaction = self._open()
        intake: IIntake | None = None
        try:
            intake = site.enqueue.begin(transaction.id, self, transaction.mail.size)
            intake.write(
                received_field(
                    helo=core.helo,
                    name=self._name(),
                    ip=self._ip,
                    host=site.hostname,
                    protocol=protocol(**self._facts(), utf8=transaction.mail.smtputf8),
                    queue_id=transaction.id,
                    moment=site.reactor.seconds(),
                    recipient=next(iter(transaction.named)) if len(transaction.named) == 1 else "",
                    tls=f"{self._secured.cipher} ({self._secured.version})" if self._secured is not None else "",
                )
            )
        except Exception as error:
            if intake is not None:
                intake.abort()
            reply = self._reply_to(Failure(error), "beginning a message")
            self._reject(transaction, transaction.named, reply, transaction.mail.size)
            core.answer(reply)
            return
        transaction.intake = intake
        if self._user and site.listener.kind == "submission":
            transaction.head = Head(
                sender=transaction.mail.address or self._user,
                host=site.hostname,
                unique=transaction.id,
                moment=site.reactor.seconds(),
            )
        core.accept()

    def _data_chunk(self, event: DataChunk) -> None:
        transaction = self._open()
        if transaction.intake is None:
            return  # failed before; the rest is read for its end
        head = transaction.head
        try:
            transaction.intake.write(event.octets if head is None else head.feed(event.octets))
        except Exception as error:
            transaction.fault = self._reply_to(Failure(error), "taking a message in")
            intake, transaction.intake = transaction.intake, None
            intake.abort()

    def _data_ended(self, event: DataEnded) -> None:
        site = self._site
        transaction = self._open()
        wanted = find(event.head, "message-id", "priority")
        intake = transaction.intake
        if intake is None:
            self._refused(transaction, transaction.fault or _INTERNAL, event.size)
            return
        mail = transaction.mail
        if transaction.head is not None:
            try:
                intake.write(transaction.head.end())
            except Exception as error:
                intake.abort()
                self._refused(transaction, self._reply_to(Failure(error), "taking a message in"), event.size)
                return
            wanted.setdefault("message-id", transaction.head.message_id)
        envelope = Envelope(
            sender=mail.address,
            recipients=tuple(transaction.recipients.values()),
            source=site.listener.channel,
            arrival=site.reactor.seconds(),
            body=mail.body or "8BITMIME",
            priority=priority(wanted.get("priority", "")),
            message_id=wanted.get("message-id", "")[:_ID_CHARACTERS],
            protocol=self._protocol(),
            user=self._user,
            source_system=source_system(self._core.helo, self._name(), self._ip),
            envid=mail.envid,
            ret=mail.ret,
            smtputf8=mail.smtputf8,
        )
        transaction.committing = True
        try:
            done = intake.commit(envelope)
        except Exception as error:
            self._refused(transaction, self._reply_to(Failure(error), "committing a message"), event.size)
            return
        done.addCallbacks(
            self._committed, self._not_committed, callbackArgs=(transaction,), errbackArgs=(transaction, event.size)
        )
        done.addErrback(self._broken)

    def _committed(self, _: object, transaction: Transaction) -> None:
        self._transaction = None
        if self._lost:
            return
        self._core.answer(Reply(250, "2.0.0", f"{transaction.id} queued"))
        self._message_over()
        self._go_on()

    def _not_committed(self, failure: Failure, transaction: Transaction, size: int) -> None:
        self._refused(transaction, self._reply_to(failure, "committing a message"), size)
        self._go_on()

    def _broken(self, failure: Failure) -> None:
        """A bug behind a commit; the session cannot know what it has told the client."""
        self._log.failure("SMTP session with {ip}", failure=failure, ip=self._ip)
        self.abort()

    def _refused(self, transaction: Transaction, reply: Reply, size: int) -> None:
        """The complete message is refused by us."""
        self._transaction = None
        self._reject(transaction, transaction.named, reply, size)
        if not self._lost:
            self._core.answer(reply)
            self._message_over()

    def _data_refused(self, event: DataRefused) -> None:
        """The complete message was refused by the core, for what it is."""
        transaction = self._open()
        self._transaction = None
        if transaction.intake is not None:
            transaction.intake.abort()
        self._reject(transaction, transaction.named, event.reply, event.size)
        self._message_over()

    def _reset(self, event: Reset) -> None:
        self._forget()

    def _bad_command(self, event: BadCommand) -> None:
        if self._bad_commands >= self._site.log.bad_commands:
            return
        self._bad_commands += 1
        text = event.line.decode("utf-8", "replace")
        self._record(Action.BAD_COMMAND, original_to=text, current_to=text, diagnostic=str(event.reply))

    def _ended(self, event: Ended) -> None:
        self._why = event.reply

    # Transactions

    def _open(self) -> Transaction:
        """The transaction; the core gives no event of one outside of it."""
        if self._transaction is None:
            raise RuntimeError("no transaction")
        return self._transaction

    def _forget(self) -> None:
        """The client gave the transaction up, as it may: with BDAT in the middle of the message, too."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None and transaction.intake is not None:
            transaction.intake.abort()

    def _give_up(self) -> None:
        """The session ends; what the client was promised for its recipients and never used is recorded."""
        transaction, self._transaction = self._transaction, None
        if transaction is None or transaction.committing:
            return
        if transaction.intake is not None:
            transaction.intake.abort()
        for named in transaction.named:
            self._record(Action.ABORTED, sender=transaction.mail.address, original_to=named, current_to=named)

    def _message_over(self) -> None:
        """A stop that waited for this message."""
        if self._site.draining:
            self._why = _STOPPING
            self._core.close(_STOPPING)

    def _reply_to(self, failure: Failure, what: str) -> Reply:
        """What the client is told of a failure; the unknown is temporary."""
        if failure.check(MailError) is not None:
            return cast(MailError, failure.value).reply
        self._log.failure("{what} from {ip}", failure=failure, what=what, ip=self._ip)
        return _INTERNAL

    def _protocol(self) -> str:
        """RFC 3848."""
        return protocol(**self._facts())

    def _facts(self) -> dict[str, bool]:
        core = self._core
        return {
            "extended": core.extended,
            "secured": self._secured is not None,
            "authenticated": bool(self._user),
            "lmtp": core.service.lmtp,
        }

    def _name(self) -> str:
        names = self._site.names
        return names.get(self._ip) if names is not None else ""

    # Records

    def _record(self, action: Action, **fields: Any) -> None:
        core, site = self._core, self._site
        record = LogRecord(
            action=action,
            time=site.reactor.seconds(),
            source=site.listener.channel,
            modifiers=modifiers(**self._facts()),
            user=self._user,
            source_system=source_system(core.helo, self._name(), self._ip) if site.log.connection else "",
            **fields,
        )
        site.recorder.write([record])

    def _reject(self, transaction: Transaction, addresses: Iterable[str], reply: Reply, size: int = 0) -> None:
        """A J record for each address."""
        channel = self._site.listener.channel
        for address in addresses:
            self._record(
                Action.REJECTED,
                destination=channel,
                size_octets=size,
                sender=transaction.mail.address,
                original_to=address,
                current_to=address,
                file=QueueFile(channel=channel, id=transaction.id, attempts=0, continued=transaction.rejected),
                diagnostic=str(reply),
            )
            transaction.rejected = True

    # Transport

    def _flush(self) -> None:
        """Send what there is to send, and close when that was the last of it."""
        core = self._core
        octets = core.take()
        if octets and not self._lost:
            self._write(octets)
        if core.closed:
            self._close()

    def _write(self, octets: bytes) -> None:
        # A reply nearly always fits the socket's buffer. Sending it now and not in the reactor's next turn saves a
        # round through epoll for each message. Once it does not fit, the transport has octets of ours and keeps order.
        direct = self._direct
        if direct is not None:
            try:
                sent = direct.send(octets)
            except OSError:  # full, or gone: the transport finds out
                sent = 0
            if sent == len(octets):
                return
            self._direct = None
            octets = octets[sent:]
        if not self._registered:
            self._registered = True
            self.transport.registerProducer(self, True)
        self.transport.write(octets)

    def _close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self._direct = None
        self._give_up()
        if self._registered:
            self.transport.unregisterProducer()
            self._registered = False
        self.transport.loseConnection()
        if not self._lost:  # not yet: the client may be slow to take what is left, or never take it
            self._arm(_LINGER_S)

    def _shut(self, reply: Reply) -> None:
        """End the session from our side."""
        self._why = reply
        self._core.close(reply)
        self._flush()

    def _pause(self, reason: int) -> None:
        if not self._pauses and not self._lost:
            self.transport.pauseProducing()
        self._pauses |= reason

    def _resume(self, reason: int) -> None:
        if not self._pauses & reason:
            return
        self._pauses &= ~reason
        if not self._pauses and not self._lost and not self._core.closed:
            self._heard = self._site.reactor.seconds()
            self.transport.resumeProducing()

    # Time

    def _arm(self, delay: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._site.reactor.callLater(delay, self._look_at_clock)

    def _look_at_clock(self) -> None:
        """
        Runs once in a while and not once a command: the clock is set again for what is left, so that a command costs no
        timer.
        """
        self._timer = None
        core, listener = self._core, self._site.listener
        if core.closed:
            self.transport.abortConnection()
            return
        now = self._site.reactor.seconds()
        if core.waiting or self._pauses & (_FLOW | _ANSWER):
            self._heard = now  # it is we who keep the client waiting
        limit = listener.data_timeout_s if core.in_data else listener.command_timeout_s
        if self._shaking:
            limit = min(limit, _HANDSHAKE_S)
        left = self._heard + limit - now
        if left > 0:
            # Not later than the shortest limit, which may be the one that counts by then.
            self._arm(min(left, listener.command_timeout_s, listener.data_timeout_s, _HANDSHAKE_S))
        elif self._shaking:
            self.abort()  # there is no way to tell it anything
        else:
            self._shut(_TIMEOUT)


def _tls_problem(reason: Failure) -> str:
    """What OpenSSL says of a handshake that failed, in a few words."""
    value = reason.value
    parts = value.args[0] if isinstance(value, SSL.Error) and value.args else ()
    said = parts[0][2] if isinstance(parts, list) and parts and len(parts[0]) > 2 else type(value).__name__
    return " ".join(str(said).split())[:200]


_HANDLERS: dict[type, Callable[[SmtpSession, Any], None]] = {
    Greeted: SmtpSession._greeted,
    MailFrom: SmtpSession._mail_from,
    RcptTo: SmtpSession._rcpt_to,
    DataBegun: SmtpSession._data_begun,
    DataChunk: SmtpSession._data_chunk,
    DataEnded: SmtpSession._data_ended,
    DataRefused: SmtpSession._data_refused,
    StartTls: SmtpSession._start_tls,
    AuthStep: SmtpSession._auth_step,
    Reset: SmtpSession._reset,
    BadCommand: SmtpSession._bad_command,
    Ended: SmtpSession._ended,
}
