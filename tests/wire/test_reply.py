"""Tests of replies as octets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Reply
from qmailpy.wire.reply import LINE_OCTETS, encode


class ReplyTests(SynchronousTestCase):
    """RFC 5321 s.4.2."""

    def test_one_line(self) -> None:
        self.assertEqual(encode(Reply(250, "2.1.0", "Ok")), b"250 2.1.0 Ok\r\n")
        self.assertEqual(encode(Reply(220, "", "host ESMTP")), b"220 host ESMTP\r\n")

    def test_several_lines_repeat_the_codes(self) -> None:
        self.assertEqual(encode(Reply(550, "5.7.1", "a\nb\nc")), b"550-5.7.1 a\r\n550-5.7.1 b\r\n550 5.7.1 c\r\n")

    def test_text_cannot_break_a_line(self) -> None:
        self.assertEqual(encode(Reply(550, "", "a\r\n250 ok\x00\xe9")), b"550-a?\r\n550 250 ok??\r\n")

    def test_a_line_has_a_greatest_length(self) -> None:
        """RFC 5321 s.4.5.3.1.5."""
        first, second = encode(Reply(550, "5.1.1", "x" * 900 + "\n" + "y" * 900)).splitlines(keepends=True)
        self.assertEqual((len(first), len(second)), (LINE_OCTETS, LINE_OCTETS))

    @settings(deadline=None)
    @given(st.text(), st.integers(200, 599))
    def test_any_text_makes_well_formed_lines(self, text: str, code: int) -> None:
        octets = encode(Reply(code, "4.0.0", text * 9))
        lines = octets.split(b"\r\n")
        self.assertEqual(lines.pop(), b"")
        for line in lines:
            self.assertLessEqual(len(line) + 2, LINE_OCTETS)
            self.assertTrue(line.startswith(b"%d" % code))
            self.assertTrue(line.isascii() and b"\n" not in line and b"\r" not in line)
        self.assertEqual({line[3:4] for line in lines[:-1]} - {b"-"}, set())
        self.assertEqual(lines[-1][3:4], b" ")
