"""
Where the embedded directory of a home is, and its secrets: light to import, for the supervisor above all.

C{HOME/directory/} is for the directory process's user alone. C{HOME/run/ldap.sock} is for the workers' user, who show
there what C{service.secret} holds; the supervisor tells them, for the file is closed to them.
"""

from __future__ import annotations

import os

from qmailpy.disk.rights import read_plain

ADMIN = "admin"
SERVICE = "service"

SOCKET = "run/ldap.sock"
"""The UNIX socket our own processes reach the server on, below HOME."""


def directory_path(home: str) -> str:
    """Where the embedded directory of a home is."""
    return os.path.join(home, "directory")


def socket_path(home: str) -> str:
    """The UNIX socket our own processes reach the server on."""
    return os.path.join(home, SOCKET)


def secret_path(home: str, identity: str) -> str:
    """The file with the secret of L{ADMIN} or L{SERVICE}."""
    return os.path.join(directory_path(home), f"{identity}.secret")


def thd_read_secret(home: str, identity: str) -> bytes:
    """The secret of an identity. @raise OSError: it cannot be read."""
    return read_plain(secret_path(home, identity), 4096).strip()
