"""
Acting on files as somebody else than root, for a moment.

Directories of a home belong to unprivileged users, who may lay there what they like: links that lead elsewhere, pipes
that nobody ever writes to. Root therefore looks into them with the owner's rights and no others, and what it makes
there is the owner's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen


@frozen
class Identity:
    """A user and a group by number."""

    uid: int
    gid: int


@contextmanager
def acting_as(who: Identity | None) -> Iterator[None]:
    """
    The rights of C{who} while the body runs, on every thread of the process: keep it short.

    The real and the saved user stay root, so that C{who} may neither signal nor trace this process meanwhile. One may
    be within another: the inner one counts.

    @param who: C{None} or whoever this process is already: nothing changes.
    @raise OSError: the system does not let us; the body has not run.
    """
    if who is None or (who.uid == os.geteuid() and who.gid == os.getegid()):
        yield
        return
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    try:
        os.seteuid(os.getuid())
        os.setgroups([who.gid])
        os.setegid(who.gid)
        os.seteuid(who.uid)
        yield
    finally:
        os.seteuid(os.getuid())
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)


def owner(path: str) -> Identity | None:
    """
    Whom root has to act as to work in a directory: its owner; C{None} when that is root, when we are not root, or when
    there is no such directory.
    """
    if os.getuid() != 0:
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return Identity(found.st_uid, found.st_gid) if found.st_uid else None


def read_plain(path: str, limit: int) -> bytes:
    """
    The first octets of a small file; never waits, not even where a pipe lies in its place.

    @raise OSError: it cannot be read, or is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "is no plain file", path)
        return os.read(handle, limit)
    finally:
        os.close(handle)
