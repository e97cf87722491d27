"""Tests of messages on their way to a POP3 client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.pop3_message import END, Outgoing, SizeCount, encode

STORED = st.lists(st.sampled_from([b"a", b".", b"\n", b"\r\n", b"\r", b"bc", b"\n.\n", b"\n\n"]), max_size=30).map(
    b"".join
)


def unstuffed(octets: bytes) -> bytes:
    """What a client makes of a response: RFC 1939 s.3."""
    lines = octets.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


def pieces(stored: bytes, cuts: list[int], lines: int | None = None) -> bytes:
    """What L{Outgoing} makes of a message cut at these places."""
    outgoing = Outgoing(lines)
    at = 0
    sent = b""
    for cut in [*sorted(cut % (len(stored) + 1) for cut in cuts), len(stored)]:
        sent += outgoing.feed(stored[at:cut])
        at = cut
    return sent + outgoing.finish()


class EncodeTests(SynchronousTestCase):
    """RFC 1939 s.3."""

    def test_line_ends_become_crlf(self) -> None:
        self.assertEqual(encode(b"a: b\n\nc\n"), b"a: b\r\n\r\nc\r\n")

    def test_a_dot_at_the_beginning_of_a_line_is_doubled(self) -> None:
        self.assertEqual(encode(b".a\n..\nb.\n.\n"), b"..a\r\n...\r\nb.\r\n..\r\n")

    def test_one_dot_among_many_is_found(self) -> None:
        """However many are looked at one by one: the line that ends a message early would be the next."""
        for count in (0, 1, 3, 4, 5, 100, 5000):
            stored = b"a." * count + b"\n.\nb" + b".c" * count + b"\n"
            expected = b"a." * count + b"\r\n..\r\nb" + b".c" * count + b"\r\n"
            self.assertEqual(encode(stored), expected)
            self.assertEqual(pieces(stored, []), expected + END)

    def test_a_message_with_crlf_stays_as_it_is(self) -> None:
        self.assertEqual(encode(b"a\r\n\r\n.b\r\n"), b"a\r\n\r\n..b\r\n")

    def test_a_last_line_without_an_end_gets_one(self) -> None:
        self.assertEqual(encode(b"a\nb"), b"a\r\nb\r\n")
        self.assertEqual(encode(b""), b"")

    @given(STORED, st.lists(st.integers(0, 100), max_size=8))
    def test_cut_anywhere_it_is_the_same(self, stored: bytes, cuts: list[int]) -> None:
        self.assertEqual(pieces(stored, cuts), encode(stored) + END)
        self.assertEqual(pieces(stored, list(range(len(stored)))), encode(stored) + END)

    @given(STORED, st.lists(st.integers(0, 100), max_size=8))
    def test_the_size_is_what_a_client_gets(self, stored: bytes, cuts: list[int]) -> None:
        count = SizeCount()
        at = 0
        for cut in [*sorted(cut % (len(stored) + 1) for cut in cuts), len(stored)]:
            count.feed(stored[at:cut])
            at = cut
        self.assertEqual(count.size, len(unstuffed(encode(stored))))

    @given(STORED)
    def test_no_message_ends_early(self, stored: bytes) -> None:
        """A line with a dot alone is the end and only the end (whatever bare CR the message has)."""
        sent = encode(stored) + END
        self.assertEqual((b"\r\n" + sent).find(b"\r\n.\r\n"), len(sent) - len(END))


class TopTests(SynchronousTestCase):
    """RFC 1939 s.7 TOP."""

    SAMPLE = b"a: 1\nb: 2\n\none\n.two\nthree\n"

    def test_no_lines_is_the_header_with_its_empty_line(self) -> None:
        self.assertEqual(pieces(self.SAMPLE, [], 0), b"a: 1\r\nb: 2\r\n\r\n.\r\n")

    def test_so_many_lines_of_the_body(self) -> None:
        self.assertEqual(pieces(self.SAMPLE, [], 2), b"a: 1\r\nb: 2\r\n\r\none\r\n..two\r\n.\r\n")

    def test_more_lines_than_there_are_is_everything(self) -> None:
        self.assertEqual(pieces(self.SAMPLE, [], 1 << 31), encode(self.SAMPLE) + END)

    def test_a_message_without_a_body(self) -> None:
        self.assertEqual(pieces(b"a: 1\n", [], 3), b"a: 1\r\n.\r\n")
        self.assertEqual(pieces(b"\nbody\n", [], 0), b"\r\n.\r\n")

    @given(STORED, st.integers(0, 5), st.lists(st.integers(0, 100), max_size=8))
    def test_cut_anywhere_it_is_the_same(self, stored: bytes, lines: int, cuts: list[int]) -> None:
        whole = pieces(stored, [], lines)
        self.assertEqual(pieces(stored, cuts, lines), whole)
        self.assertEqual(pieces(stored, list(range(len(stored))), lines), whole)
        # The same by another way: lines of the whole, counted.
        wanted = (encode(stored)).split(b"\r\n")
        ends = [] if b"" not in wanted[:-1] else [wanted.index(b"") + 1 + lines]
        if ends and ends[0] < len(wanted):
            wanted = [*wanted[: ends[0]], b""]
        self.assertEqual(whole, b"\r\n".join(wanted) + END)

    def test_nothing_is_made_of_what_comes_behind(self) -> None:
        outgoing = Outgoing(1)
        outgoing.feed(self.SAMPLE)
        self.assertTrue(outgoing.done)
        self.assertEqual(outgoing.feed(b"more\n"), b"")
