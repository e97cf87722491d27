"""
C{.qmail} files (dot-qmail(5)): which one counts for an address, whether it may be trusted, and what it says.

They are in the user's directory, beside the Maildir (C{HOME/mail/DOMAIN/USER/.qmail}). Of C{user+ext} the file is
C{.qmail-ext}; of C{a-b-c} for C{ext} the first that is there of C{-a-b-c}, C{-a-b-default}, C{-a-default} and
C{-default}. A file that others may write, or that is not the mail user's or root's, is not followed, as one in such a
directory is not; while the directory is sticky (C{chmod +t}) its user is writing them, and mail waits. So it does for
whatever cannot be read.

All of it blocks, apart from L{parse} and L{names}.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from enum import Enum

from attrs import frozen

OCTETS = 262_144
"""Longest file that is followed."""

LINES = 1000
"""Most lines that do something."""


class NotFollowed(Exception):
    """The file is not followed now, and why; the mail waits."""


class Does(Enum):
    """What a line says."""

    FORWARD = "forward"
    MAILDIR = "maildir"
    MBOX = "mbox"
    PROGRAM = "program"


@frozen
class Line:
    """A line that does something."""

    does: Does
    what: str  # address, path without the last C{/} of a Maildir, or command


@frozen(kw_only=True)
class Found:
    """The file of an address."""

    lines: tuple[Line, ...]
    empty: bool = False  # there is nothing in it: what is done without one is done
    default: str = ""  # the part of the extension that C{default} stands for
    owner: bool = False  # there is an -owner file
    verp: bool = False  # and an -owner-default one


def names(extension: str) -> Iterator[tuple[str, str]]:
    """
    The files that may count for an extension, first things first, and what C{default} stands for in each.

    No extension leads to another directory: dots are colons in the names, and nothing has a name with a slash.
    """
    if not extension:
        yield ".qmail", ""
        return
    safe = extension.lower().replace(".", ":")
    if "\0" in safe:
        return
    if "/" not in safe:
        yield f".qmail-{safe}", ""
    at = len(safe)
    while at >= 0:
        at = safe.rfind("-", 0, at)
        before = safe[: at + 1]
        if "/" not in before:
            yield f".qmail-{before}default", extension[at + 1 :]


def parse(octets: bytes, *, forwards_only: bool = False) -> tuple[Line, ...]:
    """
    What a file says.

    @param forwards_only: it has its x bit: nothing else is allowed, as behind a line C{+list}.
    @raise NotFollowed: something in it must not be done.
    """
    found = []
    for number, raw in enumerate(octets.decode("utf-8", "surrogateescape").split("\n")):
        line = raw.rstrip(" \t\r")
        if not line:
            if number == 0:
                raise NotFollowed("its first line is blank")
            continue
        first, rest = line[0], line[1:]
        if first == "#":
            continue
        if first == "+":
            forwards_only = forwards_only or line == "+list"
            continue
        if first in "./|" and forwards_only:
            raise NotFollowed("it names files or programs, but may hold addresses only (x bit, +list)")
        if "\0" in line:
            raise NotFollowed(f"line {number + 1} holds a NUL")
        if first == "|":
            found.append(Line(Does.PROGRAM, rest))
        elif first in "./":
            maildir = line.endswith("/")
            found.append(Line(Does.MAILDIR, line.rstrip("/")) if maildir else Line(Does.MBOX, line))
        else:
            found.append(Line(Does.FORWARD, (rest if first == "&" else line).strip()))
        if len(found) > LINES:
            raise NotFollowed(f"it has more than {LINES} lines")
    return tuple(found)


def thd_find(home: str, extension: str, owners: Sequence[int]) -> Found | None:
    """
    What counts for an address.

    @param home: the user's directory.
    @param owners: user ids whose files are followed.
    @return: C{None} when there is no file.
    @raise NotFollowed: mail must wait.
    @raise OSError: as well.
    """
    try:
        status = os.stat(home)
    except FileNotFoundError:
        return None
    _check(status, owners, "the directory")
    if status.st_mode & stat.S_ISVTX:
        raise NotFollowed("the directory is sticky: its user is changing the .qmail files")
    for name, default in names(extension):
        with contextlib.ExitStack() as stack:
            try:
                # A pipe that somebody has put there must not keep us waiting.
                handle = os.open(f"{home}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as problem:
                if problem.errno == 36:  # ENAMETOOLONG: nobody can have made it
                    continue
                raise
            stack.callback(os.close, handle)
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise NotFollowed(f"{name} is no file")
            _check(status, owners, name)
            octets = os.read(handle, OCTETS + 1)
        if len(octets) > OCTETS:
            raise NotFollowed(f"{name} is larger than {OCTETS} octets")
        try:
            lines = () if not octets else parse(octets, forwards_only=bool(status.st_mode & stat.S_IXUSR))
        except NotFollowed as problem:
            raise NotFollowed(f"{name}: {problem}") from None
        safe = f".qmail-{extension.lower().replace('.', ':')}" if extension else ".qmail"
        owner = "/" not in safe and os.path.exists(f"{home}/{safe}-owner")
        return Found(
            lines=lines,
            empty=not octets,
            default=default,
            owner=owner,
            verp=owner and os.path.exists(f"{home}/{safe}-owner-default"),
        )
    return None


def _check(status: os.stat_result, owners: Sequence[int], what: str) -> None:
    if status.st_mode & stat.S_IWOTH:
        raise NotFollowed(f"{what} can be written by others")
    if status.st_uid not in owners:
        raise NotFollowed(f"{what} belongs to another user ({status.st_uid})")
