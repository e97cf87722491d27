"""
Tests for L{qmailpy.remote.lines}.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.lines import thd_short_lines
from qmailpy.values import MemoryContent


class Pieces(MemoryContent):
    """A content that comes in small pieces."""

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        for at in range(0, len(self.octets), 7):
            yield self.octets[at : at + 7]


class LinesTests(SynchronousTestCase):
    def test_a_long_line_is_found_over_many_pieces(self) -> None:
        """Also the last one, without an end; one octet less is none."""
        for tail in (b"\r\n", b"", b"\r\nmore\r\n"):
            for length in (99, 100, 101, 102, 500):
                content = Pieces(b"Subject: x\r\n\r\n" + b"y" * length + tail)
                self.assertEqual(thd_short_lines(content, 100) is not None, length > 100, (tail, length))
