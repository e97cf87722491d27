"""
A POP3 conversation: who is there, what is asked and answered one after the other, how it comes under TLS and how it
ends.

The core's events are worked through in order. What cannot be answered at once is answered from a coroutine; meanwhile
the core holds back what follows, and when more arrives the transport is paused. A listing is sent as fast as the client
takes it: never more than a piece of it waits here.

What an event means for a mailbox is told by the L{session<qmailpy.servers.pop3_session.Pop3Session>}.

What fails and how: an unexpected exception is logged with its traceback and ends the connection. So does a client that
says nothing for the listener's C{command_timeout_s}, or takes nothing for its C{data_timeout_s}.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.servers.connection import ANSWER, OUTPUT, Connection, TurnedAway, near
from qmailpy.servers.pop3_site import Pop3Site
from qmailpy.servers.tls import bindings
from qmailpy.wire.pop3 import Pop3Core
from qmailpy.wire.pop3_events import BadCommand, Ended, Event, TlsAsked

_STOPPING = "[SYS/TEMP] Server is stopping"
_FULL = "[SYS/TEMP] Too many connections"

_PROBE_IDLE_S, _PROBE_EVERY_S, _PROBES = 60, 20, 3
"""TCP keepalive: a client that vanished is noticed after two minutes, and its mailbox is free."""


class Conversation(Connection):
    """
    The client's side and ours, turn by turn; of mailboxes it knows nothing.

    A subclass gives L{handlers} and C{_let_go}.

    @cvar handlers: by the type of an event of the core, what is to be done about it.
    """

    _log = Logger()

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None]]]

    __slots__ = ("_deciding", "_drained", "_implicit", "_running", "_waited_for")

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

    # IProtocol

    def connectionMade(self) -> None:
        site, transport = self._site, self.transport
        host, _ = self._arrive()
        self._core.front = site.fronts is not None and self._ip in site.fronts
        self._core.plain = (site.listener.plain_auth and near(host, self._ip)) or self._core.front
        self._trusted = self._trusted or self._core.front  # until it says for whom it speaks
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
        if self._trace is not None:
            self._trace.commands(data)
        core = self._core
        early = core.waiting
        events = core.receive(data)
        if events or early or core.pending:
            # Not for a part of a line: who sends an octet now and then would hold the connection for ever.
            self._heard = self._site.reactor.seconds()
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
        self._core.bindings = bindings(self._secured_by)
        if self._implicit:
            # Not before: nothing can be said during a handshake.
            self._core.greet()
            self._flush()

    # IPushProducer

    def resumeProducing(self) -> None:
        self._heard = self._site.reactor.seconds()
        super().resumeProducing()
        self._fire_drained()
        if not self._waited_for:
            self._go_on()

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

    def _be(self, ip: str) -> None:
        """Somebody else is behind the client, and counts from now on."""
        site = self._site
        site.counts.remove(self._ip)
        self._ip = ip
        self._trusted = ip in site.trusted
        if site.counts.add(ip) > site.listener.connections_per_client and not self._trusted:
            self._log.warn("POP3: {why}, {ip} is refused", why=TurnedAway.CLIENT_FULL.value, ip=ip)
            self._shut(_FULL, TurnedAway.CLIENT_FULL.value)

    # Turns

    def _run(self, events: list[Event]) -> None:
        """Work through events, and those that follow the answers, until one must wait."""
        core = self._core
        self._running = True
        try:
            while True:
                for event in events:
                    self.handlers[type(event)](self, event)
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

    async def _decide(self, question: Coroutine[Any, Any, Any]) -> Any:
        """Ask about a login; given up when the connection is lost."""
        deciding = self._deciding = Deferred.fromCoroutine(question)
        try:
            return await deciding
        finally:
            self._deciding = None

    def _open(self) -> bool:
        """The question is still to be answered: behind each await the connection may be gone."""
        return not self._lost and not self._core.closed

    async def _room(self) -> None:
        """Wait until the client has taken what was sent."""
        if self._pauses & OUTPUT:
            drained = self._drained = Deferred()
            self._waited_for = False  # now it is the client who keeps us waiting
            await drained
            self._waited_for = True

    # TLS

    def _tls_asked(self, event: TlsAsked) -> None:
        self._flush()
        self._begin_tls()
        self._core.secured()

    def _begin_tls(self) -> None:
        certificates = self._site.certificates
        assert certificates is not None  # else there is no such listener, and STLS is not offered
        self._start_handshake(certificates)

    # Words

    def _bad_command(self, event: BadCommand) -> None:
        self._log.debug("POP3 {ip}: {verb}: {text}", ip=self._ip, verb=event.verb, text=event.text)

    def _ended(self, event: Ended) -> None:
        if event.reason:
            self._log.info("POP3 session with {ip} ended: {reason}", ip=self._ip, reason=event.reason)


def _probe_soon(transport: Any) -> None:
    """Have the kernel ask silent clients whether they are there."""
    handle = transport.getHandle() if isinstance(transport, tcp.Connection) else None
    if isinstance(handle, socket.socket) and handle.family != socket.AF_UNIX and hasattr(socket, "TCP_KEEPIDLE"):
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_IDLE_S)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_EVERY_S)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
