"""A message as a Maildir keeps it: line ends and sizes are those of the plain way, for any octets, cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.pop3_message import SizeCount
from qmailpy.wire.stored import Stored, sizes

PIECES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\r", b"a", b"", b"abc\r\n" * 20]), max_size=12)


class StoredTests(SynchronousTestCase):
    def test_fields_in_front_and_lf_line_ends(self) -> None:
        stored = Stored(b"To: a\n")
        self.assertEqual(b"".join(stored.text([b"x\r", b"\ny\r\n"])), b"To: a\nx\ny\n")
        self.assertEqual((stored.octets, stored.wire, stored.sizes), (10, 13, ",S=10,W=13"))

    def test_without_an_end_of_its_last_line_the_size_on_the_wire_is_left_out(self) -> None:
        for last in (b"y", b"\r"):
            stored = Stored(b"To: a\n")
            self.assertEqual(b"".join(stored.text([b"x\r\n", last])), b"To: a\nx\n" + last)
            self.assertEqual((stored.octets, stored.wire, stored.sizes), (9, 0, ",S=9"))
        self.assertEqual(sizes(9, 0), ",S=9")

    @given(PIECES)
    def test_cut_anywhere_it_is_the_same(self, pieces: list[bytes]) -> None:
        front, message = b"A: b\nC: d\n", b"".join(pieces)
        wanted = front + message.replace(b"\r\n", b"\n")
        count = SizeCount()
        count.feed(wanted)
        for cut in (pieces, [message], [message[at : at + 1] for at in range(len(message))]):
            stored = Stored(front)
            self.assertEqual(b"".join(stored.text(cut)), wanted)
            self.assertEqual(stored.octets, len(wanted))
            self.assertEqual(stored.wire, count.size if wanted.endswith(b"\n") else 0)
