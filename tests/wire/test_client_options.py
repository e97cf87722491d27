"""Tests of the parameters that say how a message is to go on, and of content that is no lines, on the way out."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.client_data import BinaryChunker
from qmailpy.wire.client_events import Finished, GoAhead, Transaction
from qmailpy.wire.client_options import options, refusal, seconds_left
from qmailpy.wire.mime7 import Unconvertible, convert
from tests.wire.test_smtp_client import PLAIN_EHLO, TWO, begun, session

BINARY_EHLO = b"250-mx.example\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 BINARYMIME\r\n"
OCTETS = b"A: b\r\n\r\n\0\r\n.\r\nMAIL FROM:<x@y>\n\r"


class OptionTests(SynchronousTestCase):
    def test_a_peer_gets_what_it_offers_and_nothing_else(self) -> None:
        asked = evolve(TWO, mt_priority=-3, by_mode="NT", deliver_by=9.0, by_seconds=-40)
        self.assertEqual(options(asked, {}), b"")
        self.assertEqual(options(asked, {"MT-PRIORITY": "", "DELIVERBY": ""}), b" MT-PRIORITY=-3 BY=-40;NT")
        self.assertEqual(options(TWO, {"MT-PRIORITY": "", "DELIVERBY": ""}), b"")
        client = session(b"250-mx.example\r\n250-MT-PRIORITY MIXER\r\n250 DELIVERBY 30\r\n")
        client.begin(asked)
        self.assertEqual(client.take(), b"MAIL FROM:<a@example.org> MT-PRIORITY=-3 BY=-40;NT\r\n")

    def test_what_must_come_back_in_time_does_not_go_where_it_would_not(self) -> None:
        """RFC 2852 s.4.1.4.2, and s.3 for hosts that name the least they need."""
        asked = evolve(TWO, by_mode="R", deliver_by=9.0, by_seconds=30)
        found = refusal(asked, {})
        assert found is not None
        self.assertEqual((found.code, found.enhanced), (554, "5.4.7"))
        self.assertIsNone(refusal(asked, {"DELIVERBY": ""}))
        self.assertIsNone(refusal(asked, {"DELIVERBY": "30"}))
        self.assertIsNotNone(refusal(asked, {"DELIVERBY": "31"}))
        self.assertIsNone(refusal(evolve(asked, by_mode="N"), {}))
        self.assertIsNotNone(session(PLAIN_EHLO).refusal(asked))

    def test_time_left_is_never_told_as_over_before_it_is(self) -> None:
        self.assertEqual([seconds_left(100.0, now) for now in (40.0, 99.5, 100.0, 160.0)], [60, 1, -1, -60])


class BinaryTests(SynchronousTestCase):
    """RFC 3030 s.3."""

    def test_it_goes_as_it_is_and_counted(self) -> None:
        """Small as it is, and without PIPELINING: never by DATA, whose end could be in it."""
        client = session(BINARY_EHLO)
        client.begin(Transaction(sender="a@b.example", recipients=("c@d.example",), size=len(OCTETS), binary=True))
        self.assertEqual(client.take(), b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n")
        client.receive(b"250 ok\r\n")
        self.assertEqual(client.take(), b"RCPT TO:<c@d.example>\r\n")
        self.assertEqual(client.receive(b"250 ok\r\n"), [GoAhead()])
        client.content(OCTETS[:9])
        client.content(OCTETS[9:])
        client.end_content()
        rest = len(OCTETS) - 9
        self.assertEqual(client.take(), b"BDAT 9\r\n%bBDAT %d\r\n%bBDAT 0 LAST\r\n" % (OCTETS[:9], rest, OCTETS[9:]))
        client.receive(b"250 chunk\r\n250 chunk\r\n")
        [event] = client.receive(b"250 ok\r\n")
        self.assertIsInstance(event, Finished)

    def test_a_peer_that_takes_lines_alone_never_gets_it(self) -> None:
        """The caller converts; forgetting that is a bug, and no smuggled mail."""
        for ehlo in (PLAIN_EHLO, b"250-mx\r\n250 BINARYMIME\r\n", b"250-mx\r\n250 CHUNKING\r\n"):
            self.assertFalse(session(ehlo).binary)
            self.assertRaises(RuntimeError, begun, ehlo, evolve(TWO, binary=True))

    def test_a_chunk_is_its_octets(self) -> None:
        chunker = BinaryChunker()
        self.assertEqual(chunker.feed(b""), b"")
        self.assertEqual(chunker.feed(b"\r") + chunker.end(), b"BDAT 1\r\n\rBDAT 0 LAST\r\n")


class ConversionTests(SynchronousTestCase):
    """Binary messages as lines of 7 bits."""

    def test_parts_that_are_no_lines_become_base64(self) -> None:
        """And those that are lines stay, under a name that is true."""
        content = (
            b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\nContent-Type: multipart/mixed; boundary=x\r\n"
            b"\r\n--x\r\nContent-Transfer-Encoding: binary\r\n\r\ntext\r\n"
            b"--x\r\nContent-Type: image/gif\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\n\xff\r\n--x--\r\n"
        )
        self.assertEqual(
            convert(content, binary=True),
            b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: 7bit\r\n"
            b"\r\n--x\r\nContent-Transfer-Encoding: 7bit\r\n\r\ntext\r\n"
            b"--x\r\nContent-Type: image/gif\r\nContent-Transfer-Encoding: base64\r\n\r\nAAr/\r\n--x--\r\n",
        )

    def test_text_with_bare_line_ends_keeps_its_octets(self) -> None:
        """Quoted-printable would have made them CRLF."""
        self.assertTrue(convert(b"A: b\r\n\r\none\ntwo", binary=True).endswith(b"base64\r\n\r\nb25lCnR3bw=="))

    def test_long_lines_are_none(self) -> None:
        self.assertIn(b"base64", convert(b"A: b\r\n\r\n" + b"x" * 999, binary=True))
        self.assertNotIn(b"base64", convert(b"A: b\r\n\r\n" + b"x" * 998, binary=True))
        self.assertNotIn(b"base64", convert(b"A: b\r\n\r\n" + b"x\r\n" * 998, binary=True))

    def test_what_is_signed_comes_back(self) -> None:
        content = b"Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n\0\r\n--x--\r\n"
        self.assertRaises(Unconvertible, convert, content, binary=True)

    def test_text_with_8_bits_is_quoted_as_ever(self) -> None:
        self.assertEqual(
            convert(b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n\xfc\r\n", binary=True),
            convert(b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n\xfc\r\n"),
        )
