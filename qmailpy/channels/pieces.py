"""
Pieces of messages (message/partial), where all workers find them: HOME/run/defragment/CHANNEL/.

    sets-BOOT/KEY/NUMBER     a copy of a piece; it has its name when it is whole
    sets-BOOT/KEY/of-TOTAL   that there are TOTAL of them
    sets-BOOT/KEY/leader     the queue id of the piece that takes the whole along
    lock-KEY                 locked (flock) by who works on the set; goes with it
    done-KEY                 numbers and digests of the pieces of a whole that is queued

KEY names the set, BOOT the life of the system: after a power cut files may be shorter than they were, and what is in
the queue comes here again. In the queue are the pieces themselves; so nothing here may be missed:

  1. A copy is made (C{NUMBER}) before its piece is told to wait. Whoever sees all of them tries for the lock.
  2. With the lock C{leader} is written; then the whole and the end of the leader's piece are one transaction of the
     queue; then C{done-KEY}, synced; then the set goes and the lock is let go of.
  3. A process that dies lets go of its lock. When its C{leader} is there, that transaction may have happened or not. If
     not, the leader comes again, and only it may go on. If it has, nobody does: the other pieces go on as they are when
     their time is over, besides the whole. So does a set whose numbers make no sense.
  4. C{done-KEY} says nothing of a piece with another content.

Everything here blocks; the functions are for threads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum

from attrs import define, field, frozen

from qmailpy.values import Content
from qmailpy.wire.partial import Piece

SETS = 10_000
"""Messages of which pieces are gathered at once."""

MARKS_S = 7 * 86400.0
"""How long it is remembered which pieces have gone on in a whole, beyond the time they are gathered for."""


def thd_boot() -> str:
    """A word that is another one after each start of the system."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as source:
            return source.read(64).strip().replace("-", "") or "0"
    except OSError:
        return "0"


class Fate(Enum):
    """What becomes of a piece."""

    WAITS = "waits"
    GONE = "gone"  # it has gone on in a whole
    PASSES = "passes"  # goes on as it is
    LEADS = "leads"  # the whole goes on with it


@define(eq=False)
class Lead:
    """A set that is complete, locked until L{PieceStore.thd_led}."""

    key: str
    paths: list[str]  # of the pieces, in order
    _handle: int
    _closed: Callable[[], object] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._closed = weakref.finalize(self, os.close, self._handle)

    def close(self) -> None:
        """Let go of the lock."""
        self._closed()


@frozen
class Found:
    """What there is to be said of a piece. C{lead}: with LEADS."""

    fate: Fate
    lead: Lead | None = None


