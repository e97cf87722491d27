"""
Message content on its way out over SMTP (RFC 5321 s.4.5.2): dot-stuffing, for content cut anywhere.

Whatever comes in, what goes out has CRLF line ends only, no NUL, and ends with CRLF.CRLF, so that no peer can read
another end of the message into it than ours. Content in our queue is like that already and passes through whole; the
rest of this module is for the day when it is not.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")


class Stuffer:
    """One message on its way out: C{feed}* then C{end}, once."""

    __slots__ = ("_at_line_start", "_held_cr")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held_cr = False  # a CR that ended the last piece: the LF may be the first octet of the next

    def feed(self, octets: bytes) -> bytes:
        """
        The next octets to send.

        @param octets: any piece of the content, also an empty one.
        """
        if b"\0" in octets:
            octets = octets.replace(b"\0", b"")
        if self._held_cr:
            octets = b"\r" + octets
            self._held_cr = False
        if octets.endswith(b"\r"):
            octets = octets[:-1]
            self._held_cr = True
        if not octets:
            return b""
        ends = octets.count(b"\r\n")
        if ends != octets.count(b"\n") or ends != octets.count(b"\r"):
            octets = _LINE_END.sub(b"\r\n", octets)
        stuff_first = self._at_line_start and octets.startswith(b".")
        self._at_line_start = octets.endswith(b"\n")
        if b"\n." in octets:
            octets = octets.replace(b"\n.", b"\n..")
        return b"." + octets if stuff_first else octets

    def end(self) -> bytes:
        """What closes the message: the rest of its last line and the final dot."""
        if self._held_cr:
            self._held_cr = False
            self._at_line_start = True
            return b"\r\n.\r\n"
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"
