"""
DNS messages over UDP and TCP, without knowing what is in them: L{qmailpy.remote.resolver.Ask} on a reactor.

A socket and a source port of its own for each question, connected to the server: the kernel drops what comes from
anywhere else, and who would forge an answer has to guess port and id.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from qmailpy.config.schema import DnsConfig
from qmailpy.remote.resolver import Resolver

RESOLV_CONF = "/etc/resolv.conf"


class IDnsReactor(IReactorTime, IReactorTCP, IReactorUDP):
    """What asking the DNS needs of a reactor."""


class _Datagram(DatagramProtocol):
    """One question over UDP."""

    noisy = False
    transport: IUDPTransport

    def __init__(self, query: bytes, server: tuple[str, int], answer: Deferred[bytes]) -> None:
        self._query = query
        self._server = server
        self._answer = answer

    def startProtocol(self) -> None:
        self.transport.connect(*self._server)
        self.transport.write(self._query, None)

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        if datagram[:2] == self._query[:2] and not self._answer.called:
            self._answer.callback(datagram)

    def connectionRefused(self) -> None:
        if not self._answer.called:
            self._answer.errback(Failure(ConnectionRefusedError("name server refuses connections")))


class _Stream(Protocol):
    """One question over TCP: two octets of length before each message (RFC 1035 s.4.2.2)."""

    def __init__(self, query: bytes, answer: Deferred[bytes]) -> None:
        self._query = query
        self._answer = answer
        self._received = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(len(self._query).to_bytes(2, "big") + self._query)

    def dataReceived(self, data: bytes) -> None:
        if self._answer.called:
            return
        self._received += data  # at most 64 KiB, the length says
        end = 2 + int.from_bytes(self._received[:2], "big")
        if len(self._received) >= max(end, 2):
            self._answer.callback(self._received[2:end])

    def close(self) -> None:
        """The question is over, with or without an answer."""
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._answer.called:
            self._answer.errback(Failure(ConnectionError("name server closed the connection")))


class ReactorAsk:
    """Questions over a reactor's sockets."""

    def __init__(self, reactor: IDnsReactor) -> None:
        self._reactor = reactor

    async def __call__(self, query: bytes, server: tuple[str, int], timeout_s: float, *, tcp: bool) -> bytes:
        answer: Deferred[bytes] = Deferred()
        timer = self._reactor.callLater(timeout_s, _late, answer)
        try:
            return await (self._over_tcp if tcp else self._over_udp)(query, server, timeout_s, answer)
        finally:
            if timer.active():
                timer.cancel()

    async def _over_udp(
        self, query: bytes, server: tuple[str, int], timeout_s: float, answer: Deferred[bytes]
    ) -> bytes:
        here = "::" if ":" in server[0] else ""
        # Twisted reads at most max_packet_size octets of a datagram.
        try:
            port = self._reactor.listenUDP(0, _Datagram(query, server, answer), interface=here, maxPacketSize=65535)
        except CannotListenError as error:  # no descriptors left, which is no OSError to Twisted
            raise OSError(f"no socket: {error.socketError}") from error
        try:
            return await answer
        finally:
            port.stopListening()

    async def _over_tcp(
        self, query: bytes, server: tuple[str, int], timeout_s: float, answer: Deferred[bytes]
    ) -> bytes:
        kind = TCP6ClientEndpoint if ":" in server[0] else TCP4ClientEndpoint
        endpoint = kind(self._reactor, server[0], server[1], timeout=max(1, int(timeout_s)))
        stream = _Stream(query, answer)
        factory = Factory.forProtocol(lambda: stream)
        factory.noisy = False
        await endpoint.connect(factory)
        try:
            return await answer
        finally:
            stream.close()


def _late(answer: Deferred[bytes]) -> None:
    if not answer.called:
        answer.errback(Failure(TimeoutError("no answer from the name server")))


def servers(config: DnsConfig, resolv_conf: str = RESOLV_CONF) -> Sequence[tuple[str, int]]:
    """
    The name servers to ask. Reads a small file when the configuration names none: for a thread, or the start.

    @raise ValueError: a server is not C{ADDRESS} or C{ADDRESS:PORT} (an IPv6 address with port in brackets).
    """
    named = config.servers
    if not named:
        try:
            with open(resolv_conf, encoding="ascii", errors="replace") as lines:
                words = [line.split() for line in lines if line.startswith("nameserver")]
            named = tuple(found[1].partition("%")[0] for found in words if len(found) > 1)
        except OSError:
            named = ()
    return tuple(_server(text) for text in named) or (("127.0.0.1", 53),)  # resolv.conf(5): the default


def _server(text: str) -> tuple[str, int]:
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        number = rest.removeprefix(":")
    elif text.count(":") > 1:
        address, number = text, ""
    else:
        address, _, number = text.partition(":")
    return address, int(number) if number else 53


def resolver(reactor: IDnsReactor, config: DnsConfig) -> Resolver:
    """The resolver of a node; called once by C{app}."""
    return Resolver(ReactorAsk(reactor), servers(config), config.timeout_s, reactor.seconds, trusted=config.trusted)
