"""
A message's content in the form that a peer or a channel takes: in 7 bits, for a host without 8BITMIME or BINARYMIME; in
lines of a bounded length, for a channel with C{linelimit} (L{qmailpy.wire.mime7}).

Each is made once an attempt, in a thread unless the content is at hand and good as it is.
"""

from __future__ import annotations

from functools import partial

from qmailpy.remote.session import PIECE, InThread
from qmailpy.values import Content, MemoryContent, Reply
from qmailpy.wire.mime7 import LIMIT, Unconvertible, convert, shorten


class Forms:
    """The forms of one content that peers of one attempt have needed so far."""

    def __init__(self, content: Content, *, binary: bool, linelimit: int, in_thread: InThread) -> None:
        """
        @param binary: the content may be no lines.
        @param linelimit: octets of a line; 0 = as many as there are.
        """
        self._content = content
        self._binary = binary
        self._linelimit = linelimit
        self._in_thread = in_thread
        self._seven_bit: Content | None = None
        self._short: tuple[Content, Content] | None = None  # a content, and the same with short lines
        self._plain_header: bool | None = None

    async def seven_bit(self) -> tuple[Content, Reply | None]:
        """The content for a peer that takes 7 bits only, or lines only; and why it cannot have it."""
        content, binary = self._content, self._binary
        if self._seven_bit is not None:
            return self._seven_bit, None
        if not binary and content.in_memory and content.read().isascii():
            return content, None
        try:
            octets = await self._in_thread(partial(thd_seven_bit, content, binary))
        except Unconvertible as error:
            what = "lines" if binary else "7 bits"
            return content, Reply(554, "5.6.3", f"Host takes {what} only, and the message cannot be converted: {error}")
        except OSError as error:
            return content, _unread(error)
        if octets is None:
            return content, None
        self._seven_bit = MemoryContent(octets)
        return self._seven_bit, None

    async def short_lines(self, content: Content) -> tuple[Content, Reply | None]:
        """
        With no line longer than the channel allows; and why it cannot be had so.

        @param content: of L{seven_bit}, or as it was.
        """
        if self._short is not None and self._short[0] is content:
            return self._short[1], None
        try:
            octets = await self._in_thread(partial(thd_short_lines, content, self._linelimit))
        except Unconvertible as error:
            text = f"Lines of more than {self._linelimit} octets do not go by this channel: {error}"
            return content, Reply(554, "5.6.0", text)
        except OSError as error:
            return content, _unread(error)
        made = content if octets is None else MemoryContent(octets)
        self._short = content, made
        return made, None

    async def plain_header(self) -> tuple[bool, Reply | None]:
        """Whether the header is US-ASCII; and why that cannot be told."""
        content = self._content
        if self._plain_header is None:
            try:
                header = content.header() if content.in_memory else await self._in_thread(content.header)
            except OSError as error:
                return False, _unread(error)
            self._plain_header = (header or b"").isascii()
        return self._plain_header, None


def _unread(error: OSError) -> Reply:
    return Reply(451, "4.3.0", f"Message cannot be read: {error.strerror or error}")


def thd_seven_bit(content: Content, binary: bool = False) -> bytes | None:
    """
    A content in 7 bits, or C{None} when it is that already. Blocks.

    @param binary: it may be no lines.
    @raise Unconvertible: it cannot be made so.
    @raise OSError: it cannot be read.
    """
    if not binary and all(piece.isascii() for piece in content.chunks(PIECE)):
        return None
    if content.size > LIMIT:
        raise Unconvertible("it is too large")
    return convert(content.read(), binary=binary)


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
