"""
The lines of a message for a channel with C{linelimit}: parts with longer ones are encoded (L{qmailpy.wire.mime7}).
"""

from __future__ import annotations

from qmailpy.remote.session import PIECE
from qmailpy.values import Content
from qmailpy.wire.mime7 import LIMIT, Unconvertible, shorten


def thd_short_lines(content: Content, most: int) -> bytes | None:
    """
    A content without lines of more than C{most} octets, or C{None} when it has none. Blocks.

    @raise Unconvertible: it cannot be made so.
    @raise OSError: it cannot be read.
    """
    if not _longer(content, most):
        return None
    if content.size > LIMIT:
        raise Unconvertible("it is too large")
    return shorten(content.read(), most)


def _longer(content: Content, most: int) -> bool:
    """Whether a line is longer; piece by piece."""
    left = 0  # octets of a line that goes on in the next piece
    for piece in content.chunks(PIECE):
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            if left + end - start > most + 1:  # the CR counts here
                return True
            start, left = end + 1, 0
        left += len(piece) - start
        if left > most + 1:
            return True
    return left > most  # a last line without an end