class PieceStore:
    """The files of one channel; several of these, in several processes, may work on them."""

    def __init__(
        self,
        root: str,
        *,
        gather_s: float,
        largest: int,
        seconds: Callable[[], float],
        boot: Callable[[], str] = thd_boot,
    ) -> None:
        """
        @param root: HOME/run/defragment/CHANNEL; made when it is missing.
        @param gather_s: how long pieces are waited for.
        @param largest: octets of a message that may be queued.
        @param boot: see the module's text.
        """
        self._root = root
        self._gather_s = gather_s
        self._largest = largest
        self._seconds = seconds
        self._boot = boot
        self._sets = ""
        self._pruned = 0.0

    @property
    def root(self) -> str:
        """Where files without a name may be made."""
        return self._root

    def thd_begin(self) -> None:
        """Make what is missing; what an earlier life of the system has left goes. @raise OSError: it cannot be made."""
        name = f"sets-{self._boot()}"
        sets = os.path.join(self._root, name)
        os.makedirs(sets, mode=0o700, exist_ok=True)
        self._sets = sets
        for other in os.listdir(self._root):
            if other.startswith("sets-") and other != name:
                shutil.rmtree(os.path.join(self._root, other), ignore_errors=True)
        self._thd_prune()

    def thd_piece(self, key: str, piece: Piece, content: Content, queue_id: str, age: float) -> Found:
        """
        Take up a piece.

        @param key: names the set: letters and digits.
        @param queue_id: of the message that is the piece.
        @param age: seconds since it came.
        @raise OSError: trouble with the disk; nothing is lost by it.
        """
        done = self._thd_in_whole(key, piece.number, content)
        if done is not None:
            return Found(Fate.GONE if done else Fate.PASSES)
        folder = os.path.join(self._sets, key)
        if age >= self._gather_s:
            return self._thd_given_up(key, folder, piece, content)
        if not self._thd_kept(folder, piece, content):
            return Found(Fate.WAITS)
        if self._thd_complete(folder) is None:
            return Found(Fate.WAITS)
        handle = self._thd_lock(key)
        if handle is None:
            return Found(Fate.WAITS)
        lead = Lead(key, [], handle)
        try:
            paths = self._thd_complete(folder)
            if paths is None or not self._thd_may_lead(folder, queue_id):
                fate = Fate.WAITS
            elif sum(os.stat(path).st_size for path in paths) > self._largest:
                fate = Fate.PASSES
            else:
                lead.paths = paths
                return Found(Fate.LEADS, lead)
        except BaseException:
            lead.close()
            raise
        lead.close()
        return Found(fate)

    def thd_led(self, lead: Lead, done: bool) -> None:
        """
        The attempt that was to take a whole along has ended.

        @param done: the whole is queued, durably.
        @raise OSError: that cannot be noted: the other pieces go on as they are, later.
        """
        folder = os.path.join(self._sets, lead.key)
        try:
            if done:
                self._thd_mark(lead)
                shutil.rmtree(folder, ignore_errors=True)
                _thd_remove(os.path.join(self._root, f"lock-{lead.key}"))
            else:
                _thd_remove(os.path.join(folder, "leader"))
        finally:
            lead.close()

    # --- a set -----------------------------------------------------------------------------------------------

    def _thd_kept(self, folder: str, piece: Piece, content: Content) -> bool:
        """Have a copy of the piece there. Whether there is room for it."""
        path = os.path.join(folder, str(piece.number))
        if not os.path.exists(path):
            if not os.path.isdir(folder):
                self._thd_prune()
                if len(os.listdir(self._sets)) >= SETS:
                    return False
                os.makedirs(folder, mode=0o700, exist_ok=True)
            fresh = os.path.join(folder, f".{secrets.token_hex(8)}")
            try:
                with open(fresh, "xb") as target:
                    for chunk in content.chunks():
                        target.write(chunk)
                with suppress(FileExistsError):  # the same piece came twice: the first one counts
                    os.link(fresh, path)
            finally:
                _thd_remove(fresh)
        if piece.total:
            with open(os.path.join(folder, f"of-{piece.total}"), "wb"):
                pass
        return True

    def _thd_complete(self, folder: str) -> list[str] | None:
        """The paths of the pieces in order; C{None} when some are missing or their numbers make no sense."""
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return None
        totals = [int(name[3:]) for name in names if name.startswith("of-")]
        numbers = sorted(int(name) for name in names if name.isdigit())
        if len(totals) != 1 or numbers != list(range(1, totals[0] + 1)):
            return None
        return [os.path.join(folder, str(number)) for number in numbers]

    def _thd_may_lead(self, folder: str, queue_id: str) -> bool:
        """Whether a piece may take the whole along, which is written down. Under the lock."""
        path = os.path.join(folder, "leader")
        try:
            with open(path) as source:
                return source.read(100) == queue_id  # it was to, and its process died before that was queued
        except FileNotFoundError:
            fresh = os.path.join(folder, f".{secrets.token_hex(8)}")
            with open(fresh, "x") as target:
                target.write(queue_id)
            os.rename(fresh, path)
            return True

    def _thd_given_up(self, key: str, folder: str, piece: Piece, content: Content) -> Found:
        """The time of a piece is over."""
        path = os.path.join(folder, str(piece.number))
        if not os.path.exists(path):
            return Found(Fate.PASSES)
        handle = self._thd_lock(key)
        if handle is None:
            return Found(Fate.WAITS)  # it is on its way in a whole just now
        lead = Lead(key, [], handle)
        try:
            done = self._thd_in_whole(key, piece.number, content)
            if done is None:
                _thd_remove(path)
                if not any(name.isdigit() for name in _thd_names(folder)):
                    shutil.rmtree(folder, ignore_errors=True)
                    _thd_remove(os.path.join(self._root, f"lock-{key}"))
        finally:
            lead.close()
        return Found(Fate.GONE if done else Fate.PASSES)

    def _thd_lock(self, key: str) -> int | None:
        """The set's lock; C{None} when somebody has it, or had it and the set has gone meanwhile."""
        path = os.path.join(self._root, f"lock-{key}")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    # --- what has gone on ------------------------------------------------------------------------------------

    def _thd_mark(self, lead: Lead) -> None:
        lines = [f"{os.path.basename(path)} {_thd_digest_of(path)}\n" for path in lead.paths]
        path = os.path.join(self._root, f"done-{lead.key}")
        fresh = f"{path}.{secrets.token_hex(4)}"
        with open(fresh, "x") as target:
            target.write("".join(lines))
            target.flush()
            os.fsync(target.fileno())
        os.rename(fresh, path)

    def _thd_in_whole(self, key: str, number: int, content: Content) -> bool | None:
        """Whether a piece is in a whole that has gone on; C{None} when there is none of that name."""
        try:
            with open(os.path.join(self._root, f"done-{key}")) as source:
                lines = source.read().splitlines()
        except FileNotFoundError:
            return None
        return f"{number} {thd_digest(content)}" in lines

    # --- what is left over -----------------------------------------------------------------------------------

    def _thd_prune(self) -> None:
        """Sets of which nothing came for long: somebody has taken their pieces out of the queue; and old marks."""
        now = self._seconds()
        if 0 <= now - self._pruned < self._gather_s / 10:
            return
        self._pruned = now
        for name in os.listdir(self._sets):
            path = os.path.join(self._sets, name)
            if _thd_older(path, now - 2 * self._gather_s):
                handle = self._thd_lock(name)
                if handle is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    _thd_remove(os.path.join(self._root, f"lock-{name}"))
                    os.close(handle)
        for name in os.listdir(self._root):
            path = os.path.join(self._root, name)
            if name.startswith("lock-") and _thd_older(path, now - 2 * self._gather_s):
                key = name.removeprefix("lock-")
                handle = None if os.path.isdir(os.path.join(self._sets, key)) else self._thd_lock(key)
                if handle is not None:
                    _thd_remove(path)
                    os.close(handle)
            if name.startswith("done-") and _thd_older(path, now - MARKS_S - self._gather_s):
                _thd_remove(path)


def thd_digest(content: Content) -> str:
    """Of a piece, in hexadecimal."""
    return _digest(content.chunks())


def _thd_digest_of(path: str) -> str:
    with open(path, "rb") as source:
        return _digest(iter(lambda: source.read(65536), b""))


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _thd_older(path: str, time: float) -> bool:
    try:
        return os.stat(path).st_mtime < time
    except FileNotFoundError:
        return False


def _thd_names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _thd_remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as problem:
        if problem.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
