"""
Message content on its way out over SMTP, for content cut anywhere: with dot-stuffing (RFC 5321 s.4.5.2), or in chunks
of known length (RFC 3030).

Whatever comes in, what goes out has CRLF line ends only, no NUL, and ends with CRLF, so that no peer can read another
end of the message into it than ours. Content in our queue is like that already and passes through whole; the rest of
this module is for the day when it is not. The one exception is L{BinaryChunker}, whose peer has agreed to count octets.
"""

from __future__ import annotations

import re

from qmailpy.wire.lines import find_dot, only_pairs

_LINE_END = re.compile(rb"\r\n|\r|\n")


class _Lines:
    """What every way out has in common: the line ends."""

    __slots__ = ("_at_line_start", "_held_cr")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held_cr = False  # a CR that ended the last piece: the LF may be the first octet of the next

    def _clean(self, octets: bytes) -> bytes:
        if b"\0" in octets:
            octets = octets.replace(b"\0", b"")
        if self._held_cr:
            octets = b"\r" + octets
            self._held_cr = False
        if octets.endswith(b"\r"):
            octets = octets[:-1]
            self._held_cr = True
        if not only_pairs(octets):
            octets = _LINE_END.sub(b"\r\n", octets)
        return octets

    def _last(self) -> bytes:
        """What the last line lacks."""
        if self._held_cr:
            self._held_cr = False
            self._at_line_start = True
            return b"\r\n"
        return b"" if self._at_line_start else b"\r\n"


class Stuffer(_Lines):
    """One message on its way out after DATA: C{feed}* then C{end}, once."""

    __slots__ = ()

    def feed(self, octets: bytes) -> bytes:
        """
        The next octets to send.

        @param octets: any piece of the content, also an empty one.
        """
        octets = self._clean(octets)
        if not octets:
            return b""
        stuff_first = self._at_line_start and octets.startswith(b".")
        self._at_line_start = octets.endswith(b"\n")
        if find_dot(octets, b"\n") >= 0:
            octets = octets.replace(b"\n.", b"\n..")
        return b"." + octets if stuff_first else octets

    def end(self) -> bytes:
        """What closes the message: the rest of its last line and the final dot."""
        return self._last() + b".\r\n"


class Chunker(_Lines):
    """
    One message on its way out by BDAT (RFC 3030 s.2): C{feed}* then C{end}, once.

    C{unanswered} chunks are on their way; each gets a reply of its own, the last one's being that to the message.
    """

    __slots__ = ("unanswered",)

    def __init__(self) -> None:
        super().__init__()
        self.unanswered = 0

    def feed(self, octets: bytes) -> bytes:
        """
        The next chunk, with its command; nothing for nothing.

        @param octets: any piece of the content, also an empty one.
        """
        octets = self._clean(octets)
        if not octets:
            return b""
        self._at_line_start = octets.endswith(b"\n")
        self.unanswered += 1
        return b"BDAT %d\r\n%b" % (len(octets), octets)

    def end(self) -> bytes:
        """The last chunk: empty, but for the end of a line that had none."""
        self.unanswered += 1
        rest = self._last()
        return b"BDAT %d LAST\r\n%b" % (len(rest), rest)


class BinaryChunker(Chunker):
    """The same for content that is no lines, to a peer that takes such (BODY=BINARYMIME, s.3): as it is."""

    __slots__ = ()

    def _clean(self, octets: bytes) -> bytes:
        return octets

    def _last(self) -> bytes:
        return b""
