"""
The process of L{qmailpy.disk.placing}: a script that needs the standard library only, and little of ours, so that it is
small and quickly there.

Standard input is a socket. A batch: L{HEAD} (files, octets that follow), then for each file L{FILE} (lengths of
temporary name, name, source, front and content, and octets of the source) and the five. The answer: L{ANSWER} for each
(an error number or 0; octets of the file, octets with CRLF line ends, CRC-32). It ends with the socket, or with its
parent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress

if __name__ == "__main__":  # as a script it is not told where the rest of us is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from qmailpy.disk.pieces import Calls, thd_pieces, thd_pwrite, thd_write
from qmailpy.wire.stored import Stored

HEAD = struct.Struct("!II")
FILE = struct.Struct("!HHHIIQ")
ANSWER = struct.Struct("!HQQI")

_PIECE = 262_144
"""Octets of a source at once: with the two forms they are compared in, all the memory that a large message takes."""

_KEPT = 4 * 1024 * 1024
"""Octets of unused memory that the process does not give back."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_PR_SET_PDEATHSIG = 1
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class _System:
    """L{Calls} of the system."""

    def open(self, path: str, *, exclusive: bool = False) -> int:
        return os.open(path, _FLAGS if exclusive else os.O_RDONLY | os.O_CLOEXEC, 0o600)

    def close(self, handle: int) -> None:
        os.close(handle)

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        return os.pread(handle, length, offset)

    pwrite = staticmethod(thd_pwrite)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)


def thd_place(
    files: Calls, temporary: str, base: str, front: bytes, source: str, size: int, octets: bytes
) -> tuple[Stored, int]:
    """
    Make one file. The temporary one must not be there: it may be a second name of what has its place.

    @param base: its name in the end, without the sizes.
    @param source: file of which the first C{size} octets are the message; "" = the message is C{octets}.
    @return: its sizes, and its CRC-32.
    @raise OSError: it is not made; the temporary file may be there.
    """
    stored = Stored(front)
    message: Iterable[bytes] = thd_pieces(files, source, size, _PIECE) if source else (octets,)
    crc = thd_write(files, temporary, stored.text(message))
    files.rename(temporary, base + stored.sizes)
    return stored, crc


def _read(source: socket.socket, length: int) -> bytes:
    """So many octets. @raise EOFError: it has ended."""
    parts = []
    while length:
        part = source.recv(min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _batch(files: Calls, source: socket.socket) -> bytes:
    """Read a batch and do it; the answer."""
    count, length = HEAD.unpack(_read(source, HEAD.size))
    body = _read(source, length)
    answers = []
    at = 0
    for _ in range(count):
        *lengths, size = FILE.unpack_from(body, at)
        at += FILE.size
        parts = []
        for one in lengths:
            parts.append(body[at : at + one])
            at += one
        temporary, base, path, front, octets = parts
        try:
            names = [os.fsdecode(name) for name in (temporary, base, path)]
            stored, crc = thd_place(files, names[0], names[1], front, names[2], size, octets)
            answers.append(ANSWER.pack(0, stored.octets, stored.wire, crc))
        except OSError as problem:
            answers.append(ANSWER.pack(problem.errno or errno.EIO, 0, 0, 0))
    return b"".join(answers)


def main(parent: int) -> None:
    """
    Work until the socket ends.

    @param parent: what is not done when it dies is its successor's, which must not find us still at it.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(AttributeError):  # not every C library has it
        # Memory of each piece would go back to the system, to come again page by page: a third of all the time it took.
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    files = _System()
    source = socket.socket(fileno=0)
    try:
        while os.getppid() == parent:
            source.sendall(_batch(files, source))
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
