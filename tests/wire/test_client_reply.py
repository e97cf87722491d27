"""
Tests for L{qmailpy.wire.client_reply}.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.client_reply import LINE_LIMIT, LINES_LIMIT, REPLY_LIMIT, TEXT_LIMIT, ReplyReader

LINE_TEXT = st.binary(max_size=40).map(lambda octets: octets.replace(b"\n", b"").replace(b"\r", b""))
REPLIES = st.lists(
    st.builds(
        lambda code, lines: (
            b"".join(b"%d-%b\r\n" % (code, line) for line in lines[:-1]) + b"%d %b\r\n" % (code, lines[-1])
        ),
        st.integers(200, 599),
        st.lists(LINE_TEXT, min_size=1, max_size=4),
    ),
    max_size=5,
)


def read(octets: bytes) -> tuple[list[Reply], str]:
    """The replies in C{octets}, and the reader's complaint."""
    reader = ReplyReader()
    return reader.feed(octets), reader.error


class ReplyTests(SynchronousTestCase):
    """What a peer's octets say."""

    def test_a_single_line_is_a_reply(self) -> None:
        """RFC 5321 s.4.2: code, blank, text."""
        self.assertEqual(read(b"250 fine\r\n"), ([Reply(250, "", "fine")], ""))

    def test_a_code_alone_is_a_reply(self) -> None:
        """RFC 5321 s.4.2: clients take a reply without text."""
        self.assertEqual(read(b"250\r\n354\r\n")[0], [Reply(250, "", ""), Reply(354, "", "")])

    def test_lines_of_one_reply_are_joined_and_their_enhanced_code_is_taken_out(self) -> None:
        """RFC 2034 s.4: the code is on each line."""
        found, error = read(b"550-5.1.1 no such\r\n550 5.1.1 user here\r\n")
        self.assertEqual((found, error), ([Reply(550, "5.1.1", "no such\nuser here")], ""))

    def test_an_enhanced_code_that_contradicts_the_code_is_text(self) -> None:
        """RFC 2034 s.4: the class must be the code's first digit."""
        self.assertEqual(read(b"450 5.1.1 hm\r\n")[0], [Reply(450, "", "5.1.1 hm")])

    def test_a_number_in_the_text_is_no_enhanced_code(self) -> None:
        """C{2.0} and C{2.0.0.1} are not of the form of RFC 3463."""
        self.assertEqual(
            read(b"220 2.0.0.1 x\r\n220 2.0 x\r\n")[0], [Reply(220, "", "2.0.0.1 x"), Reply(220, "", "2.0 x")]
        )

    def test_lines_with_different_codes_are_refused(self) -> None:
        """RFC 5321 s.4.2.1: each line of a reply has the same code."""
        found, error = read(b"250 ok\r\n250-a\r\n550 b\r\n250 late\r\n")
        self.assertEqual(found, [Reply(250, "", "ok")])
        self.assertIn("different codes", error)

    def test_what_has_no_code_is_refused_for_good(self) -> None:
        """After nonsense nothing is read any more: we would not know what it answers."""
        for octets in (b"hello\r\n", b"\r\n", b"25 ok\r\n", b"2500 ok\r\n", b"150 x\r\n", b"650 x\r\n", b"250_x\r\n"):
            reader = ReplyReader()
            self.assertEqual(reader.feed(octets), [], octets)
            self.assertNotEqual(reader.error, "", octets)
            self.assertEqual(reader.feed(b"250 ok\r\n"), [], octets)

    def test_controls_in_the_text_do_not_survive(self) -> None:
        """A reply goes into logs and bounces: it has no escape sequences and no line ends of its own."""
        self.assertEqual(read(b"250 a\x1b[2Jb\0c\rd\te\xff\r\n")[0], [Reply(250, "", "a?[2Jb?c?d e\\xff")])
        text = "grüße \x9b2J \x85 \u2028 \u202e \u200f"
        self.assertEqual(read(f"250 {text}\r\n".encode())[0], [Reply(250, "", "grüße ?2J ? ? ? ?")])

    def test_a_line_too_long_is_refused_before_it_has_ended(self) -> None:
        """Memory is bounded though the peer never sends a line end."""
        reader = ReplyReader()
        self.assertEqual(reader.feed(b"250 " + b"x" * LINE_LIMIT), [])
        self.assertEqual(reader.error, "reply line too long")

    def test_a_reply_without_end_is_refused(self) -> None:
        """A peer cannot keep us with lines for ever."""
        reader = ReplyReader()
        lines = b"250-x\r\n" * 1000
        for _ in range(REPLY_LIMIT // len(lines) + 1):
            self.assertEqual(reader.error, "")
            reader.feed(lines)
        reader.feed(lines)
        self.assertEqual(reader.error, "reply without end")

    def test_a_hundred_thousand_lines_are_a_reply(self) -> None:
        """It may be the answer to a message; of its lines the first are kept. The next one is read as any other."""
        reader = ReplyReader()
        found = reader.feed(b"250-x\r\n" * 100_000 + b"250 done\r\n550 no\r\n")
        self.assertEqual([reply.code for reply in found], [250, 550])
        self.assertEqual(len(found[0].text.split("\n")), LINES_LIMIT)
        self.assertEqual(found[1].text, "no")

    def test_text_is_kept_up_to_its_limit(self) -> None:
        """A long reply is read to its end, but only its beginning is kept."""
        [reply] = ReplyReader().feed(b"550-" + (b"x" * 1000 + b"\r\n550-") * 20 + b"\r\n550 end\r\n")
        self.assertEqual(reply.code, 550)
        self.assertLess(len(reply.text), TEXT_LIMIT + LINES_LIMIT)

    @given(REPLIES, st.data())
    def test_where_the_network_cuts_makes_no_difference(self, replies: list[bytes], data: st.DataObject) -> None:
        """The same octets whole and in pieces of any size give the same replies."""
        octets = b"".join(replies)
        whole = ReplyReader().feed(octets)
        self.assertEqual(len(whole), len(replies))
        reader, found, at = ReplyReader(), [], 0
        while at < len(octets):
            size = data.draw(st.integers(1, 20))
            found += reader.feed(octets[at : at + size])
            at += size
        self.assertEqual(found, whole)
        self.assertTrue(reader.idle)

    @given(st.lists(st.binary(max_size=30)))
    def test_garbage_is_refused_without_an_exception(self, pieces: list[bytes]) -> None:
        """Whatever a peer sends, reading it ends in replies or an error, the same whole or in pieces."""
        reader = ReplyReader()
        found = [reply for piece in pieces for reply in reader.feed(piece)]
        self.assertEqual((found, reader.error), read(b"".join(pieces)))
