"""
Reading the transaction log's files: whole lines, forwards and backwards, in bounded memory.

A line counts when it ends in a LF. What one holds beside a record (a torn piece before it, zeros that a power cut left)
is taken off by L{qmailpy.records.text.fragment}; what is no record at all is for L{LineFormat.record} to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator

from qmailpy.disk.files import Files
from qmailpy.records.text import LINE_OCTETS, TORN, fragment

CHUNK = 1 << 20
"""Octets read at once."""


def lines(files: Files, handle: int, start: int = 0) -> Iterator[bytes]:
    """
    The whole lines of a file, without their LF, from offset C{start} on, up to what is its end when that is reached.

    A last piece without LF is left out, and so is a line of more than L{LINE_OCTETS}, which is none of ours.
    """
    rest = b""
    skip = False
    while chunk := files.pread(handle, CHUNK, start):
        start += len(chunk)
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            if not skip:
                yield fragment(piece)
            skip = False
        if len(rest) > LINE_OCTETS:
            rest = b""
            skip = True


def last_lines(files: Files, handle: int, end: int) -> Iterator[tuple[int, bytes]]:
    """
    The whole lines before offset C{end}, the last first, without LF, each with the offset where it begins.

    C{end} is taken for the beginning of a line; what stands before it without LF is left out.
    """
    rest = b""  # the line that begins before what has been read, as far as it is known
    at = end
    first = True
    while at > 0:
        size = min(CHUNK, at)
        at -= size
        octets = files.pread(handle, size, at) + rest
        stop = len(octets)
        if first:
            stop = octets.rfind(b"\n") + 1
            first = stop == 0
        head = 0 if at == 0 else octets.find(b"\n") + 1 or stop
        while stop > head:
            start = octets.rfind(b"\n", head, stop - 1) + 1 or head
            yield at + start, fragment(octets[start : stop - 1])
            stop = start
        rest = octets[:head]
        if len(rest) > LINE_OCTETS:  # none of ours
            rest = TORN


def whole_end(files: Files, handle: int) -> int:
    """Offset behind the last LF of a file: its size, unless the last line is torn."""
    at = files.size(handle)
    while at > 0:
        length = min(CHUNK, at)
        at -= length
        found = files.pread(handle, length, at).rfind(b"\n")
        if found >= 0:
            return at + found + 1
    return 0
