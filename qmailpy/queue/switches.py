"""
Which channels an operator has stopped, over restarts: C{HOME/queue/stopped}, a name a line.

The file is replaced as a whole; several processes may change it, one at a time (C{stopped.lock} beside it). The workers
read it when they start and are told of changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from qmailpy.disk.files import Files, replace
from qmailpy.errors import QmailpyError
from qmailpy.queue.layout import check_channel

PATIENCE = 200  # times
STEP_S = 0.01


class Switches:
    """The file of one home. All of it blocks."""

    def __init__(self, files: Files, path: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """
        @param path: HOME/queue/stopped.
        """
        self._files = files
        self.path = path
        self._sleep = sleep

    def thd_stopped(self) -> frozenset[str]:
        """
        The channels that are stopped; a line that is no name is passed over.

        @raise OSError: the file is there and cannot be read.
        """
        try:
            octets = self._files.read(self.path)
        except FileNotFoundError:
            return frozenset()
        found = set()
        for line in octets.decode("ascii", "replace").splitlines():
            try:
                found.add(check_channel(line.strip()))
            except ValueError:
                continue
        return frozenset(found)

    def thd_switch(self, channel: str, stopped: bool) -> bool:
        """
        Stop or start a channel for all lives to come.

        @return: whether that changed anything.
        @raise QmailpyError: another process keeps the file locked.
        @raise OSError: it cannot be written; nothing was changed.
        @raise ValueError: not a channel name.
        """
        check_channel(channel)
        lock = self._locked()
        try:
            before = self.thd_stopped()
            after = before | {channel} if stopped else before - {channel}
            if after == before:
                return False
            replace(self._files, self.path, "".join(f"{name}\n" for name in sorted(after)).encode())
            return True
        finally:
            self._files.close(lock)

    def _locked(self) -> int:
        for _ in range(PATIENCE):
            try:
                return self._files.lock(f"{self.path}.lock")
            except BlockingIOError:
                self._sleep(STEP_S)
        raise QmailpyError("another process is changing which channels are stopped; try again")
