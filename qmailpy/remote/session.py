"""
One connection to one peer: moves octets between L{SmtpClient} and a transport, and minds the time.

It is opened, serves one transaction after the other, and is closed. Content that is in memory goes out in one write;
content in a file is read piece by piece in a thread, the next piece when the transport has room for it.
TLS begins with the connection, or when L{SmtpClient} says so. The transport may be any, only the shortcut of writing
straight to the socket, and TLS of our own (L{SecureLayer}), are for those of Twisted's that have one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol as Seam
from typing import cast

from attrs import frozen
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    ITLSTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.config.schema import ChannelConfig
from qmailpy.events.traces import Session as Trace
from qmailpy.remote import tls
from qmailpy.remote.mx import is_socket
from qmailpy.remote.peers import Peer
from qmailpy.remote.secure import SecureLayer
from qmailpy.remote.trouble import Fault, Trouble
from qmailpy.values import Content
from qmailpy.wire.client_events import (
    Broken,
    Event,
    Finished,
    GoAhead,
    Goodbye,
    KeyWanted,
    Outcome,
    Ready,
    Secure,
    Stage,
    Transaction,
)
from qmailpy.wire.client_limits import NO_LIMITS, domain_of
from qmailpy.wire.sasl_client import Derive, Login, thd_derive
from qmailpy.wire.smtp_client import SmtpClient
from qmailpy.wire.tlsa import Mismatch

PIECE = 262_144
"""
Octets read from a file at a time; so much and what the transport holds is all the memory a large message takes. Each
time costs half a dozen switches between threads.
"""

SEND_LIMIT: int = tcp.Connection.SEND_LIMIT
"""Octets that the transport gives a socket at a time."""

QUIT_S = 2.0
"""How long the reply to QUIT is waited for: nothing depends on it."""

_COMMANDS = frozenset(
    {Stage.EHLO, Stage.HELO, Stage.STARTTLS, Stage.AUTH, Stage.RSET, Stage.MAIL, Stage.RCPT, Stage.DATA}
)

InThread = Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]]


class IStreamTransport(ITLSTransport, IConsumer):
    """What a transport of ours can do."""


class Watcher(Seam):
    """Who wants to know of connections; for the records O, C and Y."""

    def opened(self, session: Session) -> None:
        """A connection was made."""

    def closed(self, session: Session, why: str) -> None:
        """It is gone; called once for each C{opened}."""

    def unreached(self, peer: Peer, why: str) -> None:
        """A connection could not be made."""


@frozen(kw_only=True)
class Delivery:
    """What came of one transaction."""

    outcome: Outcome
    trouble: Trouble | None  # what ended it before its end
    sent: int  # octets of content that had been sent


@implementer(IPushProducer, IHandshakeListener)
class Session(Protocol):
    """
    A connection. C{ended}, when set, is called once it is gone or worthless, with the session.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        peer: Peer,
        helo: str,
        config: ChannelConfig,
        watcher: Watcher,
        in_thread: InThread,
        contexts: tls.Contexts,
        login: Login | None = None,
    ) -> None:
        self.peer = peer
        self.core = SmtpClient(helo, peer.tls, login, lmtp=config.kind == "lmtp")
        self.trace: Trace | None = None  # where what is said is written down
        self.implicit = config.implicit_tls or peer.implicit  # TLS from the first octet
        self.tls = ""  # what protects it: "TLSv1.3/TLS_AES_256_GCM_SHA384 dane"
        self.doubt: Mismatch | None = None  # what is wrong with a certificate that was only watched
        self.transactions = 0  # begun so far
        self.used_up = False  # it is not to be used again, having no room for what was wanted
        self.application = ""  # how records name the conversation; the watcher's to use
        self.ends = ""  # "TCP|our ip|our port|their ip|their port"
        self.ended: Callable[[Session], None] | None = None
        self._reactor = reactor
        self._config = config
        self._watcher = watcher
        self._in_thread = in_thread
        self._contexts = contexts
        self._timer: IDelayedCall | None = None
        self._deadline = 0.0  # 0: nothing is waited for
        self._connected = False
        self._opening: Deferred[Trouble | None] | None = None
        self._closing: Deferred[None] | None = None
        self._delivering: Deferred[Delivery] | None = None
        self._content: Content | None = None
        self._sent = 0
        self._domains: set[str] = set()  # of recipients so far, where the peer has a limit of them
        self._roomy: Deferred[None] | None = None  # set while the transport has no room
        self._layer: SecureLayer | None = None  # TLS, when it is ours and not the transport's
        self._write_some: Callable[[bytes], object] | None = None
        self._buffered = False  # the transport may hold octets not yet sent
        self._why = ""

    # For the pool and the delivery

    @property
    def usable(self) -> bool:
        """Whether a transaction may begin now."""
        return self._connected and self.core.stage is Stage.IDLE and not self.core.broken and not self._why

    @property
    def spent(self) -> bool:
        """Whether it has had all the messages its peer takes (RFC 9422 MAILMAX), or is done with anyhow."""
        most = self.core.limits.messages
        return self.used_up or (most > 0 and self.transactions >= most)

    def fitting(self, recipients: Sequence[str], indexes: Sequence[int]) -> Sequence[int]:
        """Those of C{indexes} whom the next transaction has room for, by what the peer takes at once (RFC 9422)."""
        limits = self.core.limits
        if limits is NO_LIMITS:
            return indexes
        return [] if self.spent else limits.fitting(recipients, indexes, self._domains)

    def open(self) -> Deferred[Trouble | None]:
        """Fires when the peer is ready for mail, or with what prevented it; called once, before connecting."""
        self._opening = Deferred()
        return self._opening

    def deliver(self, transaction: Transaction, content: Content) -> Deferred[Delivery]:
        """
        One transaction; only while C{usable}.

        @return: fires when it is over, whatever happened. Fails only by a bug.
        """
        self.transactions += 1
        self._sent = 0
        self._content = content
        if self.core.limits.domains:
            self._domains.update(map(domain_of, transaction.recipients))
        delivering: Deferred[Delivery] = Deferred()
        self._delivering = delivering
        self.core.begin(transaction)
        self._flush()
        self._wait(self._config.command_timeout_s)
        return delivering

    def quit(self) -> Deferred[None]:
        """Say goodbye and close; fires when the connection is gone, after C{QUIT_S} at the latest."""
        gone: Deferred[None] = Deferred()
        if not self._connected:
            gone.callback(None)
            return gone
        self._closing = gone
        self._note("quit")
        self.core.quit()
        self._flush()
        self._wait(QUIT_S)
        return gone

    def drop(self, why: str) -> None:
        """Close at once, in the middle of whatever there is."""
        self._note(why)
        if self._layer is not None:
            self._layer.forsake()
        if self._connected:
            self._transport.abortConnection()

    # Twisted calls these

    def connectionMade(self) -> None:
        # Any stream transport will do; the type is that of the richest.
        self._transport = cast(IStreamTransport, self.transport)
        self._connected = True
        if ITCPTransport.providedBy(self._transport):
            self._transport.setTcpNoDelay(True)
            self._write_some = getattr(self._transport, "writeSomeData", None)
        self.ends = _ends(self._transport, self.peer)
        self._watcher.opened(self)
        if self.trace is not None:
            self.trace.note(f"connected: {self.ends}")
        if self.implicit:
            self.core.begin_tls()
            self._begin_tls()
        else:
            self._wait(self._config.greeting_timeout_s)

    def handshakeCompleted(self) -> None:
        wrong = tls.mismatch(self._secured_by, self.peer)
        if wrong is not None and self.peer.watched:
            self.doubt = wrong
        elif wrong is not None:
            stage = self.core.stage
            self.drop(wrong.why)
            self._end(Trouble(stage=stage, fault=Fault.UNTRUSTED, why=wrong.why, kind=wrong.kind))
            return
        self.tls = tls.secured(self._secured_by)
        if self.peer.how:
            self.tls = f"{self.tls} {self.peer.how}"
        if self.trace is not None:
            self.trace.note(self.tls)
        self.core.secured()
        self._flush()
        self._wait(self._config.command_timeout_s if self.core.banner else self._config.greeting_timeout_s)

    def dataReceived(self, data: bytes) -> None:
        if self.trace is not None:
            self.trace.replies(data)
        answers = self.core.answers
        for event in self.core.receive(data):
            self._on(event)
        self._flush()
        if answers != self.core.answers and self.core.stage in _COMMANDS and self._deadline:
            self._wait(self._config.command_timeout_s)  # each reply has its own time; its octets have not

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._connected = False
        self._deadline = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        why = "" if reason.check(ConnectionDone) else reason.getErrorMessage()
        fault, kind = Fault.LOST, ""
        if self.core.stage is Stage.TLS and not self._why:
            fault = Fault.UNTRUSTED
            said = tls.why(self._secured_by, reason)
            kind, why = said.kind, said.why or why or Fault.LOST.value
        self._end(Trouble(stage=self.core.stage, fault=fault, why=why, kind=kind))
        self._watcher.closed(self, self._why)
        if self.trace is not None:
            self.trace.ended(self._why)
            self.trace = None
        self.resumeProducing()
        if self._closing is not None:
            closing, self._closing = self._closing, None
            closing.callback(None)

    def pauseProducing(self) -> None:
        if self._roomy is None:
            self._roomy = Deferred()

    def resumeProducing(self) -> None:
        if self._roomy is not None:
            roomy, self._roomy = self._roomy, None
            roomy.callback(None)

    def stopProducing(self) -> None:
        self.resumeProducing()

    # Events of the core

    def _on(self, event: Event) -> None:
        if isinstance(event, GoAhead):
            self._send_content()
        elif isinstance(event, Finished):
            self._deadline = 0.0
            self._buffered = False  # it has answered the last octet
            if self.core.stage is not Stage.IDLE:
                self._close("refused while the message was being sent", polite=False)
            self._deliver(Delivery(outcome=event.outcome, trouble=None, sent=self._sent))
        elif isinstance(event, Ready):
            self._deadline = 0.0
            if self._opening is not None:
                opening, self._opening = self._opening, None
                opening.callback(None)
        elif isinstance(event, Secure):
            self._begin_tls()
        elif isinstance(event, KeyWanted):
            Deferred.fromCoroutine(self._derive(event.derive)).addErrback(
                lambda failure: self.drop(f"no key: {failure.getErrorMessage()}")
            )
        elif isinstance(event, Broken):
            fault = Fault.REFUSED if event.reply is not None else Fault.VIOLATED
            why = event.why
            if event.insecure:
                fault = Fault.NO_TLS
            elif event.stage is Stage.AUTH and (event.reply is None or event.reply.code != 421):
                fault, why = Fault.NO_LOGIN, str(event.reply or why)
            kind = "starttls-not-supported" if event.insecure else ""
            trouble = Trouble(stage=event.stage, fault=fault, reply=event.reply, why=why, kind=kind)
            self._close(
                str(event.reply or event.why),
                polite=event.insecure or (event.reply is not None and event.reply.code != 421),
            )
            self._end(trouble)
        elif isinstance(event, Goodbye):
            if self._layer is not None:
                self.send_sealed(self._layer.seal(b"", last=True))
            self._transport.loseConnection()

    def _begin_tls(self) -> None:
        """From here on all is under TLS, of which L{handshakeCompleted} tells; or the connection is lost."""
        self._wait(self._config.connect_timeout_s)
        transport: object = self._transport
        if isinstance(transport, tcp.Connection):
            layer = self._layer = SecureLayer(self, self._contexts.connection(self.peer), client=True)
            transport.protocol = layer
            layer.begin()
        else:
            self._write_some = None
            self._transport.startTLS(self._contexts.creator(self.peer))

    @property
    def _secured_by(self) -> object:
        """What knows of TLS."""
        return self._transport if self._layer is None else self._layer

    def tls_over(self) -> None:
        """The peer has ended TLS, or there is no going on with it."""
        self._transport.loseConnection()

    async def _derive(self, wanted: Derive) -> None:
        """The key of a login, which takes too long for the reactor's thread."""
        key = await self._in_thread(lambda: thd_derive(wanted))
        for event in self.core.derived(key or b""):
            self._on(event)
        self._flush()

    def _close(self, why: str, *, polite: bool) -> None:
        """Begin to close. C{polite}: with QUIT, as RFC 5321 s.3.1 asks of a client whose greeting was a refusal."""
        self._note(why)
        if polite:
            self.core.quit()
            self._flush()
            self._wait(QUIT_S)
        else:
            self._transport.abortConnection()

    def _note(self, why: str) -> None:
        """Remember the first reason for the end."""
        self._why = self._why or why

    def _end(self, trouble: Trouble) -> None:
        """The session is worth nothing any more: whoever waits for it is told why."""
        self._note(trouble.why or trouble.fault.value)
        if self._opening is not None:
            opening, self._opening = self._opening, None
            opening.callback(trouble)
        if self._delivering is not None:
            self._deliver(Delivery(outcome=self.core.outcome(), trouble=trouble, sent=self._sent))
        if self.ended is not None:
            ended, self.ended = self.ended, None
            ended(self)

    def _deliver(self, delivery: Delivery) -> None:
        self._content = None
        delivering, self._delivering = self._delivering, None
        if delivering is not None:
            delivering.callback(delivery)

    # Content

    def _send_content(self) -> None:
        content = self._content
        if content is None or self.core.stage is not Stage.CONTENT:
            return  # the session broke in the same octets that held the 354
        if content.in_memory:
            octets = content.read()
            self.core.content(octets)
            self._sent = len(octets)
            self._end_content()
        else:
            self._wait(self._config.command_timeout_s)
            Deferred.fromCoroutine(self._stream(content)).addErrback(self._stream_failed)

    def _end_content(self) -> None:
        self.core.end_content()
        self._flush()
        self._wait(self._config.data_timeout_s)

    async def _stream(self, content: Content) -> None:
        """Send content from a file."""
        mine = self._delivering
        pieces: Iterator[bytes] = content.chunks(PIECE)
        self._transport.registerProducer(self, True)
        try:
            while True:
                piece = await self._in_thread(lambda: next(pieces, None))
                if self._delivering is not mine or self.core.stage is not Stage.CONTENT or self._why:
                    return  # refused or lost meanwhile
                if piece is None:
                    break
                self.core.content(piece)
                self._sent += len(piece)
                self._flush()
                self._wait(self._config.command_timeout_s)
                if self._roomy is not None:
                    await self._roomy
        finally:
            if self._connected:
                self._transport.unregisterProducer()
        self._end_content()

    def _stream_failed(self, failure: Failure) -> None:
        """The content cannot be read: without its final dot the peer throws away what it has."""
        stage = self.core.stage
        self.drop("message cannot be read")
        if failure.check(OSError):
            self._end(
                Trouble(stage=stage, fault=Fault.OURS, why=f"Message cannot be read: {failure.getErrorMessage()}")
            )
        elif self._delivering is not None:
            delivering, self._delivering = self._delivering, None
            delivering.errback(failure)

    # Octets and time

    def _flush(self) -> None:
        """
        Send what the core has to say.

        Straight to the socket when nothing is waiting there: the reactor would do it a turn later, for two more
        system calls.
        """
        octets = self.core.take()
        if not octets or not self._connected:
            return
        if self.trace is not None:
            self.trace.commands(octets)
        self.send_sealed(octets if self._layer is None else self._layer.seal(octets))

    def send_sealed(self, octets: bytes) -> None:
        """Octets as they go over the wire."""
        if not octets or not self._connected:
            return
        if self._write_some is not None and not self._buffered:
            count = self._write_some(octets)
            while count == SEND_LIMIT < len(octets):  # the socket may have room for more
                octets = octets[SEND_LIMIT:]
                count = self._write_some(octets)
            if count == len(octets):
                return
            self._buffered = True
            if isinstance(count, int) and count > 0:
                octets = octets[count:]
            # Anything else is an error, which the reactor will meet again and treat as it should.
        self._transport.write(octets)

    def _wait(self, seconds: float) -> None:
        """
        Give the peer so long from now. The timer is not moved at each step, only looked at again when it rings.
        """
        now = self._reactor.seconds()
        self._deadline = now + seconds
        if self._timer is None:
            self._timer = self._reactor.callLater(seconds, self._ring)
        elif self._timer.getTime() > self._deadline:
            self._timer.reset(seconds)

    def _ring(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        left = self._deadline - self._reactor.seconds()
        if left > 0:
            self._timer = self._reactor.callLater(left, self._ring)
            return
        stage = self.core.stage
        self._note("timed out")
        self._transport.abortConnection()
        self._end(Trouble(stage=stage, fault=Fault.TIMED_OUT))


def _ends(transport: ITransport, peer: Peer) -> str:
    """Both ends in the form of the transaction log."""
    if is_socket(peer.address):
        return "UNIX"
    here = transport.getHost()
    return f"TCP|{getattr(here, 'host', '')}|{getattr(here, 'port', '')}|{peer.address}|{peer.port}"
