"""
A network in memory: what a pool dials ends at a scripted sink, and octets move when a test says so.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from zope.interface import implementer

from qmailpy.config.schema import ChannelConfig
from qmailpy.remote.delivery import Remote
from qmailpy.remote.memory import HostMemory
from qmailpy.remote.mx import Reach
from qmailpy.remote.peers import Finder, Peer
from qmailpy.remote.pool import Pool
from qmailpy.remote.session import Session
from qmailpy.remote.tls import Contexts
from qmailpy.testing.smtp_sink import Script, SinkFactory
from qmailpy.testing.tables_resolver import TablesResolver

T = TypeVar("T")

CONTEXTS = Contexts()


@implementer(IReactorTCP)
class Network(Clock):
    """Hosts by (address, port); an address without a host refuses connections, or never answers if C{silent}."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[tuple[str, int], SinkFactory] = {}
        self.silent: set[str] = set()
        self.failure: Exception | None = None  # of the next connection
        self.dialled: list[tuple[str, int]] = []
        self.pumps: list[IOPump] = []
        self.turns: list[Deferred[None]] = []  # who waits for octets to have moved

    def host(self, address: str, script: Script | None = None, port: int = 25) -> SinkFactory:
        """Put a sink there."""
        self.hosts[address, port] = sink = SinkFactory(self, script)
        return sink

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: object = None) -> Any:
        self.dialled.append((host, port))
        factory.doStart()
        if self.failure is not None:
            error, self.failure = self.failure, None
            factory.clientConnectionFailed(self, Failure(error))
        elif (host, port) in self.hosts:
            server = self.hosts[host, port].buildProtocol(None)
            client = factory.buildProtocol(IPv4Address("TCP", host, port))
            here, there = IPv4Address("TCP", "192.0.2.99", 50000), IPv4Address("TCP", host, port)
            self.pumps.append(
                connect(
                    server,
                    FakeTransport(server, True, there, here),
                    client,
                    FakeTransport(client, False, here, there),
                    greet=False,
                )
            )
        elif host in self.silent:
            self.callLater(timeout, factory.clientConnectionFailed, self, Failure(TimedOut()))
        else:
            factory.clientConnectionFailed(self, Failure(Refused(111, "Connection refused")))
        return self

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        raise NotImplementedError("nobody listens here")

    def stopConnecting(self) -> None:
        """Part of IConnector; nothing to stop."""

    def settle(self) -> None:
        """Move octets until none are on their way."""
        moved = True
        while moved:
            self.advance(0)
            moved = sum(bool(pump.pump()) for pump in list(self.pumps)) + bool(self.turns) > 0
            turns, self.turns = self.turns, []
            for turn in turns:
                turn.callback(None)

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.advance(seconds)
        self.settle()


class Connections:
    """Remembers what a watcher is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def opened(self, session: Session) -> None:
        self.said.append(f"opened {session.ends}")

    def closed(self, session: Session, why: str) -> None:
        self.said.append(f"closed {session.ends} {why}")

    def unreached(self, peer: Peer, why: str) -> None:
        self.said.append(f"unreached {peer.host} {why}")


class World:
    """A channel's way out, over a network in memory."""

    def __init__(self, resolver: TablesResolver | None = None, kind: str = "smtp", **options: Any) -> None:
        self.network = Network()
        self.config = ChannelConfig(name="tcp_local", kind=kind, **options)
        self.memory = HostMemory(self.network.seconds)
        self.watcher = Connections()
        self.pool = Pool(self.network, self.network, self.config, self.memory, self.watcher, self.session)
        finder = Finder(
            resolver or TablesResolver(addresses={"mx.example": ["192.0.2.1"]}),
            our_names=("us.example",),
            reach=Reach(allow_loopback=False, is_ours=lambda address: address == "192.0.2.99"),
            shuffle=lambda exchanges: None,
        )
        self.remote = Remote(self.config, finder, self.pool, self.memory, self.network.seconds, self.in_thread)

    async def in_thread(self, read: Any) -> Any:
        """A turn later."""
        turn: Deferred[None] = Deferred()
        self.network.turns.append(turn)
        await turn
        return read()

    def session(self, peer: Peer) -> Session:
        return Session(self.network, peer, "us.example", self.config, self.watcher, self.in_thread, CONTEXTS)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Start it and let the network settle."""
        running = Deferred.fromCoroutine(coroutine)
        self.network.settle()
        return running
