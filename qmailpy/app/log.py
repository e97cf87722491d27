"""
The daemon's own log, HOME/log/qmailpy.log: one line an event, written by every process straight into the file.

C{2026-11-24T05:52:11.123+0100 warn mta-0[4711] text}; control characters of the text are escaped, so that nothing a
peer sends can forge a line; a traceback follows its line, indented. One write(2) an event on a descriptor opened for
appending: lines of several processes never mix. A log that cannot be written costs its lines and nothing else.
"""

from __future__ import annotations

import os
import re
import stat
import time
from typing import cast

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.disk.rights import Identity

TEXT_LIMIT = 4000
TRACE_LIMIT = 32000

_ESCAPES = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}
_ESCAPES |= {9: "\\t", 10: "\\n", 13: "\\r", 0x2028: "\\u2028", 0x2029: "\\u2029", 92: "\\\\"}


_NOISE = re.compile(r"_Datagram starting on \d+\Z|\(UDP Port \d+ Closed\)\Z")
"""What Twisted tells of each UDP socket, of which every question to the DNS has its own; it has no switch for that."""


def noise(event: LogEvent) -> bool:
    """Whether nobody wants to read it."""
    text = event.get("log_text") if event.get("log_namespace") == "log_legacy" else None
    return isinstance(text, str) and _NOISE.match(text) is not None


def escaped(text: str) -> str:
    """The text without control characters, on one line, of bounded length."""
    return text[:TEXT_LIMIT].translate(_ESCAPES)


def line(event: LogEvent, name: str, pid: int) -> str:
    """What one event looks like in the log, with its line end."""
    at = event.get("log_time", 0.0)
    local = time.localtime(at)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{int(at % 1 * 1000):03d}" + time.strftime("%z", local)
    level = event.get("log_level")
    text = formatEvent(event)
    out = f"{stamp} {level.name if level else 'info'} {name}[{pid}] {escaped(text)}\n"
    failure = cast("Failure | None", event.get("log_failure"))
    if failure is not None:
        trace = failure.getTraceback()[-TRACE_LIMIT:]
        out += "".join(f"    {part.translate(_ESCAPES)}\n" for part in trace.splitlines())
    return out


@implementer(ILogObserver)
class LogFile:
    """Writes events into the file and, in the foreground, on standard output."""

    def __init__(self, path: str, name: str, *, console: bool = False, owner: Identity | None = None) -> None:
        """
        @param name: of this process in the lines.
        @param console: also write to descriptor 1.
        @param owner: who a newly made file is given to, so that the children may write it.
        @raise OSError: the file cannot be opened, or is no plain file.
        """
        self._path = path
        self._name = name
        self._console = console
        self._owner = owner
        self._handle = self._open()

    def _open(self) -> int:
        # O_NOFOLLOW and the check: the directory is the unprivileged user's, who must not lead root's pen elsewhere.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            handle = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o640)
            if self._owner is not None:
                os.fchown(handle, self._owner.uid, self._owner.gid)
        except FileExistsError:
            handle = os.open(self._path, flags)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(handle)
            raise OSError(0, "is no plain file", self._path)
        if self._owner is not None and found.st_uid in (0, self._owner.uid) and found.st_mode & 0o060 != 0o060:
            os.fchmod(handle, 0o660)  # the directory process writes it too: another user of the same group
        return handle

    def reopen(self) -> None:
        """The file was moved away: go on in a new one; on failure in the old one, with a word about it."""
        try:
            handle = self._open()
        except OSError as error:
            text = f"the log cannot be opened again: {error.strerror}"
            self({"log_format": "{text}", "text": text, "log_level": LogLevel.error, "log_time": time.time()})
            return
        old, self._handle = self._handle, handle
        os.close(old)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.debug or noise(event):
            return
        octets = line(event, self._name, os.getpid()).encode("utf-8", "backslashreplace")
        for handle in (self._handle, 1) if self._console else (self._handle,):
            try:
                os.write(handle, octets)
            except OSError:
                continue  # a full disk, a closed terminal: mail goes on


def add(observer: LogFile) -> None:
    """Have the observer see all events of this process, beside twistd's own."""
    globalLogPublisher.addObserver(observer)


def begin(observer: LogFile) -> None:
    """
    The same in a process without twistd: also the events from before this call, which Twisted has kept so far and would
    go on keeping. Standard error stays what it is, a pipe to the supervisor.
    """
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


@implementer(ILogObserver)
class Quiet:
    """Sees nothing: twistd's own observer in the background, where the file has everything."""

    def __call__(self, event: LogEvent) -> None:
        return None
