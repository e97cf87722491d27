"""Who the mail processes run as, and the limits they run under."""

from __future__ import annotations

import grp
import os
import pwd
import resource

from attrs import frozen

from qmailpy.config.schema import ServerConfig
from qmailpy.errors import ConfigError


@frozen
class Identity:
    """A user and group to become."""

    uid: int
    gid: int


def identity(server: ServerConfig) -> Identity | None:
    """
    Whom children become, or C{None} when they stay who we are: not started as root, or no user is configured.

    @raise ConfigError: started as root and the configured user or group does not exist.
    """
    if os.geteuid() != 0 or not server.user:
        return None
    problems = []
    uid = gid = 0
    try:
        entry = pwd.getpwnam(server.user)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        remedy = f"useradd --system --home-dir /var/lib/qmailpy --shell /usr/sbin/nologin {server.user}"
        problems.append(f"[server] user: there is no user {server.user!r}; make it with: {remedy}")
    if server.group:
        try:
            gid = grp.getgrnam(server.group).gr_gid
        except KeyError:
            remedy = f"groupadd --system {server.group}"
            problems.append(f"[server] group: there is no group {server.group!r}; make it with: {remedy}")
    if problems:
        raise ConfigError(tuple(problems))
    return Identity(uid, gid) if uid else None


def become(who: Identity) -> None:
    """
    Give up root for good: groups, group, user, in the order that works.

    @raise OSError: it is not allowed; the process must not go on.
    """
    name = pwd.getpwuid(who.uid).pw_name
    os.initgroups(name, who.gid)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)


def raise_file_limit() -> int:
    """Bring the soft limit of open files to the hard one; the limit that is in force now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
