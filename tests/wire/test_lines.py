"""Line ends at the speed of memory: the same as the plain way gives, for any octets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.lines import find_dot, line_feeds, only_pairs, to_lf

PIECES = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"x", b"\0", b"..", b"\r\n.", b"abc" * 50]), max_size=30
)
TEXTS = PIECES.map(b"".join)


class LinesTests(SynchronousTestCase):
    @given(TEXTS)
    def test_pairs_only(self, octets: bytes) -> None:
        pairs = octets.count(b"\r\n")
        self.assertEqual(only_pairs(octets), pairs == octets.count(b"\r") == octets.count(b"\n"))

    @given(TEXTS)
    def test_lf_for_each_crlf_and_nothing_else(self, octets: bytes) -> None:
        self.assertEqual(to_lf(octets), octets.replace(b"\r\n", b"\n"))

    @given(TEXTS)
    def test_line_feeds_are_counted(self, octets: bytes) -> None:
        self.assertEqual(line_feeds(octets), octets.count(b"\n"))

    @given(TEXTS, st.sampled_from([b"\r\n", b"\n"]))
    def test_the_first_dot_behind_a_line_end(self, octets: bytes, end: bytes) -> None:
        self.assertEqual(find_dot(octets, end), octets.find(end + b"."))

    def test_many_dots_cost_no_look_at_each(self) -> None:
        octets = b"." * 100_000
        self.assertEqual(find_dot(octets + b"\n.", b"\n"), 100_000)
        self.assertEqual(find_dot(octets, b"\n"), -1)
