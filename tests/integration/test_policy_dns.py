"""Lists, names and domains in a real zone, asked by the real resolver over sockets while real clients talk."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import fail, maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IReactorUDP
from twisted.internet.threads import deferToThread
from twisted.names import dns
from twisted.names.cache import CacheResolver
from twisted.names.error import DomainError
from twisted.names.server import DNSServerFactory
from twisted.trial.unittest import TestCase

from qmailpy.config.schema import (
    ChecksConfig,
    Config,
    DnsConfig,
    DnsListConfig,
    ListenerConfig,
    LogConfig,
    QueueConfig,
    ServerConfig,
    TrustConfig,
)
from qmailpy.policy.gate import Gate
from qmailpy.remote.dns_wire import IDnsReactor, resolver
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.testing.memory_queue import MemoryQueue
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, local

BAD, GOOD, NAMED, PLAIN = "127.0.0.66", "127.0.0.77", "127.0.0.88", "127.0.0.99"


class Zone(CacheResolver):
    """
    What the name server knows: names with one kind of records. Everything else does not exist.

    Answers as twisted.names wants them from a resolver: answers, authority, additional.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[bytes, Any] = {
            b"88.0.0.127.in-addr.arpa": dns.Record_PTR(b"host.test", ttl=60),
            b"99.0.0.127.in-addr.arpa": dns.Record_PTR(b"host.test", ttl=60),
            b"null.test": dns.Record_MX(0, b"", ttl=60),
        }
        self.why = dns.Record_TXT(b"see https://bad.test/?ip=66\r\n250 \xc3\xa9", b" or not", ttl=60)
        for name, address in (
            (b"66.0.0.127.bad.test", "127.0.0.2"),
            (b"77.0.0.127.bad.test", "127.0.0.2"),
            (b"77.0.0.127.good.test", "127.0.10.3"),
            (b"88.0.0.127.bad.test", "127.255.255.254"),
            (b"99.0.0.127.bad.test", "192.0.2.1"),
            (b"host.test", NAMED),
            (b"sender.test", "192.0.2.1"),
        ):
            self.known[name] = dns.Record_A(address, ttl=60)

    def query(self, query: Any, timeout: Any = None) -> Any:
        name = query.name.name.lower()
        if name == b"66.0.0.127.bad.test" and query.type == dns.TXT:
            return succeed(([dns.RRHeader(name, dns.TXT, payload=self.why, ttl=60)], [], []))
        record = self.known.get(name)
        if record is None:
            return fail(DomainError(name))
        found = [dns.RRHeader(name, record.TYPE, payload=record, ttl=60)] if query.type == record.TYPE else []
        return succeed((found, [], []))


class PolicyDnsTests(TestCase):
    """The gate over a real resolver."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        factory = DNSServerFactory(clients=[Zone()])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        protocol.noisy = False
        port = IReactorUDP(global_reactor).listenUDP(0, protocol, "127.0.0.1", 8192)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        self.server = f"127.0.0.1:{cast(Any, port.getHost()).port}"

    async def talk(self, server: str, *cases: tuple[str, str], lists: bool = True, **checks: Any) -> list[str]:
        """What RCPT is answered, for (client, sender)."""
        config = Config(
            home="/nowhere",
            server=ServerConfig(hostname="mx.test"),
            checks=ChecksConfig(**checks),
            dnslists=(DnsListConfig(zone="bad.test"), DnsListConfig(zone="good.test", weight=-2.0)) if lists else (),
        )
        clock = IReactorTime(global_reactor)
        asking = resolver(cast(IDnsReactor, global_reactor), DnsConfig(servers=(server,), timeout_s=3.0))
        router = ScriptedRouter()
        router.now["b@example.org"] = local("b@example.org")
        factory = SmtpFactory(
            clock,
            hostname="mx.test",
            listener=ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:0"),
            enqueue=MemoryQueue(),
            router=router,
            recorder=MemoryRecorder(),
            queue=QueueConfig(),
            log=LogConfig(),
            trust=TrustConfig(networks=()),
            gate=Gate(clock, config, {}, asking, MemoryEvents(), maybeDeferred),
        )
        port = await TCP4ServerEndpoint(IReactorTCP(global_reactor), 0, interface="127.0.0.1").listen(factory)
        try:
            number = cast(Any, port.getHost()).port
            return [await deferToThread(self.ask, number, client, sender) for client, sender in cases]
        finally:
            await maybeDeferred(port.stopListening)
            await factory.drain(1.0)

    def ask(self, port: int, client: str, sender: str) -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(client, 0)) as talking:
            talking.sendall(f"EHLO c.test\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<b@example.org>\r\nQUIT\r\n".encode())
            said = b""
            while more := talking.recv(65536):
                said += more
        return [line.decode() for line in said.split(b"\r\n") if line[3:4] == b" "][3]

    async def test_lists(self) -> None:
        said = await self.talk(self.server, *((client, "") for client in (BAD, GOOD, NAMED, PLAIN)))
        self.assertEqual(said[0], f"550 5.7.1 {BAD} is listed by bad.test: see https://bad.test/?ip=66??250 ? or not")
        self.assertEqual([each[:3] for each in said[1:]], ["250", "250", "250"])

    async def test_names_and_domains(self) -> None:
        said = await self.talk(
            self.server,
            (NAMED, "a@sender.test"),
            (NAMED, "a@nowhere.test"),
            (NAMED, "a@null.test"),
            (PLAIN, ""),
            (BAD, ""),
            lists=False,
            reverse_name="confirmed",
            sender_domain="reject",
        )
        self.assertEqual([each[:10].strip() for each in said][:3], ["250 2.1.5", "550 5.1.8", "550 5.7.27"])
        self.assertEqual([each[:10] for each in said][3:], ["550 5.7.25", "550 5.7.25"])

    async def test_a_silent_name_server_lets_everybody_in_after_a_while(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            server = f"127.0.0.1:{silent.getsockname()[1]}"
            clock = IReactorTime(global_reactor)
            begun = clock.seconds()
            said = await self.talk(server, (BAD, "a@nowhere.test"), sender_domain="reject", dns_timeout_s=0.5)
            self.assertEqual(said[0][:3], "250")
            self.assertLess(clock.seconds() - begun, 2.5)
