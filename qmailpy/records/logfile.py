"""
The files of the transaction log: appending, and rolling them over.

HOME/log holds C{mail.log_current}, C{mail.log_yesterday} and the cumulative C{mail.log}. Every process appends to the
current one through a handle of its own (O_APPEND, one write(2) a batch) and nobody locks. L{roll} renames; each writer
sees after its next write that the name leads elsewhere, and changes over by itself.

Rolling (docs/counters-and-log.md), with the commit points that make it safe to be cut anywhere and run again:

  R1 C{mail.log_rolling} absent: nothing is under way. With a C{mail.log_yesterday}, write C{mail.log_rolling}: the size
     of mail.log before anything is added.
  R2 C{mail.log_rolling} and C{mail.log_yesterday} present: cut mail.log back to that size, append all of yesterday,
     sync; then unlink yesterday, sync the directory: that is the commit point.
  R3 C{mail.log_rolling} present, no yesterday: the content is in mail.log. Unlink C{mail.log_rolling}, sync.
  R4 Rename current to yesterday, make a new current, sync.

A reader may see lines of yesterday twice between R1 and R3; lines carry lane and sequence, and the books drop repeats.
A line written into the renamed file is in yesterday, where it belongs. One written into a file that two quick rolls
have already copied and removed is written again by its writer, which notices.

DIAGNOSTICS. A write that fails (ENOSPC, EIO): the lines wait in memory, at most L{PENDING_OCTETS}, and are tried again
with the next ones; one line in the daemon's log when it begins, one when it is over.
"""

from __future__ import annotations

import errno
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen
from twisted.logger import Logger

from qmailpy.disk.files import Files, replace
from qmailpy.records.reading import CHUNK, whole_end
from qmailpy.records.text import TORN

CURRENT = "mail.log_current"
YESTERDAY = "mail.log_yesterday"
CUMULATIVE = "mail.log"
ROLLING = "mail.log_rolling"
LOCK = "mail.log_lock"

PENDING_OCTETS = 32 * 1024 * 1024
"""Lines that wait in memory while the log cannot be written; more are lost, and the daemon's log says so."""

HEAD = 64  # octets of a file's beginning that tell it from another with the same inode number


@frozen
class LogPosition:
    """A point in the log. C{file}: see L{file_number}."""

    file: int
    offset: int


def file_number(files: Files, handle: int) -> int:
    """
    A 63-bit number that stays a log file's own through renames; 0 for a file too young to have one.

    Inode numbers are used again at once on ext4, so the first octets, which hold a time stamp, take part.
    """
    head = files.pread(handle, HEAD, 0)
    return (files.identity(handle) & 0x7FFFFFFF) << 32 | zlib.crc32(head) if len(head) == HEAD else 0


_REWRITE = 1024 * 1024


