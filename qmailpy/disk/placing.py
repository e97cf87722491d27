"""
Files of deliveries: written under temporary names and renamed, by a process that has nothing else to do.

A thread that writes a small file makes four system calls, and behind each it must have Python's lock again, which a
busy reactor holds: the lock goes to and fro twice a call, and both threads wait for each other most of the time. With a
large one it is the reading, converting and writing of each piece of it. Another process has a lock of its own. It is
asked for a batch at a time, over a socket, and makes the same calls in the same order (L{qmailpy.disk.placing_child});
of a message that is in a file it is told the name.

What fails and how: each file has a result of its own. A process that ends, or does not say what it is expected to, is
killed and gone before anybody is told, so that nothing it was given is done later; the next batch has a new one. It
dies with the thread that began it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from attrs import frozen
from twisted.logger import Logger

from qmailpy.disk import placing_child
from qmailpy.disk.pieces import Calls
from qmailpy.disk.placing_child import ANSWER, FILE, HEAD, thd_place
from qmailpy.wire.stored import sizes

_BUFFER = 1 << 20
_END_S = 5.0  # for the process to end by itself


@frozen(kw_only=True)
class Placement:
    """A file to be made. Names are absolute; the first two are of the same file system."""

    temporary: str  # where there must be no file
    base: str  # of its name in the end, which has the sizes behind it; a file of that name is replaced
    front: bytes  # what comes first: lines with LF
    octets: bytes = b""  # the message, with CRLF line ends,
    source: str = ""  # or the file that it is in,
    size: int = 0  # and how many octets of that


@frozen
class Placed:
    """What was made of it."""

    path: str
    crc: int  # CRC-32 of what the file holds


class Placer(Protocol):
    """Whoever makes files."""

    def thd_place(self, files: Sequence[Placement]) -> list[Placed | OSError]:
        """
        Make the files, in that order; none of them is durable on return. Blocks.

        @return: for each, what was made, or why it was not; it may have left its temporary file.
        @raise OSError: any of them may have been made, and none will be from now on.
        """

    def thd_close(self) -> None:
        """Let go of what is held. Blocks briefly."""


class PlacingHere:
    """L{Placer} without a process, in the caller's thread: for commands and simulated disks."""

    def __init__(self, files: Calls) -> None:
        self._files = files

    def thd_place(self, files: Sequence[Placement]) -> list[Placed | OSError]:
        return [self._thd_place(one) for one in files]

    def _thd_place(self, one: Placement) -> Placed | OSError:
        try:
            stored, crc = thd_place(self._files, one.temporary, one.base, one.front, one.source, one.size, one.octets)
        except OSError as problem:
            return problem
        return Placed(one.base + stored.sizes, crc)

    def thd_close(self) -> None:
        """There is nothing to let go of."""


class PlacingProcess:
    """L{Placer} with a process, begun with the first batch. For one thread, that lives as long as the process."""

    _log = Logger()

    def __init__(self, program: str = placing_child.__file__) -> None:
        """@param program: what the process runs; for tests."""
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return None if self._process is None else self._process.pid

    def thd_place(self, files: Sequence[Placement]) -> list[Placed | OSError]:
        try:
            answers = self._thd_ask(files)
        except (OSError, struct.error) as problem:
            self._thd_end(kill=True)
            self._log.warn("the process that writes files has failed: {problem}", problem=str(problem))
            raise OSError(errno.EIO, "the process that writes files has failed") from problem
        return [
            OSError(code, os.strerror(code), one.base) if code else Placed(one.base + sizes(octets, wire), crc)
            for one, (code, octets, wire, crc) in zip(files, answers, strict=True)
        ]

    def thd_close(self) -> None:
        self._thd_end(kill=False)

    def _thd_ask(self, files: Sequence[Placement]) -> list[tuple[int, int, int, int]]:
        """For each an error number or 0, its octets stored and with CRLF, and its CRC-32."""
        if self._socket is None:
            self._socket = self._thd_begin()
        parts = [b""]
        for one in files:
            fields = (os.fsencode(one.temporary), os.fsencode(one.base), os.fsencode(one.source), one.front, one.octets)
            parts += (FILE.pack(*map(len, fields), one.size), *fields)
        body = b"".join(parts)
        self._socket.sendall(HEAD.pack(len(files), len(body)) + body)
        answer = b""
        length = ANSWER.size * len(files)
        while len(answer) < length:
            more = self._socket.recv(length - len(answer))
            if not more:
                raise ConnectionAbortedError(errno.ECONNABORTED, "it has ended")
            answer += more
        return list(ANSWER.iter_unpack(answer))

    def _thd_begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                # No site-packages are needed; a session of its own keeps a terminal's ^C away from it.
                command = [sys.executable, "-I", "-S", self._program, str(os.getpid())]
                self._process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
            except BaseException:
                ours.close()
                raise
        return ours

    def _thd_end(self, *, kill: bool) -> None:
        sock, self._socket = self._socket, None
        process, self._process = self._process, None
        if sock is not None:
            sock.close()
        if process is None:
            return
        if not kill:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
                return
        process.kill()
        process.wait()
