"""
Files and names of the crash-simulated disk, each with what is durable of it and what is pending; and what a power cut
makes of the pending part. L{qmailpy.testing.crashdisk} says by which rules.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Literal

from attrs import define, field, frozen

SECTOR = 512
"""Octets a disk writes all of or nothing of."""

Survivors = random.Random | Literal["none", "all"]


@frozen
class Write:
    """A pending pwrite, or a truncate when C{octets} is C{None} (then C{offset} is the size)."""

    offset: int
    octets: bytes | None


@define(eq=False)
class File:
    """An inode. The byte arrays may be shared with other disks: copied before the first change."""

    durable: bytearray = field(factory=bytearray)
    current: bytearray = field(factory=bytearray)
    durable_shared: bool = False
    current_shared: bool = False
    pending: list[Write] = field(factory=list)
    number: int = field(factory=itertools.count(1).__next__)  # of the inode; survives a reboot

    def change(self, write: Write) -> None:
        if self.current_shared:
            self.current = bytearray(self.current)
            self.current_shared = False
        apply(self.current, write)
        self.pending.append(write)

    def sync(self) -> None:
        if not self.pending:
            return
        if self.durable_shared:
            self.durable = bytearray(self.durable)
            self.durable_shared = False
        for write in self.pending:
            apply(self.durable, write)
        self.pending.clear()

    def share(self) -> File:
        """The same file for another disk, pending writes included."""
        self.durable_shared = self.current_shared = True
        return File(self.durable, self.current, True, True, list(self.pending), self.number)

    def settled(self, survivors: Survivors) -> File:
        """The file as a reboot finds it."""
        if not self.pending or survivors == "none":
            self.durable_shared = True
            return File(self.durable, self.durable, True, True, number=self.number)
        content = bytearray(self.durable)
        if survivors == "all":
            for write in self.pending:
                apply(content, write)
        else:
            _apply_some(content, self.pending, survivors)
        return File(content, content, True, True, number=self.number)


@define(eq=False)
class Directory:
    """A directory: what its names are, and what they would be after a power cut."""

    durable: dict[str, Node] = field(factory=dict)
    current: dict[str, Node] = field(factory=dict)


Node = File | Directory


@frozen
class Effect:
    """One name of one directory set to a node, or removed (C{None})."""

    directory: Directory
    name: str
    node: Node | None

    @property
    def key(self) -> tuple[int, str]:
        return id(self.directory), self.name


@define(eq=False)
class NameOperation:
    """
    A pending create, mkdir, unlink or rename.

    C{left}: the second half of a rename of a file to another directory: the removal of the old name, which an
    unordered file system may lose alone. C{half}: only that half is still pending.
    """

    effects: list[Effect]
    left: Effect | None = None
    half: bool = False

    def keys(self) -> list[tuple[int, str]]:
        return [effect.key for effect in self.effects]


def surviving(pending: Sequence[NameOperation], survivors: Survivors, reorder: bool) -> dict[int, list[Effect]]:
    """The effects that survive, by directory, in order."""
    if survivors == "all":
        chosen = [effect for operation in pending for effect in operation.effects]
    elif survivors == "none":
        # the half of an atomic rename whose other half is durable
        chosen = [operation.effects[0] for operation in pending if operation.half and not reorder]
    elif reorder:
        chosen = _any_names(pending, survivors)
    else:
        chosen = _prefix_of_names(pending, survivors)
    changes: dict[int, list[Effect]] = {}
    for effect in chosen:
        changes.setdefault(id(effect.directory), []).append(effect)
    return changes


def _prefix_of_names(pending: Sequence[NameOperation], chance: random.Random) -> list[Effect]:
    """For each directory the operations before some point, and no rename in one of its directories only."""
    share = chance.choice((0.05, 0.3))  # chance of the cut at each operation
    closed: set[int] = set()
    chosen = []
    for operation in pending:
        touched = {id(effect.directory) for effect in operation.effects}
        if operation.half or (not touched & closed and chance.random() >= share):
            chosen += operation.effects
        else:
            closed |= touched
    return chosen


def _any_names(pending: Sequence[NameOperation], chance: random.Random) -> list[Effect]:
    """Any of them; one that survives brings along what came before it for the same name."""
    share = chance.choice((0.15, 0.5, 0.85))
    needed: set[tuple[int, str]] = set()
    chosen: list[list[Effect]] = []
    for operation in reversed(pending):
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


def commit_names(pending: Sequence[NameOperation], directory: Directory) -> list[NameOperation]:
    """
    Make the names of C{directory} durable, and with them what came before for the same names elsewhere: otherwise
    an older operation that stayed pending would later undo a newer one.

    @return: the operations that are still pending.
    """
    needed: set[tuple[int, str]] = set()
    kept: list[NameOperation] = []
    committed: list[list[Effect]] = []
    for operation in reversed(pending):
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
            kept.append(NameOperation([left], left, half=True))
        needed.update(effect.key for effect in effects)
        committed.append(effects)
    for effects in reversed(committed):
        for effect in effects:
            set_name(effect.directory.durable, effect)
    kept.reverse()
    return kept


def set_name(names: dict[str, Node], effect: Effect) -> None:
    """Carry out an effect on its directory's names."""
    if effect.node is None:
        names.pop(effect.name, None)
    else:
        names[effect.name] = effect.node


def apply(content: bytearray, write: Write) -> None:
    """Carry out a write or truncate; a gap it leaves holds zeros."""
    if write.octets is None:
        if len(content) > write.offset:
            del content[write.offset :]
        else:
            content.extend(bytes(write.offset - len(content)))
        return
    if len(content) < write.offset:
        content.extend(bytes(write.offset - len(content)))
    content[write.offset : write.offset + len(write.octets)] = write.octets


def _apply_some(content: bytearray, pending: Sequence[Write], chance: random.Random) -> None:
    """What the disk got to write of the pending changes."""
    share = chance.choice((0.15, 0.5, 0.85))
    for write in pending:
        if chance.random() < share:
            apply(content, write)
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
                apply(content, Write(begin, write.octets[begin - write.offset : edge - write.offset]))
        if len(content) < end and chance.random() < 0.3:  # the new size was noted, the data not written
            content.extend(bytes(end - len(content)))
