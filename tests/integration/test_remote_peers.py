"""
The SMTP channel over real sockets: against Postfix's smtp-sink, which is not ours, and against our own sink.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorCore, IReactorTCP, IReactorTime
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from qmailpy.channels.parts import Parts
from qmailpy.channels.smtp import SmtpChannel
from qmailpy.config.schema import ChannelConfig, Config, ServerConfig
from qmailpy.records.record import Action, LogRecord
from qmailpy.testing.smtp_sink import Script, SinkFactory
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Content, Disposition, Envelope, Job, MemoryContent, Recipient, Verdict


class IWholeReactor(IReactorCore, IReactorTime, IReactorTCP):
    """What these tests use of the real reactor."""


reactor = cast(IWholeReactor, global_reactor)

SMALL = MemoryContent(b"Subject: test\r\n\r\n" + b"All work and no play makes mail dull.\r\n" * 25)


class FileContent:
    """Content in a file."""

    in_memory = False

    def __init__(self, path: str) -> None:
        self._path = path
        self.size = os.path.getsize(path)
        self.pieces = 0

    def read(self) -> bytes:
        raise AssertionError("reading blocks")

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            while piece := file.read(octets):
                self.pieces += 1
                yield piece

    def header(self, limit: int = 65536) -> bytes:
        raise AssertionError("reading blocks")


class Recorder:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []

    def write(self, records: list[LogRecord]) -> None:
        self.records.extend(records)


class RemoteTestCase(TestCase):
    """A channel with a relay on this machine."""

    def channel(self, port: int, **options: Any) -> SmtpChannel:
        self.recorder = Recorder()
        config = Config(home="/nowhere", server=ServerConfig(hostname="us.example"))
        nothing: Any = None
        anything: Any = reactor
        recorder: Any = self.recorder
        parts = Parts(
            reactor=anything,
            files=nothing,
            directory=nothing,
            router=nothing,
            resolver=TablesResolver(),
            recorder=recorder,
            config=config,
        )
        table = ChannelConfig(name="tcp_local", relay=f"127.0.0.1:{port}", **({"kind": "smtp"} | options))
        channel = SmtpChannel(config, table, parts)
        self.addCleanup(lambda: Deferred.fromCoroutine(channel.stop()))
        return channel

    def job(self, recipients: int = 1, content: Content = SMALL) -> Job:
        to = tuple(
            Recipient(address=f"b{number}@x.example", original="b@x.example", channel="tcp_local", host="x.example")
            for number in range(recipients)
        )
        return Job(
            id="0" * 15,
            channel="tcp_local",
            envelope=Envelope(sender="a@example.org", recipients=to, source="tcp_local", arrival=0.0),
            content=content,
            recipients=to,
            numbers=tuple(range(recipients)),
            attempt=1,
        )

    def large_file(self, octets: int) -> FileContent:
        line = b"x" * 70 + b"\r\n"
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"Subject: large\r\n\r\n")
            for _ in range(octets // (len(line) * 1000)):
                file.write(line * 1000)
        return FileContent(path)

    def sink(self, script: Script | None = None, *, keep: bool = True) -> tuple[SinkFactory, int]:
        factory = SinkFactory(reactor, script, keep=keep)
        port = reactor.listenTCP(0, cast(Any, factory), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return factory, cast(IPv4Address, port.getHost()).port


class SmtpSinkTests(RemoteTestCase):
    """Debian's smtp-sink as the next hop: no part of it is ours."""

    async def peer(self, *options: str) -> int:
        """Start it; its port, once it listens."""
        command = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if command is None:
            raise SkipTest("smtp-sink is missing: apt install postfix")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else "nobody"
        process = self.start([command, "-u", user, *options, f"127.0.0.1:{port}", "100"])
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            if process.poll() is not None:
                raise SkipTest(f"smtp-sink does not run here: {process.communicate()[1].decode()}")
            await deferLater(reactor, 0.01)  # until it listens; nothing tells when

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(process.terminate)
        return process

    async def verdicts(self, *options: str, recipients: int = 1, content: Content = SMALL) -> Sequence[Disposition]:
        channel = self.channel(await self.peer(*options))
        return await channel.dequeue(self.job(recipients, content))

    async def test_messages_one_after_the_other_share_a_connection(self) -> None:
        """Delivered, with both ends and the peer's words."""
        port = await self.peer()
        channel = self.channel(port)
        for _ in range(20):
            [found] = await channel.dequeue(self.job())
            self.assertEqual(found.verdict, Verdict.DELIVERED)
        self.assertEqual([one.action for one in self.recorder.records], [Action.OPENED])
        self.assertRegex(
            found.diagnostic,
            r"^dns;\[127\.0\.0\.1\] \(TCP\|127\.0\.0\.1\|\d+\|127\.0\.0\.1\|\d+\) "
            r"\(smtp-sink ESMTP\) smtp;250 2\.0\.0 Ok$",
        )

    async def test_a_mail_store_speaks_lmtp(self) -> None:
        """smtp-sink -L: a reply for each recipient, over one connection for all messages."""
        channel = self.channel(await self.peer("-L"), kind="lmtp")
        for count in (1, 3):
            found = await channel.dequeue(self.job(count))
            self.assertEqual([(one.verdict, one.modifiers) for one in found], [(Verdict.DELIVERED, "L")] * count)
        self.assertEqual([one.application for one in self.recorder.records], ["LMTP/127.0.0.1"])

    async def test_old_servers_get_mail_too(self) -> None:
        """Without PIPELINING; without EHLO; as a Cisco PIX would have it."""
        for option in ("-p", "-e", "-P"):
            found = await self.verdicts(option, recipients=3)
            self.assertEqual([one.verdict for one in found], [Verdict.DELIVERED] * 3, option)
            self.assertEqual(found[0].modifiers, "E" if option == "-p" else "")

    async def test_refusals_at_each_step(self) -> None:
        """4yz defers and 5yz fails, wherever it is said."""
        for stage in ("CONNECT", "HELO,EHLO", "MAIL", "RCPT", "DATA", "."):
            for option, verdict in (("-r", Verdict.DEFERRED), ("-f", Verdict.FAILED)):
                found = await self.verdicts(option, stage, recipients=2)
                self.assertEqual([one.verdict for one in found], [verdict] * 2, (option, stage))
                self.assertIn("smtp;", found[0].diagnostic)

    async def test_hanging_up_at_each_step_defers(self) -> None:
        """With and without 421; only after the final dot may the message have arrived."""
        for stage in ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."):
            for option in ("-q", "-Q"):
                found = await self.verdicts(option, stage, recipients=2)
                self.assertEqual([one.verdict for one in found], [Verdict.DEFERRED] * 2, (option, stage))
                unsure = "possible duplicate" in found[0].diagnostic
                self.assertEqual(unsure, option == "-q" and stage == ".", found[0].diagnostic)

    async def test_an_answer_in_the_middle_of_the_message(self) -> None:
        """550 after DATA, and nothing more is read by the peer."""
        [found] = await self.verdicts("-A", "0", content=self.large_file(10_000_000))
        self.assertEqual(found.verdict, Verdict.FAILED)

    async def test_a_large_message_is_sent_with_flat_memory(self) -> None:
        """10 MB from a file; the peer has all of it when it says so."""
        content = self.large_file(10_000_000)
        channel = self.channel(await self.peer())
        await channel.dequeue(self.job())
        tracemalloc.start()
        try:
            [found] = await channel.dequeue(self.job(content=content))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertEqual((found.verdict, found.transferred), (Verdict.DELIVERED, content.size))
        self.assertLess(peak, 1_500_000)

    async def test_many_jobs_at_once_stay_within_the_connections(self) -> None:
        """destination_concurrency; all are delivered."""
        channel = self.channel(await self.peer(), destination_concurrency=4)
        found = await gatherResults([Deferred.fromCoroutine(channel.dequeue(self.job())) for _ in range(200)])
        self.assertEqual({one[0].verdict for one in found}, {Verdict.DELIVERED})
        opened = [one for one in self.recorder.records if one.action is Action.OPENED]
        self.assertLessEqual(len(opened), 8)  # 4 at once, each good for 100 messages


