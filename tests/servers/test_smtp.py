"""Tests of the SMTP sessions and their factory, without sockets."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from typing import Any, cast

from attrs import evolve
from twisted.internet import tcp
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig, TrustConfig
from qmailpy.errors import Temporary
from qmailpy.interfaces import IFlow
from qmailpy.records.record import Action, LogRecord
from qmailpy.servers.connection import FULL_OCTETS, WIDE_OCTETS
from qmailpy.servers.pace import GRACE_S, LOOK_S
from qmailpy.servers.session import SmtpSession
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.testing.memory_queue import MemoryQueue
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, local, remote, unknown_user
from qmailpy.values import Priority, Recipient, Refused, Reply, Routed
from qmailpy.wire.smtp import BACKLOG_OCTETS

HELLO = b"EHLO client.example.net\r\n"
MAIL = b"MAIL FROM:<a@example.net>\r\n"
RCPT = b"RCPT TO:<b@example.org>\r\n"
CONTENT = b"Subject: x\r\nMessage-ID: <1@example.net>\r\nPriority: urgent\r\n\r\nbody\r\n"
STRANGER, FRIEND = "198.51.100.9", "192.0.2.4"
NOON = 1172577600.0


class LosableTransport(StringTransport):
    """A transport that tells its session when it has closed."""

    session: SmtpSession
    aborted = False
    gone = False

    def lose(self) -> None:
        if not self.gone:
            self.gone = True
            self.session.connectionLost(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborted = True
        self.lose()


class SmtpTestCase(SynchronousTestCase):
    """A factory over fakes."""

    listener = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25")
    queue_config = QueueConfig()
    log = LogConfig()

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        self.queue = MemoryQueue()
        self.router = ScriptedRouter()
        self.router.now["b@example.org"] = local("b@example.org")
        self.router.now["c@example.org"] = local("c@example.org")
        self.router.now["out@example.com"] = remote("out@example.com")
        self.router.now["bad@example.org"] = unknown_user()
        self.recorder = MemoryRecorder()
        self.factory = self.make()

    def make(self, **listener: Any) -> SmtpFactory:
        """@param listener: keys of its table that are otherwise."""
        return self.factory_with(listener)

    def factory_with(self, listener: Mapping[str, Any], **parts: Any) -> SmtpFactory:
        """@param parts: what it has beside, or instead of, what every one has here."""
        parts.setdefault("trust", TrustConfig(networks=("192.0.2.0/24",)))
        return SmtpFactory(
            self.clock,
            hostname="mx.example.org",
            listener=evolve(self.listener, **listener),
            enqueue=self.queue,
            router=self.router,
            recorder=self.recorder,
            queue=self.queue_config,
            log=self.log,
            **parts,
        )

    def connect(self, ip: str = STRANGER, factory: SmtpFactory | None = None) -> LosableTransport:
        session = (factory or self.factory).buildProtocol(None)
        assert isinstance(session, SmtpSession)
        transport = LosableTransport(
            hostAddress=IPv4Address("TCP", "203.0.113.1", 25), peerAddress=IPv4Address("TCP", ip, 4321)
        )
        transport.session = session
        session.makeConnection(transport)
        return transport

    def ask(self, transport: LosableTransport, octets: bytes) -> list[str]:
        """The codes of the replies to C{octets}."""
        transport.clear()
        transport.session.dataReceived(octets)
        return self.codes(transport)

    def codes(self, transport: LosableTransport) -> list[str]:
        return [line[:3].decode() for line in transport.value().splitlines() if line[3:4] == b" "]

    def ready(self, ip: str = STRANGER, **listener: Any) -> LosableTransport:
        """A session that has greeted."""
        transport = self.connect(ip, self.make(**listener) if listener else None)
        self.assertEqual(self.ask(transport, HELLO), ["250"])
        return transport

    def records(self, action: Action) -> list[LogRecord]:
        return [record for record in self.recorder.records if record.action is action]


class TransactionTests(SmtpTestCase):
    """From MAIL to the 250."""

    def test_the_parts_provide_what_they_say(self) -> None:
        verifyObject(IProtocolFactory, self.factory)
        session = self.connect().session
        for interface in (IProtocol, IFlow):
            verifyObject(interface, session)

    def test_more_of_a_large_message_is_read_at_a_time(self) -> None:
        """And never more than the core keeps while a question is out."""
        self.assertLessEqual(WIDE_OCTETS, BACKLOG_OCTETS)
        self.assertEqual(tcp.Connection.bufferSize, FULL_OCTETS)
        transport = self.ready()
        widened: list[bool] = []
        self.patch(SmtpSession, "_widen", lambda session: widened.append(True))
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n"), ["250", "250", "354"])
        self.ask(transport, (b"x" * 78 + b"\r\n") * 100)
        self.assertEqual(widened, [])
        self.ask(transport, (b"x" * 78 + b"\r\n") * (FULL_OCTETS // 80 + 1))
        self.assertEqual(widened, [True])

    def test_only_what_reads_from_a_socket_is_widened(self) -> None:
        session = self.connect().session
        session._widen()
        self.assertFalse(hasattr(session.transport, "bufferSize"))
        session.transport = tcp.Connection.__new__(tcp.Connection)
        session._widen()
        self.assertEqual(session.transport.bufferSize, WIDE_OCTETS)

    def test_a_message_is_accepted(self) -> None:
        transport = self.connect()
        self.assertEqual(transport.value(), b"220 mx.example.org ESMTP qmailpy\r\n")
        self.assertEqual(self.ask(transport, HELLO), ["250"])
        mail = b"MAIL FROM:<a@example.net> SIZE=99 BODY=7BIT\r\n"
        self.assertEqual(self.ask(transport, mail + RCPT + b"DATA\r\n"), ["250", "250", "354"])
        self.assertEqual(self.ask(transport, CONTENT + b"..\r\n.\r\n"), ["250"])
        self.assertEqual(transport.value(), b"250 2.0.0 000000000000001 queued\r\n")
        (message,) = self.queue.messages
        envelope = message.envelope
        self.assertEqual(envelope.sender, "a@example.net")
        self.assertEqual([recipient.address for recipient in envelope.recipients], ["b@example.org"])
        self.assertEqual((envelope.source, envelope.protocol, envelope.body), ("tcp_local", "ESMTP", "7BIT"))
        self.assertEqual((envelope.message_id, envelope.priority), ("<1@example.net>", Priority.URGENT))
        self.assertEqual(envelope.source_system, "client.example.net ([198.51.100.9])")
        self.assertEqual(envelope.arrival, NOON)
        trace, content = message.content.split(b"Subject", 1)
        self.assertEqual(b"Subject" + content, CONTENT + b".\r\n")
        self.assertEqual(
            trace.rpartition(b"; ")[0],
            b"Received: from client.example.net ([198.51.100.9])\r\n"
            b"\tby mx.example.org with ESMTP id 000000000000001\r\n\tfor <b@example.org>",
        )
        self.assertEqual(self.queue.intakes[0].size_hint, 99)
        self.assertEqual(self.ask(transport, b"QUIT\r\n"), ["221"])
        self.assertTrue(transport.disconnecting)
        transport.lose()
        self.assertEqual(self.recorder.actions(), "OC")

    def test_a_whole_pipelined_session_in_one_piece(self) -> None:
        """Octets behind the DATA command are data once it is accepted (RFC 2920)."""
        transport = self.connect()
        one = MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n"
        codes = self.ask(transport, HELLO + one + one + b"QUIT\r\n")
        self.assertEqual(codes, ["250", *["250", "250", "354", "250"] * 2, "221"])
        self.assertEqual([message.id[-1] for message in self.queue.messages], ["1", "2"])

    def test_helo_and_two_recipients_show_in_the_trace(self) -> None:
        transport = self.connect()
        self.ask(transport, b"HELO old\r\n" + MAIL + RCPT + b"RCPT TO:<c@example.org>\r\nDATA\r\n.\r\n")
        (message,) = self.queue.messages
        self.assertEqual(message.envelope.protocol, "SMTP")
        self.assertIn(b" with SMTP id ", message.content)
        self.assertNotIn(b"\tfor ", message.content)

    def test_a_recipient_named_twice_gets_one_copy(self) -> None:
        transport = self.ready()
        both = Recipient(address="c@example.org", original="list@example.org", channel="local")
        self.router.now["list@example.org"] = Routed(recipients=(both, *local("b@example.org").recipients), local=True)
        codes = self.ask(transport, MAIL + RCPT + RCPT + b"RCPT TO:<list@example.org>\r\nDATA\r\n.\r\n")
        self.assertEqual(codes, ["250"] * 4 + ["354", "250"])
        envelope = self.queue.messages[0].envelope
        self.assertEqual([recipient.address for recipient in envelope.recipients], ["b@example.org", "c@example.org"])

    def test_postmaster_alone_is_the_one_of_this_host(self) -> None:
        transport = self.ready()
        self.router.now["postmaster@mx.example.org"] = local("root@example.org")
        self.assertEqual(self.ask(transport, MAIL + b"RCPT TO:<Postmaster>\r\n"), ["250", "250"])

    def test_the_number_of_recipients_is_limited(self) -> None:
        self.queue_config = QueueConfig(recipients=1)
        transport = self.connect(factory=self.make())
        codes = self.ask(transport, HELLO + MAIL + RCPT + b"RCPT TO:<c@example.org>\r\nDATA\r\n.\r\n")
        self.assertEqual(codes, ["250", "250", "250", "452", "354", "250"])
        self.assertEqual(self.records(Action.REJECTED), [])

    def test_names_of_one_recipient_are_limited_too(self) -> None:
        """A catch-all must not let a client fill our memory with names."""
        self.queue_config = QueueConfig(recipients=3)
        for number in range(9):
            self.router.now[f"x{number}@example.org"] = local("b@example.org")
        transport = self.connect(factory=self.make())
        lines = [b"RCPT TO:<x%d@example.org>\r\n" % (number // 2) for number in range(9)]
        codes = self.ask(transport, HELLO + MAIL + b"".join(lines))
        self.assertEqual(codes[2:], ["250"] * 5 + ["452"] * 4)

    def test_large_messages_pass_in_pieces_and_pause_the_client(self) -> None:
        transport = self.ready()
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        flow = self.queue.intakes[0].flow
        assert flow is not None
        for _ in range(3):
            transport.session.dataReceived(b"x" * 1000 + b"\r\n")
        self.assertGreater(self.queue.intakes[0].size, 2900)
        flow.pause()
        self.assertEqual(transport.producerState, "paused")
        self.clock.advance(self.listener.data_timeout_s * 3)  # our disk is slow: no fault of the client
        self.assertFalse(transport.disconnecting)
        flow.resume()
        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(self.ask(transport, b".\r\n"), ["250"])


class RefusalTests(SmtpTestCase):
    """J records and their replies."""

    def test_an_unknown_user(self) -> None:
        transport = self.ready()
        codes = self.ask(transport, MAIL + b"RCPT TO:<bad@example.org>\r\n" * 2 + RCPT + b"DATA\r\n.\r\n")
        self.assertEqual(codes, ["250", "550", "550", "250", "354", "250"])
        first, second = self.records(Action.REJECTED)
        self.assertEqual((first.source, first.destination, first.modifiers), ("tcp_local", "tcp_local", "E"))
        self.assertEqual((first.sender, first.original_to, first.size_octets), ("a@example.net", "bad@example.org", 0))
        self.assertEqual(first.diagnostic, "550 5.1.1 No such user here")
        self.assertEqual(first.source_system, "client.example.net ([198.51.100.9])")
        assert first.file is not None and second.file is not None
        self.assertEqual((first.file.channel, first.file.id), ("tcp_local", self.queue.messages[0].id))
        self.assertEqual((first.file.continued, second.file.continued), (False, True))

    def test_the_record_names_where_it_would_have_gone(self) -> None:
        """By the router's word; the listener's channel where that knows nothing, or does not count."""
        reply = Reply(550, "5.1.1", "No such user here")
        self.router.now["no@example.org"] = Refused(reply, "local")
        names = b"no@example.org", b"bad@example.org", b"out@example.com"
        lines = b"".join(b"RCPT TO:<" + name + b">\r\n" for name in names)
        self.ask(self.ready(STRANGER), MAIL + lines)
        records = self.records(Action.REJECTED)
        self.assertEqual([one.destination for one in records], ["local", "tcp_local", "tcp_local"])
        self.assertEqual([one.file.channel for one in records if one.file is not None], ["tcp_local"] * 3)

    def test_relaying_is_for_trusted_clients(self) -> None:
        line = b"RCPT TO:<out@example.com>\r\n"
        transport = self.ready(STRANGER)
        self.assertEqual(self.ask(transport, MAIL + line), ["250", "550"])
        self.assertIn(b"550 5.7.1 Relaying denied", transport.value())
        self.assertEqual(len(self.records(Action.REJECTED)), 1)
        self.assertEqual(self.ask(self.ready(FRIEND), MAIL + line), ["250", "250"])

    def test_refusals_end_the_session_of_a_stranger_only(self) -> None:
        lines = MAIL + b"RCPT TO:<bad@example.org>\r\n" * 5
        self.assertEqual(self.ask(self.ready(STRANGER, errors=3), lines), ["250"] + ["550"] * 4 + ["421"])
        self.assertEqual(self.ask(self.ready(FRIEND, errors=3), lines), ["250"] + ["550"] * 5)

    def test_a_message_with_a_fault_is_refused_for_each_recipient(self) -> None:
        transport = self.ready()
        codes = self.ask(transport, MAIL + RCPT + b"RCPT TO:<c@example.org>\r\nDATA\r\na\nb\r\n.\r\n")
        self.assertEqual(codes[-1], "550")
        self.assertEqual(self.queue.intakes[0].ended, "abort")
        first, second = self.records(Action.REJECTED)
        self.assertEqual((first.original_to, second.original_to), ("b@example.org", "c@example.org"))
        self.assertEqual((first.size_octets, first.destination, second.destination), (5, "local", "local"))
        assert first.file is not None and second.file is not None
        self.assertEqual((first.file.continued, second.file.continued), (False, True))
        transport.lose()
        self.assertEqual(self.records(Action.ABORTED), [])

    def test_a_queue_that_takes_nothing_is_answered_with_its_reply(self) -> None:
        transport = self.ready()
        self.queue.refuse_begin = Temporary(Reply(452, "4.3.1", "No space"))
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n"), ["250", "250", "452"])
        self.queue.refuse_begin = None
        self.queue.refuse_commit = Temporary(Reply(451, "4.3.0", "Disk trouble"))
        self.assertEqual(self.ask(transport, b"DATA\r\n.\r\n"), ["354", "451"])
        self.assertIn(b"451 4.3.0 Disk trouble\r\n", transport.value())
        self.queue.refuse_commit = None
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n.\r\n")[-1], "250")
        self.assertEqual(len(self.queue.messages), 1)
        self.assertEqual(len(self.records(Action.REJECTED)), 2)

    def test_a_bug_is_answered_451_and_logged(self) -> None:
        transport = self.ready()
        self.router.now["x@example.org"] = ZeroDivisionError()
        self.assertEqual(self.ask(transport, MAIL + b"RCPT TO:<x@example.org>\r\n"), ["250", "451"])
        self.queue.refuse_commit = KeyError("commit")
        self.assertEqual(self.ask(transport, RCPT + b"DATA\r\n.\r\n"), ["250", "354", "451"])
        self.queue.refuse_begin = KeyError("begin")
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n"), ["250", "250", "451"])
        self.queue.refuse_begin = None
        self.assertEqual(self.ask(transport, b"DATA\r\n"), ["354"])
        self.patch(type(self.queue.intakes[-1]), "write", lambda self, octets: 1 / 0)
        self.assertEqual(self.ask(transport, b"x\r\n.\r\n"), ["451"])
        self.assertEqual(self.queue.intakes[-1].ended, "abort")
        self.patch(type(self.queue), "new_id", lambda self: 1 / 0)
        self.assertEqual(self.ask(transport, MAIL), ["451"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        self.assertEqual(self.ask(transport, b"NOOP\r\n"), ["250"])

    def test_bad_commands_are_recorded_up_to_a_limit(self) -> None:
        self.log = LogConfig(bad_commands=2)
        transport = self.connect(factory=self.make())
        self.ask(transport, HELLO + b"XYZZY \xff\r\n" * 5)
        records = self.records(Action.BAD_COMMAND)
        self.assertEqual(len(records), 2)
        self.assertEqual((records[0].original_to, records[0].diagnostic[:9]), ("XYZZY \ufffd", "500 5.5.1"))

    def test_a_session_that_ends_before_its_message_is_recorded(self) -> None:
        for end in (b"", b"DATA\r\nhalf\r\n", b"QUIT\r\n"):
            self.recorder.records.clear()
            transport = self.ready()
            self.ask(transport, MAIL + RCPT + b"RCPT TO:<c@example.org>\r\n" + end)
            transport.lose()
            self.assertEqual(
                [(record.original_to, record.size_octets) for record in self.records(Action.ABORTED)],
                [("b@example.org", 0), ("c@example.org", 0)],
                end,
            )
            self.assertEqual({intake.ended for intake in self.queue.intakes} - {"abort"}, set())
            self.assertEqual(self.recorder.actions()[-1], "C")

    def test_a_transaction_that_is_reset_is_not(self) -> None:
        for end in (b"RSET\r\n", HELLO):
            transport = self.ready()
            self.ask(transport, MAIL + RCPT + end + b"QUIT\r\n")
            transport.lose()
        self.assertEqual(self.records(Action.ABORTED), [])


class WaitingTests(SmtpTestCase):
    """Routes and commits that take their time."""

    def test_pipelined_commands_keep_their_order_across_a_slow_route(self) -> None:
        transport = self.ready()
        lines = (
            MAIL + b"RCPT TO:<slow@example.org>\r\nRCPT TO:<bad@example.org>\r\nRCPT TO:<later@example.org>\r\nDATA\r\n"
        )
        self.router.later["later@example.org"] = local("later@example.org")
        self.assertEqual(self.ask(transport, lines), ["250"])
        self.router.tell("slow@example.org", local("slow@example.org"))
        self.assertEqual(self.codes(transport), ["250", "250", "550", "250", "354"])
        self.ask(transport, b".\r\n")
        envelope = self.queue.messages[0].envelope
        self.assertEqual([each.address for each in envelope.recipients], ["slow@example.org", "later@example.org"])

    def test_a_slow_route_may_refuse_or_break(self) -> None:
        transport = self.ready()
        for result, code in (
            (unknown_user(), "550"),
            (Refused(Reply(451, "4.4.3", "Directory away")), "451"),
            (Temporary(Reply(451, "4.4.3", "Directory away")), "451"),
            (ZeroDivisionError(), "451"),
            (remote("slow@example.org"), "550"),
        ):
            self.ask(transport, b"RSET\r\n" + MAIL + b"RCPT TO:<slow@example.org>\r\n")
            transport.clear()
            self.router.tell("slow@example.org", result)
            self.assertEqual(self.codes(transport), [code])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.records(Action.REJECTED)), 5)

    def test_a_thousand_answers_at_once_do_not_recurse(self) -> None:
        transport = self.ready(errors=10000)
        self.router.later["later@example.org"] = local("later@example.org")
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(200)
        try:
            codes = self.ask(transport, MAIL + b"RCPT TO:<later@example.org>\r\n" * 1000)
        finally:
            sys.setrecursionlimit(limit)
        self.assertEqual(codes, ["250"] * 1001)

    def test_the_250_waits_for_the_commit(self) -> None:
        transport = self.ready()
        self.queue.held = True
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n"), ["250", "250", "354"])
        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(self.ask(transport, MAIL), [])
        self.assertEqual(transport.producerState, "paused")  # there is more, and no room for it yet
        self.clock.advance(self.listener.command_timeout_s * 3)
        self.assertFalse(transport.disconnecting)
        self.queue.release()
        self.assertEqual(self.codes(transport), ["250", "250"])
        self.assertEqual(transport.producerState, "producing")

    def test_a_commit_that_fails_late(self) -> None:
        transport = self.ready()
        self.queue.held = True
        self.ask(transport, MAIL + RCPT + b"DATA\r\n.\r\n")
        transport.clear()
        self.queue.release(Temporary(Reply(452, "4.3.1", "No space")))
        self.assertEqual(self.codes(transport), ["452"])
        self.assertEqual(len(self.records(Action.REJECTED)), 1)

    def test_a_client_that_leaves_while_we_commit_has_sent_a_message(self) -> None:
        transport = self.ready()
        self.queue.held = True
        self.ask(transport, MAIL + RCPT + b"DATA\r\n.\r\n")
        transport.lose()
        self.queue.release()
        self.assertEqual(len(self.queue.messages), 1)
        self.assertEqual(self.recorder.actions(), "OC")

    def test_a_client_that_leaves_while_we_route(self) -> None:
        transport = self.ready()
        self.ask(transport, MAIL + b"RCPT TO:<slow@example.org>\r\n")
        transport.lose()
        self.assertTrue(self.router.waiting["slow@example.org"][0].called, "the question was not given up")
        self.assertEqual(self.recorder.actions(), "OC")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_the_socket_does_not_take_goes_by_the_transport(self) -> None:
        """Replies are sent at once where that works, and keep their order where it does not."""

        class Socket:
            def __init__(self) -> None:
                self.taken: list[int | OSError] = [1000, 3]
                self.sent = b""

            def send(self, octets: bytes) -> int:
                result = self.taken.pop(0)
                if isinstance(result, OSError):
                    raise result
                self.sent += octets[:result]
                return min(result, len(octets))

        for last in (3, BlockingIOError(), BrokenPipeError()):
            transport = self.ready()
            fake = Socket()
            fake.taken[1] = last
            transport.session._direct = cast(socket.socket, fake)
            transport.clear()
            for _ in range(3):
                transport.session.dataReceived(b"NOOP\r\n")
            self.assertEqual(fake.sent + transport.value(), b"250 2.0.0 Ok\r\n" * 3)
            self.assertEqual(fake.taken, [])
            self.assertIs(transport.producer, transport.session)
            self.ask(transport, b"QUIT\r\n")
            self.assertIsNone(transport.producer)

    def test_a_client_that_does_not_read_is_not_read_from(self) -> None:
        transport = self.ready()
        transport.session.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        self.clock.advance(self.listener.command_timeout_s + 1)
        self.assertTrue(transport.disconnecting)


class TimeTests(SmtpTestCase):
    """RFC 5321 s.4.5.3.2."""

    def test_an_idle_session_ends(self) -> None:
        transport = self.ready()
        self.clock.advance(299)
        self.assertEqual(self.ask(transport, b"NOOP\r\n"), ["250"])
        self.clock.advance(299)
        self.assertFalse(transport.disconnecting)
        transport.clear()
        self.clock.advance(2)
        self.assertEqual(transport.value(), b"421 4.4.2 Timeout\r\n")
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)
        self.clock.advance(60)
        self.assertTrue(transport.aborted)
        self.assertEqual(self.records(Action.CLOSED)[0].diagnostic, "421 4.4.2 Timeout")

    def test_an_octet_now_and_then_does_not_hold_a_session(self) -> None:
        """Issue 3: one byte every 10 s. A line must be whole within the limit for commands."""
        transport = self.ready()
        for _ in range(31):
            if not transport.disconnecting:
                transport.session.dataReceived(b"N")
                self.clock.advance(10)
        self.assertTrue(transport.disconnecting)

    def test_message_data_has_a_limit_of_its_own(self) -> None:
        transport = self.ready(data_rate=0.0)
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        for _ in range(3):
            self.clock.advance(599)
            transport.session.dataReceived(b"x\r\n")
        self.assertFalse(transport.disconnecting)
        self.clock.advance(601)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.queue.intakes[0].ended, "abort")
        self.assertEqual(len(self.records(Action.ABORTED)), 1)

    def drip(self, transport: LosableTransport, octets: bytes, every_s: float, limit_s: float) -> float:
        """Send the same now and then, for as long as we are let; for how long that was."""
        begun = self.clock.seconds()
        while not transport.disconnecting and self.clock.seconds() - begun < limit_s:
            transport.session.dataReceived(octets)
            self.clock.advance(every_s)
        return self.clock.seconds() - begun

    def test_an_octet_of_a_message_now_and_then_does_not_hold_a_session(self) -> None:
        """Issue 3: one byte every 10 s."""
        transport = self.ready()
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        transport.clear()
        self.assertLess(self.drip(transport, b"x", 10, 3600), LOOK_S * 2 + GRACE_S + 20)
        self.assertEqual(transport.value(), b"421 4.4.2 Timeout: the message comes too slowly\r\n")
        self.assertEqual(self.queue.intakes[0].ended, "abort")
        self.assertEqual(len(self.records(Action.ABORTED)), 1)
        self.clock.advance(60)
        closed = self.records(Action.CLOSED)[0]
        self.assertEqual(closed.diagnostic, "421 4.4.2 Timeout: the message comes too slowly")

    def test_chunks_are_looked_at_together(self) -> None:
        """Each is a command of its own, refused ones as well (RFC 3030)."""
        transport = self.ready()
        self.ask(transport, MAIL + RCPT)
        self.assertLess(self.drip(transport, b"BDAT 1\r\nx", 10, 3600), LOOK_S * 2 + GRACE_S + 20)
        transport = self.ready()
        self.ask(transport, b"BDAT 100000\r\n")
        self.assertLess(self.drip(transport, b"x", 10, 3600), LOOK_S * 2 + GRACE_S + 20)

    def test_a_slow_line_that_keeps_up_the_rate_is_borne(self) -> None:
        """And one that is dead for some minutes now and then."""
        transport = self.ready()
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        self.drip(transport, b"x" * 998 + b"\r\n", 10, 7200)
        for _ in range(10):
            self.drip(transport, b"x" * 998 + b"\r\n", 1, 60)
            self.clock.advance(GRACE_S - 60)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(self.ask(transport, b"\r\n.\r\n"), ["250"])

    def test_what_came_at_once_is_not_saved_up(self) -> None:
        transport = self.ready()
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        self.clock.advance(LOOK_S * 2)
        transport.session.dataReceived((b"x" * 998 + b"\r\n") * 1000)
        self.assertLess(self.drip(transport, b"x", 10, 3600), LOOK_S * 3 + GRACE_S + 20)

    def test_each_message_has_its_own_pace(self) -> None:
        """Small ones now and then, as monitors send them."""
        transport = self.ready()
        for _ in range(100):
            self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n")[-1], "354")
            self.clock.advance(50)
            self.assertEqual(self.ask(transport, b"x\r\n.\r\n"), ["250"])

    def test_who_is_trusted_may_be_slow(self) -> None:
        """A program that takes its time over what it sends; and all, where the listener says so."""
        for ip, rate in ((FRIEND, 100.0), (STRANGER, 0.0)):
            transport = self.ready(ip, data_rate=rate)
            self.ask(transport, MAIL + RCPT + b"DATA\r\n")
            self.assertGreaterEqual(self.drip(transport, b"x", 10, 3600), 3600)

    def test_a_slow_disk_is_no_fault_of_the_client(self) -> None:
        transport = self.ready()
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        flow = self.queue.intakes[0].flow
        assert flow is not None
        for _ in range(60):
            transport.session.dataReceived(b"x")
            flow.pause()
            self.clock.advance(50)
            flow.resume()
            self.clock.advance(5)
        self.assertFalse(transport.disconnecting)

    def test_a_session_has_one_timer_and_leaves_none(self) -> None:
        transport = self.ready()
        for _ in range(50):
            self.ask(transport, b"NOOP\r\n")
            self.clock.advance(1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        transport.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_client_that_goes_on_talking_does_not_hold_a_session_that_has_ended(self) -> None:
        transport = self.ready()
        self.ask(transport, b"QUIT\r\n")
        for _ in range(10):
            self.clock.advance(5)
            if not transport.gone:
                transport.session.dataReceived(b"NOOP\r\n")
        self.assertTrue(transport.aborted)


class ConnectionTests(SmtpTestCase):
    """Who may connect, and what is recorded of it."""

    def test_connections_are_recorded(self) -> None:
        transport = self.connect()
        transport.lose()
        opened, closed = self.recorder.records
        for record in (opened, closed):
            self.assertEqual(record.direction, "+")
            self.assertEqual(record.transport, "TCP|203.0.113.1|25|198.51.100.9|4321")
            self.assertEqual((record.source, record.application), ("tcp_local", "SMTP"))

    def test_connections_are_not_recorded_when_told_so(self) -> None:
        self.log = LogConfig(connections=False)
        self.connect(factory=self.make()).lose()
        self.assertEqual(self.recorder.records, [])

    def test_a_client_has_so_many_connections(self) -> None:
        factory = self.make(connections_per_client=2)
        first, second, third = (self.connect(factory=factory) for _ in range(3))
        self.assertEqual(self.codes(third), ["421"])
        self.assertIn(b"421 4.7.0", third.value())
        self.assertTrue(third.disconnecting)
        third.lose()
        self.assertEqual(self.recorder.actions(), "OOX")
        self.assertEqual(self.codes(self.connect("198.51.100.10", factory)), ["220"])
        first.lose()
        self.assertEqual(self.codes(self.connect(factory=factory)), ["220"])
        self.assertFalse(second.disconnecting)

    def test_trusted_clients_have_as_many_as_they_like(self) -> None:
        factory = self.make(connections_per_client=2)
        self.assertEqual([self.codes(self.connect(FRIEND, factory)) for _ in range(5)], [["220"]] * 5)

    def test_all_clients_together_have_so_many(self) -> None:
        factory = self.make(connections=2)
        codes = [self.codes(self.connect(f"192.0.2.{number}", factory)) for number in range(3)]
        self.assertEqual(codes, [["220"], ["220"], ["421"]])

    def test_nothing_is_kept_of_a_connection_that_has_ended(self) -> None:
        for transport in [self.connect() for _ in range(5)]:
            transport.lose()
        self.assertEqual(len(self.factory.site.sessions), 0)
        self.assertEqual(len(self.factory.site.counts), 0)

    def test_a_peer_without_an_ip_address(self) -> None:
        session = self.factory.buildProtocol(None)
        assert isinstance(session, SmtpSession)
        transport = LosableTransport(hostAddress=UNIXAddress(b"/x"), peerAddress=UNIXAddress(None))
        session.makeConnection(transport)
        transport.session = session
        self.assertEqual(self.ask(transport, HELLO + MAIL + RCPT + b"DATA\r\n.\r\n")[-1], "250")

    def test_sessions_are_small(self) -> None:
        """5,000 idle ones and their sockets must fit 150 MB; what is ours of each is slots and no containers."""
        session = self.ready().session
        sizes = sys.getsizeof(session) + sys.getsizeof(session._core)
        self.assertLess(sizes, 600)
        for part in (session, session._core):
            self.assertFalse(hasattr(part, "__dict__"))


class DrainTests(SmtpTestCase):
    """An orderly stop."""

    def test_a_stop_without_sessions_is_done_at_once(self) -> None:
        self.successResultOf(self.factory.drain())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.codes(self.connect()), ["421"])

    def test_idle_sessions_end_and_busy_ones_finish(self) -> None:
        idle, arriving, committing = self.ready(), self.ready(), self.ready()
        begun = MAIL + RCPT + b"DATA\r\n"
        self.ask(arriving, begun)
        self.queue.held = True
        self.ask(committing, begun + b".\r\n")
        for transport in (idle, arriving, committing):
            transport.clear()
        done = self.factory.drain()
        self.assertEqual(idle.value(), b"421 4.3.2 Server is stopping\r\n")
        self.assertEqual((arriving.value(), committing.value()), (b"", b""))
        idle.lose()
        self.queue.release()
        self.assertEqual(self.codes(committing), ["250", "421"])
        committing.lose()
        self.assertNoResult(done)
        self.queue.held = False
        self.assertEqual(self.ask(arriving, b".\r\n" + MAIL), ["250", "421"])
        arriving.lose()
        self.successResultOf(done)
        self.assertEqual(len(self.queue.messages), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_message_that_never_ends_is_cut_off(self) -> None:
        transport = self.ready()
        self.ask(transport, MAIL + RCPT + b"DATA\r\n")
        done = self.factory.drain(grace_s=5)
        again = self.factory.drain()
        self.clock.advance(4)
        self.assertNoResult(done)
        self.clock.advance(2)
        self.assertTrue(transport.aborted)
        self.successResultOf(done)
        self.successResultOf(again)
