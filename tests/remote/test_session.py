"""
Tests for L{qmailpy.remote.session}: how octets reach the socket.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from qmailpy.config.schema import ChannelConfig
from qmailpy.remote.peers import Peer
from qmailpy.remote.session import SEND_LIMIT, Delivery, Session
from qmailpy.remote.trouble import Fault
from qmailpy.values import MemoryContent
from qmailpy.wire.client_events import Stage, Transaction
from tests.remote.network import CONTEXTS, Connections

CONTENT = MemoryContent(b"Subject: x\r\n\r\n" + b"hello\r\n" * 100)
TRANSACTION = Transaction(sender="a@x.example", recipients=("b@x.example",), size=CONTENT.size)


class Socket(StringTransport):
    """A plain TCP transport whose socket takes only so much at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        directlyProvides(self, ITCPTransport)
        self.room = room
        self.at_once = 0
        self.fills = False  # what it has taken is not taken from it
        self.nodelay = False
        self.broken = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.nodelay = enabled

    def writeSomeData(self, data: bytes) -> int | Exception:
        if self.broken:
            return CONNECTION_LOST
        taken = data[: min(self.room, SEND_LIMIT)]
        super().write(taken)
        self.room -= len(taken) if self.fills else 0
        self.at_once += len(taken)
        return len(taken)


class SessionTests(SynchronousTestCase):
    """One connection."""

    def session(self, room: int) -> Session:
        async def in_thread(read: object) -> bytes | None:
            raise AssertionError("no content from files here")

        self.clock = Clock()
        self.watcher = Connections()
        self.socket = Socket(room)
        peer = Peer("mx.example", "192.0.2.1", 25)
        config = ChannelConfig(name="tcp_local", kind="smtp")
        session = Session(self.clock, peer, "us.example", config, self.watcher, in_thread, CONTEXTS)
        ready = session.open()
        session.makeConnection(self.socket)
        session.dataReceived(b"220 hi\r\n")
        session.dataReceived(b"250-hi\r\n250 PIPELINING\r\n")
        self.assertIsNone(self.successResultOf(ready))
        self.socket.clear()
        return session

    def deliver(self, session: Session) -> Deferred[Delivery]:
        delivering = session.deliver(TRANSACTION, CONTENT)
        session.dataReceived(b"250 a\r\n250 b\r\n354 c\r\n")
        return delivering

    def test_everything_goes_straight_to_a_socket_with_room(self) -> None:
        """And no small segment waits for another (TCP_NODELAY)."""
        session = self.session(100000)
        delivering = self.deliver(session)
        self.assertTrue(self.socket.nodelay)
        self.assertEqual(self.socket.at_once - len(b"EHLO us.example\r\n"), len(self.socket.value()))
        session.dataReceived(b"250 d\r\n")
        self.assertEqual(self.successResultOf(delivering).sent, CONTENT.size)

    def test_what_a_socket_has_no_room_for_follows_in_order(self) -> None:
        """Whatever it takes at once, also nothing: the same octets in the same order, from one message to the next."""
        whole = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n" + CONTENT.octets + b".\r\n"
        for room in (0, 1, 7, 60, 300, 100000):
            session = self.session(room)
            for _ in range(2):
                self.socket.clear()
                delivering = self.deliver(session)
                self.assertEqual(self.socket.value(), whole, room)
                session.dataReceived(b"250 d\r\n")
                self.successResultOf(delivering)

    def test_after_an_answer_the_socket_is_used_directly_again(self) -> None:
        """The peer has had everything, so nothing can be waiting."""
        session = self.session(7)
        self.deliver(session)
        session.dataReceived(b"250 d\r\n")
        before = self.socket.at_once
        self.deliver(session)
        self.assertEqual(self.socket.at_once - before, 7)

    def test_a_large_piece_goes_out_as_far_as_the_socket_takes_it(self) -> None:
        """The transport gives it only so much at a time."""
        octets = b"x" * (2 * SEND_LIMIT + 1000)
        for room in (SEND_LIMIT - 1, SEND_LIMIT, SEND_LIMIT + 1, 2 * SEND_LIMIT, len(octets), len(octets) + 1):
            session = self.session(100000)
            self.socket.fills, self.socket.room = True, room
            before = self.socket.at_once
            session.send_sealed(octets)
            self.assertEqual(self.socket.value(), octets)
            self.assertEqual(self.socket.at_once - before, min(room, len(octets)))

    def test_an_error_of_the_socket_is_left_to_the_reactor(self) -> None:
        """It meets it again, and tells us by C{connectionLost}."""
        session = self.session(100000)
        self.socket.broken = True
        delivering = session.deliver(TRANSACTION, CONTENT)
        self.assertNoResult(delivering)
        session.connectionLost(Failure(ConnectionDone()))
        trouble = self.successResultOf(delivering).trouble
        self.assertEqual(trouble and (trouble.stage, trouble.fault), (Stage.MAIL, Fault.LOST))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.watcher.said), 2)

    def test_the_time_of_a_stage_begins_anew_with_each_reply_and_not_with_each_octet(self) -> None:
        """A peer that sends an octet now and then does not hold us for ever."""
        session = self.session(100000)
        delivering = session.deliver(TRANSACTION, CONTENT)
        self.clock.advance(200)
        session.dataReceived(b"250 a\r\n2")
        self.clock.advance(200)
        session.dataReceived(b"5")
        self.assertNoResult(delivering)
        self.clock.advance(101)
        trouble = self.successResultOf(delivering).trouble
        self.assertEqual(trouble and (trouble.stage, trouble.fault), (Stage.RCPT, Fault.TIMED_OUT))
        self.assertTrue(self.socket.disconnected)
