"""
Tests for L{qmailpy.wire.client_data}.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.client_data import Chunker, Stuffer

PIECES = st.lists(st.text(alphabet="\r\n.\0a", max_size=8).map(lambda text: text.encode("ascii")), max_size=8)


def stuffed(*pieces: bytes) -> bytes:
    """What goes out for a message in C{pieces}."""
    stuffer = Stuffer()
    return b"".join([*map(stuffer.feed, pieces), stuffer.end()])


def unstuffed(octets: bytes) -> bytes:
    """What a peer understands (RFC 5321 s.4.5.2): told line by line, as the RFC does."""
    lines = octets.split(b"\r\n")
    assert lines[-2:] == [b".", b""], lines
    assert b"." not in lines[:-2], lines
    return b"".join((line[1:] if line.startswith(b".") else line) + b"\r\n" for line in lines[:-2])


class StufferTests(SynchronousTestCase):
    """Content on its way out."""

    def test_ordinary_content_passes_unchanged(self) -> None:
        """Nothing is added but the final dot."""
        self.assertEqual(stuffed(b"a: b\r\n\r\nhello\r\n"), b"a: b\r\n\r\nhello\r\n.\r\n")

    def test_a_dot_at_the_beginning_of_a_line_is_doubled(self) -> None:
        """RFC 5321 s.4.5.2, at the beginning of the content too."""
        self.assertEqual(stuffed(b".a\r\n.\r\n..b\r\nc.\r\n"), b"..a\r\n..\r\n...b\r\nc.\r\n.\r\n")

    def test_a_dot_that_begins_a_piece_is_doubled_only_at_the_beginning_of_a_line(self) -> None:
        """What went before decides."""
        self.assertEqual(stuffed(b"a\r\n", b".b", b".c\r", b"\n.d\r\n"), b"a\r\n..b.c\r\n..d\r\n.\r\n")

    def test_a_last_line_without_end_gets_one(self) -> None:
        """The dot stands alone on its line."""
        self.assertEqual(stuffed(b"a"), b"a\r\n.\r\n")
        self.assertEqual(stuffed(b"a\r"), b"a\r\n.\r\n")

    def test_empty_content_is_a_lone_dot(self) -> None:
        """Without a line before it."""
        self.assertEqual(stuffed(), b".\r\n")
        self.assertEqual(stuffed(b"", b""), b".\r\n")

    def test_bare_line_ends_leave_as_crlf(self) -> None:
        """What would smuggle a message past the next host cannot leave (SMTP smuggling)."""
        for octets in (b"a\n.\nb\r\n", b"a\r.\rb\r\n", b"a\r\n.\nb\r\n", b"a\n.\r\nb\r\n"):
            self.assertEqual(stuffed(octets), b"a\r\n..\r\nb\r\n.\r\n", octets)

    def test_nul_never_leaves(self) -> None:
        """A NUL between the octets of an end of data would be dropped by some peers, making one."""
        self.assertEqual(stuffed(b"a\r\n\0.\0\r\0\nb\r\n"), b"a\r\n..\r\nb\r\n.\r\n")

    @given(PIECES)
    def test_any_content_arrives_as_its_normal_form_and_ends_where_it_ends(self, pieces: list[bytes]) -> None:
        """However it is cut: one message, no line end but CRLF, no end of data but the last."""
        octets = b"".join(pieces)
        sent = stuffed(*pieces)
        self.assertEqual(sent, stuffed(octets))
        self.assertEqual(sent.count(b"\r"), sent.count(b"\r\n"))
        self.assertEqual(sent.count(b"\n"), sent.count(b"\r\n"))
        plain = octets.replace(b"\0", b"").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if plain and not plain.endswith(b"\n"):
            plain += b"\n"
        self.assertEqual(unstuffed(sent), plain.replace(b"\n", b"\r\n"))


def unchunked(octets: bytes) -> tuple[bytes, int]:
    """What a peer understands (RFC 3030 s.2), and how many chunks there were."""
    content, count, last = b"", 0, False
    while octets:
        assert not last, octets
        line, _, octets = octets.partition(b"\r\n")
        word, size, *more = line.split(b" ")
        assert word == b"BDAT" and len(octets) >= int(size), line
        content, octets = content + octets[: int(size)], octets[int(size) :]
        last = more == [b"LAST"]
        count += 1
    assert last
    return content, count


class ChunkerTests(SynchronousTestCase):
    """Content on its way out in chunks."""

    @given(PIECES)
    def test_a_peer_gets_the_same_as_by_data(self, pieces: list[bytes]) -> None:
        """Line ends made right, no NUL, the last line ended; and each chunk is counted."""
        chunker = Chunker()
        content, count = unchunked(b"".join([*map(chunker.feed, pieces), chunker.end()]))
        self.assertEqual(content, unstuffed(stuffed(*pieces)))
        self.assertEqual(count, chunker.unanswered)

    def test_dots_stay_as_they_are(self) -> None:
        chunker = Chunker()
        self.assertEqual(chunker.feed(b".\r\n"), b"BDAT 3\r\n.\r\n")
        self.assertEqual(chunker.end(), b"BDAT 0 LAST\r\n")
