"""
A disk in memory that keeps what was written apart from what is durable, and loses power when told to.

L{CrashDisk} is L{qmailpy.disk.files.Files}. It is stricter than any file system in use, so that what survives here
survives there:

  1. A file has durable content and a list of pending writes and truncates. C{fsync} and C{fdatasync} make the content
     (with its size) durable, and nothing else: never the name.
  2. A directory has durable names and pending name operations. C{sync_directory} makes its names durable, no others:
     a new directory needs its parent synced too. C{syncfs} makes everything durable.
  3. A rename between two directories is durable whole once the directory it left has been synced. Once only the
     directory it went to has been, the old name may come back beside the new one; never is there neither.
  4. A failed C{fsync} drops the pending writes from the durable future: they can be read until the reboot, and a later
     C{fsync} that succeeds does not bring them back (as Linux does). Names are kept pending.

After a power cut every call raises L{PowerCut}; C{reboot} gives a new disk with what survived, as often as asked, each
time independently. All calls may come from any thread.
"""

from __future__ import annotations

import errno as errnos
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from attrs import define

from qmailpy.disk.files import Space
from qmailpy.testing.faults import Faults
from qmailpy.testing.images import Image, forked, rebooted
from qmailpy.testing.inodes import (
    SECTOR,
    Directory,
    Effect,
    File,
    NameOperation,
    Node,
    Survivors,
    Write,
    commit_names,
    set_name,
)

__all__ = ["SECTOR", "CrashDisk", "PowerCut", "Survivors"]

_PLENTY = Space(1 << 40, 1 << 30)
_NAME_MAX = 255


class PowerCut(BaseException):
    """
    The power is off: nothing that was not durable can be relied on, and no call works any more.

    Not an C{Exception}, so that no handler swallows it.
    """


@define
class _Handle:
    file: File
    path: str
    append: bool
    locked: bool = False


@define
class _Ear:
    """A directory that is held: who asks by it is told of every failure once."""

    unheard: bool = False


