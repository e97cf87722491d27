"""
What a home consists of on disk: its directories and their modes, for those who make it and those who check it.

With a user of its own, a home lets everybody pass through to C{etc/} and C{run/} (the modes 0711 and 0755), because any
user may send mail with C{qmailpy sendmail}; what lies behind is the daemon's alone. An unprivileged home is its owner's
alone.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping

from attrs import frozen

from qmailpy.errors import CommandError

DIRECTORIES: Mapping[str, int] = {
    "": 0o711,
    "etc": 0o755,
    "queue": 0o700,
    "queue/drop": 0o700,
    "mail": 0o700,
    "log": 0o750,
    "run": 0o711,
    "run/control": 0o700,
    "directory": 0o700,
    "tls": 0o750,
}
"""Directories of a home, by path below it, and their modes; those of an unprivileged home have no rights for others."""

WRITABLE = ("queue", "queue/drop", "mail", "log", "run", "run/control", "directory")
"""Those the daemon writes to."""


@frozen
class Owner:
    """Whom a home belongs to."""

    uid: int
    gid: int


def owner(user: str, group: str) -> Owner:
    """
    The numbers of a system user and group.

    @raise CommandError: there is no such user or group; names the command that makes them.
    """
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        make = f"adduser --system --group --no-create-home --home /nonexistent {user}"
        raise CommandError(f"there is no system user {user}; make it with: {make}; or use --unprivileged") from None
    try:
        return Owner(found.pw_uid, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise CommandError(f"there is no system group {group}; make it with: addgroup --system {group}") from None


def caller_names() -> tuple[str, str]:
    """User and group of this process by name; numbers where they have none."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    try:
        group = grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        group = str(os.getegid())
    return user, group
