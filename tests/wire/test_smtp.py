"""Tests of the SMTP server core."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.smtp import BACKLOG_OCTETS, SmtpCore
from qmailpy.wire.smtp_events import (
    BadCommand,
    DataBegun,
    DataChunk,
    DataEnded,
    DataRefused,
    Ended,
    Event,
    Greeted,
    MailFrom,
    RcptTo,
    Reset,
)
from qmailpy.wire.smtp_service import Extension, Limits, Service

SERVICE = Service(hostname="mx.example.org")
QUESTIONS = (MailFrom, RcptTo, DataBegun, DataEnded)
NO_SUCH_USER = Reply(550, "5.1.1", "No such user here")


def service(**limits: Any) -> Service:
    return Service(hostname="mx.example.org", limits=Limits(**limits))


class Session:
    """A core with an adapter that answers at once: refuses recipients named C{bad...}, accepts the rest."""

    def __init__(self, used: Service = SERVICE) -> None:
        self.core = SmtpCore(used)
        self.events: list[Event] = []
        self.sent = b""

    def feed(self, octets: bytes) -> list[Event]:
        """The events of C{octets} and of the answers to them."""
        before = len(self.events)
        events = self.core.receive(octets)
        while events:
            self.events += events
            last = events[-1]
            if isinstance(last, RcptTo) and last.address.startswith("bad"):
                self.core.answer(NO_SUCH_USER)
            elif isinstance(last, QUESTIONS):
                self.core.accept()
            events = self.core.proceed()
        self.sent += self.core.take()
        return self.events[before:]

    def ask(self, octets: bytes) -> list[bytes]:
        """The replies to C{octets}: a line each, with the code only."""
        self.sent = b""
        self.feed(octets)
        return [line[:3] for line in self.sent.splitlines() if line[3:4] == b" "]


def joined(events: Sequence[Event]) -> list[Event]:
    """The events with the content of each message in one piece; none of it for a refused message."""
    result: list[Event] = []
    for event in events:
        if isinstance(event, DataChunk) and result and isinstance(result[-1], DataChunk):
            result[-1] = DataChunk(result[-1].octets + event.octets)
        elif isinstance(event, DataRefused) and result and isinstance(result[-1], DataChunk):
            result[-1] = event
        else:
            result.append(event)
    return result


HELLO = b"EHLO client.example.net\r\n"
ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
MESSAGE = b"Subject: x\r\n\r\n..dot\r\n.\r\n"
CONTENT = b"Subject: x\r\n\r\n.dot\r\n"


class CommandTests(SynchronousTestCase):
    """RFC 5321 s.4.1 and s.4.3."""

    def test_a_whole_session(self) -> None:
        session = Session()
        session.core.greet()
        self.assertEqual(session.core.take(), b"220 mx.example.org ESMTP qmailpy\r\n")
        self.assertEqual(session.feed(HELLO), [Greeted("client.example.net", True)])
        self.assertEqual(
            session.feed(b"MAIL FROM:<a@example.net> SIZE=100 BODY=8BITMIME\r\n"),
            [MailFrom(address="a@example.net", size=100, body="8BITMIME")],
        )
        self.assertEqual(session.feed(b"RCPT TO:<B@EXAMPLE.org>\r\n"), [RcptTo(address="B@example.org")])
        self.assertEqual(session.feed(b"DATA\r\n"), [DataBegun()])
        self.assertTrue(session.core.in_data)
        self.assertEqual(session.feed(MESSAGE), [DataChunk(CONTENT), DataEnded(len(CONTENT), b"Subject: x\r\n")])
        self.assertEqual(session.feed(b"QUIT\r\n"), [Ended(Reply(221, "2.0.0", "Bye"))])
        self.assertTrue(session.core.closed)
        self.assertEqual(
            session.sent,
            b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n"
            b"250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-LIMITS MAILMAX=1000 RCPTMAX=1000\r\n"
            b"250-SMTPUTF8\r\n250 DSN\r\n"
            b"250 2.1.0 Sender ok\r\n250 2.1.5 Recipient ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
            b"250 2.0.0 Message accepted\r\n221 2.0.0 Bye\r\n",
        )

    def test_helo_announces_nothing(self) -> None:
        session = Session()
        self.assertEqual(session.feed(b"helo old\r\n"), [Greeted("old", False)])
        self.assertEqual(session.sent, b"250 mx.example.org\r\n")
        self.assertFalse(session.core.extended)

    def test_commands_out_of_order(self) -> None:
        cases = {
            b"MAIL FROM:<a@example.net>\r\n": b"503",
            b"RCPT TO:<a@example.net>\r\n": b"503",
            b"DATA\r\n": b"503",
        }
        for line, code in cases.items():
            self.assertEqual(Session().ask(line), [code], line)
            if not line.startswith(b"MAIL"):
                self.assertEqual(Session().ask(HELLO + line)[1:], [code], line)
        session = Session()
        mail = b"MAIL FROM:<a@example.net>\r\n"
        self.assertEqual(session.ask(HELLO + mail + mail + b"DATA\r\n"), [b"250", b"250", b"503", b"503"])
        # A new greeting or RSET ends the transaction, the end of data too.
        for reset in (HELLO, b"RSET\r\n", b"RCPT TO:<b@example.org>\r\nDATA\r\n.\r\n"):
            session = Session()
            session.feed(HELLO + mail + reset)
            self.assertEqual(session.ask(b"RCPT TO:<b@example.org>\r\n" + mail), [b"503", b"250"], reset)

    def test_commands_that_bring_no_mail(self) -> None:
        """They work before EHLO, too (RFC 5321 s.4.1.4)."""
        cases = {
            b"NOOP\r\n": b"250",
            b"noop what ever\r\n": b"250",
            b"RSET\r\n": b"250",
            b"VRFY someone\r\n": b"252",
            b"HELP\r\n": b"214",
            b"HELP MAIL\r\n": b"214",
            b"EXPN list\r\n": b"502",
            b"TURN\r\n": b"502",
            b"QUIT\r\n": b"221",
            b"XYZZY\r\n": b"500",
            b"\r\n": b"500",
            b" NOOP\r\n": b"500",
            b"NOOP\tx\r\n": b"500",
            b"\x00\xff\r\n": b"500",
            b"QUIT now\r\n": b"501",
            b"RSET now\r\n": b"501",
            b"EHLO\r\n": b"501",
            b"EHLO two words\r\n": b"501",
            b"EHLO b\xc3\xbc\r\n": b"501",
            b"EHLO " + b"x" * 256 + b"\r\n": b"501",
            b"EHLO x\r\r\n": b"501",
        }
        for line, code in cases.items():
            self.assertEqual(Session().ask(line), [code], line)

    def test_malformed_envelopes(self) -> None:
        cases = {
            b"MAIL\r\n": b"501",
            b"MAIL FROM\r\n": b"501",
            b"MAIL FROM:\r\n": b"501",
            b"MAIL FROM:a@example.net\r\n": b"501",
            b"MAIL TO:<a@example.net>\r\n": b"501",
            b"MAIL FROM:<a@example.net>x\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE=\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE=-1\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE=1e3\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE=" + b"9" * 21 + b"\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE=1 SIZE=1\r\n": b"501",
            b"MAIL FROM:<a@example.net> BODY=BINARYMIME\r\n": b"501",
            b"MAIL FROM:<a@example.net> SOLICIT=x\r\n": b"555",
            b"MAIL FROM:<a@example.net> BY=120;R\r\n": b"555",
            b"MAIL FROM:<a@example.net>\tSIZE=1\r\n": b"501",
            b"MAIL FROM:<a@example.net> SIZE=52428801\r\n": b"552",
            "MAIL FROM:<ä@example.net>\r\n".encode(): b"553",
            b"MAIL FROM:<>\r\n": b"250",
            b"mail from: <a@example.net>  size=7  body=7bit \r\n": b"250",
        }
        for line, code in cases.items():
            self.assertEqual(Session().ask(HELLO + line)[1:], [code], line)
        for line, code in {
            b"RCPT TO:<>\r\n": b"501",
            b"RCPT TO:b@example.org\r\n": b"501",
            b"RCPT FROM:<b@example.org>\r\n": b"501",
            b"RCPT TO:<b@example.org> SOLICIT=x\r\n": b"555",
            b"rcpt to: <postmaster>\r\n": b"250",
        }.items():
            self.assertEqual(Session().ask(HELLO + b"MAIL FROM:<>\r\n" + line)[2:], [code], line)

    def test_bad_commands_are_told_for_the_log(self) -> None:
        line = b"XYZZY " + b"x" * 500
        session = Session()
        (event,) = session.feed(line + b"\r\n")
        assert isinstance(event, BadCommand)
        self.assertEqual((event.line, event.reply.code), (line[:200], 500))

    def test_other_protocols_are_hung_up_on(self) -> None:
        session = Session()
        session.feed(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@b>\r\n")
        self.assertEqual([type(event) for event in session.events], [BadCommand, Ended])
        self.assertTrue(session.sent.startswith(b"421 "))
        self.assertEqual(session.feed(HELLO), [])

    def test_an_extension_is_a_row_in_a_table(self) -> None:
        """So that the next ones need no change of the core."""

        def parse(value: str | None, limits: Limits) -> str | Reply:
            return f"7BIT{value}" if value else Reply(501, "5.5.4", "X needs a value")

        row = Extension(keyword="X", argument=lambda limits: str(limits.errors), mail={"X": ("body", parse)})
        session = Session(Service(hostname="h", extensions=(row,)))
        session.feed(HELLO + b"MAIL FROM:<a@b> X\r\nMAIL FROM:<a@b> X=1\r\n")
        self.assertEqual(session.events[-1], MailFrom(address="a@b", body="7BIT1"))
        self.assertTrue(session.sent.startswith(b"250-h\r\n250 X 20\r\n501 5.5.4 X needs"))


class LineTests(SynchronousTestCase):
    """What ends a command."""

    def test_a_line_feed_alone_is_told_to_be_no_line_end(self) -> None:
        session = Session()
        self.assertEqual(session.ask(b"EHLO x\nEHLO y\r\n"), [b"500", b"250"])
        self.assertEqual(session.core.helo, "y")

    def test_a_listener_for_old_devices_takes_line_feeds(self) -> None:
        session = Session(service(normalise=True))
        self.assertEqual(session.ask(HELLO.replace(b"\r", b"") + ENVELOPE), [b"250"] * 3)

    def test_a_line_of_the_limit_is_read_and_a_longer_one_skipped(self) -> None:
        for length, code in ((2048, b"250"), (2049, b"500"), (100000, b"500")):
            line = b"NOOP ".ljust(length - 2, b"x") + b"\r\n"
            self.assertEqual(Session().ask(line + b"VRFY x\r\n"), [code, b"252"], length)
            session = Session()
            for at in range(0, len(line), 100):
                session.feed(line[at : at + 100])
            self.assertEqual(session.sent[:3], code, length)


class AnswerTests(SynchronousTestCase):
    """Questions, and order while they wait (RFC 2920)."""

    def test_nothing_is_parsed_behind_a_question(self) -> None:
        core = SmtpCore(SERVICE)
        events = core.receive(HELLO + ENVELOPE + b"RCPT TO:<c@example.org>\r\nNOOP\r\n")
        self.assertEqual(events[1:], [MailFrom(address="a@example.net")])
        self.assertTrue(core.waiting)
        core.take()
        self.assertEqual(core.receive(b"QUIT\r\n"), [])
        self.assertEqual(core.proceed(), [])
        self.assertEqual(core.take(), b"")
        core.accept()
        self.assertEqual(core.proceed(), [RcptTo(address="b@example.org")])
        core.answer(NO_SUCH_USER)
        self.assertEqual(core.proceed(), [RcptTo(address="c@example.org")])
        core.accept()
        (last,) = core.proceed()
        self.assertIsInstance(last, Ended)
        codes = [line[:3] for line in core.take().splitlines()]
        self.assertEqual(codes, [b"250", b"550", b"250", b"250", b"221"])

    def test_an_answer_without_a_question_is_a_bug(self) -> None:
        self.assertRaises(RuntimeError, SmtpCore(SERVICE).answer, NO_SUCH_USER)

    def test_a_refused_sender_opens_no_transaction(self) -> None:
        core = SmtpCore(SERVICE)
        core.receive(HELLO + b"MAIL FROM:<a@example.net>\r\n")
        core.answer(Reply(451, "4.3.0", "Not now"))
        self.assertEqual(core.proceed(), [])
        self.assertEqual([type(event) for event in core.receive(b"RCPT TO:<b@example.org>\r\n")], [BadCommand])

    def test_data_needs_a_recipient_that_was_accepted(self) -> None:
        session = Session()
        session.feed(HELLO)
        refused = b"MAIL FROM:<>\r\nRCPT TO:<bad@example.org>\r\n"
        self.assertEqual(session.ask(refused + b"DATA\r\n"), [b"250", b"550", b"554"])
        self.assertEqual(session.ask(b"RCPT TO:<good@example.org>\r\nDATA\r\n"), [b"250", b"354"])

    def test_octets_behind_an_accepted_data_command_are_data(self) -> None:
        """Though a client has to wait for the 354: they cannot be taken for commands then."""
        session = Session()
        session.feed(HELLO + ENVELOPE + b"DATA\r\nMAIL FROM:<x@example.net>\r\n.\r\nNOOP\r\n")
        self.assertIn(DataChunk(b"MAIL FROM:<x@example.net>\r\n"), session.events)
        self.assertEqual(len([event for event in session.events if isinstance(event, MailFrom)]), 1)

    def test_octets_behind_a_refused_data_command_are_commands(self) -> None:
        session = Session()
        session.feed(HELLO + b"MAIL FROM:<>\r\nRCPT TO:<bad@example.org>\r\nDATA\r\nRSET\r\n")
        self.assertEqual(session.events[-1], Reset())

    def test_data_can_be_refused_for_want_of_room_and_tried_again(self) -> None:
        core = SmtpCore(SERVICE)
        events = core.receive(HELLO + ENVELOPE + b"DATA\r\n")
        while not isinstance(events[-1], DataBegun):
            core.accept()
            events = core.proceed()
        core.answer(Reply(452, "4.3.1", "No space"))
        self.assertEqual(core.proceed(), [])
        self.assertFalse(core.in_data)
        self.assertEqual(core.receive(b"DATA\r\n"), [DataBegun()])

    def test_421_in_an_answer_ends_the_session(self) -> None:
        core = SmtpCore(SERVICE)
        core.receive(HELLO + ENVELOPE)
        reply = Reply(421, "4.3.2", "Stopping")
        core.answer(reply)
        self.assertEqual(core.proceed(), [Ended(reply)])
        self.assertTrue(core.take().endswith(b"421 4.3.2 Stopping\r\n"))
        self.assertEqual(core.receive(b"NOOP\r\n"), [])

    def test_closing_while_a_question_is_out(self) -> None:
        core = SmtpCore(SERVICE)
        core.receive(HELLO + ENVELOPE)
        core.take()
        core.close(Reply(421, "4.4.2", "Timeout"))
        core.accept()
        self.assertEqual(core.proceed(), [])
        self.assertEqual(core.take(), b"421 4.4.2 Timeout\r\n")


class MessageTests(SynchronousTestCase):
    """What is refused behind the data."""

    def refuse(self, content: bytes, used: Service = SERVICE) -> Reply:
        session = Session(used)
        session.feed(HELLO + ENVELOPE + b"DATA\r\n")
        session.feed(content + b"\r\n.\r\n")
        event = session.events[-1]
        assert isinstance(event, DataRefused), event
        self.assertEqual(session.sent.splitlines()[-1][:3], b"%d" % event.reply.code)
        # The transaction is over and the session goes on.
        self.assertEqual(session.ask(b"DATA\r\n" + ENVELOPE), [b"503", b"250", b"250"])
        return event.reply

    def test_faults(self) -> None:
        self.assertEqual(str(self.refuse(b"a\nb"))[:10], "550 5.6.11")
        self.assertEqual(str(self.refuse(b"a\rb"))[:10], "550 5.6.11")
        self.assertEqual(str(self.refuse(b"a\0b"))[:10], "550 5.6.11")
        self.assertEqual(str(self.refuse(b"x" * 11, service(message_octets=10)))[:9], "552 5.3.4")
        self.assertEqual(str(self.refuse(b"Received: x\r\n" * 2, service(received=1)))[:9], "554 5.4.6")

    def test_eight_bits_pass(self) -> None:
        session = Session()
        session.feed(HELLO + ENVELOPE + b"DATA\r\n")
        session.feed(bytes(range(0x80, 0x100)) + b"\r\n.\r\n")
        self.assertIn(DataChunk(bytes(range(0x80, 0x100)) + b"\r\n"), session.events)


class LimitTests(SynchronousTestCase):
    """Every session has an end."""

    def test_errors(self) -> None:
        session = Session(service(errors=3))
        self.assertEqual(session.ask(b"X\r\n" * 9), [b"500"] * 4 + [b"421"])
        self.assertEqual(session.events[-1], Ended(Reply(421, "4.7.0", "Too many errors")))

    def test_refused_recipients_are_errors_unless_told_not_to_count(self) -> None:
        session = Session(service(errors=3))
        session.feed(HELLO + b"MAIL FROM:<>\r\n")
        self.assertEqual(session.ask(b"RCPT TO:<bad@example.org>\r\n" * 9), [b"550"] * 4 + [b"421"])
        core = SmtpCore(service(errors=3))
        core.receive(HELLO + b"MAIL FROM:<>\r\n" + b"RCPT TO:<bad@example.org>\r\n" * 9)
        core.accept()
        while core.proceed():
            core.answer(NO_SUCH_USER, counted=False)
        self.assertFalse(core.closed)

    def test_a_message_that_is_accepted_forgives(self) -> None:
        session = Session(service(errors=3, junk=3))
        session.feed(HELLO)
        for _ in range(5):
            session.feed(b"X\r\nNOOP\r\nX\r\nNOOP\r\n" + ENVELOPE + b"DATA\r\n.\r\n")
        self.assertFalse(session.core.closed)

    def test_a_message_that_is_refused_does_not(self) -> None:
        session = Session(service(errors=3))
        session.feed(HELLO)
        for _ in range(4):
            session.feed(ENVELOPE + b"DATA\r\n\n\r\n.\r\n")
        self.assertTrue(session.core.closed)

    def test_junk(self) -> None:
        for line in (b"NOOP\r\n", b"RSET\r\n", b"VRFY x\r\n", b"HELP\r\n", HELLO):
            session = Session(service(junk=5))
            session.feed(line * 50)
            self.assertTrue(session.core.closed, line)
            self.assertIn(b"421 4.7.0", session.sent)

    def test_transactions(self) -> None:
        session = Session(service(messages=2))
        session.feed(HELLO)
        for _ in range(2):
            self.assertEqual(session.ask(ENVELOPE + b"DATA\r\n.\r\n")[-1], b"250")
        self.assertEqual(session.ask(ENVELOPE), [b"421"])
        self.assertTrue(session.core.closed)

    def test_what_is_sent_without_waiting_for_answers(self) -> None:
        core = SmtpCore(SERVICE)
        core.receive(HELLO + ENVELOPE)
        events: list[Event] = []
        for _ in range(BACKLOG_OCTETS // 1024 + 1):
            events += core.receive(b"x" * 1024)
        self.assertEqual([type(event) for event in events], [Ended])
        self.assertTrue(core.closed)


WORDS = [
    HELLO,
    b"HELO x\r\n",
    ENVELOPE,
    b"RCPT TO:<bad@example.org>\r\n",
    b"DATA\r\n",
    MESSAGE,
    b"RSET\r\n",
    b"NOOP\r\n",
]
WORDS += [b".\r\n", b"\r\n", b"\n", b"\r", b"\0", b"QUIT\r\n", b"MAIL FROM:<", b">", b" SIZE=", b"9" * 60, b"X" * 300]
WORDS += [b"\r\n.\r\n", b"Received: x\r\n", b'"\\', b"@", b"RCPT TO:<", b"\xff"]


class CutTests(SynchronousTestCase):
    """Cut the network anywhere."""

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(WORDS), max_size=25), st.booleans())
    def test_octets_mean_the_same_whole_and_one_by_one(self, words: list[bytes], normalise: bool) -> None:
        used = service(line_octets=120, message_octets=400, received=1, errors=5, junk=9, normalise=normalise)
        octets = b"".join(words)
        whole, single = Session(used), Session(used)
        whole.feed(octets)
        for at in range(len(octets)):
            single.feed(octets[at : at + 1])
        ends = [-1 if session.core.in_data else len(session.events) for session in (whole, single)]
        self.assertEqual(ends[0] == -1, ends[1] == -1)
        first, second = joined(whole.events), joined(single.events)
        if whole.core.in_data:  # how much of the last message has come through yet may differ
            first = first[:-1] if isinstance(first[-1], DataChunk) else first
            second = second[:-1] if isinstance(second[-1], DataChunk) else second
        self.assertEqual(first, second)
        self.assertEqual(whole.sent, single.sent)

    @settings(deadline=None)
    @given(st.lists(st.one_of(st.binary(max_size=300), st.sampled_from(WORDS)), max_size=30))
    def test_garbage_never_raises(self, pieces: list[bytes]) -> None:
        session = Session(service(message_octets=100))
        for piece in pieces:
            session.feed(piece)

    def test_memory_is_bounded(self) -> None:
        for piece in (b"x", b"NOOP ", b"MAIL FROM:<a", b"\0", b"a\r\n"):
            for begin in (b"", HELLO + ENVELOPE + b"DATA\r\n"):
                session = Session(service(errors=1 << 30, junk=1 << 30))
                session.feed(begin)
                chunk = piece * (65536 // len(piece))
                session.feed(chunk)
                tracemalloc.start()
                try:
                    for _ in range(2 if b"\n" in piece else 64):
                        session.feed(chunk)
                        session.events.clear()
                        session.sent = b""
                    kept = tracemalloc.get_traced_memory()[0]
                finally:
                    tracemalloc.stop()
                self.assertLess(kept, 80000, (piece, begin))  # the head and how a bytearray grows

    def test_time_is_linear(self) -> None:
        """An octet at a time, a line that never ends and many short commands: no more than microseconds an octet."""
        started = time.process_time()
        session = Session()
        for _ in range(100000):
            session.feed(b"x")
        session = Session(service(errors=1 << 30))
        session.feed(b"\r\n" * 30000)
        session = Session()
        session.feed(HELLO + ENVELOPE + b"DATA\r\n")
        for _ in range(100000):
            session.feed(b".")
        self.assertLess(time.process_time() - started, 4.0)
