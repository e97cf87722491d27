"""
Copies of all that is on the crash-simulated disk: as it is, and as a reboot finds it. L{qmailpy.testing.crashdisk} says
by which rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from qmailpy.testing.inodes import (
    Directory,
    Effect,
    File,
    NameOperation,
    Node,
    Survivors,
    set_name,
    surviving,
)


@frozen
class Image:
    """All of a disk: its tree, the pending operations on names, oldest first, and the files with pending writes."""

    root: Directory
    pending: list[NameOperation]
    dirty: dict[File, None]


def forked(root: Directory, pending: Sequence[NameOperation]) -> Image:
    """The same, as durable as it is; octets are shared until either side changes them."""
    made: dict[int, Node] = {}
    image = Image(Directory(), [], {})
    made[id(root)] = image.root

    def copy(node: Node) -> Node:
        found = made.get(id(node))
        if found is None:
            if isinstance(node, File):
                found = made[id(node)] = node.share()
                if found.pending:
                    image.dirty[found] = None
            else:
                found = made[id(node)] = Directory()
                fill(node, found)
        return found

    def fill(source: Directory, target: Directory) -> None:
        target.durable = {name: copy(child) for name, child in source.durable.items()}
        target.current = {name: copy(child) for name, child in source.current.items()}

    def copy_effect(effect: Effect) -> Effect:
        directory = copy(effect.directory)
        assert isinstance(directory, Directory)
        return Effect(directory, effect.name, effect.node and copy(effect.node))

    fill(root, image.root)
    for operation in pending:
        effects = [copy_effect(effect) for effect in operation.effects]
        left = effects[operation.effects.index(operation.left)] if operation.left else None
        image.pending.append(NameOperation(effects, left, operation.half))
    return image


def rebooted(root: Directory, pending: Sequence[NameOperation], survivors: Survivors, reorder: bool) -> Image:
    """What is there after a power cut: nothing of it is pending."""
    changes = surviving(pending, survivors, reorder)
    made: dict[int, Node] = {}
    image = Image(Directory(), [], {})
    made[id(root)] = image.root

    def settle(node: Node) -> Node:
        found = made.get(id(node))
        if found is None:
            if isinstance(node, File):
                found = made[id(node)] = node.settled(survivors)
            else:
                found = made[id(node)] = Directory()
                fill(node, found)
        return found

    def fill(source: Directory, target: Directory) -> None:
        names = dict(source.durable)
        for effect in changes.get(id(source), ()):
            set_name(names, effect)
        target.durable = {name: settle(child) for name, child in names.items()}
        target.current = dict(target.durable)

    fill(root, image.root)
    return image
