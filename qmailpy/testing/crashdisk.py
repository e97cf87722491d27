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
import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from attrs import define, field, frozen

from qmailpy.disk.files import Space

SECTOR = 512
"""Octets a disk writes all of or nothing of."""

Survivors = random.Random | Literal["none", "all"]

_PLENTY = Space(1 << 40, 1 << 30)
_NAME_MAX = 255


class PowerCut(BaseException):
    """
    The power is off: nothing that was not durable can be relied on, and no call works any more.

    Not an C{Exception}, so that no handler swallows it.
    """


@frozen
class _Write:
    """A pending pwrite, or a truncate when C{octets} is C{None} (then C{offset} is the size)."""

    offset: int
    octets: bytes | None


@define(eq=False)
class _File:
    """An inode. The byte arrays may be shared with other disks: copied before the first change."""

    durable: bytearray = field(factory=bytearray)
    current: bytearray = field(factory=bytearray)
    durable_shared: bool = False
    current_shared: bool = False
    pending: list[_Write] = field(factory=list)
    number: int = field(factory=itertools.count(1).__next__)  # of the inode; survives a reboot

    def change(self, write: _Write) -> None:
        if self.current_shared:
            self.current = bytearray(self.current)
            self.current_shared = False
        _apply(self.current, write)
        self.pending.append(write)

    def sync(self) -> None:
        if not self.pending:
            return
        if self.durable_shared:
            self.durable = bytearray(self.durable)
            self.durable_shared = False
        for write in self.pending:
            _apply(self.durable, write)
        self.pending.clear()

    def share(self) -> _File:
        """The same file for another disk, pending writes included."""
        self.durable_shared = self.current_shared = True
        return _File(self.durable, self.current, True, True, list(self.pending), self.number)

    def settled(self, survivors: Survivors) -> _File:
        """The file as a reboot finds it."""
        if not self.pending or survivors == "none":
            self.durable_shared = True
            return _File(self.durable, self.durable, True, True, number=self.number)
        content = bytearray(self.durable)
        if survivors == "all":
            for write in self.pending:
                _apply(content, write)
        else:
            _apply_some(content, self.pending, survivors)
        return _File(content, content, True, True, number=self.number)


@define(eq=False)
class _Directory:
    durable: dict[str, _Node] = field(factory=dict)
    current: dict[str, _Node] = field(factory=dict)


_Node = _File | _Directory


@frozen
class _Effect:
    """One name of one directory set to a node, or removed (C{None})."""

    directory: _Directory
    name: str
    node: _Node | None

    @property
    def key(self) -> tuple[int, str]:
        return id(self.directory), self.name


@define(eq=False)
class _NameOperation:
    """
    A pending create, mkdir, unlink or rename.

    C{left}: the second half of a rename of a file to another directory: the removal of the old name, which an
    unordered file system may lose alone. C{half}: only that half is still pending.
    """

    effects: list[_Effect]
    left: _Effect | None = None
    half: bool = False

    def keys(self) -> list[tuple[int, str]]:
        return [effect.key for effect in self.effects]


@define
class _Handle:
    file: _File
    path: str
    append: bool
    locked: bool = False


@define
class _Fault:
    operation: str
    wait: int  # matching calls to let pass
    times: int
    number: int
    path: str


