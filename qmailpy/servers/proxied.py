"""
Connections that come through a load balancer: its PROXY header is read first, and then the connection is the client's.

Only for addresses a listener names (C{proxy} in its configuration); from these the header must come, and at once.
Behind it the session's protocol takes the transport over, which from then on tells the client's address as its peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.wire.proxy import BadProxy, Proxied, read

HEADER_S = 10.0
"""How long the header may take."""


class ProxyFront(Protocol):
    """Reads the header, then gives way."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime, session: Callable[[], IProtocol]) -> None:
        """@param session: makes the protocol of the client's session."""
        self._reactor = reactor
        self._session = session
        self._octets = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._timer = self._reactor.callLater(HEADER_S, self._refuse, "no PROXY header in time")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        try:
            found = read(self._octets)
        except BadProxy as problem:
            self._refuse(str(problem))
            return
        if found is not None:
            self._stop_timer()
            self._give_way(found)

    def _give_way(self, found: Proxied) -> None:
        transport: Any = self.transport
        peer = _address(found.ip, found.port)
        transport.getPeer = lambda: peer
        if found.ip:
            host = _address(found.our_ip, found.our_port)
            transport.getHost = lambda: host
        rest, self._octets = self._octets[found.octets :], b""
        session = self._session()
        transport.protocol = session
        session.makeConnection(transport)
        if rest:
            # Not the session's: where TLS comes first it stands before it by now.
            transport.protocol.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        transport: Any = self.transport
        self._log.warn("connection from {peer} refused: {why}", peer=getattr(transport.getPeer(), "host", ""), why=why)
        self._octets = b""
        transport.abortConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _address(ip: str, port: int) -> IPv4Address | IPv6Address:
    """Who it is not known of is nobody: not the load balancer, which may be trusted."""
    return IPv6Address("TCP", ip, port) if ":" in ip else IPv4Address("TCP", ip or "0.0.0.0", port)
