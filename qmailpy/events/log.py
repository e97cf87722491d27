"""
C{HOME/log/events.log}: an event a line, in JSON, appended by every process of the home.

C{{"time": 1764000000.1, "id": "mta-0-19ab3c-7", "event": "auth.banned", "severity": "warning", "process": "mta-0",
"fields": {...}, "text": "...", "remedy": "..."}}, and C{"times": 12} where it had happened more often since the line
before. The id is unique: process, start in seconds and a running number, in hexadecimal.

Lines that cannot be written, for want of room, wait for the next event, written or only counted, up to L{WAITING} of
them; one that was written in part is written anew.

A file of L{SIZE} octets is renamed to C{events.log.1}, that before to C{events.log.2}, and so on up to L{KEPT}.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections import deque
from collections.abc import Callable

from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.disk.rights import Identity
from qmailpy.events.catalogue import CATALOGUE, Kind
from qmailpy.events.often import MOST, Often, Told
from qmailpy.interfaces import IEvents
from qmailpy.values import one_line

FILE_NAME = "events.log"
SIZE = 4 * 1024 * 1024
KEPT = 4  # files beside the current one
_SINGLE = {kind.over: name for name, kind in CATALOGUE.items() if kind.lasts and kind.single}
WAITING = 100
_AGAIN_S = 1.0  # between two tries to write what waits
_TEXT = 500  # characters of a field


@implementer(IEvents)
class NoEvents:
    """Nobody is told."""

    def happened(self, name: str, **fields: str | int | float) -> None:
        """Nothing is done."""


@implementer(IEvents)
class EventLog:
    """Appends to the file."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        process: str,
        seconds: Callable[[], float],
        *,
        owner: Identity | None = None,
        told: Callable[[bytes], None] = lambda line: None,
        size: int = SIZE,
    ) -> None:
        """
        @param path: of the file.
        @param process: who says it: "mta-0".
        @param seconds: the time of day.
        @param owner: who a newly made file is given to, where root writes first and others go on.
        @param told: is given each line as well.
        @param size: octets from which on a new file is begun.
        """
        self._path = path
        self._process = process
        self._seconds = seconds
        self._owner = owner
        self._tell = told
        self._size = size
        self._started = int(seconds())
        self._number = 0
        self._often = Often()
        self._failing = False
        self._waiting: deque[bytes] = deque(maxlen=WAITING)
        self._tried = 0.0
        self._torn = False  # the file ends amid a line of ours

    def happened(self, name: str, **fields: str | int | float) -> None:
        kind = CATALOGUE.get(name)
        if kind is None:
            self._log.error("bug: there is no event {event!r}", event=name)
            return
        now = self._seconds()
        if self._waiting and not 0 <= now - self._tried < _AGAIN_S:
            self._write()
        words = {field: one_line(str(fields.get(field, "")), _TEXT) for field in kind.fields}
        if name == "trouble.over":
            ended, key = words["event"], words["about"]
        else:
            ended, key = _SINGLE.get(name, ""), "" if kind.single else next(iter(words.values()), "")
        if ended:
            if self._often.over(ended, key if name == "trouble.over" else ""):
                self._say(name, kind, words, now, 1)
            return
        told, times = self._often.happened(name, kind, key, now)
        if told is Told.WRITE:
            self._say(name, kind, words, now, times)
        elif told is Told.TOO_MANY:
            self.happened("events.many", event=name, most=MOST)

    def _say(self, name: str, kind: Kind, words: dict[str, str], now: float, times: int) -> None:
        self._number += 1
        line: dict[str, object] = {
            "time": round(now, 3),
            "id": f"{self._process}-{self._started:x}-{self._number:x}",
            "event": name,
            "severity": kind.severity.value,
            "process": self._process,
            "fields": words,
            "text": kind.text.format_map(words),
            "remedy": kind.remedy.format_map(words),
        }
        if times > 1:
            line["times"] = times
        octets = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        self._waiting.append(octets)
        self._write()
        self._tell(octets)

    def _write(self) -> None:
        """An event is rare and its line short: writing it here costs no more than handing it to a thread."""
        self._tried = self._seconds()
        try:
            handle = self._open()
            try:
                while self._waiting:
                    self._append(handle, self._waiting[0])
                    self._waiting.popleft()
                if os.fstat(handle).st_size >= self._size:
                    self._roll(handle)
            finally:
                os.close(handle)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._log.error("events cannot be written to {path}: {error}", path=self._path, error=str(error))

    def _append(self, handle: int, line: bytes) -> None:
        octets = b"\n" + line if self._torn else line
        written = os.write(handle, octets)
        self._torn = 0 < written < len(octets) or (self._torn and not written)
        if written < len(octets):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        # O_NOFOLLOW and the check: the directory is the unprivileged user's, who must not lead root's pen elsewhere.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            handle = os.open(self._path, flags)
        except FileNotFoundError:
            try:
                handle = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o640)
            except FileExistsError:  # another process was first
                handle = os.open(self._path, flags)
            else:
                if self._owner is not None:
                    os.fchown(handle, self._owner.uid, self._owner.gid)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(handle)
            raise OSError(0, "is no plain file", self._path)
        return handle

    def _roll(self, handle: int) -> None:
        """Begin a new file, unless another process just does or did."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if os.stat(self._path, follow_symlinks=False).st_ino != os.fstat(handle).st_ino:
            return
        for number in range(KEPT - 1, 0, -1):
            try:
                os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            except FileNotFoundError:
                continue
        os.rename(self._path, f"{self._path}.1")
