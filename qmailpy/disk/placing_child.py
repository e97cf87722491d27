"""
The process of L{qmailpy.disk.placing}: a script that needs the standard library only, so that it is small and quickly
there.

Standard input is a socket. A batch: L{HEAD} (files, octets that follow), then for each file L{FILE} (lengths of
temporary name, name and content) and the three. The answer: L{ANSWER} for each, an error number or 0. It ends with the
socket, or with its parent.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import sys

HEAD = struct.Struct("!II")
FILE = struct.Struct("!HHI")
ANSWER = struct.Struct("!H")

_PR_SET_PDEATHSIG = 1
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def place(temporary: bytes, path: bytes, octets: memoryview) -> int:
    """Make one file. The temporary one must not be there: it may be a second name of what has its place. An errno."""
    try:
        handle = os.open(temporary, _FLAGS, 0o600)
        try:
            done = os.write(handle, octets)
            while done < len(octets):  # the disk has just filled up
                done += os.write(handle, octets[done:])
        finally:
            os.close(handle)
        os.rename(temporary, path)
    except OSError as problem:
        return problem.errno or errno.EIO
    return 0


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


def _batch(source: socket.socket) -> bytes:
    """Read a batch and do it; the answer."""
    files, length = HEAD.unpack(_read(source, HEAD.size))
    body = memoryview(_read(source, length))
    answers = []
    at = 0
    for _ in range(files):
        temporary, path, octets = FILE.unpack_from(body, at)
        at += FILE.size
        names = at + temporary
        content = names + path
        end = content + octets
        answers.append(ANSWER.pack(place(bytes(body[at:names]), bytes(body[names:content]), body[content:end])))
        at = end
    return b"".join(answers)


def main(parent: int) -> None:
    """
    Work until the socket ends.

    @param parent: what is not done when it dies is its successor's, which must not find us still at it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    source = socket.socket(fileno=0)
    try:
        while os.getppid() == parent:
            source.sendall(_batch(source))
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
