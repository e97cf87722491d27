"""After a power cut: which deliveries are written again, whatever has become of their users meanwhile."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Mailbox
from tests.queue.world import HOME, World

BOB = Mailbox(address="bob@here.example", path="here.example/bob/Maildir")


class Node(World):
    bob = BOB

    def directory(self) -> MemoryDirectory:
        found = super().directory()
        found.entries[BOB.address] = self.bob
        return found


class ReplayTests(SynchronousTestCase):
    def after_a_cut(self, before: dict[str, Any], **meanwhile: Any) -> tuple[list[bytes], bytes]:
        """What is in the mailbox after the cut, and what was sent; nothing had been synced."""
        world = Node(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.bob = evolve(BOB, **before)
        world.up()
        sent = world.send(BOB.address)
        world.wait(1)
        self.assertEqual(world.actions(), "ED")
        after = world.crash("none")
        self.assertEqual(after.mailbox("bob"), [])
        after.bob = evolve(BOB, **meanwhile)
        after.up()
        after.wait(100)
        return after.mailbox("bob"), after.accepted[sent][1]

    def test_a_user_who_has_a_qmail_file_from_now_on(self) -> None:
        """However old the file is: the journal says that it was not asked."""
        found, sent = self.after_a_cut({}, dot_qmail=True)
        self.assertEqual(found, [sent])

    def test_a_user_who_is_suspended(self) -> None:
        found, sent = self.after_a_cut({}, active=False)
        self.assertEqual(found, [sent])

    def test_a_user_who_moves_to_another_node(self) -> None:
        found, sent = self.after_a_cut({}, host="other.example")
        self.assertEqual(found, [sent])