class CrashDisk:
    """
    The disk; see the module's text.

    @ivar operations: (kind, path) of every mutating or syncing call that was carried out or failed, in order. Kinds:
        create, pwrite, append, truncate, rename, unlink, mkdir, fsync, fdatasync, sync_directory, syncfs.
    @ivar free: what C{space} tells; writes do not use it up.
    @ivar ignore_sync: asked (kind, path) at each syncing call; when it answers true the call does nothing and
        succeeds, as if it had been left out of the code: a test that stays green then is weak.
    @ivar before: told (kind, path) before each mutating or syncing call, when the disk is as a power cut in the place
        of that call leaves it: a test that L{fork}s it there need not come again as far as that.
    """

    def __init__(self, die_at: int | None = None, directories: Sequence[str] = ()) -> None:
        """
        @param die_at: so many mutating or syncing calls are carried out, the next raises L{PowerCut} and does nothing.
        @param directories: durable from the beginning, with their parents.
        """
        self.die_at = die_at
        self.operations: list[tuple[str, str]] = []
        self.free = _PLENTY
        self.ignore_sync: Callable[[str, str], bool] | None = None
        self.before: Callable[[str, str], None] | None = None
        self._root = Directory()
        self._pending: list[NameOperation] = []
        self._dirty: dict[File, None] = {}
        self._handles: dict[int, _Handle] = {}
        self._held: dict[int, _Ear] = {}
        self._lost: set[File] = set()  # of these an fsync has yet to tell
        self._locks: set[int] = set()
        self._faults = Faults()
        self._next_handle = 3
        self._dead = False
        self._guard = threading.RLock()
        for path in directories:
            at = self._root
            for name in _split(path):
                found = at.durable.setdefault(name, Directory())
                at.current[name] = found
                if not isinstance(found, Directory):  # pragma: no cover - only directories were made
                    raise NotADirectoryError(path)
                at = found

    # What tests do with it.

    def count(self, *kinds: str) -> int:
        """How many operations of these kinds there were; of all kinds when none is named."""
        found = Counter(kind for kind, _ in self.operations)
        return sum(found[kind] for kind in kinds) if kinds else len(self.operations)

    def open_paths(self) -> list[str]:
        """Paths of the files that are open, as named when they were opened; to find leaks."""
        return sorted(handle.path for handle in self._handles.values())

    def fail(self, operation: str, nth: int = 1, number: int = errnos.EIO, *, path: str = "", times: int = 1) -> None:
        """
        Make calls raise C{OSError}.

        A failing write leaves half of its octets written, as a full disk does; a failing fsync drops what was pending.

        @param operation: name of the method of C{Files}.
        @param nth: counted from now: 1 is the next matching call.
        @param number: of the error, as in L{errno}.
        @param path: only calls whose path begins so.
        @param times: how many calls in a row fail; a large number means for ever, until L{heal}.
        """
        self._faults.add(operation, nth, number, path, times)

    def lose(self, below: str) -> None:
        """
        Another program's C{sync -f} fails: what was written to files below a directory can be read until the power
        fails, counts as clean, and whoever asks for a sync of the whole disk without having held it hears nothing.
        """
        with self._guard:
            found = [self._directory(below)]
            while found:
                for node in found.pop().current.values():
                    if isinstance(node, Directory):
                        found.append(node)
                    elif node in self._dirty:
                        node.pending.clear()
                        del self._dirty[node]
                        self._lost.add(node)
            for ear in self._held.values():
                ear.unheard = True

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    @property
    def dead(self) -> bool:
        """Whether the power has failed; for who may have swallowed the exception that said so."""
        return self._dead

    def cut(self) -> None:
        """The power fails now."""
        self._dead = True

    def kill(self) -> CrashDisk:
        """The process dies and the machine goes on: this disk is dead, the new one is a L{fork} of it."""
        with self._guard:
            self._dead = True
            return self.fork()

    def fork(self) -> CrashDisk:
        """
        A new disk on which all that was written is there, as durable as it was, and nothing is open or locked. This
        one goes on, and neither sees what is done to the other.
        """
        with self._guard:
            return self._with(forked(self._root, self._pending))

    def reboot(self, survivors: Survivors = "none", *, reorder: bool = False) -> CrashDisk:
        """
        The machine comes back: a new disk with all that was durable and, of the rest, nothing, everything, or a part.

        With a L{random.Random}: writes survive each for itself, whole, in part (a prefix or some sectors) or not at
        all, in which case a file that they made longer may be longer and hold zeros; of a directory's name operations
        a prefix survives and renames are atomic (a journal), or with C{reorder} any of them, and of a rename between
        directories perhaps only the new name. This disk is dead and may be rebooted again.
        """
        with self._guard:
            self._dead = True
            return self._with(rebooted(self._root, self._pending, survivors, reorder))

    def _with(self, image: Image) -> CrashDisk:
        other = CrashDisk()
        other.free = self.free
        other._root, other._pending, other._dirty = image.root, image.pending, image.dirty
        return other

    # The operations of Files.

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, append: bool = False) -> int:
        with self._guard:
            self._read("open", path)
            directory, name = self._parent(path)
            node = directory.current.get(name)
            if node is None:
                if not (create or exclusive):
                    raise _error(FileNotFoundError, errnos.ENOENT, path)
                self._step("create", path)
                node = File()
                self._name([Effect(directory, name, node)])
            elif exclusive:
                raise _error(FileExistsError, errnos.EEXIST, path)
            if isinstance(node, Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, path)
            return self._handle(node, path, append)

    def open_for_reading(self, path: str) -> int:
        return self.open(path)

    def open_shared(self, path: str) -> int | None:
        handle = self.open(path, create=True, append=True)
        try:
            self._take(handle, path)
        except BlockingIOError:
            return None
        return handle

    def close(self, handle: int) -> None:
        with self._guard:
            self._alive()
            if self._held.pop(handle, None) is not None:
                return
            found = self._handles.pop(handle, None)
            if found is None:
                raise OSError(errnos.EBADF, os.strerror(errnos.EBADF))
            if found.locked:
                self._locks.discard(id(found.file))

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        with self._guard:
            found = self._open(handle)
            self._read("pread", found.path)
            return bytes(memoryview(found.file.current)[offset : offset + length])

    def pwrite(self, handle: int, octets: bytes, offset: int) -> None:
        with self._guard:
            found = self._open(handle)
            self._write("pwrite", found, octets, len(found.file.current) if found.append else offset)

    def append(self, handle: int, octets: bytes) -> int:
        with self._guard:
            found = self._open(handle)
            if not found.append:
                raise ValueError(f"{found.path} was not opened for appending")
            self._write("append", found, octets, len(found.file.current))
            return len(found.file.current)

    def size(self, handle: int) -> int:
        with self._guard:
            found = self._open(handle)
            self._read("size", found.path)
            return len(found.file.current)

    def truncate(self, handle: int, size: int) -> None:
        with self._guard:
            found = self._open(handle)
            self._step("truncate", found.path)
            self._change(found.file, Write(size, None))

    def fdatasync(self, handle: int) -> None:
        self._sync_file("fdatasync", handle)

    def fsync(self, handle: int) -> None:
        self._sync_file("fsync", handle)

    def sync_directory(self, path: str) -> None:
        with self._guard:
            self._alive()
            directory = self._directory(path)
            self._step("sync_directory", path)
            if not self._ignored("sync_directory", path):
                self._pending = commit_names(self._pending, directory)

    def hold(self, path: str) -> int:
        with self._guard:
            self._read("hold", path)
            self._directory(path)
            self._next_handle += 1
            self._held[self._next_handle] = _Ear()
            return self._next_handle

    def holds(self, handle: int, path: str) -> bool:
        return handle in self._held

    def syncfs(self, path: str, held: int | None = None) -> None:
        with self._guard:
            self._alive()
            self._node(path)
            try:
                self._step("syncfs", path)
                if held is not None and self._held[held].unheard:
                    self._held[held].unheard = False
                    raise OSError(errnos.EIO, os.strerror(errnos.EIO), path)
            except OSError:
                for file in self._dirty:
                    file.pending.clear()
                self._dirty.clear()
                raise
            if self._ignored("syncfs", path):
                return
            for file in self._dirty:
                file.sync()
            self._dirty.clear()
            for operation in self._pending:
                for effect in operation.effects:
                    set_name(effect.directory.durable, effect)
            self._pending.clear()

    def rename(self, source: str, target: str) -> None:
        with self._guard:
            self._alive()
            left, old = self._parent(source)
            right, new = self._parent(target)
            node = left.current.get(old)
            if node is None:
                raise _error(FileNotFoundError, errnos.ENOENT, source)
            replaced = right.current.get(new)
            if isinstance(replaced, Directory) and isinstance(node, File):
                raise _error(IsADirectoryError, errnos.EISDIR, target)
            if isinstance(replaced, File) and isinstance(node, Directory):
                raise _error(NotADirectoryError, errnos.ENOTDIR, target)
            if isinstance(replaced, Directory) and replaced.current and replaced is not node:
                raise OSError(errnos.ENOTEMPTY, os.strerror(errnos.ENOTEMPTY), target)
            self._step("rename", source)
            if replaced is node:
                return
            removal = Effect(left, old, None)
            self._name([Effect(right, new, node), removal], removal if left is not right else None)

    def unlink(self, path: str) -> None:
        with self._guard:
            self._alive()
            directory, name = self._parent(path)
            node = directory.current.get(name)
            if node is None:
                raise _error(FileNotFoundError, errnos.ENOENT, path)
            if isinstance(node, Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, path)
            self._step("unlink", path)
            self._name([Effect(directory, name, None)])

    def mkdir(self, path: str) -> None:
        with self._guard:
            self._alive()
            at, so_far = self._root, ""
            for name in _split(path):
                so_far = f"{so_far}/{name}"
                node = at.current.get(name)
                if node is None:
                    self._step("mkdir", so_far)
                    node = Directory()
                    self._name([Effect(at, name, node)])
                elif isinstance(node, File):
                    if so_far == path:
                        raise _error(FileExistsError, errnos.EEXIST, path)
                    raise _error(NotADirectoryError, errnos.ENOTDIR, path)
                at = node

    def listdir(self, path: str) -> list[str]:
        with self._guard:
            self._read("listdir", path)
            try:
                return list(self._directory(path).current)
            except FileNotFoundError:
                return []

    def scan(self, path: str) -> Iterator[str]:
        yield from self.listdir(path)

    def exists(self, path: str) -> bool:
        with self._guard:
            self._read("exists", path)
            try:
                self._node(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def identity(self, where: str | int) -> int:
        with self._guard:
            if isinstance(where, int):
                return self._open(where).file.number
            self._alive()
            try:
                node = self._node(where)
            except FileNotFoundError:
                return 0
            if isinstance(node, Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, where)
            return node.number

    def modified(self, path: str) -> float:
        """There is no time on this disk: everything is of the same moment."""
        with self._guard:
            self._alive()
            self._node(path)
            return 0.0

    def read(self, path: str) -> bytes:
        with self._guard:
            self._read("read", path)
            node = self._node(path)
            if isinstance(node, Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, path)
            return bytes(node.current)

    def space(self, path: str) -> Space:
        with self._guard:
            self._read("space", path)
            self._node(path)
            return self.free

    def lock(self, path: str) -> int:
        handle = self.open(path, create=True)
        self._take(handle, path)
        return handle

    def _take(self, handle: int, path: str) -> None:
        with self._guard:
            found = self._handles[handle]
            if id(found.file) in self._locks:
                self.close(handle)
                raise BlockingIOError(errnos.EWOULDBLOCK, os.strerror(errnos.EWOULDBLOCK), path)
            self._locks.add(id(found.file))
            found.locked = True

    # The machinery.

    def _alive(self) -> None:
        if self._dead:
            raise PowerCut

    def _read(self, operation: str, path: str) -> None:
        self._alive()
        self._faults.check(operation, path)

    def _step(self, kind: str, path: str) -> None:
        """Before every mutating or syncing call: the power may fail, or the call."""
        self._alive()
        if self.die_at is not None and len(self.operations) >= self.die_at:
            self._dead = True
            raise PowerCut
        if self.before is not None:
            self.before(kind, path)
        self.operations.append((kind, path))
        if kind != "create":  # which was asked as "open"
            self._faults.check(kind, path)

    def _ignored(self, kind: str, path: str) -> bool:
        return self.ignore_sync is not None and self.ignore_sync(kind, path)

    def _open(self, handle: int) -> _Handle:
        self._alive()
        found = self._handles.get(handle)
        if found is None:
            raise OSError(errnos.EBADF, os.strerror(errnos.EBADF))
        return found

    def _handle(self, file: File, path: str, append: bool) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = _Handle(file, path, append)
        return self._next_handle

    def _write(self, kind: str, found: _Handle, octets: bytes, offset: int) -> None:
        octets = bytes(octets)
        try:
            self._step(kind, found.path)
        except OSError:
            self._change(found.file, Write(offset, octets[: len(octets) // 2]))
            raise
        self._change(found.file, Write(offset, octets))

    def _change(self, file: File, write: Write) -> None:
        file.change(write)
        self._dirty[file] = None

    def _sync_file(self, kind: str, handle: int) -> None:
        with self._guard:
            found = self._open(handle)
            try:
                self._step(kind, found.path)
                if found.file in self._lost:
                    self._lost.discard(found.file)
                    raise OSError(errnos.EIO, os.strerror(errnos.EIO), found.path)
            except OSError:
                found.file.pending.clear()
                self._dirty.pop(found.file, None)
                raise
            if not self._ignored(kind, found.path):
                found.file.sync()
                self._dirty.pop(found.file, None)

    def _name(self, effects: list[Effect], left: Effect | None = None) -> None:
        if left is not None and isinstance(effects[0].node, Directory):
            left = None  # a directory has one parent; no file system tears that
        for effect in effects:
            set_name(effect.directory.current, effect)
        self._pending.append(NameOperation(effects, left))

    def _node(self, path: str) -> Node:
        at: Node = self._root
        for name in _split(path):
            if isinstance(at, File):
                raise _error(NotADirectoryError, errnos.ENOTDIR, path)
            found = at.current.get(name)
            if found is None:
                raise _error(FileNotFoundError, errnos.ENOENT, path)
            at = found
        return at

    def _directory(self, path: str) -> Directory:
        node = self._node(path)
        if isinstance(node, File):
            raise _error(NotADirectoryError, errnos.ENOTDIR, path)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        if not name or name in {".", ".."}:
            raise _error(IsADirectoryError, errnos.EISDIR, path)
        if len(name) > _NAME_MAX:
            raise OSError(errnos.ENAMETOOLONG, os.strerror(errnos.ENAMETOOLONG), path)
        return self._directory(parent), name


@lru_cache(4096)
def _split(path: str) -> tuple[str, ...]:
    if path and not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return tuple(name for name in path.split("/") if name)


def _error(kind: type[OSError], number: int, path: str) -> OSError:
    return kind(number, os.strerror(number), path)
