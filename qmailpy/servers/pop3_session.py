"""
One POP3 connection: the adapter between L{Pop3Core} and Twisted.

It takes the core's events one after the other, asks L{Logins} and the L{IMailStore}, and answers. What cannot be
answered at once is answered from a coroutine; meanwhile the core holds back what follows, and when more arrives the
transport is paused. A message, or a listing, is sent as fast as the client takes it: never more than a piece of it
waits here.

What fails and how: a refusal is a response; an unexpected exception is logged with its traceback and ends the
connection, without the update. So does a client that says nothing for the listener's C{command_timeout_s}, or takes
nothing for its C{data_timeout_s} (RFC 1939 s.3: no update then).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.auth.logins import Refusal, Why
from qmailpy.errors import MailboxInUse
from qmailpy.interfaces import IHolder, IMaildrop, IMessagePieces
from qmailpy.servers.connection import ANSWER, OUTPUT, Connection, TurnedAway, near
from qmailpy.servers.pop3_site import Pop3Site
from qmailpy.servers.tls import bindings
from qmailpy.values import Mailbox
from qmailpy.wire import sasl
from qmailpy.wire.pop3 import Pop3Core
from qmailpy.wire.pop3_events import (
    BadCommand,
    Ended,
    Event,
    FetchAsked,
    LeaveAsked,
    LoginAsked,
    LoginFailed,
    LoginProven,
    SecretAsked,
    TlsAsked,
)

_WORDS = {
    Why.WRONG: "[AUTH] Wrong name or password",
    Why.MALFORMED: "Malformed response",
    Why.BANNED: "[SYS/TEMP] Too many failed logins, try again later",
    Why.AWAY: "[SYS/TEMP] Logins cannot be checked now, try again later",
}
_IN_USE = "[IN-USE] The mailbox is open in another session"
_CANNOT_OPEN = "[SYS/TEMP] The mailbox cannot be opened now"
_TOO_SOON = "[LOGIN-DELAY] Too soon after the last login"
_GONE = "The message was removed by another program"
_CANNOT_READ = "[SYS/TEMP] The message cannot be read now"
_NOT_REMOVED = "[SYS/TEMP] Some deleted messages were not removed"
_STOPPING = "[SYS/TEMP] Server is stopping"
_FULL = "[SYS/TEMP] Too many connections"

_PROBE_IDLE_S, _PROBE_EVERY_S, _PROBES = 60, 20, 3
"""TCP keepalive: a client that vanished is noticed after two minutes, and its mailbox is free."""


@implementer(IHolder)
class Pop3Session(Connection):
    """A connection, and who holds its mailbox."""

    _log = Logger()

    __slots__ = (
        "_deciding",
        "_drained",
        "_drop",
        "_fetched",
        "_implicit",
        "_running",
        "_sent_octets",
        "_user",
        "_waited_for",
    )

    _core: Pop3Core
    _site: Pop3Site

    def __init__(self, site: Pop3Site) -> None:
        super().__init__()
        self._site = site
        self._implicit = site.listener.tls == "implicit"
        self._core = Pop3Core(site.service, secure=self._implicit)
        self._running = False
        self._waited_for = False  # it is we who keep the client waiting
        self._deciding: Deferred[Any] | None = None  # a login that is being checked
        self._drained: Deferred[None] | None = None  # fires when the client has taken what was sent
        self._drop: IMaildrop | None = None
        self._user = ""
        self._fetched = 0
        self._sent_octets = 0

    # IProtocol

    def connectionMade(self) -> None:
        site, transport = self._site, self.transport
        host = self._arrive()
        self._core.plain = site.listener.plain_auth and near(host, self._ip)
        if ITCPTransport.providedBy(transport):
            transport.setTcpKeepAlive(True)
            _probe_soon(transport)
        turned_away = self._admit()
        # TLS is not begun for a refusal: it would cost more than the session.
        if turned_away is TurnedAway.STOPPING:
            self._core.close("" if self._implicit else _STOPPING, turned_away.value)
        elif turned_away is not None:
            self._log.warn("POP3: {why}, {ip} is refused", why=turned_away.value, ip=self._ip)
            self._core.close("" if self._implicit else _FULL, turned_away.value)
        elif self._implicit:
            self._begin_tls()
        else:
            self._arm(self._shortest())
            self._core.greet()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        self._heard = self._site.reactor.seconds()
        core = self._core
        early = core.waiting
        events = core.receive(data)
        if early and not events:
            self._pause(ANSWER)
        else:
            self._run(events)

    def connectionLost(self, reason: Failure) -> None:
        self._cut()
        if self._deciding is not None:
            self._deciding.cancel()
        self._fire_drained()
        self._let_go()
        self._sign_off()

    # IHandshakeListener

    def handshakeCompleted(self) -> None:
        super().handshakeCompleted()
        self._core.bindings = bindings(self.transport)
        if self._implicit:
            # Not before: TLS holds back whoever writes during a handshake, and we would stop reading it.
            self._core.greet()
            self._flush()

    # IPushProducer

    def resumeProducing(self) -> None:
        self._heard = self._site.reactor.seconds()
        super().resumeProducing()
        self._fire_drained()
        if not self._waited_for:
            self._go_on()

    # IHolder

    def silent_s(self) -> float:
        return 0.0 if self._waited_for else self._site.reactor.seconds() - self._heard

    def evict(self) -> None:
        self._log.info("POP3 {user} from {ip}: a new login takes the mailbox over", user=self._user, ip=self._ip)
        self.abort()

    # For the factory

    def stop(self) -> None:
        if self._shaking:
            self.abort()
        elif not self._lost and not self._core.waiting:
            self._shut(_STOPPING, "stopping")

    def abort(self) -> None:
        """End the connection at once, without the update."""
        self._core.close("", "cut off")
        self._let_go()
        super().abort()

    # For the connection

    def _working(self) -> bool:
        return self._waited_for

    def _limit(self) -> float:
        listener = self._site.listener
        return listener.data_timeout_s if self._pauses & OUTPUT else listener.command_timeout_s

    def _timed_out(self) -> None:
        self._log.info("POP3 session with {ip} timed out", ip=self._ip)
        if self._pauses & OUTPUT:
            self.abort()
        else:
            self._shut("", "timeout")

    def _let_go(self) -> None:
        """The session ends without the update."""
        drop, self._drop = self._drop, None
        if drop is not None:
            self._log.info(
                "POP3 {user} from {ip}: ended without QUIT, {fetched} retrieved ({octets} octets)",
                user=self._user,
                ip=self._ip,
                fetched=self._fetched,
                octets=self._sent_octets,
            )
            drop.release()

    def _flush(self) -> None:
        """As long as the client takes it: a listing comes in pieces."""
        core = self._core
        while not self._lost:
            octets = core.take()
            if octets:
                self._write(octets)
            if not core.listing or self._pauses & OUTPUT:
                break
        if core.closed:
            self._close()

    def _shut(self, text: str, reason: str) -> None:
        """End the session from our side."""
        self._core.close(text, reason)
        self._flush()

    def _fire_drained(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)

    # Events

    def _run(self, events: list[Event]) -> None:
        """Work through events, and those that follow the answers, until one must wait."""
        core = self._core
        self._running = True
        try:
            while True:
                for event in events:
                    _HANDLERS[type(event)](self, event)
                # Messages at hand leave together: there are never more of them than were read ahead.
                if core.listing:
                    self._flush()
                if core.waiting or core.closed or self._pauses & OUTPUT:
                    break
                events = core.proceed()
                if not events and not core.listing:
                    break
        except Exception:
            self._broken(Failure())
        finally:
            self._running = False
        self._flush()
        if self._site.sessions.draining and not core.waiting:
            self.stop()

    def _go_on(self) -> None:
        """A question was answered, or the client has taken what there was."""
        if self._running or self._lost:
            return
        core = self._core
        self._flush()
        if core.waiting or self._pauses & OUTPUT:
            return
        self._run(core.proceed())
        if not core.waiting:
            self._resume(ANSWER)

    def _later(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Answer a question from a coroutine."""
        self._waited_for = True
        done = Deferred.fromCoroutine(work)
        done.addBoth(self._done)
        return done

    def _done(self, result: Failure | None) -> None:
        self._waited_for = False
        self._heard = self._site.reactor.seconds()
        if isinstance(result, Failure):
            if result.check(CancelledError) is None or not self._lost:
                self._broken(result)
        elif not self._lost:
            self._go_on()

    def _broken(self, failure: Failure) -> None:
        self._log.failure("POP3 session with {ip}", failure=failure, ip=self._ip)
        self.abort()

    def _secret_asked(self, event: SecretAsked) -> None:
        self._later(self._give_secret(event.login))

    async def _give_secret(self, login: str) -> None:
        found = await self._decide(self._site.logins.secret(login, self._client))
        if self._open():
            if isinstance(found, Refusal):
                self._refuse_login(found)
            else:
                self._core.secret(found)

    def _login_asked(self, event: LoginAsked) -> None:
        step = sasl.CheckPassword(login=event.login, password=event.password, authzid=event.authzid)
        self._later(self._log_in(step, event.mechanism or "PASS"))

    def _login_proven(self, event: LoginProven) -> None:
        self._later(self._log_in(sasl.Proven(login=event.login, authzid=event.authzid), event.mechanism))

    def _login_failed(self, event: LoginFailed) -> None:
        step = sasl.Failed(reason=event.reason, malformed=event.malformed, login=event.login)
        self._later(self._log_in(step, event.mechanism))

    @property
    def _client(self) -> str:
        """Whose failures are counted; whoever is trusted speaks for many."""
        return "" if self._trusted else self._ip

    def _open(self) -> bool:
        """The question is still to be answered: behind each await the connection may be gone."""
        return not self._lost and not self._core.closed

    async def _decide(self, question: Coroutine[Any, Any, Any]) -> Any:
        """Ask about a login; given up when the connection is lost."""
        deciding = self._deciding = Deferred.fromCoroutine(question)
        try:
            return await deciding
        finally:
            self._deciding = None

    async def _log_in(self, step: sasl.CheckPassword | sasl.Proven | sasl.Failed, how: str) -> None:
        found = await self._decide(self._site.logins.decide(step, self._client))
        if not self._open():
            return
        if isinstance(found, Refusal):
            self._refuse_login(found)
        elif self._site.delays.too_soon(found.address):
            self._core.refuse(_TOO_SOON)
        else:
            await self._enter(found, how)

    def _refuse_login(self, refusal: Refusal) -> None:
        self._log.warn(
            "POP3 login of {login} from {ip} refused: {why} {detail}",
            login=refusal.login,
            ip=self._ip,
            why=refusal.why.value,
            detail=refusal.detail,
        )
        self._core.refuse(_WORDS[refusal.why], failed=refusal.why is not Why.AWAY)

    async def _enter(self, mailbox: Mailbox, how: str) -> None:
        try:
            # Not given up when the connection is lost: a thread may be at work on it.
            drop = await self._site.store.open(mailbox, self)
        except MailboxInUse:
            self._log.info("POP3 {user} from {ip}: the mailbox is in use", user=mailbox.address, ip=self._ip)
            if self._open():
                self._core.refuse(_IN_USE)
            return
        except OSError as error:
            self._log.error("POP3 {user}: cannot open the mailbox: {error}", user=mailbox.address, error=str(error))
            if self._open():
                self._core.refuse(_CANNOT_OPEN)
            return
        if not self._open():
            await drop.release()
            return
        self._drop, self._user = drop, mailbox.address
        self._site.delays.note(mailbox.address)
        self._log.info(
            "POP3 {user} from {ip}: logged in by {how}{tls}, {messages} messages",
            user=self._user,
            ip=self._ip,
            how=how,
            tls=" under TLS" if self._core.secure else "",
            messages=len(drop.sizes),
        )
        self._core.enter(drop)

    def _tls_asked(self, event: TlsAsked) -> None:
        self._flush()
        self._begin_tls()
        self._core.secured()

    def _begin_tls(self) -> None:
        certificates = self._site.certificates
        assert certificates is not None  # else there is no such listener, and STLS is not offered
        self._start_handshake(certificates)

    def _fetch_asked(self, event: FetchAsked) -> None:
        drop = self._mailbox()
        if event.lines is None:
            octets = drop.at_hand(event.index)
            if octets is not None:
                self._count(drop.sizes[event.index])
                self._core.message(octets, drop.sizes[event.index], event.index, whole=True)
                return
        self._later(self._send(drop, event.index, event.lines))

    async def _send(self, drop: IMaildrop, index: int, lines: int | None) -> None:
        core = self._core
        try:
            pieces = await drop.fetch(index, lines)
        except OSError as error:
            if not self._open():
                return
            if error.errno != errno.ENOENT:
                self._log.error("POP3 {user}: cannot read a message: {error}", user=self._user, error=str(error))
            core.refuse(_GONE if error.errno == errno.ENOENT else _CANNOT_READ)
            return
        try:
            if self._open():
                core.begin(drop.sizes[index])
                await self._send_pieces(pieces)
        except OSError as error:
            # Behind a +OK there is no way to say so: the client must not take what it has for all of the message.
            self._log.error("POP3 {user}: cannot read a message on: {error}", user=self._user, error=str(error))
            self.abort()
        finally:
            pieces.close()
        if self._open():
            if lines is None:
                self._count(drop.sizes[index])
            core.end(index, whole=lines is None)

    async def _send_pieces(self, pieces: IMessagePieces) -> None:
        while self._open():
            octets = await pieces.next()
            if not self._open():
                return
            self._core.body(octets)
            if not pieces.more:
                return  # leaves with whatever follows
            self._flush()
            if self._pauses & OUTPUT:
                drained = self._drained = Deferred()
                self._waited_for = False  # now it is the client who keeps us waiting
                await drained
                self._waited_for = True

    def _leave_asked(self, event: LeaveAsked) -> None:
        self._later(self._update(event))

    async def _update(self, event: LeaveAsked) -> None:
        drop = self._mailbox()
        failed = await drop.update(event.deleted, event.seen)
        self._log.info(
            "POP3 {user} from {ip}: {fetched} retrieved ({octets} octets), {deleted} of {messages} deleted",
            user=self._user,
            ip=self._ip,
            fetched=self._fetched,
            octets=self._sent_octets,
            deleted=len(event.deleted) - failed,
            messages=len(drop.sizes),
        )
        self._drop = None
        # Before the +OK: whoever logs in again at once finds the mailbox free.
        await drop.release()
        if self._open():
            self._core.left(_NOT_REMOVED if failed else "")

    def _bad_command(self, event: BadCommand) -> None:
        self._log.debug("POP3 {ip}: {verb}: {text}", ip=self._ip, verb=event.verb, text=event.text)

    def _ended(self, event: Ended) -> None:
        if event.reason:
            self._log.info("POP3 session with {ip} ended: {reason}", ip=self._ip, reason=event.reason)

    def _mailbox(self) -> IMaildrop:
        if self._drop is None:
            raise RuntimeError("no mailbox")
        return self._drop

    def _count(self, octets: int) -> None:
        self._fetched += 1
        self._sent_octets += octets


def _probe_soon(transport: Any) -> None:
    """Have the kernel ask silent clients whether they are there."""
    handle = transport.getHandle() if isinstance(transport, tcp.Connection) else None
    if isinstance(handle, socket.socket) and hasattr(socket, "TCP_KEEPIDLE"):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_IDLE_S)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


_HANDLERS: dict[type, Callable[[Pop3Session, Any], None]] = {
    LoginAsked: Pop3Session._login_asked,
    SecretAsked: Pop3Session._secret_asked,
    LoginProven: Pop3Session._login_proven,
    LoginFailed: Pop3Session._login_failed,
    TlsAsked: Pop3Session._tls_asked,
    FetchAsked: Pop3Session._fetch_asked,
    LeaveAsked: Pop3Session._leave_asked,
    BadCommand: Pop3Session._bad_command,
    Ended: Pop3Session._ended,
}
