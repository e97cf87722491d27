"""
From a message as a Maildir keeps it (LF line ends, or CRLF when another program wrote it) to what POP3 sends: CRLF line
ends, dot-stuffed (RFC 1939 s.3), for TOP only the header and the first lines of the body.

A CR that is no part of a line end stays as it is. A last line without an end gets one.
"""

from __future__ import annotations

from qmailpy.wire.lines import find_dot, line_feeds, to_lf

END = b".\r\n"


class SizeCount:
    """
    Octets of a message on the wire, before dot-stuffing (RFC 1939 s.11: as LIST and STAT tell it).

    @ivar octets: as stored.
    @ivar last: the last one of them.
    """

    def __init__(self) -> None:
        self.octets = 0
        self.last = b""
        self._lf = self._crlf = 0

    def feed(self, octets: bytes) -> None:
        """Count the next piece of what is stored."""
        if not octets:
            return
        self.octets += len(octets)
        self._lf += line_feeds(octets)
        if b"\r" in octets:
            self._crlf += octets.count(b"\r\n")
        if self.last == b"\r" and octets[:1] == b"\n":
            self._crlf += 1
        self.last = octets[-1:]

    @property
    def size(self) -> int:
        """Of what was fed so far, with the end its last line may lack."""
        return self.octets + self._lf - self._crlf + (2 if self.last not in (b"", b"\n") else 0)


def encode(stored: bytes) -> bytes:
    """All of a message as sent, without the final dot line."""
    text = to_lf(stored)
    if find_dot(text, b"\n") >= 0:
        text = text.replace(b"\n.", b"\n..")
    text = text.replace(b"\n", b"\r\n")
    if text and not text.endswith(b"\r\n"):
        text += b"\r\n"
    return b"." + text if text.startswith(b".") else text


class Outgoing:
    """
    L{encode} for a message that comes in pieces, and its beginning for TOP.

    @ivar done: nothing more is wanted: the lines TOP asked for are complete.
    """

    def __init__(self, lines: int | None = None) -> None:
        """@param lines: of the body; C{None} = everything."""
        self._left = lines
        self._in_body = False
        self._cr = False  # a CR was held back: its LF may follow
        self._fresh = True  # at the beginning of a line
        self._empty = True
        self.done = False

    def feed(self, octets: bytes) -> bytes:
        """What the next piece of the stored message becomes."""
        if self.done or not octets:
            return b""
        if self._cr:
            octets = b"\r" + octets
        self._cr = octets.endswith(b"\r")
        if self._cr:
            octets = octets[:-1]
        octets = to_lf(octets)
        dotted = find_dot(octets, b"\n") >= 0
        text = octets.replace(b"\n", b"\r\n")
        if self._left is not None:
            text = self._cut(text)
        return self._stuff(text, dotted)

    def finish(self) -> bytes:
        """The end of the message: of its last line, and the final dot."""
        held = b""
        if self._cr and not self.done:
            held = self._stuff(b"\r", False)
        if not (self._fresh or self._empty):
            held += b"\r\n"
        return held + END

    def _stuff(self, text: bytes, dotted: bool) -> bytes:
        if not text:
            return b""
        stuffed = text.replace(b"\r\n.", b"\r\n..") if dotted else text
        if self._fresh and text.startswith(b"."):
            stuffed = b"." + stuffed
        # A piece never ends within a CRLF, for a CR at its end is held back.
        self._fresh = text.endswith(b"\r\n")
        self._empty = False
        return stuffed

    def _cut(self, text: bytes) -> bytes:
        """As much of the text as is header or among the wanted lines."""
        at = 0
        if not self._in_body:
            if self._fresh and text.startswith(b"\r\n"):
                at = 2
            else:
                found = text.find(b"\r\n\r\n")
                if found < 0:
                    return text
                at = found + 4
            self._in_body = True
        assert self._left is not None
        # At the beginning of a body line, or within one when an earlier piece has brought its first part.
        while self._left and at < len(text):
            end = text.find(b"\r\n", at)
            if end < 0:
                return text
            at = end + 2
            self._left -= 1
        if not self._left:
            self.done = True
        return text[:at]