class LogFile:
    """
    One process's hold on the current log file.

    C{append} and C{reopen} are called on one thread, C{thd_sync} on any.
    """

    log = Logger()

    def __init__(self, files: Files, directory: str, pending_octets: int = PENDING_OCTETS) -> None:
        """
        @param directory: HOME/log; made when missing.
        """
        self._files = files
        self._directory = directory
        self._path = f"{directory}/{CURRENT}"
        self._limit = pending_octets
        self._handle = -1
        self._inode = 0  # of the open file, which keeps it
        self._number = 0
        self._retired: list[int] = []  # rolled away, not yet synced
        self._guard = threading.Lock()  # for the two above
        self._sync_guard = threading.Lock()
        self._durable: dict[int, int] = {}  # by handle: octets that a sync has made durable; for the syncing thread
        self._doubtful: set[int] = set()  # handles whose last sync failed; likewise
        self._named = False  # the name of the current file is durable
        self._pending: list[bytes] = []
        self._pending_octets = 0
        self._failing = False
        self._torn = True  # a failed write, ours or that of a process before us, may have left a piece of a line
        self.end = 0

    @property
    def pending(self) -> bool:
        """Whether lines wait for the log to be writable again."""
        return bool(self._pending)

    def position(self) -> LogPosition:
        """Where the last write ended."""
        if not self._number and self._handle >= 0:
            self._number = file_number(self._files, self._handle)
        return LogPosition(self._number, self.end)

    def append(self, octets: bytes) -> bool:
        """
        Write lines, those that wait first, with one write(2).

        @param octets: whole lines; empty: only try those that wait.
        @return: false when the lines could neither be written nor kept, and are lost. That they wait (C{pending}) is
            no failure: they keep their place.
        """
        kept = True
        if octets:
            if self._pending_octets + len(octets) > self._limit:
                kept = False
            else:
                self._pending.append(octets)
                self._pending_octets += len(octets)
        if not self._pending:
            return kept
        batch = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        try:
            self._write(batch)
        except OSError as error:
            if not self._failing:
                self._failing = True
                self.log.error(
                    "the transaction log cannot be written, its lines wait in memory: {reason}",
                    reason=error.strerror or str(error),
                )
            return kept
        self._pending.clear()
        self._pending_octets = 0
        if self._failing:
            self._failing = False
            self.log.info("the transaction log can be written again")
        return kept

    def _write(self, batch: bytes) -> None:
        files = self._files
        if self._handle < 0:
            self._open()
        if self._torn and self._ends_torn():
            batch = TORN + batch
        self._torn = True
        self.end = files.append(self._handle, batch)
        self._torn = False
        for _ in range(3):
            mine = self._inode
            if files.identity(self._path) == mine:
                return
            self._open()
            # Rolled before or after the write: the lines are in yesterday's file. Unless that has been copied and
            # removed meanwhile, perhaps without them: then once more, for readers drop repeated lines.
            if files.identity(f"{self._directory}/{YESTERDAY}") == mine:
                return
            self.end = files.append(self._handle, batch)

    def _ends_torn(self) -> bool:
        size = self._files.size(self._handle)
        return size > 0 and self._files.pread(self._handle, 1, size - 1) != b"\n"

    def _open(self) -> None:
        """Open what the name leads to now, making it."""
        files = self._files
        files.mkdir(self._directory)
        handle = files.open(self._path, create=True, append=True)
        inode = files.identity(handle)
        with self._guard:
            if self._handle >= 0:
                self._retired.append(self._handle)
            self._handle = handle
            self._inode = inode
            self._named = False
        self._number = 0
        self.end = files.size(handle)

    def reopen(self) -> None:
        """Change over to what C{mail.log_current} names now; harmless at any time. Errors wait for the next write."""
        try:
            if self._handle < 0 or self._files.identity(self._path) != self._inode:
                self._open()
        except OSError:
            return  # the next write will meet it too, and tell

    def repair(self, alone: bool) -> None:
        """
        Make sure that the file ends with a whole line; before the first C{append}.

        @param alone: no other process writes the log now: a torn last line may be cut off. Otherwise it is closed with
            L{TORN}, so that it can never be taken for a whole one.
        @raise OSError: it cannot be read or written.
        """
        if self._handle < 0:
            self._open()
        if not self._ends_torn():
            return
        if alone:
            self._files.truncate(self._handle, whole_end(self._files, self._handle))
            self.end = self._files.size(self._handle)
        else:
            self.end = self._files.append(self._handle, TORN)

    def thd_sync(self) -> None:
        """
        Make everything appended before this call durable, in the current file and in those rolled since. Blocks.

        @raise OSError: it is not durable.
        """
        files = self._files
        with self._sync_guard:
            with self._guard:
                current, retired, named = self._handle, list(self._retired), self._named
            for handle in retired:
                self._thd_sync(handle)
            if current >= 0:
                self._thd_sync(current)
                if not named:
                    files.sync_directory(self._directory)
            with self._guard:
                self._named = self._named or self._handle == current
                self._retired = self._retired[len(retired) :]
            for handle in retired:
                self._durable.pop(handle, None)
                self._doubtful.discard(handle)
                files.close(handle)

    def _thd_sync(self, handle: int) -> None:
        files = self._files
        if handle in self._doubtful:
            self._thd_rewrite(handle)
        size = files.size(handle)
        self._doubtful.add(handle)
        files.fdatasync(handle)
        self._doubtful.discard(handle)
        self._durable[handle] = size

    def _thd_rewrite(self, handle: int) -> None:
        """
        Write again what a failed sync may have lost: Linux takes it for clean then, and no later sync writes it. The
        same octets in the same place, so that whoever appends or reads meanwhile sees no change.
        """
        files = self._files
        mine = files.identity(handle)
        for name in (CURRENT, YESTERDAY):
            path = f"{self._directory}/{name}"
            if files.identity(path) != mine:
                continue
            other = files.open(path)  # not for appending: that would put it at the end
            try:
                at, end = self._durable.get(handle, 0), files.size(other)
                while at < end:
                    octets = files.pread(other, min(_REWRITE, end - at), at)
                    files.pwrite(other, octets, at)
                    at += len(octets)
            finally:
                files.close(other)
            return

    def close(self) -> None:
        """Let go of the file. Lines that still wait are lost."""
        with self._sync_guard, self._guard:
            for handle in [*self._retired, self._handle]:
                if handle >= 0:
                    self._files.close(handle)
            self._retired = []
            self._handle = -1