class CrashDisk:
    """
    The disk; see the module's text.

    @ivar operations: (kind, path) of every mutating or syncing call that was carried out or failed, in order. Kinds:
        create, pwrite, append, truncate, rename, unlink, mkdir, fsync, fdatasync, sync_directory, syncfs.
    @ivar free: what C{space} tells; writes do not use it up.
    @ivar ignore_sync: asked (kind, path) at each syncing call; when it answers true the call does nothing and
        succeeds, as if it had been left out of the code: a test that stays green then is weak.
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
        self._root = _Directory()
        self._pending: list[_NameOperation] = []
        self._dirty: dict[_File, None] = {}
        self._handles: dict[int, _Handle] = {}
        self._locks: set[int] = set()
        self._faults: list[_Fault] = []
        self._next_handle = 3
        self._dead = False
        self._guard = threading.RLock()
        for path in directories:
            at = self._root
            for name in _split(path):
                found = at.durable.setdefault(name, _Directory())
                at.current[name] = found
                if not isinstance(found, _Directory):  # pragma: no cover - only directories were made
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
        self._faults.append(_Fault(operation, nth - 1, times, number, path))

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
        """
        The process dies and the machine goes on: a new disk on which all that was written is there, as durable as it
        was, and nothing is open or locked. This one is dead.
        """
        with self._guard:
            self._dead = True
            made: dict[int, _Node] = {}

            def copy(node: _Node) -> _Node:
                found = made.get(id(node))
                if found is None:
                    if isinstance(node, _File):
                        found = made[id(node)] = node.share()
                        if found.pending:
                            other._dirty[found] = None
                    else:
                        found = made[id(node)] = _Directory()
                        found.durable = {name: copy(child) for name, child in node.durable.items()}
                        found.current = {name: copy(child) for name, child in node.current.items()}
                return found

            def copy_effect(effect: _Effect) -> _Effect:
                directory = copy(effect.directory)
                assert isinstance(directory, _Directory)
                return _Effect(directory, effect.name, effect.node and copy(effect.node))

            other = CrashDisk()
            other.free = self.free
            root = copy(self._root)
            assert isinstance(root, _Directory)
            other._root = root
            for operation in self._pending:
                effects = [copy_effect(effect) for effect in operation.effects]
                left = effects[operation.effects.index(operation.left)] if operation.left else None
                other._pending.append(_NameOperation(effects, left, operation.half))
            return other

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
            changes = self._surviving(survivors, reorder)
            made: dict[int, _Node] = {}

            def settle(node: _Node) -> _Node:
                found = made.get(id(node))
                if found is None:
                    if isinstance(node, _File):
                        found = made[id(node)] = node.settled(survivors)
                    else:
                        found = made[id(node)] = _Directory()
                        names = dict(node.durable)
                        for effect in changes.get(id(node), ()):
                            _set(names, effect)
                        found.durable = {name: settle(child) for name, child in names.items()}
                        found.current = dict(found.durable)
                return found

            other = CrashDisk()
            other.free = self.free
            root = settle(self._root)
            assert isinstance(root, _Directory)
            other._root = root
            return other

    def _surviving(self, survivors: Survivors, reorder: bool) -> dict[int, list[_Effect]]:
        """The effects that survive, by directory, in order."""
        if survivors == "all":
            chosen = [effect for operation in self._pending for effect in operation.effects]
        elif survivors == "none":
            # the half of an atomic rename whose other half is durable
            chosen = [operation.effects[0] for operation in self._pending if operation.half and not reorder]
        elif reorder:
            chosen = self._any_names(survivors)
        else:
            chosen = self._prefix_of_names(survivors)
        changes: dict[int, list[_Effect]] = {}
        for effect in chosen:
            changes.setdefault(id(effect.directory), []).append(effect)
        return changes

    def _prefix_of_names(self, chance: random.Random) -> list[_Effect]:
        """For each directory the operations before some point, and no rename in one of its directories only."""
        share = chance.choice((0.05, 0.3))  # chance of the cut at each operation
        closed: set[int] = set()
        chosen = []
        for operation in self._pending:
            touched = {id(effect.directory) for effect in operation.effects}
            if operation.half or (not touched & closed and chance.random() >= share):
                chosen += operation.effects
            else:
                closed |= touched
        return chosen

    def _any_names(self, chance: random.Random) -> list[_Effect]:
        """Any of them; one that survives brings along what came before it for the same name."""
        share = chance.choice((0.15, 0.5, 0.85))
        needed: set[tuple[int, str]] = set()
        chosen: list[list[_Effect]] = []
        for operation in reversed(self._pending):
            keys = operation.keys()
            if not needed.isdisjoint(keys):
                effects = operation.effects
            elif chance.random() >= share:
                continue
            elif operation.left is not None and not operation.half and chance.random() < 0.3:
                effects = [effect for effect in operation.effects if effect is not operation.left]
            else:
                effects = operation.effects
            needed.update(effect.key for effect in effects)
            chosen.append(effects)
        return [effect for effects in reversed(chosen) for effect in effects]

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
                node = _File()
                self._name([_Effect(directory, name, node)])
            elif exclusive:
                raise _error(FileExistsError, errnos.EEXIST, path)
            if isinstance(node, _Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, path)
            return self._handle(node, path, append)

    def close(self, handle: int) -> None:
        with self._guard:
            self._alive()
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
            self._change(found.file, _Write(size, None))

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
                self._commit_names(directory)

    def syncfs(self, path: str) -> None:
        with self._guard:
            self._alive()
            self._node(path)
            try:
                self._step("syncfs", path)
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
                    _set(effect.directory.durable, effect)
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
            if isinstance(replaced, _Directory) and isinstance(node, _File):
                raise _error(IsADirectoryError, errnos.EISDIR, target)
            if isinstance(replaced, _File) and isinstance(node, _Directory):
                raise _error(NotADirectoryError, errnos.ENOTDIR, target)
            if isinstance(replaced, _Directory) and replaced.current and replaced is not node:
                raise OSError(errnos.ENOTEMPTY, os.strerror(errnos.ENOTEMPTY), target)
            self._step("rename", source)
            if replaced is node:
                return
            removal = _Effect(left, old, None)
            self._name([_Effect(right, new, node), removal], removal if left is not right else None)

    def unlink(self, path: str) -> None:
        with self._guard:
            self._alive()
            directory, name = self._parent(path)
            node = directory.current.get(name)
            if node is None:
                raise _error(FileNotFoundError, errnos.ENOENT, path)
            if isinstance(node, _Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, path)
            self._step("unlink", path)
            self._name([_Effect(directory, name, None)])

    def mkdir(self, path: str) -> None:
        with self._guard:
            self._alive()
            at, so_far = self._root, ""
            for name in _split(path):
                so_far = f"{so_far}/{name}"
                node = at.current.get(name)
                if node is None:
                    self._step("mkdir", so_far)
                    node = _Directory()
                    self._name([_Effect(at, name, node)])
                elif isinstance(node, _File):
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
            self._alive()
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
            if isinstance(node, _Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, where)
            return node.number

    def read(self, path: str) -> bytes:
        with self._guard:
            self._read("read", path)
            node = self._node(path)
            if isinstance(node, _Directory):
                raise _error(IsADirectoryError, errnos.EISDIR, path)
            return bytes(node.current)

    def space(self, path: str) -> Space:
        with self._guard:
            self._read("space", path)
            self._node(path)
            return self.free

    def lock(self, path: str) -> int:
        handle = self.open(path, create=True)
        with self._guard:
            found = self._handles[handle]
            if id(found.file) in self._locks:
                self.close(handle)
                raise BlockingIOError(errnos.EWOULDBLOCK, os.strerror(errnos.EWOULDBLOCK), path)
            self._locks.add(id(found.file))
            found.locked = True
        return handle

    # The machinery.

    def _alive(self) -> None:
        if self._dead:
            raise PowerCut

    def _read(self, operation: str, path: str) -> None:
        self._alive()
        self._fault(operation, path)

    def _step(self, kind: str, path: str) -> None:
        """Before every mutating or syncing call: the power may fail, or the call."""
        self._alive()
        if self.die_at is not None and len(self.operations) >= self.die_at:
            self._dead = True
            raise PowerCut
        self.operations.append((kind, path))
        if kind != "create":  # which was asked as "open"
            self._fault(kind, path)

    def _fault(self, operation: str, path: str) -> None:
        for fault in self._faults:
            if fault.operation != operation or not path.startswith(fault.path) or fault.times <= 0:
                continue
            if fault.wait > 0:
                fault.wait -= 1
                continue
            fault.times -= 1
            raise OSError(fault.number, os.strerror(fault.number), path)

    def _ignored(self, kind: str, path: str) -> bool:
        return self.ignore_sync is not None and self.ignore_sync(kind, path)

    def _open(self, handle: int) -> _Handle:
        self._alive()
        found = self._handles.get(handle)
        if found is None:
            raise OSError(errnos.EBADF, os.strerror(errnos.EBADF))
        return found

    def _handle(self, file: _File, path: str, append: bool) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = _Handle(file, path, append)
        return self._next_handle

    def _write(self, kind: str, found: _Handle, octets: bytes, offset: int) -> None:
        octets = bytes(octets)
        try:
            self._step(kind, found.path)
        except OSError:
            self._change(found.file, _Write(offset, octets[: len(octets) // 2]))
            raise
        self._change(found.file, _Write(offset, octets))

    def _change(self, file: _File, write: _Write) -> None:
        file.change(write)
        self._dirty[file] = None

    def _sync_file(self, kind: str, handle: int) -> None:
        with self._guard:
            found = self._open(handle)
            try:
                self._step(kind, found.path)
            except OSError:
                found.file.pending.clear()
                self._dirty.pop(found.file, None)
                raise
            if not self._ignored(kind, found.path):
                found.file.sync()
                self._dirty.pop(found.file, None)

    def _name(self, effects: list[_Effect], left: _Effect | None = None) -> None:
        if left is not None and isinstance(effects[0].node, _Directory):
            left = None  # a directory has one parent; no file system tears that
        for effect in effects:
            _set(effect.directory.current, effect)
        self._pending.append(_NameOperation(effects, left))

    def _commit_names(self, directory: _Directory) -> None:
        """
        Make the names of C{directory} durable, and with them what came before for the same names elsewhere: otherwise
        an older operation that stayed pending would later undo a newer one.
        """
        needed: set[tuple[int, str]] = set()
        kept: list[_NameOperation] = []
        committed: list[list[_Effect]] = []
        for operation in reversed(self._pending):
            keys = operation.keys()
            touches = any(effect.directory is directory for effect in operation.effects)
            if not touches and needed.isdisjoint(keys):
                kept.append(operation)
                continue
            left = operation.left
            effects = operation.effects
            if left is not None and left.directory is not directory and left.key not in needed:
                if operation.half:
                    kept.append(operation)
                    continue
                effects = [effect for effect in effects if effect is not left]
                kept.append(_NameOperation([left], left, half=True))
            needed.update(effect.key for effect in effects)
            committed.append(effects)
        for effects in reversed(committed):
            for effect in effects:
                _set(effect.directory.durable, effect)
        kept.reverse()
        self._pending = kept

    def _node(self, path: str) -> _Node:
        at: _Node = self._root
        for name in _split(path):
            if isinstance(at, _File):
                raise _error(NotADirectoryError, errnos.ENOTDIR, path)
            found = at.current.get(name)
            if found is None:
                raise _error(FileNotFoundError, errnos.ENOENT, path)
            at = found
        return at

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if isinstance(node, _File):
            raise _error(NotADirectoryError, errnos.ENOTDIR, path)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        if not name or name in {".", ".."}:
            raise _error(IsADirectoryError, errnos.EISDIR, path)
        if len(name) > _NAME_MAX:
            raise OSError(errnos.ENAMETOOLONG, os.strerror(errnos.ENAMETOOLONG), path)
        return self._directory(parent), name


def _split(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return [name for name in path.split("/") if name]


def _error(kind: type[OSError], number: int, path: str) -> OSError:
    return kind(number, os.strerror(number), path)


def _set(names: dict[str, _Node], effect: _Effect) -> None:
    if effect.node is None:
        names.pop(effect.name, None)
    else:
        names[effect.name] = effect.node


def _apply(content: bytearray, write: _Write) -> None:
    if write.octets is None:
        if len(content) > write.offset:
            del content[write.offset :]
        else:
            content.extend(bytes(write.offset - len(content)))
        return
    if len(content) < write.offset:
        content.extend(bytes(write.offset - len(content)))
    content[write.offset : write.offset + len(write.octets)] = write.octets


def _apply_some(content: bytearray, pending: Sequence[_Write], chance: random.Random) -> None:
    """What the disk got to write of the pending changes."""
    share = chance.choice((0.15, 0.5, 0.85))
    for write in pending:
        if chance.random() < share:
            _apply(content, write)
            continue
        if write.octets is None or not write.octets:
            continue
        fate = chance.random()
        first, end = write.offset // SECTOR, write.offset + len(write.octets)
        survived = 0 if fate < 0.35 else 1 if fate < 0.7 else 3  # nothing, the first sectors, some here and there
        edges = sorted(
            min(max(chance.randint(first, end // SECTOR + 1) * SECTOR, write.offset), end)
            for _ in range(2 * survived - 1)
        )
        for begin, edge in zip([write.offset, *edges[1::2]], edges[::2], strict=False):
            if edge > begin:
                _apply(content, _Write(begin, write.octets[begin - write.offset : edge - write.offset]))
        if len(content) < end and chance.random() < 0.3:  # the new size was noted, the data not written
            content.extend(bytes(end - len(content)))