class OwnSinkTests(RemoteTestCase):
    """Our own sink, which shows what arrived."""

    async def test_a_hundred_recipients_in_one_transaction(self) -> None:
        """Refused ones among them."""
        factory, port = self.sink({f"RCPT:b{number}@x.example": "550 5.1.1 no" for number in range(0, 100, 10)})
        found = await self.channel(port).dequeue(self.job(100))
        self.assertEqual(
            [one.verdict for one in found],
            [Verdict.FAILED if number % 10 == 0 else Verdict.DELIVERED for number in range(100)],
        )
        [message] = factory.log.messages
        self.assertEqual((len(message.recipients), message.content), (90, SMALL.octets))

    async def test_a_slow_peer_slows_the_reading(self) -> None:
        """What it does not take is not read from the disk either."""
        factory, port = self.sink({"DATA": "354 go"}, keep=False)
        content = self.large_file(20_000_000)
        reached: Deferred[None] = Deferred()
        build = factory.buildProtocol

        def slow(addr: object) -> Any:
            protocol = build(addr)
            take = protocol.dataReceived

            def received(data: bytes) -> None:
                take(data)
                if not reached.called and protocol._in_data:
                    cast(Any, protocol.transport).pauseProducing()
                    reached.callback(None)

            protocol.dataReceived = received  # type: ignore[method-assign]
            self.protocol = protocol
            return protocol

        factory.buildProtocol = slow  # type: ignore[method-assign]
        sending = Deferred.fromCoroutine(self.channel(port).dequeue(self.job(content=content)))
        await reached
        pieces = -1
        while content.pieces != pieces:  # until the sockets between are full
            pieces = content.pieces
            await deferLater(reactor, 0.1)
        self.assertLess(pieces * 65536, content.size)
        self.assertNoResult(sending)
        cast(Any, self.protocol.transport).resumeProducing()
        [found] = await sending
        self.assertEqual((found.verdict, found.transferred), (Verdict.DELIVERED, content.size))

    async def test_a_host_that_is_not_there(self) -> None:
        """The operating system's words, a Y record, and the next job passes it over."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        channel = self.channel(port)
        [found] = await channel.dequeue(self.job())
        words = f"TCP active open: Failed connect() 127.0.0.1:{port}  Error: connection refused"
        self.assertEqual((found.verdict, found.diagnostic), (Verdict.DEFERRED, words))
        [record] = self.recorder.records
        self.assertEqual((record.action, record.diagnostic), (Action.UNREACHED, words))
        [found] = await channel.dequeue(self.job())
        self.assertIn("skipping this host", found.diagnostic)