def roll(files: Files, directory: str) -> None:
    """
    Roll the log over: yesterday's file to the end of mail.log, the current one to yesterday, a new current one.

    Blocks; for a thread or a command. May be run again after having been cut anywhere.

    @param directory: HOME/log.
    @raise BlockingIOError: another process is rolling it.
    @raise OSError: it could not be finished; nothing is lost.
    """
    lock = files.lock(f"{directory}/{LOCK}")
    try:
        _roll(files, directory)
    finally:
        files.close(lock)


def _roll(files: Files, directory: str) -> None:
    current, yesterday, cumulative, rolling = (
        f"{directory}/{name}" for name in (CURRENT, YESTERDAY, CUMULATIVE, ROLLING)
    )
    if files.exists(yesterday):
        target = files.open(cumulative, create=True, append=True)
        try:
            if files.exists(rolling):  # R2 once more
                size = _noted(files.read(rolling), rolling)
                if files.size(target) > size:
                    files.truncate(target, size)
            else:
                replace(files, rolling, b"%d" % files.size(target))
            _append_all(files, yesterday, target)
            files.fsync(target)
            files.sync_directory(directory)  # mail.log may be new
        finally:
            files.close(target)
        files.unlink(yesterday)
        files.sync_directory(directory)
    if files.exists(rolling):
        files.unlink(rolling)
        files.sync_directory(directory)
    if files.exists(current):
        files.rename(current, yesterday)
    files.close(files.open(current, create=True, append=True))
    files.sync_directory(directory)


def _noted(octets: bytes, path: str) -> int:
    if not octets.isdigit():
        raise OSError(
            errno.EINVAL, "does not hold a size; compare mail.log with mail.log_yesterday and remove it", path
        )
    return int(octets)


@contextmanager
def log_files(files: Files, directory: str) -> Iterator[list[int]]:
    """
    The log's files that there are, open, the oldest first: a roll meanwhile takes no line away.

    @param directory: HOME/log.
    @raise OSError: one cannot be opened.
    """
    handles: list[int] = []
    try:
        for name in (CURRENT, YESTERDAY, CUMULATIVE):  # the newest first: a roll moves lines to the next
            path = f"{directory}/{name}"
            if files.exists(path):
                handles.insert(0, files.open(path))
        yield handles
    finally:
        for handle in handles:
            files.close(handle)


def _append_all(files: Files, path: str, target: int) -> None:
    source = files.open(path)
    try:
        at = 0
        last = b"\n"
        while chunk := files.pread(source, CHUNK, at):
            at += len(chunk)
            last = chunk[-1:]
            files.append(target, chunk)
        if last != b"\n":
            files.append(target, TORN)
    finally:
        files.close(source)
