"""
What strangers try, each with the answer it must get: never an open relay, nothing injected, nothing smuggled, memory
flat, others served, no traceback.

The listener is that of an MX, and that of users where it says so; routing is the real one over a directory of one user.
"""

from __future__ import annotations

import base64
import gc
import resource
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
from tests.integration.test_smtp_server import LaterQueue
from tests.integration.test_submission import made_pair

T = TypeVar("T")
HELLO = b"EHLO probe.example\r\n"
MAIL = b"MAIL FROM:<a@probe.example>\r\n"
RCPT = b"RCPT TO:<joe@example.org>\r\n"
BEGIN = HELLO + MAIL + RCPT
HEAD = b"Subject: x\r\n\r\n"
EVIL = b"MAIL FROM:<evil@probe.example>\r\nRCPT TO:<joe@example.org>\r\nDATA\r\nevil\r\n.\r\n"

RECIPIENTS = (
    # (what is named, the answer)
    ("joe@example.org", "250"),
    ("JOE@EXAMPLE.ORG", "250"),
    ("joe@other.example", "550"),
    ("out%other.example@example.org", "550"),
    ("joe%example.org@other.example", "550"),
    ("other.example!out@example.org", "550"),
    ("example.org!joe@other.example", "550"),
    ('"out@other.example"@example.org', "550"),
    ('"joe@example.org"@other.example', "550"),
    ("@example.org:out@other.example", "550"),
    ("@example.org,@example.org:out@other.example", "550"),
    ("out@[192.0.2.1]", "550"),
    ("out@[127.0.0.1]", "550"),
    ("out@[IPv6:::1]", "550"),
    ("out@other.example@example.org", "501"),
    ("joe@example.org@other.example", "501"),
    ("joe@", "501"),
    ("@example.org", "501"),
    ("joe", "501"),
    ("", "501"),
    (" ", "501"),
    ('""@example.org', "550"),
    ('"joe"@example.org', "250"),
    ("a" * 64 + "@example.org", "550"),
    ("a" * 65 + "@example.org", "501"),
    ("joe@" + "a" * 64 + ".example", "501"),
    ("joe@" + "a." * 130 + "example", "501"),
    ("joe@example..org", "501"),
    ("joe@.example.org", "501"),
    (".joe@example.org", "501"),
    ("joe.@example.org", "501"),
    ("|id@example.org", "550"),
    ("`id`@example.org", "550"),
    ("$(id)@example.org", "501"),
    ("${HOME}@example.org", "550"),
    ("../../etc/passwd@example.org", "501"),
    ("etc/../passwd@example.org", "501"),
    ("etc/passwd@example.org", "550"),
    ("..@example.org", "501"),
    ("%s%n%x@example.org", "550"),
    ("-f@example.org", "550"),
    ("--help@example.org", "550"),
    ("*@example.org", "550"),
    ("j*@example.org", "550"),
    ('"joe)(mail=*"@example.org', "550"),
    ('"joe\\\\"@example.org', "550"),
    ("joe@example.org\0", "501"),
    ("jo\0e@example.org", "501"),
    ("jo\re@example.org", "501"),
    ('"jo\te"@example.org', "501"),
    ("joe@exam\u2028ple.org", "553"),
    ("jo\u2028e@example.org", "553"),
    ("joe@example.org> NOTIFY=NEVER <x", "555"),
    ("postmaster", "250"),
)

PARAMETERS = (
    # (behind MAIL FROM:<a@probe.example>, the answer)
    ("SIZE=1", "250"),
    ("SIZE=1 SIZE=1", "501"),
    ("size=1 SIZE=2", "501"),
    ("SIZE=-1", "501"),
    ("SIZE=", "501"),
    ("SIZE", "501"),
    ("SIZE=1.5", "501"),
    ("SIZE=0x10", "501"),
    ("SIZE=" + "9" * 20, "552"),
    ("SIZE=" + "9" * 21, "501"),
    ("SIZE=\u00b2", "501"),
    ("BODY=BINARYMIME", "250"),
    ("BODY=8BITMIME BODY=7BIT", "501"),
    ("SMTPUTF8=x", "501"),
    ("AUTH=<>", "555"),
    ("X=Y", "555"),
    ("=", "555"),
    ("=" * 100, "555"),
    ("X" * 1900, "555"),
    ("X" * 2100, "500"),
    ("SIZE=1\tBODY=7BIT", "501"),
    ("SIZE=1\0", "501"),
    ("\u2028", "555"),
)

ENDS = (
    # what other servers have taken for the end of data
    b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\n", b"\n.\r", b"\r.\n", b"\r\n\0.\r\n",
    b"\r\n.\0\r\n", b"\0\r\n.\0\r\n", b"\r\n.\r\0\n", b"\r\n. \r\n", b"\r\n .\r\n", b"\r\n..\r\n", b"\n..\n",
    b"\r\n.\r\r\n", b"\x85.\x85", b"\xe2\x80\xa8.\xe2\x80\xa8", b"\x0b.\x0b", b"\r\n.\x0c\r\n", b"\r\n\x08.\r\n",
)  # fmt: skip

