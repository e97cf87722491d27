"""
Replies as octets (RFC 5321 s.4.2, RFC 2034).
"""

from __future__ import annotations

from qmailpy.values import Reply

LINE_OCTETS = 512
"""RFC 5321 s.4.5.3.1.5: the longest reply line, its code and CRLF included."""

_LINES = 100  # more lines than any client reads; keeps a wild text bounded
# Whatever is not printable ASCII becomes "?": a reply may quote what a peer sent.
_PRINTABLE = "".join(chr(code) if 0x20 <= code < 0x7F else "?" for code in range(0x100)).encode("latin-1")


def encode(reply: Reply) -> bytes:
    """
    The reply on the wire: one line, or several when its text has LF in it, the enhanced code on each.

    Never fails, and never lets text break a line or be longer than L{LINE_OCTETS}.
    """
    code = b"%d" % reply.code
    enhanced = reply.enhanced.encode("ascii", "replace") + b" " if reply.enhanced else b""
    room = LINE_OCTETS - len(code) - len(enhanced) - 3
    lines = [
        enhanced + line.encode("latin-1", "replace").translate(_PRINTABLE)[:room]
        for line in reply.text.split("\n", _LINES)[:_LINES]
    ]
    last = lines.pop()
    return b"".join([b"%s-%s\r\n" % (code, line) for line in lines]) + b"%s %s\r\n" % (code, last)
