"""
One daemon a home.

C{HOME/run/lock} is locked by the supervisor as long as it lives. C{HOME/run/children.lock} is locked through a
descriptor that every child inherits: it is free only when the last child of a former supervisor is gone, however that
one ended, so that a new one knows when queue shards are free. Both locks are the kernel's (flock) and vanish with their
holders; the files stay and mean nothing. C{HOME/run/qmailpy.pid} is for people and scripts.

Everything here blocks and runs before the reactor does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable

from attrs import frozen

from qmailpy.disk.rights import Identity
from qmailpy.errors import CommandError

PATIENCE_S = 5.0
"""How long children of a killed supervisor have to end by themselves (they notice at once); then they are killed."""


@frozen(kw_only=True)
class Instance:
    """The locks held; descriptors stay open until the process ends."""

    home: str
    lock: int
    children_lock: int  # to be inherited by children

    @property
    def pid_path(self) -> str:
        """Where the process id is."""
        return os.path.join(self.home, "run", "qmailpy.pid")

    def write_pid(self) -> None:
        """Called when the process has its final id."""
        handle = _open(self.pid_path, os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(handle, "w") as out:
            out.write(f"{os.getpid()}\n")

    def remove_pid(self) -> None:
        """At the orderly end."""
        if os.path.lexists(self.pid_path):
            os.unlink(self.pid_path)


def _open(path: str, flags: int) -> int:
    # The directory belongs to the unprivileged user: a link laid there must not lead root to another file.
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holders(path: str) -> list[int]:
    """Processes that have the file open, ourselves left out; by /proc, so only those we may look at."""
    wanted = os.stat(path)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            for handle in os.listdir(f"/proc/{name}/fd"):
                at = os.stat(f"/proc/{name}/fd/{handle}")
                if (at.st_dev, at.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(name))
                    break
        except OSError:
            continue  # it has just ended, or is none of ours
    return found


def make_run(home: str, who: Identity | None) -> None:
    """
    Make HOME/run and HOME/run/control (0700) where they are missing, belonging to the workers' user.

    @raise CommandError: HOME is missing or may not be written.
    """
    try:
        for path in (os.path.join(home, "run"), os.path.join(home, "run", "control"), os.path.join(home, "log")):
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
                if who is not None:
                    os.chown(path, who.uid, who.gid)
    except OSError as error:
        raise CommandError(f"{error.filename or home}: {error.strerror}") from error


def acquire(
    home: str, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Instance:
    """
    Become the one daemon of a home, after waiting for children a killed predecessor left behind.

    @raise CommandError: another one runs, or its children cannot be made to end.
    """
    run = os.path.join(home, "run")
    try:
        lock = _open(os.path.join(run, "lock"), os.O_RDWR)
        children_path = os.path.join(run, "children.lock")
        children = _open(children_path, os.O_RDWR)
    except OSError as error:
        raise CommandError(f"{error.filename or run}: {error.strerror}") from error
    if not _try_lock(lock):
        os.close(lock)
        os.close(children)
        raise CommandError(f"another qmailpy runs on {home}{_pid_words(home)}")
    start = clock()
    killed = False
    while not _try_lock(children):
        waited = clock() - start
        if waited > PATIENCE_S and not killed:
            killed = True
            for pid in holders(children_path):
                os.kill(pid, signal.SIGKILL)  # the queue is made for it
        if waited > 2 * PATIENCE_S:
            os.close(lock)
            os.close(children)
            raise CommandError(f"processes of an earlier qmailpy still run on {home}: {holders(children_path)}")
        sleep(0.02)
    return Instance(home=home, lock=lock, children_lock=children)


def _pid_words(home: str) -> str:
    try:
        with open(os.path.join(home, "run", "qmailpy.pid")) as source:
            text = source.read(32).strip()
    except OSError:
        return ""
    return f" (process {text})" if text.isdecimal() else ""
