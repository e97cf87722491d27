"""
Messages at the end of an mbox file (mbox(5), as qmail-local writes it): a C{From} line, C{Return-Path},
C{Delivered-To}, the message with C{>} before each line that would be taken for a C{From} line, and a blank one.

The file is locked by C{flock} while it is written. What a failure leaves of a message is cut off again. All of it
blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator

_FROM = re.compile(rb"^(?=>*From )", re.MULTILINE)
_PERHAPS = re.compile(rb">*(?:F(?:r(?:o(?:m)?)?)?)?")  # the beginning of such a line


def from_line(sender: str, when: float) -> bytes:
    """The C{From} line, with its end: the beginning of a message, for mail readers. Times are UTC, as qmail's."""
    who = "".join("-" if c.isspace() or not c.isprintable() else c for c in sender) or "MAILER-DAEMON"
    stamp = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(when))
    return f"From {who} {stamp}\n".encode("utf-8", "replace")


def quoted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Content with LF line ends, with its C{From} lines quoted, and an end to its last line."""
    held, start, last = b"", True, b"\n"
    for piece in pieces:
        octets = held + piece
        held = b""
        if not octets:
            continue
        if not start:  # to the end of the line we are in
            end = octets.find(b"\n") + 1
            if not end:
                yield octets
                last = octets[-1:]
                continue
            yield octets[:end]
            octets, last, start = octets[end:], b"\n", True
        cut = octets.rfind(b"\n") + 1
        tail = octets[cut:]
        if len(tail) < 998 and _PERHAPS.fullmatch(tail):
            octets, held = octets[:cut], tail
        if octets:
            yield _FROM.sub(b">", octets)
            last = octets[-1:]
            start = last == b"\n"
    if held:
        yield held
        last = held[-1:]
    if last != b"\n":
        yield b"\n"


def thd_append(path: str, pieces: Iterable[bytes]) -> bool:
    """
    Put a message at the end of a file, durably; the file is made when it is not there.

    @param pieces: all of it, C{From} line and quoting included; the blank line at its end is ours.
    @return: false when somebody else has the file: nothing was done.
    @raise OSError: it is not there, or not known to be.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no file", path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not _is_still(path, status):
            return False  # who had it locked has put another in its place; this one is nowhere
        size = os.fstat(handle).st_size
        if not size:
            _sync_name(path)  # what is not empty has a name that lasts
        try:
            if size:
                _write(handle, _missing(os.pread(handle, 2, max(0, size - 2))))
            for piece in pieces:
                _write(handle, piece)
            _write(handle, b"\n")
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    return True


def _is_still(path: str, status: os.stat_result) -> bool:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino)


def _sync_name(path: str) -> None:
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _missing(end: bytes) -> bytes:
    """What a power cut may have kept from the end of the last message: without it the next would be a part of it."""
    if end.endswith(b"\n\n"):
        return b""
    return b"\n" if end.endswith(b"\n") else b"\n\n"


def _write(handle: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(handle, view) :]
