"""
The file operations everything durable is built from.

L{Files} is the whole of what the queue, the mail store and the log may do to a disk; L{RealFiles} does it,
C{qmailpy.testing.crashdisk} simulates it with power cuts. All of it blocks and is for worker threads (or for
commands, which have no reactor). Failures are C{OSError}. A name is durable after C{sync_directory} of its parent,
content after C{fsync} or C{fdatasync} of the file; C{syncfs} does both for a whole file system.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Protocol

from attrs import frozen

from qmailpy.disk.pieces import thd_pwrite

_DOUBT = frozenset({errno.EIO, errno.ESTALE, errno.EUCLEAN, errno.ETIMEDOUT, errno.ENOMEM})
"""Errors of C{lstat} that do not tell whether there is something."""


@frozen
class Space:
    """What a file system has left for us."""

    octets: int
    inodes: int  # a large number where the file system does not count them


class SyncLost(OSError):
    """
    The sync of a whole file system failed: whatever anybody had written to it may never reach the disk. Linux says so
    once, and what it says counts as clean afterwards.
    """


class Files(Protocol):
    """The operations; paths are absolute, file handles small integers."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, append: bool = False) -> int:
        """Open for reading and writing (mode 0600 when created)."""

    def open_for_reading(self, path: str) -> int:
        """Open a plain file that others may have made: no link is followed, and a pipe does not keep us waiting."""

    def open_shared(self, path: str) -> int | None:
        """
        Open a plain file for appending (making it) that other programs write as well, and lock it by C{flock} until
        C{close}.

        @return: C{None} when somebody else has it locked.
        @raise OSError: as well when it is no plain file.
        """

    def close(self, handle: int) -> None: ...

    def pread(self, handle: int, length: int, offset: int) -> bytes: ...

    def pwrite(self, handle: int, octets: bytes, offset: int) -> None:
        """Write all of C{octets} or raise."""

    def append(self, handle: int, octets: bytes) -> int:
        """Write all of C{octets} at the end of a file opened for appending; the offset behind them."""

    def size(self, handle: int) -> int: ...

    def truncate(self, handle: int, size: int) -> None: ...

    def fdatasync(self, handle: int) -> None: ...

    def fsync(self, handle: int) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def hold(self, path: str) -> int:
        """Open a directory: by it L{syncfs} tells of every failure from now on, whoever has asked before."""

    def holds(self, handle: int, path: str) -> bool:
        """Whether C{path} is (still) on the file system of that handle."""

    def syncfs(self, path: str, held: int | None = None) -> None:
        """
        Everything written to the file system that holds C{path} is durable on return.

        @param held: from L{hold}: that of this handle. Without, failures that somebody else was told of are not told.
        """

    def rename(self, source: str, target: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def mkdir(self, path: str) -> None:
        """Make the directory and its parents (mode 0700); no error when it is there."""

    def listdir(self, path: str) -> list[str]:
        """Names in the directory, unsorted; an empty list when there is no such directory."""

    def scan(self, path: str) -> Iterator[str]:
        """The same a name at a time, for directories of any size."""

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name. @raise OSError: the disk does not tell."""

    def identity(self, where: str | int) -> int:
        """A file's inode number, by path or handle: the same through renames; 0 when the path names nothing."""

    def modified(self, path: str) -> float:
        """When a file, or the names in a directory, have last changed: seconds since the epoch."""

    def read(self, path: str) -> bytes:
        """The whole of a file."""

    def space(self, path: str) -> Space: ...

    def lock(self, path: str) -> int:
        """
        Open (making it) and lock a file for this process until C{close} or death.

        @raise BlockingIOError: another process holds it.
        """


_MORE = 1 << 16  # octets read at once behind what was the size of a file
_libc = ctypes.CDLL(None, use_errno=True)


class RealFiles:
    """L{Files} on the operating system."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, append: bool = False) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_CREAT | os.O_EXCL
        if append:
            flags |= os.O_APPEND
        return os.open(path, flags, 0o600)

    def open_for_reading(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def open_shared(self, path: str) -> int | None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "is no file", path)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        return handle

    def close(self, handle: int) -> None:
        os.close(handle)

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        return os.pread(handle, length, offset)

    pwrite = staticmethod(thd_pwrite)

    def append(self, handle: int, octets: bytes) -> int:
        done = os.write(handle, octets)
        view = memoryview(octets)
        while done < len(octets):
            done += os.write(handle, view[done:])
        return os.lseek(handle, 0, os.SEEK_CUR)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def fdatasync(self, handle: int) -> None:
        os.fdatasync(handle)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def sync_directory(self, path: str) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def hold(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def holds(self, handle: int, path: str) -> bool:
        return os.fstat(handle).st_dev == os.stat(path).st_dev

    def syncfs(self, path: str, held: int | None = None) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if held is None else held
        try:
            if _libc.syncfs(handle) != 0:
                number = ctypes.get_errno() or errno.EIO
                raise OSError(number, os.strerror(number), path)
        finally:
            if held is None:
                os.close(handle)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)

    def listdir(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []

    def scan(self, path: str) -> Iterator[str]:
        try:
            entries = os.scandir(path)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                yield entry.name

    def exists(self, path: str) -> bool:
        try:
            os.lstat(path)
        except OSError as problem:
            if problem.errno in _DOUBT:  # whoever takes it for gone may remove what belongs to it
                raise
            return False
        return True

    def identity(self, where: str | int) -> int:
        try:
            return os.stat(where).st_ino
        except FileNotFoundError:
            return 0

    def modified(self, path: str) -> float:
        return os.stat(path).st_mtime

    def read(self, path: str) -> bytes:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open() takes twice as long, and the queue has many files
        try:
            size = os.fstat(handle).st_size + 1
            pieces = []
            while octets := os.read(handle, size):
                pieces.append(octets)
                size = _MORE
        except OSError as problem:
            problem.filename = path  # the system names a file only when it cannot be opened
            raise
        finally:
            os.close(handle)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def space(self, path: str) -> Space:
        found = os.statvfs(path)
        inodes = found.f_favail if found.f_files else 1 << 40  # btrfs and others count none
        return Space(found.f_bavail * found.f_frsize, inodes)

    def lock(self, path: str) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle


def replace(files: Files, path: str, octets: bytes) -> None:
    """
    Put C{octets} under C{path} so that a crash leaves the old content or the new, and the new is durable on return.

    The parent directory must exist. A leftover C{path.tmp} of an earlier crash is overwritten.
    """
    replace_all(files, [(path, octets)])


def replace_all(files: Files, items: Sequence[tuple[str, bytes]]) -> None:
    """As L{replace} for several files, with one directory sync for each parent."""
    for path, octets in items:
        temporary = path + ".tmp"
        handle = files.open(temporary, create=True)
        try:
            files.truncate(handle, 0)
            files.pwrite(handle, octets, 0)
            files.fsync(handle)
        finally:
            files.close(handle)
    for path, _ in items:
        files.rename(path + ".tmp", path)
    for parent in sorted({os.path.dirname(path) for path, _ in items}):
        files.sync_directory(parent)
