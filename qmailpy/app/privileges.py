"""Who the mail processes run as, and the limits they run under."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import subprocess
import sys

from attrs import frozen

from qmailpy.config.schema import ServerConfig
from qmailpy.errors import CommandError, ConfigError


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


def check_reach(who: Identity, home: str) -> None:
    """
    Make sure that somebody else can run us and reach the home, before children die of it one after the other.

    Starts a Python as that user, which takes a few tenths of a second; before the reactor runs.

    @raise CommandError: what that user cannot do, and what would help.
    """
    command = [sys.executable, "-P", "-c", "import os, sys, qmailpy.app.handover; os.listdir(sys.argv[1])", home]
    name = pwd.getpwuid(who.uid).pw_name
    try:
        done = subprocess.run(
            command, user=who.uid, group=who.gid, extra_groups=[], capture_output=True, text=True, cwd="/", check=False
        )
    except PermissionError as error:
        remedy = "install qmailpy where that user may read it"
        raise CommandError(f"user {name} may not run {sys.executable}; {remedy}") from error
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CommandError(f"user {name} can not run qmailpy on {home}: {why}")


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