BDATS = (
    # (octets behind BEGIN, the answers)
    (b"BDAT 0\r\nQUIT\r\n", "250 221"),
    (b"BDAT 0 LAST\r\n", "250"),
    (b"BDAT -1\r\n" + EVIL, "501"),
    (b"BDAT 100000000000000000000\r\n" + EVIL, "501"),
    (b"BDAT 10000000000000000000\r\n" + EVIL, "552"),
    (b"BDAT 99999999\r\n" + EVIL, "552"),
    (b"BDAT\r\n" + EVIL, "501"),
    (b"BDAT LAST\r\n" + EVIL, "501"),
    (b"BDAT 1 2\r\n" + EVIL, "501"),
    (b"BDAT 3\r\nabcDATA\r\nBDAT 0 LAST\r\n", "250 503 250"),
    (b"BDAT 3\r\nabc" + MAIL + b"RSET\r\nQUIT\r\n", "250 503 250 221"),
    (b"RSET\r\nBDAT %d LAST\r\n" % len(EVIL) + EVIL + b"QUIT\r\n", "250 503 221"),
    (b"BDAT %d LAST\r\n" % len(EVIL) + EVIL + b"QUIT\r\n", "250 221"),
)

AUTHS = (
    # (octets behind EHLO under TLS, the answers)
    (b"AUTH\r\n", "501"),
    (b"AUTH PLAIN !!!\r\n", "501"),
    (b"AUTH PLAIN\r\n*\r\n", "334 501"),
    (b"AUTH PLAIN\r\n\0\r\n", "334 501"),
    (b"AUTH PLAIN\r\n" + b"A" * 1000000 + b"\r\n", "334 500"),
    (b"AUTH PLAIN " + b"A" * 1000000 + b"\r\n", "500"),
    (b"AUTH PLAIN =\r\n", "501"),
    (b"AUTH PLAIN " + base64.b64encode(b"\0joe@example.org\0wrong") + b"\r\n", "535"),
    (b"AUTH PLAIN " + base64.b64encode(b"\0joe@example.org\0sesame\0") + b"\r\n", "501"),
    (b"AUTH PLAIN " + base64.b64encode(b"ann@example.org\0joe@example.org\0sesame") + b"\r\n", "535"),
    (b"AUTH LOGIN\r\n" + base64.b64encode(b"joe@example.org\0") + b"\r\n", "334 501"),
    (b"AUTH LOGIN\r\n\r\n", "334 501"),
    (b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=joe,r=") + b"\r\n", "501"),
    (b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"p=tls-unique,,n=joe,r=x") + b"\r\n", "535"),
    (b"AUTH CRAM-MD5\r\n", "504"),
    (b"AUTH \xe2\x80\xa8\r\n", "504"),
    (b"MAIL FROM:<joe@example.org>\r\n", "530"),
)


def _codes(said: bytes | bytearray) -> list[str]:
    return [line[:3].decode() for line in bytes(said).split(b"\r\n") if line[3:4] == b" "]


