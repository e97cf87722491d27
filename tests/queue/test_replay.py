"""After a power cut: which deliveries are written again, whatever has become of their users meanwhile."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.local.maildir import Delivery, Store
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Alias, Group, Mailbox
from tests.queue.world import HOME, World

BOB = Mailbox(address="bob@here.example", path="here.example/bob/Maildir")


class Node(World):
    bob: Mailbox | Alias | Group | None = BOB
    away = False

    def directory(self) -> MemoryDirectory:
        found = super().directory()
        del found.entries[BOB.address]
        if self.bob is not None:
            found.entries[BOB.address] = self.bob
        found.away = self.away
        return found


class ReplayTests(SynchronousTestCase):
    def delivered(self, *to: str, **before: Any) -> Node:
        """A node that has delivered, and synced nothing."""
        world = Node(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.bob = evolve(BOB, **before)
        world.up()
        for one in to or (BOB.address,):
            world.send(one)
        world.wait(1)
        return world

    def after(self, world: Node, bob: Mailbox | Alias | Group | None) -> tuple[list[bytes], list[bytes]]:
        """What is in the mailbox after a cut, and what was sent."""
        after = world.crash("none")
        self.assertEqual(after.mailbox("bob"), [])
        after.bob = bob
        after.up()
        after.wait(100)
        self.assertEqual(after.actions(), "ED" * len(after.accepted))
        return after.mailbox("bob"), [octets for _, octets in after.accepted.values()]

    def after_a_cut(self, before: dict[str, Any], **meanwhile: Any) -> tuple[list[bytes], bytes]:
        found, [sent] = self.after(self.delivered(**before), evolve(BOB, **meanwhile))
        return found, sent

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

    def test_an_address_that_is_no_mailbox_any_more(self) -> None:
        """It was told that it is delivered: removed, or made an alias or a group, it is where it was delivered."""
        for bob in (
            None,
            Alias(address=BOB.address, targets=("ann@here.example",)),
            Group(address=BOB.address, members=("ann@here.example",)),
        ):
            found, sent = self.after(self.delivered(), bob)
            self.assertEqual(found, sent, bob)

    def test_a_mailbox_that_is_elsewhere_from_now_on(self) -> None:
        found, sent = self.after_a_cut({}, path="here.example/ann/Maildir")
        self.assertEqual(found, [sent])

    def test_a_folder(self) -> None:
        """Where it was delivered to; in the mailbox when somebody has removed the folder."""
        folder = f"{HOME}/mail/here.example/bob/Maildir/.lists"
        for kept in (True, False):
            world = Node(CrashDisk(directories=[HOME, f"{HOME}/log", *(f"{folder}/{one}" for one in ("new", "cur"))]))
            world.bob = evolve(BOB, subfolders=True)
            world.up()
            world.send("bob+lists@here.example")
            world.wait(1)
            self.assertEqual(len(world.disk.listdir(f"{folder}/new")), 1)
            after = world.crash("none")
            if not kept:
                after.disk.rename(f"{HOME}/mail/here.example/bob/Maildir/.lists", f"{HOME}/gone")
            after.bob = BOB
            after.up()
            after.wait(100)
            self.assertEqual((len(after.disk.listdir(f"{folder}/new")), len(after.mailbox("bob"))), (kept, not kept))

    def test_a_directory_that_is_away_keeps_nothing_from_starting(self) -> None:
        """The mail is there again, and new mail is taken."""
        after = self.delivered().crash("none")
        after.away = True
        after.up()
        self.assertEqual(len(after.mailbox("bob")), 1)
        self.assertIn(after.send("ok@out.example"), after.accepted)
        after.settle()
        again = after.crash("none")
        again.up()
        again.wait(100)
        self.assertEqual(len(again.mailbox("bob")), 1)

    def test_a_mailbox_that_cannot_be_written_keeps_its_segment_and_nothing_else(self) -> None:
        """The others are there, new mail is taken; the power may fail again; in the end it is there."""
        after = self.delivered("bob@here.example", "eve@here.example").crash("none")
        where = f"{HOME}/mail/here.example/bob"
        after.disk.fail("open", number=28, times=10**9, path=where)
        after.up()
        assert after.shard is not None
        self.assertEqual((len(after.mailbox("bob")), len(after.mailbox("eve"))), (0, 1))
        self.assertIn(after.send("ok@out.example"), after.accepted)
        after.settle()
        after.wait(50)
        self.assertGreater(len(after.shard.shard.segments.generations), 1)
        again = after.crash("none")
        again.disk.fail("open", number=28, times=3, path=where)
        again.up()
        self.assertEqual(again.mailbox("bob"), [])
        again.settle()
        again.wait(60)
        self.assertEqual(len(again.mailbox("bob")), 1)
        assert again.shard is not None
        self.assertEqual(len(again.shard.shard.segments.generations), 1)
        last = again.crash("none")
        self.assertEqual((len(last.mailbox("bob")), len(last.mailbox("eve"))), (1, 1))

    def test_a_file_that_the_disk_does_not_tell_of_keeps_nothing_from_starting(self) -> None:
        """It may be there: so its message is looked after as if it were."""
        for kind, size in (("info", 100), ("chan/local", 100), ("mess", 5000)):
            world = Node(CrashDisk(directories=[HOME, f"{HOME}/log"]))
            world.up()
            queue_id = world.send(BOB.address, body=b"x" * size)
            world.wait(1)
            assert world.shard is not None
            split = world.shard.layout.mess_of(queue_id).rpartition("/")[0][-2:]
            after = world.crash("none")
            after.disk.fail("exists", times=10**9, path=f"{HOME}/queue/0/{kind}/{split}/{queue_id}")
            after.up()
            self.assertEqual(len(after.mailbox("bob")), 1, kind)
            after.disk.heal()
            after.settle()
            after.wait(100)
            self.assertEqual(after.stored(), {})

    def test_a_bug_in_one_of_them_keeps_nothing_from_starting(self) -> None:
        """It is tried again, as one that cannot be written is."""
        after = self.delivered("bob@here.example", "eve@here.example").crash("none")
        good, times = Store.thd_in_folder, [1, 1]

        def bug(store: Store, delivery: Delivery, folder: str) -> Delivery:
            if times and delivery.address == BOB.address:
                times.pop()
                raise ZeroDivisionError
            return good(store, delivery, folder)

        self.patch(Store, "thd_in_folder", bug)
        after.up()
        self.assertEqual((len(after.mailbox("bob")), len(after.mailbox("eve"))), (0, 1))
        after.settle()
        after.wait(30)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(len(after.mailbox("bob")), 1)

    def test_what_is_owed_is_owed_by_the_next_process_too(self) -> None:
        """Though only a process dies: it had not come to write it (app.mta notes its session without that)."""
        after = self.delivered().crash("none")
        after.disk.fail("open", number=28, times=10**9, path=f"{HOME}/mail/here.example/bob")
        owed = after.up().recovered.owed
        after.send("eve@here.example")
        last = after.crash(killed=True)
        shard = last.up(replay=owed)
        self.assertEqual((owed, shard.recovered.owed), (True, False))
        self.assertEqual((len(last.mailbox("bob")), len(last.mailbox("eve"))), (1, 1))

    def test_what_a_killed_process_had_delivered_is_durable_before_its_segment_goes(self) -> None:
        """With the mailboxes on a file system of their own, which the sync of the queue's does not reach."""
        for broken in (False, True):
            world = self.delivered()
            after = world.crash(killed=True)
            after.disk.ignore_sync = lambda kind, path: kind == "syncfs" and "/queue" in path
            if broken:
                after.disk.fail("syncfs", path=f"{HOME}/mail")
            after.up(replay=False)
            after.settle()
            last = after.crash("none")
            last.up()
            last.wait(10)
            self.assertEqual(last.mailbox("bob"), [octets for _, octets in last.accepted.values()])
