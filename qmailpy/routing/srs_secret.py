"""
C{HOME/etc/srs.secret}: what signs the senders of forwarded mail (L{qmailpy.wire.srs}).

Made by C{qmailpy init}, or at the start of a daemon that finds none; random, one line. It belongs to root and is
readable for the workers' group. Nodes that take mail for the same domains have the same file; a new one makes bounces
of mail forwarded before it unknown.
"""

from __future__ import annotations

import os
import secrets

from qmailpy.disk.rights import read_plain

NAME = "srs.secret"
_OCTETS = 4096


def secret_path(home: str) -> str:
    """Where it is."""
    return os.path.join(home, "etc", NAME)


def make(home: str, gid: int | None = None) -> None:
    """
    Make it when it is not there.

    @param gid: the group that reads it; C{None} = only its owner does.
    @raise OSError: it cannot be made.
    """
    path = secret_path(home)
    if os.path.lexists(path):
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(handle, secrets.token_hex(32).encode() + b"\n")
        if gid is not None:
            os.fchown(handle, -1, gid)
            os.fchmod(handle, 0o640)
        os.fsync(handle)
    finally:
        os.close(handle)


def thd_read(home: str) -> bytes:
    """
    The secret; empty when there is none, or none that can be read: then senders are not rewritten.
    """
    try:
        return read_plain(secret_path(home), _OCTETS).strip()
    except OSError:
        return b""
