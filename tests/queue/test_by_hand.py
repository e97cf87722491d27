"""What an operator decides about recipients, while some of them are tried and some are not."""

from __future__ import annotations

import errno

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.by_hand import ByHand
from qmailpy.queue.state import Copy, Message
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Reply
from tests.queue.world import HOME, World

GONE = Reply(550, "5.7.0", "returned by the postmaster")


class ByHandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.world.up()
        self.told: list[OSError | None] = []

    def queued(self, *to: str) -> tuple[ByHand, Message, Copy]:
        """A message that waits, or is out, with who decides about it."""
        world = self.world
        queue_id = world.send(*to)
        assert world.shard is not None
        message = next(one for one in world.shard.shard.state.messages.values() if one.id == queue_id)
        return world.shard.runners["tcp_local"].by_hand, message, message.copies["tcp_local"]

    def test_what_is_removed_leaves_with_a_record_and_without_a_notice(self) -> None:
        by_hand, message, copy = self.queued("never@out.example", "never@else.example")
        self.assertTrue(by_hand.remove(message, copy, "not wanted", self.told.append))
        self.assertEqual((self.told, copy.flying), ([], {0, 1}))
        self.world.pump()
        self.assertEqual((self.told, self.world.stored()), ([None], {}))
        self.assertEqual({record.diagnostic for record in self.world.log()[-2:]}, {"not wanted"})
        self.assertEqual(self.world.mailbox("ann"), [])

    def test_what_is_given_back_fails_with_its_reply(self) -> None:
        by_hand, message, copy = self.queued("never@out.example")
        self.assertTrue(by_hand.give_back(message, copy, GONE, self.told.append))
        self.world.pump()
        self.assertEqual((self.told, self.world.stored()), ([None], {}))
        self.assertIn(b"failed: never@out.example", self.world.mailbox("ann")[0])

    def test_nothing_changes_while_a_part_is_tried(self) -> None:
        """The other recipients come back, too: nothing of what waited is forgotten."""
        self.world.outside.silent = True
        by_hand, message, copy = self.queued("ok@out.example", "ok@else.example")
        self.assertTrue(by_hand.trying(message, copy))
        self.assertFalse(by_hand.remove(message, copy, "not wanted", self.told.append))
        self.assertFalse(by_hand.give_back(message, copy, GONE, self.told.append))
        self.world.outside.release()
        self.world.wait(1)
        self.assertEqual((self.told, self.world.stored()), ([], {}))
        self.assertEqual(sum(self.world.outside.taken.values()), 2)

    def test_what_was_ready_is_tried_though_another_part_stays_out(self) -> None:
        assert self.world.shard is not None
        self.world.shard.runners["tcp_local"].fair.concurrency = 1
        self.world.outside.silent = True
        by_hand, message, copy = self.queued("ok@out.example", "ok@else.example")
        self.assertFalse(by_hand.remove(message, copy, "not wanted", self.told.append))
        self.assertEqual(len(self.world.outside._waiting), 1)
        self.world.shard.runners["tcp_local"].fair.concurrency = 2
        self.world.wait(1)
        self.assertEqual(len(self.world.outside._waiting), 2)

    def test_what_is_ready_is_not_being_tried(self) -> None:
        assert self.world.shard is not None
        self.world.shard.runners["tcp_local"].fair.concurrency = 1
        self.world.outside.silent = True
        self.world.send("ok@out.example")
        by_hand, message, copy = self.queued("ok@else.example")
        self.assertEqual((copy.flying, by_hand.trying(message, copy)), ({0}, False))
        self.assertTrue(by_hand.remove(message, copy, "not wanted", self.told.append))
        self.world.pump()
        self.world.outside.release()
        self.world.pump()
        self.assertEqual((self.told, sum(self.world.outside.taken.values())), ([None], 1))

    def test_a_bug_while_mail_is_given_back_leaves_it_in_the_queue(self) -> None:
        by_hand, message, copy = self.queued("never@out.example")

        async def bug(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        self.patch(by_hand._settling.verdicts, "settle", bug)
        self.assertTrue(by_hand.give_back(message, copy, GONE, self.told.append))
        self.world.pump()
        self.assertEqual([getattr(problem, "errno", None) for problem in self.told], [errno.EIO])
        self.assertEqual((copy.flying, self.world.stored()), (set(), {"tcp_local": 1}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
