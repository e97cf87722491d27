"""
Files read and written a piece at a time, each of them whole. Only the standard library is needed, for
L{qmailpy.disk.placing_child}, which starts in half the time without L{qmailpy.disk.files} and is smaller by a megabyte.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import Protocol
from zlib import crc32

_GATHERED = 65536


class Calls(Protocol):
    """What is needed of L{qmailpy.disk.files.Files}."""

    def open(self, path: str, *, exclusive: bool = False) -> int: ...

    def close(self, handle: int) -> None: ...

    def pread(self, handle: int, length: int, offset: int) -> bytes: ...

    def pwrite(self, handle: int, octets: bytes, offset: int) -> None: ...

    def rename(self, source: str, target: str) -> None: ...


class CutShortError(OSError):
    """A file is shorter than it should be: the disk gives what it has, and no other answer is to come."""


def thd_pieces(files: Calls, path: str, size: int, octets: int) -> Iterator[bytes]:
    """
    The first C{size} octets of a file.

    @param octets: of a piece, at most.
    @raise CutShortError: it is shorter.
    @raise OSError: it cannot be read.
    """
    handle = files.open(path)
    try:
        at = 0
        while at < size:
            piece = files.pread(handle, min(octets, size - at), at)
            if not piece:
                raise CutShortError(errno.EIO, "shorter than it should be", path)
            yield piece
            at += len(piece)
    finally:
        files.close(handle)


def thd_pwrite(handle: int, octets: bytes, offset: int) -> None:
    """
    Write all of C{octets}, as C{os.pwrite} need not.

    @raise OSError: a part of them may be there.
    """
    done = os.pwrite(handle, octets, offset)
    if done == len(octets):
        return
    view = memoryview(octets)
    while done < len(octets):  # a short write: a signal, or the disk has just filled up
        done += os.pwrite(handle, view[done:], offset + done)


def thd_write(files: Calls, path: str, pieces: Iterable[bytes]) -> int:
    """
    Make a file of these pieces, where there is none; not durable on return.

    @return: its CRC-32.
    @raise FileExistsError: there is one.
    @raise OSError: a part of it may be there.
    """
    handle = files.open(path, exclusive=True)
    crc = at = waiting = 0
    gathered: list[bytes] = []
    try:
        for octets in pieces:
            crc = crc32(octets, crc)
            gathered.append(octets)
            waiting += len(octets)
            if waiting >= _GATHERED:
                files.pwrite(handle, b"".join(gathered), at)
                at, waiting = at + waiting, 0
                gathered.clear()
        if waiting:
            files.pwrite(handle, b"".join(gathered), at)
    finally:
        files.close(handle)
    return crc
