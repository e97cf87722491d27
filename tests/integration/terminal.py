"""A program on a terminal of its own: what is typed and what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence

LIMIT_S = 20.0


class Terminal:
    """The other side of it. A context manager: at its end the program is killed."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        """@param environment: all of it."""
        self.shown = ""
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            try:
                os.execve(command[0], [*command], {**environment})
            finally:
                os._exit(127)
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        """As when somebody pulls at the window."""
        fcntl.ioctl(self._handle, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, text: str) -> None:
        os.write(self._handle, text.encode())

    def wait(self, text: str, limit_s: float = LIMIT_S) -> str:
        """
        Until something is shown; what was shown since the last C{wait}, up to and with it.

        @raise AssertionError: it is not.
        """
        end = time.monotonic() + limit_s
        while text not in self.shown:
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"not shown: {text!r}, but {self.shown[-2000:]!r}")
        found, _, self.shown = self.shown.partition(text)
        return found + text

    def interrupt(self, text: str) -> str:
        """
        Press Ctrl-C and wait, as L{wait}. Pressed again when nothing comes of it: Python's readline does not notice one
        between the prompt it shows and its wait for keys before there is a key.
        """
        self.press("\x03")
        try:
            return self.wait(text, 3.0)
        except AssertionError:
            self.press("\x03")
            return self.wait(text)

    def read(self, seconds: float) -> str:
        """All that is shown in so long a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self._read(left):
            pass
        found, self.shown = self.shown, ""
        return found

    def _read(self, seconds: float) -> bool:
        """@return: whether the program is still there."""
        ready, _, _ = select.select([self._handle], [], [], seconds)
        if ready:
            try:
                octets = os.read(self._handle, 65536)
            except OSError:  # it has ended
                return False
            self.shown += octets.decode("utf-8", "replace")
        return True

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._handle)
