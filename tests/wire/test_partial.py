"""Pieces of messages: what they say of themselves, and the header of the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.partial import Piece, piece_of, whole_header


def header(value: str, more: str = "") -> bytes:
    return f"Subject: x\r\nContent-Type: {value}\r\n{more}\r\n".encode()


class PieceTests(SynchronousTestCase):
    def test_a_piece_says_which_it_is(self) -> None:
        for value, piece in (
            ('message/partial; id="a@b"; number=2; total=3', Piece(id="a@b", number=2, total=3)),
            ("Message/Partial;\r\n number=1; id=x", Piece(id="x", number=1, total=0)),
        ):
            self.assertEqual(piece_of(header(value)), piece)

    def test_nonsense_is_no_piece(self) -> None:
        for value in (
            "text/plain; id=x; number=1",
            "message/partial",
            "message/partial; id=x",
            "message/partial; number=1; total=2",
            "message/partial; id=x; number=0",
            "message/partial; id=x; number=-1",
            "message/partial; id=x; number=3; total=2",
            "message/partial; id=x; number=1001",
            "message/partial; id=x; number=9999999999999999999",
            "message/partialx; id=x; number=1",
        ):
            self.assertIsNone(piece_of(header(value)), value)
        self.assertIsNone(piece_of(header("message/partial; id=x; number=1", "Content-Transfer-Encoding: base64\r\n")))

    @given(st.binary(max_size=200))
    def test_anything_is_read(self, octets: bytes) -> None:
        piece_of(b"Content-Type: message/partial; " + octets + b"\r\n\r\n")
        whole_header(octets, octets)

    def test_the_header_of_the_whole_is_of_both(self) -> None:
        """The example of RFC 2046 s.5.2.2.2."""
        first = (
            b"X-Weird-Header-1: Foo\r\nFrom: Bill@host.com\r\nTo: joe@otherhost.com\r\n"
            b"Date: Fri, 26 Mar 1993 12:59:38 -0500 (EST)\r\nSubject: Audio mail (part 1 of 2)\r\n"
            b"Message-ID: <id1@host.com>\r\nMIME-Version: 1.0\r\n"
            b'Content-type: message/partial; id="ABC@host.com";\r\n number=1; total=2\r\n\r\n'
        )
        enclosed = (
            b"X-Weird-Header-1: Bar\r\nX-Weird-Header-2: Hello\r\nMessage-ID: <anotherid@foo.com>\r\n"
            b"Subject: Audio mail\r\nMIME-Version: 1.0\r\nContent-type: audio/basic\r\n"
            b"Content-transfer-encoding: base64\r\n\r\n"
        )
        self.assertEqual(
            whole_header(first, enclosed),
            b"X-Weird-Header-1: Foo\r\nFrom: Bill@host.com\r\nTo: joe@otherhost.com\r\n"
            b"Date: Fri, 26 Mar 1993 12:59:38 -0500 (EST)\r\nMessage-ID: <anotherid@foo.com>\r\n"
            b"Subject: Audio mail\r\nMIME-Version: 1.0\r\nContent-type: audio/basic\r\n"
            b"Content-transfer-encoding: base64\r\n\r\n",
        )
