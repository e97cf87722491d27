"""
Messages at the end of an mbox file (mbox(5), as qmail-local writes it): a C{From} line, C{Return-Path},
C{Delivered-To}, the message with C{>} before each line that would be taken for a C{From} line, and a blank one.

The file is locked by C{flock} while it is written. What a failure leaves of a message is cut off again; what a power
cut leaves of one, when the message comes again, or is ended by a blank line, when another comes first. All of it
blocks.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from qmailpy.disk.files import Files

Text = Callable[[], Iterable[bytes]]
"""Makes the octets of a message."""

LOOKED_THROUGH = 1024 * 1024
"""Octets in which a message of a former process is looked for, besides as many as its own."""

_CHUNK = 65536
_TRIES = 100  # messages at the end of a file that are compared with one: others of the same sender and second
_START = re.compile(rb"\n\n(?=[F\0])")
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


def thd_append(files: Files, path: str, text: Text, *, again: bool = False, former: bool = False) -> bool:
    """
    Put a message at the end of a file, durably; the file is made when it is not there.

    @param text: makes all of it, C{From} line and quoting included, the same each time; the blank line at its end is
        ours.
    @param again: an attempt before this one may have put it there, whole or in part: then that is taken away first.
        What is there whole is written anew, for it may never have reached the disk.
    @param former: a process before this one may have: then a whole one in the last L{LOOKED_THROUGH} octets will do,
        though others came behind it.
    @return: false when somebody else has the file: nothing was done.
    @raise OSError: it is not there, or not known to be.
    """
    handle = files.open_shared(path)
    if handle is None:
        return False
    try:
        if files.identity(path) != files.identity(handle):
            return False  # who had it locked has put another in its place; this one is nowhere
        size = files.size(handle)
        if not size:
            files.sync_directory(os.path.dirname(path) or "/")  # what is not empty has a name that lasts
        end = _end(files, handle, size)
        if again or former:
            begun = _begun(files, handle, end, text)
            if former and begun == end and _is_there(files, handle, end, text):
                files.fsync(handle)
                return True
            end = begun
        if end < size:
            files.truncate(handle, end)
        try:
            if end:
                _write(files, handle, [_missing(files.pread(handle, 2, max(0, end - 2)))])
            _write(files, handle, text())
            _write(files, handle, [b"\n"])
            files.fsync(handle)
        except BaseException:
            files.truncate(handle, end)
            raise
    finally:
        files.close(handle)
    return True


def _write(files: Files, handle: int, pieces: Iterable[bytes]) -> None:
    gathered: list[bytes] = []
    waiting = 0
    for piece in pieces:
        gathered.append(piece)
        waiting += len(piece)
        if waiting >= _CHUNK:
            files.append(handle, b"".join(gathered))
            gathered, waiting = [], 0
    if waiting:
        files.append(handle, b"".join(gathered))


def _missing(end: bytes) -> bytes:
    """What a power cut may have kept from the end of the last message: without it the next would be a part of it."""
    if end.endswith(b"\n\n"):
        return b""
    return b"\n" if end.endswith(b"\n") else b"\n\n"


# --- what a power cut has left at the end --------------------------------------------------------------------


def _end(files: Files, handle: int, size: int) -> int:
    """Where the file ends without the zeros that stand for what never reached the disk: no mail ends with any."""
    while size:
        start = max(0, size - _CHUNK)
        found = files.pread(handle, size - start, start).rstrip(b"\0")
        if found:
            return start + len(found)
        size = start
    return 0


def _begun(files: Files, handle: int, end: int, text: Text) -> int:
    """
    Where a message begins that is at the end of a file, whole, cut short, or with zeros for what is missing; C{end}
    when it is not there.
    """
    first = next(iter(text()), b"")
    length = sum(map(len, text())) + 1
    tried = 0
    for start in _starts(files, handle, max(0, end - length), end):
        if _alike(files.pread(handle, len(first), start), first):
            if _is_begun(files, handle, start, end, text):
                return start
            tried += 1
            if tried == _TRIES:
                break
    return end


def _is_there(files: Files, handle: int, end: int, text: Text) -> bool:
    """Whether a message is among the last ones, whole."""
    first = next(iter(text()), b"")
    length = sum(map(len, text())) + 1
    tried = 0
    for start in _starts(files, handle, max(0, end - length - LOOKED_THROUGH), end):
        if files.pread(handle, len(first), start) == first:
            if _is_whole(files, handle, start, text):
                return True
            tried += 1
            if tried == _TRIES:
                break
    return False


def _starts(files: Files, handle: int, at: int, end: int) -> Iterator[int]:
    """Where a message may begin: at the beginning and behind blank lines, if there is C{F} or a zero."""
    if at == 0:
        yield 0
    at = max(0, at - 2)
    while at < end:
        octets = files.pread(handle, min(_CHUNK, end - at), at)
        for found in _START.finditer(octets):
            yield at + found.end()
        if len(octets) < 3 or at + len(octets) >= end:
            return
        at += len(octets) - 2


def _is_begun(files: Files, handle: int, at: int, end: int, text: Text) -> bool:
    """Whether the rest of the file is the beginning of this message, or all of it."""
    for piece in chain(text(), (b"\n",)):
        if at >= end:
            return True
        found = files.pread(handle, min(len(piece), end - at), at)
        if not _alike(found, piece):
            return False
        at += len(found)
    return at >= end


def _is_whole(files: Files, handle: int, at: int, text: Text) -> bool:
    for piece in chain(text(), (b"\n",)):
        if files.pread(handle, len(piece), at) != piece:
            return False
        at += len(piece)
    return True


def _alike(found: bytes, wanted: bytes) -> bool:
    """Whether octets of a file are these, as far as they are there."""
    if wanted.startswith(found):
        return True
    return all(here in (there, 0) for here, there in zip(found, wanted, strict=False))
