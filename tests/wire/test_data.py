"""Tests of the DATA reader."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.data import BARE, HEAD_OCTETS, LOOP, NUL, TOO_LARGE, DataReader


def read(pieces: list[bytes], reader: DataReader | None = None) -> tuple[bytes, bytes | None, DataReader]:
    """Content and what follows it, of octets that arrive in those pieces."""
    reader = reader if reader is not None else DataReader(1 << 20, 100)
    content = []
    for number, piece in enumerate(pieces):
        part, rest = reader.feed(piece)
        content.append(part)
        if rest is not None:
            return b"".join(content), rest + b"".join(pieces[number + 1 :]), reader
    return b"".join(content), None, reader


def singly(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


def stuffed(content: bytes) -> bytes:
    """What a right client sends for content of whole lines."""
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"text", b"a.b.", b"\xff\xfe", b"Received: x"]), max_size=12)
# Pieces of octets chosen so that the interesting sequences are frequent.
WILD = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"\r\n.", b".\r\n", b"a", b"\0", b"\r\n\r\n"]), max_size=30
)


class DataTests(SynchronousTestCase):
    """RFC 5321 s.4.1.1.4 and s.4.5.2."""

    @settings(deadline=None)
    @given(LINES, st.binary(max_size=5), st.data())
    def test_content_comes_out_as_it_was_sent_whatever_the_cut(
        self, lines: list[bytes], rest: bytes, data: st.DataObject
    ) -> None:
        content = b"".join(line + b"\r\n" for line in lines)
        octets = stuffed(content) + rest
        cut = data.draw(st.integers(0, len(octets)))
        for pieces in ([octets], singly(octets), [octets[:cut], octets[cut:]]):
            found, after, reader = read(pieces)
            self.assertEqual((found, after, reader.fault, reader.size), (content, rest, None, len(content)))

    @settings(deadline=None)
    @given(WILD, st.booleans())
    def test_wild_octets_give_the_same_result_whatever_the_cut(self, parts: list[bytes], normalise: bool) -> None:
        octets = b"".join(parts)
        for limit in (5, 1000):
            whole = read([octets], DataReader(limit, 1, normalise))
            single = read(singly(octets), DataReader(limit, 1, normalise))
            self.assertEqual(whole[1], single[1])
            if whole[1] is not None:
                self.assertEqual(whole[2].fault, single[2].fault)
                self.assertEqual(whole[2].size, single[2].size)
                if whole[2].fault is None:
                    self.assertEqual(whole[0], single[0])
                    self.assertEqual(whole[2].head, single[2].head)
                    for octet in (b"\r", b"\n", b"\0"):
                        self.assertNotIn(octet, whole[0].replace(b"\r\n", b""))

    def test_the_empty_message(self) -> None:
        self.assertEqual(read([b".\r\nQUIT"])[:2], (b"", b"QUIT"))

    def test_faults_are_told_by_precedence(self) -> None:
        cases: list[tuple[bytes, Reply | None]] = [
            (b"a\nb\r\n.\r\n", BARE),
            (b"a\rb\r\n.\r\n", BARE),
            (b"a\0b\r\n.\r\n", NUL),
            (b"a\n\0\r\n.\r\n", NUL),
            (b"a\n" + b"x" * 50 + b"\r\n.\r\n", TOO_LARGE),
            (b"Received: a\r\nRECEIVED: b\r\n\r\n.\r\n", LOOP),
            (b"Received: a\r\n\r\nReceived: b\r\n.\r\n", None),
            (b"Received: a\r\nReceived-SPF: b\r\n\r\n.\r\n", None),
        ]
        for octets, fault in cases:
            for pieces in ([octets], singly(octets)):
                reader = read(pieces, DataReader(45, 1))[2]
                self.assertEqual(reader.fault, fault, octets)

    def test_a_message_of_exactly_the_limit_is_accepted(self) -> None:
        """The transport's dots do not count (RFC 1870 s.5)."""
        self.assertIsNone(read([b"..23\r\n.\r\n"], DataReader(5, 1))[2].fault)
        self.assertEqual(read([b"..234\r\n.\r\n"], DataReader(5, 1))[2].fault, TOO_LARGE)

    def test_normalising_makes_pairs_of_what_is_alone(self) -> None:
        octets = b"a\nb\rc\r\r\nd\n\r\n.\r\n"
        for pieces in ([octets], singly(octets)):
            content, rest, reader = read(pieces, DataReader(100, 1, normalise=True))
            self.assertEqual((content, rest), (b"a\r\nb\r\nc\r\n\r\nd\r\n\r\n", b""))
            self.assertIsNone(reader.fault)

    def test_memory_is_flat(self) -> None:
        """Neither a header without end nor a refused message is kept."""
        reader = DataReader(1000, 100)
        for _ in range(50):
            content, rest = reader.feed(b"x" * 65536)
            self.assertEqual((content, rest), (b"", None))
        self.assertEqual(len(reader.head), HEAD_OCTETS)
        self.assertEqual(reader.size, 50 * 65536)

    def test_received_fields_count_in_a_header_larger_than_what_is_kept(self) -> None:
        reader = DataReader(1 << 20, 10)
        octets = b"X: " + b"y" * 100000 + b"\r\n" + b"Received: z\r\n" * 11 + b"\r\n.\r\n"
        for at in range(0, len(octets), 7):
            reader.feed(octets[at : at + 7])
        self.assertEqual(reader.fault, LOOP)

    def test_the_head_is_the_header_section(self) -> None:
        octets = b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore\r\n.\r\n"
        for pieces in ([octets], singly(octets)):
            self.assertEqual(read(pieces)[2].head, b"A: b\r\nC: d\r\n")
        self.assertEqual(read([b"\r\nbody\r\n.\r\n"])[2].head, b"")
