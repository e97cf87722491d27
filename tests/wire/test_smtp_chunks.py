"""Tests of BDAT in the SMTP server core, with the examples of RFC 3030, and of its abuse."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.data import ChunkReader
from qmailpy.wire.smtp import SmtpCore
from qmailpy.wire.smtp_events import BadCommand, DataBegun, DataChunk, DataEnded, DataRefused, Event, MailFrom, Reset
from qmailpy.wire.smtp_service import Service
from tests.wire.test_smtp import SERVICE, Session, joined, service

BEGIN = b"EHLO client.example.net\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"


def content(events: list[Event]) -> bytes:
    return b"".join(event.octets for event in events if isinstance(event, DataChunk))


def settled(events: list[Event]) -> list[Event]:
    """The events with the content of each message that was completed in one piece, and none of the others'."""
    result: list[Event] = []
    held: list[Event] = []
    for event in joined(events):
        if isinstance(event, DataChunk):
            held.append(event)
            continue
        if isinstance(event, DataEnded):
            result += held
        if not isinstance(event, BadCommand):
            held = []
        result.append(event)
    return joined(result)


class BdatTests(SynchronousTestCase):
    """RFC 3030."""

    def begun(self, used: Service = SERVICE) -> Session:
        session = Session(used)
        session.ask(BEGIN)
        return session

    def test_it_is_announced(self) -> None:
        session = Session()
        session.ask(BEGIN)
        self.assertIn(b"CHUNKING", session.sent)

    def test_the_simple_example_of_the_rfc(self) -> None:
        """s.4.1: one chunk, which is the last."""
        session = self.begun()
        text = b"To: Susan@random.com\r\nFrom: Sam@random.com\r\nSubject: x\r\n\r\nBODY\r\n"
        self.assertEqual(session.ask(b"BDAT %d LAST\r\n" % len(text) + text), [b"250"])
        self.assertEqual(content(session.events), text)
        last = session.events[-1]
        assert isinstance(last, DataEnded)
        self.assertEqual((last.size, last.head), (len(text), text[:-8]))

    def test_the_pipelined_example_of_the_rfc(self) -> None:
        """s.4.2: chunks of several sizes, an empty last one, and commands behind it in the same segment."""
        session = Session()
        octets = BEGIN + b"BDAT 7\r\nabc\r\ndeBDAT 4\r\nf\r\n.BDAT 2\r\n\r\nBDAT 0 LAST\r\nQUIT\r\n"
        self.assertEqual(session.ask(octets), [b"250"] * 7 + [b"221"])
        self.assertEqual(content(session.events), b"abc\r\ndef\r\n.\r\n")

    def test_dots_mean_nothing(self) -> None:
        session = self.begun()
        self.assertEqual(session.ask(b"BDAT 10 LAST\r\n..x\r\n.\r\n\r\n"), [b"250"])
        self.assertEqual(content(session.events), b"..x\r\n.\r\n\r\n")

    def test_a_last_line_without_end_gets_one(self) -> None:
        for octets, expected in (
            (b"BDAT 3 LAST\r\nabc", b"abc\r\n"),
            (b"BDAT 3\r\nabcBDAT 0 LAST\r\n", b"abc\r\n"),
            (b"BDAT 5\r\nabc\r\nBDAT 0 LAST\r\n", b"abc\r\n"),
            (b"BDAT 0 LAST\r\n", b""),
            (b"BDAT 0\r\nBDAT 0\r\nBDAT 1 LAST\r\nx", b"x\r\n"),
        ):
            session = self.begun()
            session.feed(octets)
            self.assertEqual(content(session.events), expected, octets)

    def test_line_ends_may_be_cut(self) -> None:
        session = self.begun()
        self.assertEqual(session.ask(b"BDAT 4\r\nabc\rBDAT 2 LAST\r\n\nd"), [b"250", b"250"])
        self.assertEqual(content(session.events), b"abc\r\nd\r\n")

    def test_bare_line_ends_and_nul_are_refused_at_the_end(self) -> None:
        for text in (b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n", b"a\r"):
            session = self.begun()
            self.assertEqual(session.ask(b"BDAT %d LAST\r\n" % len(text) + text), [b"550"], text)
            self.assertIsInstance(joined(session.events)[-1], DataRefused)
            self.assertEqual(session.ask(b"MAIL FROM:<a@b.example>\r\n"), [b"250"])

    def test_mixed_with_data_and_other_commands(self) -> None:
        """s.2: DATA and BDAT may not be used in one transaction; a chunked message is open to RSET only."""
        session = self.begun()
        octets = b"BDAT 1\r\nxDATA\r\nRCPT TO:<e@d.example>\r\nMAIL FROM:<>\r\nNOOP\r\nBDAT 1 LAST\r\ny"
        self.assertEqual(session.ask(octets), [b"250", b"503", b"503", b"503", b"250", b"250"])
        self.assertEqual(content(session.events), b"xy\r\n")

    def test_reset_forgets_the_chunks(self) -> None:
        session = self.begun()
        self.assertEqual(session.ask(b"BDAT 1\r\nxRSET\r\nBDAT 1 LAST\r\ny"), [b"250", b"250", b"503"])
        self.assertEqual([type(event) for event in session.events[-2:]], [Reset, BadCommand])

    def test_octets_behind_a_refused_command_are_never_commands(self) -> None:
        """Or whoever writes a message could speak for the client (s.2: the chunk is sent whatever the answer)."""
        evil = b"MAIL FROM:<evil@b.example>\r\n"
        session = Session()
        self.assertEqual(session.ask(b"EHLO x\r\nBDAT %d LAST\r\n" % len(evil) + evil), [b"250", b"503"])
        octets = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<bad@d.example>\r\nBDAT %d LAST\r\n" % len(evil) + evil
        self.assertEqual(session.ask(octets), [b"250", b"550", b"554"])
        self.assertEqual(sum(isinstance(event, MailFrom) for event in session.events), 1)

    def test_sizes_that_are_none_end_the_session(self) -> None:
        """Where the chunk ends nobody knows, so nothing behind it is read."""
        for size in (b"", b"-1", b"x", b"1 2", b"1 LAST x", b"0x10", b"1.5", b"9" * 21, b"\xb2", b"LAST"):
            session = self.begun()
            self.assertEqual(session.ask(b"BDAT " + size + b"\r\nNOOP\r\n"), [b"501"], size)
            self.assertTrue(session.core.closed)

    def test_a_size_beyond_all_limits_is_refused_and_its_octets_are_skipped(self) -> None:
        session = self.begun()
        self.assertEqual(session.ask(b"BDAT 99999999999999999999\r\n"), [b"552"])
        tracemalloc.start()
        try:
            for _ in range(200):
                self.assertEqual(session.ask(b"QUIT\r\n" * 2000), [])
            self.assertLess(tracemalloc.get_traced_memory()[1], 200000)
        finally:
            tracemalloc.stop()

    def test_the_limit_holds_for_all_chunks_together(self) -> None:
        session = self.begun(service(message_octets=10))
        octets = b"BDAT 8\r\nabcdef\r\nBDAT 4 LAST\r\nab\r\nBDAT 1 LAST\r\nx"
        self.assertEqual(session.ask(octets), [b"250", b"552", b"503"])
        self.assertEqual([type(event) for event in session.events[-2:]], [DataRefused, BadCommand])

    def test_a_message_never_begins_with_its_second_chunk(self) -> None:
        """When the first was refused for want of room."""
        core = SmtpCore(SERVICE)
        for line in BEGIN.splitlines(keepends=True):
            core.receive(line)
            while core.waiting:
                core.accept()
        core.proceed()
        self.assertEqual(core.receive(b"BDAT 1\r\nx"), [DataBegun()])
        core.take()
        core.answer(Reply(452, "4.3.1", "No space"))
        self.assertEqual(core.proceed(), [])
        (event,) = core.receive(b"BDAT 1 LAST\r\ny")
        self.assertIsInstance(event, BadCommand)
        self.assertEqual([line[:3] for line in core.take().splitlines()], [b"452", b"503"])

    def test_lmtp_answers_for_each_recipient_at_the_last_chunk(self) -> None:
        session = Session(Service(hostname="x.example", lmtp=True))
        session.ask(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<c@b.example>\r\n")
        self.assertEqual(session.ask(b"BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n"), [b"250"] * 3)

    WORDS = (
        BEGIN, b"BDAT 3\r\nabc", b"BDAT 2\r\n\r\n", b"BDAT 1\r\n\r", b"BDAT 1 LAST\r\n\n", b"BDAT 0 LAST\r\n",
        b"BDAT 0\r\n", b"DATA\r\n", b".\r\n", b"RSET\r\n", b"BDAT 30\r\n", b"BDAT\r\n", b"x", b"NOOP\r\n",
    )  # fmt: skip

    @given(st.lists(st.sampled_from(WORDS), max_size=15))
    def test_octets_mean_the_same_whole_and_one_by_one(self, words: list[bytes]) -> None:
        octets = BEGIN + b"".join(words)
        whole, single = Session(), Session()
        whole.feed(octets)
        for at in range(len(octets)):
            single.feed(octets[at : at + 1])
        self.assertEqual((settled(whole.events), whole.sent), (settled(single.events), single.sent))


class ChunkReaderTests(SynchronousTestCase):
    """L{ChunkReader}."""

    @given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b".", b"\0", b"bc\r\n"]), max_size=12), st.booleans())
    def test_the_cut_does_not_matter(self, parts: list[bytes], normalise: bool) -> None:
        results = set()
        whole = b"".join(parts)
        for pieces in (parts, [whole], [whole[at : at + 1] for at in range(len(whole))]):
            reader = ChunkReader(1000, 10, normalise)
            text = b"".join([reader.take(piece, False) for piece in pieces]) + reader.take(b"", True)
            results.add((text, reader.size, None) if reader.fault is None else (b"", 0, reader.fault))
        self.assertEqual(len(results), 1, results)