class ProbeTests(TestCase):
    """Issue 3: probes, each a test with the expected safe reply."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        self.queue = LaterQueue()
        self.queue.reactor = IReactorTime(global_reactor)
        directory = MemoryDirectory(
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
                    while len(_codes(said)) <= replies and reader.is_alive() and time.monotonic() < limit:
                        reader.join(0.001)
                    client.shutdown(socket.SHUT_WR)
            except (ConnectionError, OSError):
                pass  # it hung up on us
            if not wrap:
                reader.join()
            client.close()
        return _codes(said)[0 if wrap else 1 :]

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

    async def test_recipients_of_every_kind(self) -> None:
        """Never an open relay: no way of writing it leads a stranger's mail elsewhere."""

        def client() -> list[str]:
            lines = [f"RCPT TO:<{address}>\r\n".encode() for address, _ in RECIPIENTS]
            return self.talk([HELLO, MAIL, *lines])

        codes = (await self.in_thread(client))[2:]
        self.assertEqual(dict(zip((name for name, _ in RECIPIENTS), codes, strict=True)), dict(RECIPIENTS))

    async def test_parameters_of_every_kind(self) -> None:
        def client() -> list[str]:
            lines = [f"MAIL FROM:<a@probe.example> {text}\r\nRSET\r\n".encode() for text, _ in PARAMETERS]
            return self.talk([HELLO, *lines])

        codes = (await self.in_thread(client))[1::2]
        self.assertEqual(dict(zip((text for text, _ in PARAMETERS), codes, strict=True)), dict(PARAMETERS))

    async def test_ends_of_data_of_every_kind(self) -> None:
        """SMTP smuggling: what is no end of data ends nothing, and what has such a thing in it is mostly refused."""
        for end in ENDS:
            octets = BEGIN + b"DATA\r\n" + HEAD + b"a" + end + EVIL.replace(b"\r\n.\r\n", b"\r\n") + b"b\r\n.\r\n"
            codes = await self.in_thread(lambda octets=octets: self.talk([octets], 5))  # type: ignore[misc]
            self.assertIn(codes, (["250"] * 3 + ["354", "250"], ["250"] * 3 + ["354", "550"]), end)
        self.assert_nothing_evil()
        self.assertLess(len(self.queue.messages), len(ENDS))

    async def test_chunks_of_every_kind(self) -> None:
        for octets, expected in BDATS:
            codes = await self.in_thread(lambda octets=octets: self.talk([BEGIN, octets], 4))  # type: ignore[misc]
            self.assertEqual(" ".join(codes[3:]), expected, octets[:40])
        self.assert_nothing_evil()

    async def test_logins_of_every_kind(self) -> None:
        for octets, expected in AUTHS:
            codes = await self.in_thread(lambda octets=octets: self.talk([HELLO, octets], wrap=True))  # type: ignore[misc]
            self.assertEqual(" ".join(codes[1:]).split(" 500 250 221")[0], expected, octets[:40])
        self.assert_nothing_evil()

    async def test_values_with_line_ends_and_controls(self) -> None:
        """CR, LF, NUL and U+2028 in every value: refused, or harmless."""
        lines = [
            word + bad + end
            for bad in (b"\r", b"\n", b"\0", b"\xe2\x80\xa8", b"\x1b[2J")
            for word, end in (
                (b"EHLO a", b"b\r\n"),
                (b"MAIL FROM:<a", b"b@probe.example>\r\n"),
                (b"MAIL FROM:<a@b", b".example> SIZE=1\r\n"),
                (b"VRFY a", b"b\r\n"),
                (b"NOOP a", b"b\r\n"),
                (b"X", b"X\r\n"),
            )
        ]
        codes = await self.in_thread(lambda: self.talk([HELLO, *lines]))
        self.assertEqual(set(codes[1:]) - {"500", "501", "502", "503", "553"}, {"250", "252"})  # NOOP and VRFY
        self.assert_nothing_evil()

    async def test_floods_end_or_are_answered_and_memory_stays(self) -> None:
        """10^6 NOOPs and RCPTs, a command line, a header line of megabytes, 10^5 Received fields."""
        big = b"A" * (1 << 20)
        data = BEGIN + b"DATA\r\n"
        for name, parts, last in (
            ("NOOP", [HELLO, *[b"NOOP\r\n" * 10000] * 100], "421"),
            ("RCPT", [HELLO, MAIL, *[RCPT * 500] * 10], "250"),
            ("line", [HELLO, *[big] * 16, b"\r\n"], "500"),
            ("header", [data + b"Subject: ", *[big] * 16, b"\r\n\r\n.\r\n"], "552"),
            ("Received", [data, *[b"Received: x\r\n" * 1000] * 100, b"\r\n.\r\n"], "554"),
            ("body", [data + HEAD, *[big] * 16, b"\r\n.\r\n"], "552"),
            ("dots", [data + HEAD, *[b"..\r\n...\r\n.. x\r\n" * 10000] * 4, b".\r\n"], "250"),
        ):
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            codes = await self.in_thread(lambda parts=parts: self.talk(parts, 2))  # type: ignore[misc]
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
            # Who is hung up on while it talks may not see our last words.
            self.assertIn(codes[-1:], ([last], []) if last == "421" else ([last],), name)
            self.assertLess(grown, 24000, name)
        self.assert_nothing_evil()

    async def test_one_network_cannot_have_all_connections(self) -> None:
        """Those beyond the limit are told so, and others are served."""

        def client() -> tuple[list[bytes], bytes]:
            held = [self.connect() for _ in range(150)]
            said = [each.recv(100)[:3] for each in held]
            with socket.create_connection(
                ("127.0.0.1", self.ports["mx"]), timeout=20, source_address=("127.0.0.2", 0)
            ) as other:
                greeting = other.recv(100)[:3]
            for each in held:
                each.close()
            return said, greeting

        said, greeting = await self.in_thread(client)
        self.assertEqual((said.count(b"220"), said.count(b"421"), greeting), (100, 50, b"220"))

    async def test_other_protocols_are_hung_up_on(self) -> None:
        for octets in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL,
            b"POST / HTTP/1.1\r\n\r\n" + BEGIN,
        ):
            codes = await self.in_thread(lambda octets=octets: self.talk([octets], 5))  # type: ignore[misc]
            self.assertEqual(codes, ["421"], octets)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n"  # TLS where there is none
        self.assertEqual(set(await self.in_thread(lambda: self.talk([hello]))), {"500"})
