"""
One connection of a server: what a session does with its transport, whatever it speaks.

    makeConnection --> arrive: one of the site's sessions, admitted or turned away
    write            straight to the socket while it takes all; what it does not is left to the transport
    pause, resume    reading stops as long as there is a reason not to
    the clock        looks in once in a while; ends who is silent, or does not get on with TLS
    close            last words leave, then the connection ends; cut off when the client does not take them

A session is a subclass, and the only one of its connection: thousands may be idle, so that one is slots and a core,
without a container or an object more than it needs.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import Any, Protocol

from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IProtocol, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.events.traces import Session as Trace
from qmailpy.remote.secure import SecureLayer
from qmailpy.servers.clients import plain_address
from qmailpy.servers.sessions import ListenerSite
from qmailpy.servers.tls import Certificates

# Why the transport is paused; it reads while there is no reason.
ANSWER = 1  # the client is ahead of our answers
FLOW = 2  # what it sends cannot be taken so fast
OUTPUT = 4  # it does not take what we send

FULL_OCTETS = 65536
"""As much as the transport reads at a time, unless it is told otherwise."""

WIDE_OCTETS = 262_144
"""As much as it reads of a large message, for a quarter of the turns; no more than a core keeps while it waits."""

LINGER_S = 30.0
"""For a client to take our last words."""

HANDSHAKE_S = 60.0
"""For TLS to come up."""


class TurnedAway(Enum):
    """Why a connection is not admitted."""

    STOPPING = "stopping"
    FULL = "too many connections"
    CLIENT_FULL = "too many connections of one client"


class Core(Protocol):
    """The protocol without I/O, as far as the transport is concerned."""

    @property
    def closed(self) -> bool:
        """Nothing more is read."""

    def take(self) -> bytes:
        """What is to be sent."""


def near(host: Any, ip: str) -> bool:
    """
    Whether what a client says is heard by nobody but this machine's root.

    @param host: our end of the connection.
    """
    return isinstance(host, UNIXAddress) or ip == "::1" or ip.startswith("127.")


@implementer(IProtocol, IHandshakeListener, IPushProducer)
class Connection:
    """
    The transport half of a session. As a producer it makes answers, and stops by not reading questions.

    A subclass gives L{dataReceived}, L{connectionMade}, L{connectionLost}, C{stop}, and what stands under "For the
    session to say".
    """

    __slots__ = (
        "_closing",
        "_core",
        "_direct",
        "_heard",
        "_ip",
        "_layer",
        "_lost",
        "_pauses",
        "_registered",
        "_shaking",
        "_site",
        "_timer",
        "_trace",
        "_trusted",
        "transport",
    )

    _core: Core
    _site: ListenerSite

    def __init__(self) -> None:
        self.transport: Any = None
        self._direct: socket.socket | None = None  # where to write without waiting for the reactor's next turn
        self._layer: SecureLayer | None = None  # TLS, when it is ours and not the transport's
        self._ip = ""
        self._trusted = False
        self._lost = False
        self._closing = False
        self._registered = False
        self._shaking = False  # TLS has begun and is not there yet
        self._pauses = 0
        self._heard = 0.0
        self._timer: IDelayedCall | None = None
        self._trace: Trace | None = None  # where what is said is written down

    # For the session to say

    def _working(self) -> bool:
        """Whether it is we who keep the client waiting: its silence does not count then."""
        raise NotImplementedError

    def _limit(self) -> float:
        """How long the client may be silent now, in seconds; of a handshake L{Connection} knows."""
        raise NotImplementedError

    def _timed_out(self) -> None:
        """The client was silent for too long: end the session."""
        raise NotImplementedError

    def _dawdling(self, now: float) -> bool:
        """Whether the client sends, but slower than it must; asked once in a while."""
        return False

    def _too_slow(self) -> None:
        """It does: end the session."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """The session is over: end what is under way. May be called again."""
        raise NotImplementedError

    # IProtocol

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        raise NotImplementedError

    def dataReceived(self, data: bytes) -> None:
        raise NotImplementedError

    def connectionLost(self, reason: Failure) -> None:
        raise NotImplementedError

    # IHandshakeListener

    def handshakeCompleted(self) -> None:
        self._shaking = False
        self._site.tally.tls += 1
        self._heard = self._site.reactor.seconds()
        if self._trace is not None:
            self._trace.note("TLS is up")

    # IPushProducer

    def pauseProducing(self) -> None:
        self._pause(OUTPUT)

    def resumeProducing(self) -> None:
        self._resume(OUTPUT)

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost follows."""

    # Come and go

    def _arrive(self) -> tuple[Any, Any]:
        """
        Find out who is there; first of all.

        @return: the addresses of our end and of theirs.
        """
        transport = self.transport
        host, peer = transport.getHost(), transport.getPeer()
        self._ip = plain_address(getattr(peer, "host", ""))
        # Who may open our UNIX socket is one of us: its mode says so.
        self._trusted = isinstance(host, UNIXAddress) or self._ip in self._site.trusted
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if isinstance(transport, tcp.Connection) and not transport.TLS:
            self._direct = transport.socket
        return host, peer

    def _admit(self) -> TurnedAway | None:
        """Become one of the site's sessions; and whether it must be a short one."""
        site = self._site
        site.sessions.add(self)
        count = site.counts.add(self._ip)
        self._heard = site.reactor.seconds()
        site.tally.connections += 1
        if site.traces is not None and site.traces.active:
            self._trace = site.traces.incoming(site.listener.name, self._ip, pop3=site.listener.kind == "pop3")
        found = None
        if site.sessions.draining:
            found = TurnedAway.STOPPING
        elif len(site.sessions) > site.listener.connections:
            found = TurnedAway.FULL
        elif not self._trusted and count > site.listener.connections_per_client:
            found = TurnedAway.CLIENT_FULL
        if found is not None:
            site.tally.turned_away += 1
        return found

    def _cut(self) -> None:
        """The connection is lost: nothing reaches the client any more."""
        self._lost = True
        self._direct = self._layer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sign_off(self) -> None:
        """Last of all: be none of the site's sessions any more."""
        self._site.counts.remove(self._ip)
        self._site.sessions.discard(self)
        if self._trace is not None:
            self._trace.ended("")
            self._trace = None

    def stop(self) -> None:
        """End the session now, unless it is in the middle of something: then behind that."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the connection at once."""
        if not self._lost:
            self.transport.abortConnection()

    # Out

    def _flush(self) -> None:
        """Send what there is to send, and close when that was the last of it."""
        core = self._core
        octets = core.take()
        if octets and not self._lost:
            self._write(octets, last=core.closed)
        if core.closed:
            self._close()

    def _write(self, octets: bytes, *, last: bool = False) -> None:
        """
        @param last: nothing follows.
        """
        if self._trace is not None:
            self._trace.replies(octets)
        if self._layer is not None:
            octets = self._layer.seal(octets, last=last)
        self.send_sealed(octets)

    def send_sealed(self, octets: bytes) -> None:
        """Octets as they go over the wire."""
        if not octets:
            return
        # An answer nearly always fits the socket's buffer. Sending it now and not in the reactor's next turn saves a
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

    def _start_handshake(self, certificates: Certificates) -> None:
        """From here on what is written leaves under TLS; not before L{handshakeCompleted}."""
        self._shaking = True
        self._arm(min(self._shortest(), HANDSHAKE_S))
        transport = self.transport
        if isinstance(transport, tcp.Connection):
            transport.protocol = self._layer = SecureLayer(self, certificates.serverConnectionForTLS(None))
        else:
            self._direct = None
            transport.startTLS(certificates)

    @property
    def _secured_by(self) -> Any:
        """What knows of TLS: it has a C{getHandle}."""
        return self.transport if self._layer is None else self._layer

    def tls_over(self) -> None:
        """The client has ended TLS, or there is no going on with it."""
        self._close()

    def _close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self._write(b"", last=True)
        self._direct = None
        self._let_go()
        if self._registered:
            self.transport.unregisterProducer()
            self._registered = False
        self.transport.loseConnection()
        if not self._lost:  # not yet: the client may be slow to take what is left, or never take it
            self._arm(LINGER_S)

    # In

    def _widen(self) -> None:
        """As much as a read may bring has come, of something large: have the next ones bring more."""
        if isinstance(self.transport, tcp.Connection):
            self.transport.bufferSize = WIDE_OCTETS

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

    def _shortest(self) -> float:
        """The limit that may be the one that counts by then."""
        listener = self._site.listener
        return min(listener.command_timeout_s, listener.data_timeout_s)

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
        if self._core.closed or self._closing:
            self.transport.abortConnection()
            return
        now = self._site.reactor.seconds()
        if self._working():
            self._heard = now
        limit = min(self._limit(), HANDSHAKE_S) if self._shaking else self._limit()
        left = self._heard + limit - now
        if self._dawdling(now):
            self._too_slow()
        elif left > 0:
            self._arm(min(left, self._shortest()))
        elif self._shaking:
            self.abort()  # there is no way to tell it anything
        else:
            self._timed_out()
