"""The children's reactor: what is ready is read and written, and a bug ends one connection only."""

from __future__ import annotations

import contextlib
import socket

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.reactor import Reactor


class Upper(Protocol):
    """Says everything once more, louder; does not understand a question."""

    lost: list[Failure]

    def dataReceived(self, data: bytes) -> None:
        if b"?" in data:
            raise ZeroDivisionError
        assert self.transport is not None
        self.transport.write(data.upper())

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason)


class ReactorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.lost: list[Failure] = []
        self.addCleanup(self.reactor.removeAll)

        class Uppers(Factory):
            def buildProtocol(factory, addr: IAddress | None) -> Upper:
                protocol = Upper()
                protocol.lost = self.lost
                return protocol

        self.port = self.reactor.listenTCP(0, Uppers(), interface="127.0.0.1")

    def turns(self) -> None:
        """Whatever is ready, and what follows from it."""
        for _ in range(20):
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.01)

    def client(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port.getHost().port), 10)
        self.addCleanup(sock.close)
        return sock

    def test_a_large_answer_leaves_as_it_is_taken(self) -> None:
        client = self.client()
        client.setblocking(False)
        sent, answer = 0, b""
        text = b"x" * 3_000_000
        while len(answer) < len(text):
            with contextlib.suppress(BlockingIOError):
                sent += client.send(text[sent : sent + 65536])
            self.reactor.doIteration(0)
            with contextlib.suppress(BlockingIOError):
                answer += client.recv(1 << 20)
        self.assertEqual(answer, text.upper())

    def test_a_bug_ends_its_connection_and_is_told(self) -> None:
        one, other = self.client(), self.client()
        one.sendall(b"what?")
        other.sendall(b"hello")
        self.turns()
        self.assertEqual(one.recv(100), b"")
        self.assertEqual(other.recv(100), b"HELLO")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([type(reason.value) for reason in self.lost], [ZeroDivisionError])

    def test_an_end_is_told(self) -> None:
        self.client().close()
        self.turns()
        self.assertEqual(len(self.lost), 1)

    def test_calls_are_made_in_time_and_nothing_is_waited_for_too_long(self) -> None:
        made: list[int] = []
        self.reactor.callLater(0, made.append, 1)
        self.turns()
        self.assertEqual(made, [1])
