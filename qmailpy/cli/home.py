"""
What a home consists of on disk: its directories and their modes, for those who make it and those who check it.

With users of its own, a home lets everybody pass through to C{etc/} and C{run/} (the modes 0711 and 0755), because any
user may send mail with C{qmailpy sendmail}. What lies behind is for those who need it, L{KEEPERS}: mail, queue, log and
sockets are the mail workers'; C{directory/} with the password hashes is the directory process's; C{tls/} with the
private keys is root's, for the supervisor to hand out; HOME itself and C{etc/} are root's, so that nobody can put
another directory in their place. An unprivileged home is its owner's alone.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from enum import Enum

from attrs import frozen

from qmailpy.disk.rights import Identity
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
    "tls": 0o700,
}
"""Directories of a home, by path below it, and their modes; those of an unprivileged home have no rights for others."""


class Keeper(Enum):
    """Whose a directory is."""

    ROOT = "root"
    WORKERS = "[server] user"
    DIRECTORY = "[server] directory_user"


KEEPERS: Mapping[str, Keeper] = {
    "": Keeper.ROOT,
    "etc": Keeper.ROOT,
    "tls": Keeper.ROOT,
    "queue": Keeper.WORKERS,
    "queue/drop": Keeper.WORKERS,
    "mail": Keeper.WORKERS,
    "log": Keeper.WORKERS,
    "run": Keeper.WORKERS,
    "run/control": Keeper.WORKERS,
    "directory": Keeper.DIRECTORY,
}
"""The same, where the daemon is started as root."""

WRITABLE = tuple(name for name, keeper in KEEPERS.items() if keeper is not Keeper.ROOT)
"""Those the daemon writes to."""

DIRECTORY_USER = "qmailpy-dir"
"""What C{[server] directory_user} is unless somebody says otherwise."""


@frozen
class Owners:
    """The users of a home whose daemon is started as root."""

    workers: Identity
    directory: Identity  # the group is the workers'

    def of(self, keeper: Keeper) -> Identity:
        """Whose the directories of a keeper are."""
        if keeper is Keeper.ROOT:
            return Identity(0, self.workers.gid)
        return self.directory if keeper is Keeper.DIRECTORY else self.workers


def owners(user: str, group: str, directory_user: str, *, must: bool = False) -> Owners:
    """
    The numbers of a home's users; without a C{directory_user} (also one that does not exist) all is C{user}'s.

    @param must: C{directory_user} has to exist.
    @raise CommandError: there is no such user or group; names the command that makes them.
    """
    workers = owner(user, group)
    if not directory_user or directory_user == user:
        return Owners(workers, workers)
    try:
        return Owners(workers, Identity(pwd.getpwnam(directory_user).pw_uid, workers.gid))
    except KeyError:
        if must:
            raise CommandError(
                f"there is no system user {directory_user}; make it with: {make(directory_user)}"
            ) from None
        return Owners(workers, workers)


def make(user: str) -> str:
    """The command that makes a system user."""
    return f"adduser --system --group --no-create-home --home /nonexistent {user}"


def owner(user: str, group: str) -> Identity:
    """
    The numbers of a system user and group.

    @raise CommandError: there is no such user or group; names the command that makes them.
    """
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        text = f"there is no system user {user}; make it with: {make(user)}; or use --unprivileged"
        raise CommandError(text) from None
    try:
        return Identity(found.pw_uid, grp.getgrnam(group).gr_gid)
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
