"""
A message as a Maildir keeps it: fields of the delivery in front, LF line ends, and both its sizes in its name.

A CR or an LF that is no part of a CRLF stays as it is. It needs nothing but L{qmailpy.wire.lines}, and the standard
library: a process that does nothing else begins quickly (L{qmailpy.disk.placing_child}).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qmailpy.wire.lines import line_feeds


def sizes(octets: int, wire: int) -> str:
    """
    What the name of a file ends with.

    @param octets: of the file.
    @param wire: of it with CRLF line ends; 0 = not told, for programs disagree about it.
    """
    return f",S={octets},W={wire}" if wire else f",S={octets}"


class Stored:
    """
    One message, in pieces cut anywhere: L{text}, once, or C{feed}* and C{end}; the sizes are those of what came so far.

    @ivar octets: as stored.
    """

    __slots__ = ("_carry", "_crlf", "_last", "_lines", "front", "octets")

    def __init__(self, front: bytes) -> None:
        """@param front: what is stored before the message: lines, with LF."""
        self.front = front
        self.octets = len(front)
        self._lines = front.count(b"\n")  # LF stored,
        self._crlf = 0  # and those of them that were CR LF: behind a CR too many
        self._last = front[-1:]
        self._carry = b""

    def text(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """What is stored, in pieces. @param pieces: of the message, CRLF line ends."""
        yield self.front
        for piece in pieces:
            yield self.feed(piece)
        yield self.end()

    def feed(self, octets: bytes) -> bytes:
        """The next piece, as stored."""
        if self._carry:
            octets, self._carry = self._carry + octets, b""
        if octets.endswith(b"\r"):  # its LF may be in the next piece
            octets, self._carry = octets[:-1], b"\r"
        # As L{qmailpy.wire.lines.to_lf}; of what is pairs only, as nearly all mail is, the lines are counted by it.
        text = octets.replace(b"\r", b"")
        if text.replace(b"\n", b"\r\n") == octets:
            self._lines += len(octets) - len(text)
            self._count(text)
            return text
        text = octets.replace(b"\r\n", b"\n")
        self._lines += line_feeds(text)
        self._crlf += text.count(b"\r\n")
        self._count(text)
        return text

    def end(self) -> bytes:
        """What was held back."""
        rest, self._carry = self._carry, b""
        self._count(rest)
        return rest

    def _count(self, text: bytes) -> None:
        if text:
            self.octets += len(text)
            if self._last == b"\r" and text[:1] == b"\n":
                self._crlf += 1
            self._last = text[-1:]

    @property
    def wire(self) -> int:
        """Octets with CRLF line ends; 0 when the last line has no end, for then programs disagree."""
        return self.octets + self._lines - self._crlf if self._last == b"\n" else 0

    @property
    def sizes(self) -> str:
        """What the name of its file ends with."""
        return sizes(self.octets, self.wire)
