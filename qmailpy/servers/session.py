"""
One SMTP connection: the adapter between L{SmtpCore} and Twisted.

It takes the core's events one after the other: routes recipients, has the message taken in, and answers. What cannot
be answered at once (a directory that must be asked, a commit) is answered from a callback; meanwhile the core holds
back what follows, and when more arrives the transport is paused. Replies of one turn leave in one write.

    L{Connection<qmailpy.servers.connection.Connection>}        the transport: in, out, time, TLS
    here                                                        the conversation
    L{Transaction<qmailpy.servers.transaction.Transaction>}     a message, its recipients and their records
    L{smtp_login<qmailpy.servers.smtp_login>}                   the words of logins

Nothing here decides about mail but these rules: who may relay (RFC 5321 s.7.9: an address of ours, a client that is
trusted, a user that has logged in), that a user sends in its own name, where a login is required, how many recipients,
and how many connections.

What fails and how: a refusal is a reply (and a J record); an unexpected exception is logged with its traceback and
answered 451 4.3.0; a connection that ends with recipients accepted and no message leaves a V record for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.auth.logins import Refusal
from qmailpy.errors import MailError
from qmailpy.interfaces import IFlow
from qmailpy.records.record import Action
from qmailpy.servers import smtp_login
from qmailpy.servers.clients import plain_address
from qmailpy.servers.connection import ANSWER, FLOW, Connection, TurnedAway, near
from qmailpy.servers.site import Site
from qmailpy.servers.smtp_records import Origin, connection_record, ends, session_record, why_ended
from qmailpy.servers.submission import may_send_as
from qmailpy.servers.tls import Secured, bindings
from qmailpy.servers.transaction import INTERNAL, Transaction, reply_to
from qmailpy.values import Mailbox, Refused, Reply, RouteResult, ScramSecret
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

_NO_RELAYING = Reply(550, "5.7.1", "Relaying denied")
_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")
_TIMEOUT = Reply(421, "4.4.2", "Timeout")
_STOPPING = Reply(421, "4.3.2", "Server is stopping")
_TURNED_AWAY = {
    TurnedAway.STOPPING: _STOPPING,
    TurnedAway.FULL: Reply(421, "4.3.2", "Too many connections"),
    TurnedAway.CLIENT_FULL: Reply(421, "4.7.0", "Too many connections from your address"),
}


@implementer(IFlow)
class SmtpSession(Connection):
    """A connection; an idle one has nothing but a core until there is a transaction."""

    _log = Logger()

    __slots__ = (
        "_asking",
        "_bad_commands",
        "_ends",
        "_opened",
        "_running",
        "_secured",
        "_transaction",
        "_user",
        "_why",
    )

    _core: SmtpCore
    _site: Site

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self._core = SmtpCore(site.offers.clear)
        self._ends = ""  # transport field of the connection's records
        self._why: Reply | None = None  # why it ended, when by a reply
        self._opened = False  # has an O record
        self._running = False
        self._transaction: Transaction | None = None
        self._asking: Deferred[Any] | None = None  # routing, a login, whether a sender is the user's own
        self._bad_commands = 0
        self._secured: Secured | None = None
        self._user = ""  # address of the mailbox that has logged in

    # IProtocol

    def connectionMade(self) -> None:
        site = self._site
        host = self._arrive()
        if site.log.connections:
            unix = isinstance(host, UNIXAddress)
            ours = plain_address(getattr(host, "host", ""))
            self._ends = ends(host, self.transport.getPeer(), unix, self._ip, ours)
        turned_away = self._admit()
        if turned_away is not None:
            refusal = _TURNED_AWAY[turned_away]
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
                if near(host, self._ip):
                    self._core.service = site.offers.near
                self._core.greet()
                self._arm(self._shortest())
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        core = self._core
        events = core.receive(data)
        if events or core.in_data or core.pending:
            # Not for a part of a line: who sends an octet now and then would hold the connection for ever.
            self._heard = self._site.reactor.seconds()
        if not events and core.waiting:
            self._pause(ANSWER)
        else:
            self._run(events)

    def connectionLost(self, reason: Failure) -> None:
        self._cut()
        if self._asking is not None:
            self._asking.cancel()
        self._let_go()
        if self._opened:
            handshake = _tls_problem(reason) if self._shaking else ""
            connection_record(self._site, Action.CLOSED, self._ends, diagnostic=why_ended(self._why, handshake))
        self._sign_off()

    # IHandshakeListener

    def handshakeCompleted(self) -> None:
        super().handshakeCompleted()
        self._secured = Secured.of(self.transport)
        if self._site.listener.tls == "implicit":
            # Not before: TLS holds back whoever writes during a handshake, and we would stop reading it.
            self._core.greet()
            self._flush()

    # IFlow, for the intake

    def pause(self) -> None:
        self._pause(FLOW)

    def resume(self) -> None:
        self._resume(FLOW)

    # For the factory

    @property
    def busy(self) -> bool:
        """Whether a message is arriving or being committed: what an orderly stop waits for."""
        transaction = self._transaction
        return transaction is not None and transaction.arriving

    def stop(self) -> None:
        if self._shaking:
            self.abort()
        elif not self.busy and not self._lost:
            self._shut(_STOPPING)

    # For the connection

    def _working(self) -> bool:
        return self._core.waiting or self._pauses & (FLOW | ANSWER) != 0

    def _limit(self) -> float:
        listener = self._site.listener
        return listener.data_timeout_s if self._core.in_data else listener.command_timeout_s

    def _timed_out(self) -> None:
        self._shut(_TIMEOUT)

    def _let_go(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.give_up()

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
                            core.answer(INTERNAL)
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
            self._resume(ANSWER)

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
        self._secured = None
        self._user = ""
        if site.certificates is None:
            self._log.error("listener {name}: there are no certificates", name=site.listener.name)
            self._core.close(INTERNAL)
            self._core.take()
            self.abort()
            return
        self._start_handshake(site.certificates)
        self._core.secure(site.offers.inside, self._bindings)

    def _bindings(self) -> Mapping[str, bytes]:
        return bindings(self.transport)

    def _auth_step(self, event: AuthStep) -> None:
        logins = self._site.logins
        if logins is None:
            raise RuntimeError("nobody to ask about logins")
        client = "" if self._trusted else self._ip  # trusted clients are free of limits
        self._ask(smtp_login.ask(logins, event.step, client), self._login_told, "a login")

    def _login_told(self, found: Mailbox | ScramSecret | Refusal) -> None:
        if isinstance(found, ScramSecret):
            self._core.secret(found)
            return
        if isinstance(found, Refusal):
            user = found.login
            if found.detail:
                self._log.info("login from {ip} refused: {detail!r}", ip=self._ip, detail=found.detail[:200])
        else:
            user = self._user = found.address
        reply = smtp_login.reply(found)
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
                self._core.answer(INTERNAL)
        self._go_on()

    def _not_asked(self, failure: Failure, what: str) -> None:
        """The directory is away, or a bug; or the session is over, and we gave it up ourselves."""
        self._asking = None
        if self._lost or self._core.closed or failure.check(CancelledError) is not None:
            return
        self._core.answer(reply_to(self._log, failure, what, self._ip))
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
            self._core.answer(smtp_login.TLS_FIRST if tls_first and not self._may_log_in() else smtp_login.LOGIN_FIRST)
        else:
            self._begin(event)

    def _may_log_in(self) -> bool:
        return bool(self._core.service.mechanisms)

    def _sender_told(self, event: MailFrom, own: bool) -> None:
        if own:
            self._begin(event)
            return
        self._bad_command(BadCommand(f"MAIL FROM:<{event.address}>".encode(), smtp_login.NOT_YOURS))
        self._core.answer(smtp_login.NOT_YOURS)

    def _begin(self, event: MailFrom) -> None:
        self._transaction = Transaction(self._site, self._origin(), event)
        self._core.accept()

    def _rcpt_to(self, event: RcptTo) -> None:
        site = self._site
        transaction = self._open()
        if transaction.full:
            self._core.answer(_RECIPIENTS)  # no J: the client is to send these in a transaction of their own
            return
        address = event.address if event.address != "postmaster" else site.postmaster
        try:
            result = site.router.route_now(address, site.listener.channel)
        except MailError as error:
            result = Refused(error.reply)
        except Exception:
            self._log.failure("routing {address}", address=address)
            result = Refused(INTERNAL)
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
        return Refused(INTERNAL)

    def _routed(self, result: RouteResult, event: RcptTo) -> None:
        """The router's word on a recipient: accept, or refuse with a J record."""
        transaction = self._open()
        if isinstance(result, Refused):
            reply = result.reply
        elif result.local or self._trusted or self._user:
            transaction.take(event, result.recipients)
            self._core.accept()
            return
        else:
            reply = _NO_RELAYING
        transaction.reject([event.address], reply)
        self._core.answer(reply, counted=not (self._trusted or self._user))

    def _data_begun(self, event: DataBegun) -> None:
        refusal = self._open().begin(self)
        if refusal is None:
            self._core.accept()
        else:
            self._core.answer(refusal)

    def _data_chunk(self, event: DataChunk) -> None:
        self._open().write(event.octets)

    def _data_ended(self, event: DataEnded) -> None:
        transaction = self._open()
        done = transaction.end(event)
        if isinstance(done, Reply):
            self._refused(transaction, done, event.size)
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
        self._refused(transaction, transaction.not_committed(failure), size)
        self._go_on()

    def _broken(self, failure: Failure) -> None:
        """A bug behind a commit; the session cannot know what it has told the client."""
        self._log.failure("SMTP session with {ip}", failure=failure, ip=self._ip)
        self.abort()

    def _refused(self, transaction: Transaction, reply: Reply, size: int) -> None:
        """The complete message is refused by us."""
        self._transaction = None
        transaction.reject(transaction.named, reply, size)
        if not self._lost:
            self._core.answer(reply)
            self._message_over()

    def _data_refused(self, event: DataRefused) -> None:
        """The complete message was refused by the core, for what it is."""
        transaction = self._open()
        self._transaction = None
        transaction.abort()
        transaction.reject(transaction.named, event.reply, event.size)
        self._message_over()

    def _reset(self, event: Reset) -> None:
        self._forget()

    def _bad_command(self, event: BadCommand) -> None:
        if self._bad_commands >= self._site.log.bad_commands:
            return
        self._bad_commands += 1
        text = event.line.decode("utf-8", "replace")
        session_record(
            self._site,
            self._origin(),
            Action.BAD_COMMAND,
            original_to=text,
            current_to=text,
            diagnostic=str(event.reply),
        )

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
        if transaction is not None:
            transaction.abort()

    def _message_over(self) -> None:
        """A stop that waited for this message."""
        if self._site.sessions.draining:
            self._why = _STOPPING
            self._core.close(_STOPPING)

    def _origin(self) -> Origin:
        core = self._core
        return Origin(
            ip=self._ip,
            helo=core.helo,
            user=self._user,
            extended=core.extended,
            lmtp=core.service.lmtp,
            secured=self._secured,
            names=self._site.names,
        )

    def _shut(self, reply: Reply) -> None:
        """End the session from our side."""
        self._why = reply
        self._core.close(reply)
        self._flush()


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
