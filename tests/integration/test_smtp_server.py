"""The SMTP server on real sockets, with clients that are not ours."""

from __future__ import annotations

import shutil
import smtplib
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorFromThreads, IReactorTCP, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig, TrustConfig
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.testing.memory_queue import Accepted, MemoryQueue
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, local, unknown_user

T = TypeVar("T")
SWAKS = shutil.which("swaks")


class LaterQueue(MemoryQueue):
    """Commits are done in the reactor's next turn, as those of the real queue never are at once."""

    reactor: IReactorTime

    def _commit(self, message: Accepted) -> Deferred[None]:
        self.held = True
        self.reactor.callLater(0, self.release)
        return super()._commit(message)


class SmtpServerTests(TestCase):
    """A listener on a port of the loopback interface."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        reactor_time, reactor_tcp = IReactorTime(global_reactor), IReactorTCP(global_reactor)
        self.queue = LaterQueue()
        self.queue.reactor = reactor_time
        router = ScriptedRouter()
        for name in ("b", "c"):
            router.now[f"{name}@example.org"] = local(f"{name}@example.org")
        router.now["bad@example.org"] = unknown_user()
        router.later["slow@example.org"] = local("slow@example.org")
        self.recorder = MemoryRecorder()
        self.factory = SmtpFactory(
            reactor_time,
            hostname="mx.example.org",
            listener=ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:0"),
            enqueue=self.queue,
            router=router,
            recorder=self.recorder,
            queue=QueueConfig(),
            log=LogConfig(),
            trust=TrustConfig(),
        )
        port = await TCP4ServerEndpoint(reactor_tcp, 0, interface="127.0.0.1").listen(self.factory)
        self.port: int = port.getHost().port
        self.addCleanup(self.stop, port.stopListening)

    async def _stop(self, stop_listening: Callable[[], Deferred[None] | None]) -> None:
        await (stop_listening() or succeed(None))
        await self.factory.drain(grace_s=5)

    def stop(self, stop_listening: Callable[[], Deferred[None] | None]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop(stop_listening))

    def in_thread(self, client: Callable[[], T]) -> Deferred[T]:
        return deferToThread(client)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    async def test_smtplib_sends_mail(self) -> None:
        """Python's own client: one connection, three messages, a refusal among them; C1 MB with dots at line starts."""
        text = "Subject: x\r\n\r\n" + ".dot\r\n..\r\n" * 3
        large = b"Subject: large\r\n\r\n" + (b"." * 70 + b"\r\n") * 15000

        def client() -> tuple[dict[str, tuple[int, bytes]], dict[str, str]]:
            with smtplib.SMTP("127.0.0.1", self.port, "client.example.net", timeout=10) as smtp:
                refused = smtp.sendmail("a@example.net", ["b@example.org", "bad@example.org", "slow@example.org"], text)
                smtp.sendmail("a@example.net", ["c@example.org"], large)
                smtp.sendmail("", ["c@example.org"], "Subject: y\r\n\r\n")
                return refused, smtp.esmtp_features

        refused, features = await self.in_thread(client)
        self.assertEqual(list(refused), ["bad@example.org"])
        self.assertEqual(refused["bad@example.org"][0], 550)
        self.assertEqual(
            set(features),
            {"pipelining", "size", "8bitmime", "enhancedstatuscodes", "chunking", "limits", "smtputf8"}
            | {"dsn", "binarymime", "deliverby", "mt-priority"},
        )
        contents = [message.content.partition(b"Subject")[2] for message in self.queue.messages]
        self.assertEqual(contents[0], text.encode()[7:])
        self.assertEqual(contents[1], large[7:])
        self.assertEqual(len(contents), 3)
        self.assertEqual(self.queue.messages[2].envelope.sender, "")

    async def test_swaks_sends_mail(self) -> None:
        if SWAKS is None:
            raise RuntimeError("swaks is missing: apt-get install swaks")
        for extra in ((), ("--pipeline",)):
            arguments = ["--server", f"127.0.0.1:{self.port}", "--from", "a@example.net", *extra]
            arguments += ["--to", "b@example.org,c@example.org", "--body", "line\n.\n..two", "--helo", "client"]
            out, err, code = await getProcessOutputAndValue(SWAKS, arguments, env={"PATH": "/usr/bin:/bin"})
            self.assertEqual(code, 0, out + err)
            message = self.queue.messages[-1]
            self.assertIn(b"\r\nline\r\n.\r\n..two\r\n", message.content)
            self.assertEqual(len(message.envelope.recipients), 2)
        out, _, code = await getProcessOutputAndValue(
            SWAKS, ["--server", f"127.0.0.1:{self.port}", "--to", "bad@example.org"], env={"PATH": "/usr/bin:/bin"}
        )
        self.assertEqual(code, 24, out)  # no recipient was accepted
        self.assertEqual(len(self.queue.messages), 2)

    async def test_a_pipelined_session_in_one_segment(self) -> None:
        one = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<slow@example.org>\r\nDATA\r\nx\r\n.\r\n"

        def client() -> bytes:
            with self.connect() as peer:
                peer.sendall(b"EHLO x\r\n" + one * 20 + b"QUIT\r\n")
                return peer.makefile("rb").read()

        replies = (await self.in_thread(client)).splitlines()
        codes = [line[:3] for line in replies if line[3:4] == b" "]
        self.assertEqual(codes, [b"220", b"250", *[b"250", b"250", b"354", b"250"] * 20, b"221"])
        self.assertEqual(len(self.queue.messages), 20)

    async def test_octets_one_by_one(self) -> None:
        text = b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n"

        def client() -> bytes:
            with self.connect() as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(len(text)):
                    peer.sendall(text[at : at + 1])
                return peer.makefile("rb").read()

        replies = await self.in_thread(client)
        self.assertTrue(replies.endswith(b"221 2.0.0 Bye\r\n"), replies)
        self.assertTrue(self.queue.messages[0].content.endswith(b"\r\n.x\r\n"))

    async def test_a_client_that_never_reads_is_held_back(self) -> None:
        """Its replies fill the socket and then our buffer; after that we read no more, and keep no more."""

        def client() -> int:
            with self.connect() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.settimeout(1.0)
                sent = 0
                try:
                    peer.sendall(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\n")
                    while sent < 200_000_000:
                        sent += peer.send(b"RCPT TO:<b@example.org>\r\n" * 1000)
                except TimeoutError:
                    pass
                return sent

        sent = await self.in_thread(client)
        self.assertLess(sent, 50_000_000)

    async def test_a_connection_that_is_reset(self) -> None:
        def client() -> None:
            for text in (b"", b"EHLO x\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nhalf"):
                with self.connect() as peer:
                    peer.sendall(text)
                    peer.recv(10)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await self.in_thread(client)
        await self.factory.drain()
        self.assertEqual(self.queue.messages, [])
        self.assertEqual(self.recorder.actions().count("O"), self.recorder.actions().count("C"))

    async def test_an_orderly_stop_tells_idle_clients(self) -> None:
        def client() -> bytes:
            with self.connect() as peer:
                got = peer.recv(1000)
                self.in_reactor(self.factory.drain)
                return got + peer.makefile("rb").read()

        replies = await self.in_thread(client)
        self.assertEqual([line[:3] for line in replies.splitlines()], [b"220", b"421"])

    def in_reactor(self, call: Callable[[], object]) -> None:
        IReactorFromThreads(global_reactor).callFromThread(call)
