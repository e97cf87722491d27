"""
Whom the processes run as, and the limits they run under.

Started as root, the mail workers are C{[server] user} and the directory process is C{[server] directory_user}: who
parses mail from the network can then not read password hashes. Where that cannot be had, all processes are one user,
and L{Users.word} says so and why.
"""

from __future__ import annotations

import grp
import os
import pwd
import resource
import subprocess
import sys

from attrs import frozen

from qmailpy.config.schema import Config, ServerConfig
from qmailpy.disk.rights import Identity
from qmailpy.errors import CommandError, ConfigError


@frozen(kw_only=True)
class Users:
    """Whom the processes become; C{None} = they stay who we are."""

    workers: Identity | None
    directory: Identity | None
    word: str  # about the separation, for the log

    @property
    def apart(self) -> bool:
        """Whether the directory has a user of its own."""
        return self.workers != self.directory

    def of(self, role: str) -> Identity | None:
        """Whom the processes of a role become."""
        return self.directory if role == "directory" else self.workers


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


def users(config: Config) -> Users:
    """
    Who is to run what on this home.

    The directory process has the workers' group, for the log; what it makes is its user's alone.

    @raise ConfigError: a configured user or group does not exist (C{directory_user} may be missing).
    @raise CommandError: HOME/directory belongs to somebody who will not serve it; names the remedy.
    """
    server, folder = config.server, config.path("directory")
    workers = identity(server)
    if workers is None:
        word = f"all processes run as user {os.geteuid()}: the directory's passwords are not kept from those of mail"
        return Users(workers=None, directory=None, word=word)
    directory, why = _directory_user(config, workers)
    try:
        found = os.stat(folder).st_uid
    except OSError:
        found = directory.uid  # the directory process will say what is wrong with it
    if found == workers.uid and directory != workers:
        # A home from before there was such a user: it goes on as it was.
        right = f"chown -R {server.directory_user}:{server.group} {folder}"
        directory, why = workers, f"{folder} belongs to {server.user}; stop qmailpy, then: {right}"
    elif found != directory.uid:
        name = pwd.getpwuid(directory.uid).pw_name
        remedy = f"chown -R {name}:{server.group} {folder}"
        raise CommandError(
            f"{folder} belongs to user {found} and not to {name}, who serves it; right would be: {remedy}"
        )
    if why:
        word = f"all processes run as user {server.user}: passwords are not kept from the mail workers ({why})"
    else:
        word = f"the mail workers run as user {server.user}, the directory as {server.directory_user}"
    return Users(workers=workers, directory=directory, word=word)


def _directory_user(config: Config, workers: Identity) -> tuple[Identity, str]:
    """Whom the directory process should become, and why not somebody of its own ("" if it does)."""
    wanted = config.server.directory_user
    if config.server.workers == 0:
        return workers, "with workers = 0 everything is one process"
    if not wanted or wanted == config.server.user:
        return workers, "[server] directory_user is the same"
    try:
        uid = pwd.getpwnam(wanted).pw_uid
    except KeyError:
        remedy = f"useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin {wanted}"
        return workers, f"there is no user {wanted}; stop qmailpy, then: {remedy}"
    if uid in (0, workers.uid):
        return workers, f"[server] directory_user {wanted} is no user of its own"
    return Identity(uid, workers.gid), ""


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
