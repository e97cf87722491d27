"""
What the probe tests have in common: a server as strangers meet it, and a client that says anything.

The listener is that of an MX, and that of users where it says so; routing is the real one over a directory of one user.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from qmailpy.auth.logins import Logins
from qmailpy.auth.throttle import Throttle
from qmailpy.config.schema import (
    ChannelConfig,
    Config,
    ListenerConfig,
    LogConfig,
    QueueConfig,
    RuleConfig,
    ServerConfig,
    TrustConfig,
)
from qmailpy.routing.router import Router
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.tls import OWN, Certificates
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.memory_recorder import MemoryRecorder
from tests.integration.submitting import made_pair
from tests.integration.test_smtp_server import LaterQueue

T = TypeVar("T")
HELLO = b"EHLO probe.example\r\n"
MAIL = b"MAIL FROM:<a@probe.example>\r\n"
RCPT = b"RCPT TO:<joe@example.org>\r\n"
BEGIN = HELLO + MAIL + RCPT
HEAD = b"Subject: x\r\n\r\n"
EVIL = b"MAIL FROM:<evil@probe.example>\r\nRCPT TO:<joe@example.org>\r\nDATA\r\nevil\r\n.\r\n"


def codes_of(said: bytes | bytearray) -> list[str]:
    return [line[:3].decode() for line in bytes(said).split(b"\r\n") if line[3:4] == b" "]


class _Forgetful(MemoryDirectory):
    """Keeps no list of the questions: a flood's would be long."""

    def _asked(self, question: str, key: str) -> None:
        """Nothing is wrong with it here, either."""


class Probing(TestCase):
    """A server, and what may be asked of it and behind it."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        self.queue = LaterQueue()
        self.queue.reactor = IReactorTime(global_reactor)
        directory = _Forgetful(
            ("example.org",), ("joe@example.org", "postmaster@example.org"), passwords={"joe@example.org": b"sesame"}
        )
        config = Config(
            home="/nowhere",
            server=ServerConfig(hostname="mx.example.org"),
            channels={kind: ChannelConfig(name=kind, kind=kind) for kind in ("smtp", "local", "process")},
            rules=(RuleConfig(pattern=".", channel="smtp"),),
        )
        patient = Throttle(IReactorTime(global_reactor).seconds, free=1000, client_failures=1000, account_failures=1000)
        self.factories: list[SmtpFactory] = []
        self.ports: dict[str, int] = {}
        for name, kind, errors in (("mx", "smtp", 1000), ("users", "submission", 20)):
            factory = SmtpFactory(
                IReactorTime(global_reactor),
                hostname="mx.example.org",
                listener=ListenerConfig(name=name, kind=kind, endpoint="tcp:0", errors=errors),
                enqueue=self.queue,
                router=Router(config, directory),
                recorder=MemoryRecorder(),
                queue=QueueConfig(message_octets=1 << 22),
                log=LogConfig(),
                trust=TrustConfig(networks=()),
                postmaster="postmaster@example.org",
                certificates=Certificates({OWN: made_pair("localhost")}),
                logins=Logins(IReactorTime(global_reactor), directory, throttle=patient),
                directory=directory,
            )
            port = await TCP4ServerEndpoint(IReactorTCP(global_reactor), 0, interface="127.0.0.1").listen(factory)
            self.factories.append(factory)
            self.ports[name] = port.getHost().port
            self.addCleanup(self.stop, factory, port.stopListening)

    async def _stop(self, factory: SmtpFactory, stop_listening: Callable[[], Deferred[None] | None]) -> None:
        await (stop_listening() or succeed(None))
        await factory.drain(grace_s=2)

    def stop(self, factory: SmtpFactory, stop_listening: Callable[[], Deferred[None] | None]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop(factory, stop_listening))

    def in_thread(self, client: Callable[[], T]) -> Deferred[T]:
        return deferToThread(client)

    def connect(self, name: str = "mx") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), timeout=20)

    def talk(self, octets: Iterable[bytes], replies: int = 0, *, wrap: bool = False) -> list[str]:
        """
        The codes of all replies to the octets, the greeting apart. The client says no more behind them, but waits for
        so many replies before it ends its side.

        @param wrap: to the listener of users, under TLS.
        """
        said = bytearray()
        with self.connect("users" if wrap else "mx") as clear:
            client = self.wrapped(clear) if wrap else clear
            reader = Thread(target=self.read, args=(client, said))
            if not wrap:
                reader.start()
            try:
                for part in octets:
                    client.sendall(part)
                if wrap:
                    client.sendall(b"\r\nNOOP\r\nQUIT\r\n")
                    self.read(client, said)
                else:
                    limit = time.monotonic() + 10
                    while len(codes_of(said)) <= replies and reader.is_alive() and time.monotonic() < limit:
                        reader.join(0.001)
                    client.shutdown(socket.SHUT_WR)
            except (ConnectionError, OSError):
                pass  # it hung up on us
            if not wrap:
                reader.join()
            client.close()
        return codes_of(said)[0 if wrap else 1 :]

    def wrapped(self, client: socket.socket) -> ssl.SSLSocket:
        client.sendall(HELLO + b"STARTTLS\r\n")
        said = b""
        while b"\r\n220 2" not in said:
            said += client.recv(65536)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(client)

    def read(self, client: socket.socket, said: bytearray) -> None:
        try:
            while more := client.recv(65536):
                said += more
        except OSError:
            pass  # the end of it, too

    def assert_nothing_evil(self) -> None:
        """Nothing was accepted that the session had not honestly sent, and nothing that leads elsewhere."""
        for message in self.queue.messages:
            self.assertNotEqual(message.envelope.sender, "evil@probe.example")
            self.assertEqual({each.channel for each in message.envelope.recipients}, {"local"})
            body = message.content
            self.assertNotIn(b"\0", body)
            self.assertEqual(body.count(b"\r"), body.count(b"\r\n"))
            self.assertEqual(body.count(b"\n"), body.count(b"\r\n"))
