"""
A file in which several processes keep small things for each other, each looked at and written as one piece.

Not mapped: a process that stores into a mapped file whose disk is full, or that somebody has cut off, is killed by the
kernel (SIGBUS). Here the first is a piece that was not written, and the second is read as zeros and made good by the
next that is written. What one process writes the others see at once; nothing is ever synced.

A piece that is written while another process reads may be read in part: it has to carry a checksum.
"""

from __future__ import annotations

import os
import weakref

from twisted.logger import Logger


class SharedFile:
    """
    The file, open as long as this is there.

    @ivar size: octets, as it was when it was opened.
    """

    _log = Logger()

    def __init__(self, path: str, size: int, most: int = 0) -> None:
        """
        Open it, made or made longer where needed. Blocks, for some microseconds.

        @param size: octets it is to have at least.
        @param most: of a file that is longer already so many octets are used; 0 = C{size}.
        @raise OSError: it cannot be had.
        """
        self._path = path
        self._told = False
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            there = os.fstat(handle).st_size
            if there < size:
                os.ftruncate(handle, size)
        except OSError:
            os.close(handle)
            raise
        self.size = max(size, min(there, most))
        self._handle = handle
        weakref.finalize(self, os.close, handle)

    def read(self, at: int, length: int) -> bytes:
        """A piece; zeros for what is not there or cannot be read."""
        try:
            octets = os.pread(self._handle, length, at)
        except OSError as error:
            self._tell("read", error)
            octets = b""
        return octets if len(octets) == length else octets.ljust(length, b"\0")

    def write(self, at: int, octets: bytes) -> bool:
        """
        Store a piece.

        @return: whether it is there: on a full disk it is not.
        """
        try:
            written = os.pwrite(self._handle, octets, at) == len(octets)
        except OSError as error:
            self._tell("written", error)
            return False
        if written:
            self._told = False
        return written

    def _tell(self, what: str, error: OSError) -> None:
        """Once until it is well again."""
        if not self._told:
            self._told = True
            self._log.error("{path} cannot be {what}: {error}", path=self._path, what=what, error=error.strerror)
