"""
Many small files at once: written under temporary names and renamed, by a process that has nothing else to do.

A thread that writes a file makes four system calls, and behind each it must have Python's lock again, which a busy
reactor holds: the lock goes to and fro twice a call, and both threads wait for each other most of the time. Another
process has a lock of its own. It is asked for a batch at a time, over a socket, and does the same calls in the same
order (L{qmailpy.disk.placing_child}).

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
from qmailpy.disk.placing_child import ANSWER, FILE, HEAD

_BUFFER = 1 << 20
_END_S = 5.0  # for the process to end by itself


@frozen
class Placement:
    """A file to be made. Both names are absolute, of the same file system."""

    temporary: str  # where there must be no file
    path: str  # a file of that name is replaced
    octets: bytes


class Placer(Protocol):
    """Whoever makes files."""

    def thd_place(self, files: Sequence[Placement]) -> list[OSError | None]:
        """
        Make the files, in that order; none of them is durable on return. Blocks.

        @return: for each, why it was not made; it may have left its temporary file.
        @raise OSError: any of them may have been made, and none will be from now on.
        """

    def thd_close(self) -> None:
        """Let go of what is held. Blocks briefly."""


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

    def thd_place(self, files: Sequence[Placement]) -> list[OSError | None]:
        try:
            codes = self._thd_ask(files)
        except (OSError, struct.error) as problem:
            self._thd_end(kill=True)
            self._log.warn("the process that writes files has failed: {problem}", problem=str(problem))
            raise OSError(errno.EIO, "the process that writes files has failed") from problem
        return [
            OSError(code, os.strerror(code), one.path) if code else None for one, code in zip(files, codes, strict=True)
        ]

    def thd_close(self) -> None:
        self._thd_end(kill=False)

    def _thd_ask(self, files: Sequence[Placement]) -> tuple[int, ...]:
        if self._socket is None:
            self._socket = self._thd_begin()
        parts = [b""]
        for one in files:
            temporary, path = os.fsencode(one.temporary), os.fsencode(one.path)
            parts += (FILE.pack(len(temporary), len(path), len(one.octets)), temporary, path, one.octets)
        body = b"".join(parts)
        self._socket.sendall(HEAD.pack(len(files), len(body)) + body)
        answer = b""
        length = ANSWER.size * len(files)
        while len(answer) < length:
            more = self._socket.recv(length - len(answer))
            if not more:
                raise ConnectionAbortedError(errno.ECONNABORTED, "it has ended")
            answer += more
        return tuple([code for (code,) in ANSWER.iter_unpack(answer)])

    def _thd_begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                for end in (ours, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                # Nothing but the standard library is needed; a session of its own keeps a terminal's ^C away from it.
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
