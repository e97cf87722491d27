"""A delivery that can never be repeated after a power cut is mail that waits again, and keeps no segment."""

from __future__ import annotations

import errno
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats.fold import balanced
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Notify
from tests.queue.world import HOME, World, configuration, forks

BOB = f"{HOME}/mail/here.example/bob"
ALWAYS = 10**9


class OwingTests(SynchronousTestCase):
    def cut(self, *to: str, world: World | None = None, **sent: Any) -> World:
        """The life after a power cut that has swallowed deliveries; nothing runs yet, and Bob's are not written."""
        world = world or World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(segments=2))
        world.up()
        for one in to or ("bob@here.example",):
            world.send(*one.split(), **sent)
        world.wait(1)
        after = world.crash("none")
        after.disk.fail("open", number=errno.EDQUOT, times=ALWAYS, path=BOB)
        return after

    def whole(self, world: World) -> None:
        """The books balance."""
        log, counters = world.books()
        self.assertEqual(log, counters)
        self.assertTrue(all(balanced(row) for row in counters.values()), counters)

    def test_after_a_minute_it_waits_as_a_new_message(self) -> None:
        """Its segment goes, new mail is taken whatever the mailbox does; deferred with what the mailbox says."""
        after = self.cut("bob@here.example eve@here.example", notify=Notify.SUCCESS | Notify.FAILURE)
        after.up()
        after.settle()
        after.wait(50)
        assert after.shard is not None
        self.assertGreater(len(after.shard.shard.segments.generations), 1)
        after.wait(15)
        self.assertEqual(len(after.shard.shard.segments.generations), 1)
        for _ in range(20):
            self.assertIn(after.send("eve@here.example", body=b"x" * 700), after.accepted)
        queue_id = next(iter(after.accepted))
        fresh = [one for one in after.log() if one.source_system == queue_id and one.source == "local"]
        self.assertEqual([(one.action.value, one.current_to) for one in fresh], [("E", "bob@here.example")])
        [deferred] = [one for one in after.log() if one.action.value == "Q"][:1]
        self.assertIn("452 4.3.1", deferred.diagnostic)
        self.assertEqual(after.stored(), {"local": 1})
        told = [fields for name, fields in after.events.happenings if name == "delivery.requeued"]
        self.assertNotIn("disk.failed", after.events.names)  # it has an event of its own
        self.assertEqual(told, [{"id": queue_id, "channel": "local", "address": "bob@here.example"}])
        after.disk.heal()
        after.wait(4000)
        self.assertEqual((after.mailbox("bob"), after.stored()), ([after.accepted[queue_id][1]], {}))
        self.assertEqual(len(after.mailbox("ann")), 1)  # of success she is told once
        self.whole(after)

    def test_it_comes_back_when_its_lifetime_is_over(self) -> None:
        """One notice, as for any mail."""
        after = self.cut()
        after.up()
        after.wait(30 * 86400)
        [notice] = [one for one in after.mailbox("ann") if one.startswith(b"failed")]
        self.assertIn(b"bob@here.example", notice)
        self.assertEqual(after.stored(), {})
        self.whole(after)

    def test_content_that_has_vanished_meanwhile_fails(self) -> None:
        """There is nothing to write: its sender is told, and the segment goes."""
        after = self.cut("bob@here.example", body=b"x" * 5000)
        after.up()
        [queue_id] = after.accepted
        assert after.shard is not None
        after.disk.unlink(after.shard.layout.mess_of(queue_id))
        after.settle()
        after.wait(1000)
        self.assertEqual(len(after.shard.shard.segments.generations), 1)
        self.assertIn(b"bob@here.example", after.mailbox("ann")[0])
        self.assertEqual(after.stored(), {})
        self.whole(after)

    def test_what_has_no_room_is_tried_again(self) -> None:
        """It is owed until its record is durable."""
        after = self.cut("bob@here.example", body=b"x" * 5000)
        after.disk.fail("open", number=errno.ENOSPC, times=5, path=f"{HOME}/queue/0/mess")
        after.up()
        after.wait(100)
        self.assertEqual(after.stored(), {"local": 1})
        after.disk.heal()
        after.wait(4000)
        self.assertEqual(after.mailbox("bob"), [after.accepted[next(iter(after.accepted))][1]])
        self.whole(after)

    def test_what_cannot_be_recorded_is_owed_still(self) -> None:
        """The journal has no room even for this: nothing is let go of."""
        after = self.cut()
        after.up()
        assert after.shard is not None
        commit, refused = after.shard.shard.commit, [OSError(errno.ENOSPC, "no room")]

        def once(ops: Any, done: Any) -> None:
            if refused:
                done(refused.pop())
            else:
                commit(ops, done)

        after.shard.shard.segments._owing._commit = once
        after.settle()
        after.wait(62)
        self.assertEqual((refused, after.stored()), ([], {}))
        self.assertGreater(len(after.shard.shard.segments.generations), 1)
        after.wait(5)
        self.assertEqual((len(after.shard.shard.segments.generations), after.stored()), (1, {"local": 1}))
        after.disk.heal()
        self.lives(after)

    def lives(self, seen: World) -> None:
        """The mailbox can be written again: everything is where it belongs, once."""
        seen.wait(4000)
        boxes = {name: seen.mailbox(name) for name in ("bob", "eve", "ann")}
        for queue_id, (envelope, octets) in seen.accepted.items():
            for one in envelope.recipients:
                user, _, domain = one.address.partition("@")
                if domain == "here.example":
                    self.assertEqual(boxes[user].count(octets), 1, f"{queue_id} for {one.address}")
                else:
                    self.assertGreaterEqual(seen.outside.taken[one.address, octets], 1)
        self.assertEqual(sum(map(len, boxes.values())), sum(len(set(box)) for box in boxes.values()))
        self.assertEqual(seen.stored(), {})
        self.whole(seen)

    def each_step(self, **crash: Any) -> None:
        """The power fails before each step of the life that lets go of it."""
        first = self.cut("bob@here.example", "bob@here.example eve@here.example", "later@out.example bob@here.example")

        def life(world: World) -> None:
            world.up()
            world.send("eve@here.example", body=b"y" * 2000)
            world.wait(100)

        for step, world in [*forks(first, life), (-1, first)]:
            after = world.crash(**crash)
            after.up(replay=True)
            try:
                self.lives(after)
            except self.failureException as problem:
                raise self.failureException(
                    f"dead before step {step}, after {world.disk.operations[-2:]}: {problem}"
                ) from None

    def test_the_power_fails_at_each_step_and_nothing_unsynced_survives(self) -> None:
        self.each_step(survivors="none")

    def test_the_power_fails_at_each_step_and_everything_survives(self) -> None:
        self.each_step(survivors="all")

    def test_the_power_fails_at_each_step_and_a_random_part_survives(self) -> None:
        self.each_step(survivors=Random(5), reorder=True)

    def test_the_process_is_killed_at_each_step(self) -> None:
        self.each_step(killed=True)
