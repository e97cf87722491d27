"""The files of waiting mail: where they are, and what is gone."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.entries import Target
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World, configuration, in_thread

QUEUE = f"{HOME}/queue/0"


class ShelfTests(SynchronousTestCase):
    def up(self, **queue: object) -> World:
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(**queue))
        world.up()
        return world

    def do(self, world: World, work: Coroutine[Any, Any, Any]) -> None:
        """By hand, and into files."""
        answer = Deferred.fromCoroutine(work)
        world.pump()
        self.successResultOf(answer)
        world.settle()

    def kinds(self, world: World, queue_id: str) -> list[str]:
        """In which directories a message has files."""
        tops = ["mess", "info", "chan/tcp_local", "hold/tcp_local"]
        return [
            top
            for top in tops
            for split in world.disk.listdir(f"{QUEUE}/{top}")
            if queue_id in world.disk.listdir(f"{QUEUE}/{top}/{split}")
        ]

    def test_a_copy_has_one_file_however_often_it_is_held_and_released(self) -> None:
        """Two would count twice, and where the older one is nobody may look."""
        world = self.up()
        shard = world.shard
        assert shard is not None
        view = QueueOperations(
            lambda: parts_of({"0": shard}), world.config, world.clock.seconds, world.switches, in_thread
        )
        queue_id = world.send("never@out.example")
        world.settle()
        target = [Target(id=queue_id, channel="tcp_local")]
        for _ in range(2):
            self.do(world, view.hold(target, "wait"))
            self.assertEqual(self.kinds(world, queue_id), ["mess", "info", "hold/tcp_local"])
            self.do(world, view.release(target))
            self.assertEqual(self.kinds(world, queue_id), ["mess", "info", "chan/tcp_local"])
        self.do(world, view.hold(target, "wait"))
        self.do(world, view.delete(target))
        self.assertEqual(self.kinds(world, queue_id), [])

    def test_mail_that_waits_for_a_segment_has_its_250_when_one_is_retired(self) -> None:
        """All of it, and no sooner: until then nothing more of it is in the journal."""
        world = self.up(segments=2)
        world.disk.fail("fsync", number=errno.EIO, times=10**9, path=f"{HOME}/mail")
        for _ in range(30):
            world.send("bob@here.example", body=b"x" * 700)
        assert world.shard is not None
        waiting = world.shard.shard.held_back
        self.assertGreater(waiting, 5)
        self.assertEqual(len(world.accepted), 30 - waiting)
        self.assertLessEqual(len(world.shard.shard.segments.generations), 4)
        world.disk.heal()
        world.wait(6)
        self.assertEqual((len(world.accepted), world.shard.shard.held_back), (30, 0))
        self.assertEqual(len(world.mailbox("bob")), 30)

    def test_a_segment_that_is_retired_is_forgotten(self) -> None:
        """Nothing of it, nor of the mail that has gone into files, stays in memory."""
        world = self.up()
        for _ in range(3):
            world.send("never@out.example")
            world.send("bob@here.example", body=b"x" * 2000)
            world.settle()
            world.settle()
        assert world.shard is not None
        state = world.shard.shard.state
        self.assertEqual(state.messages, {})
        self.assertEqual([some for some in (*state.living.values(), *state.touched.values()) if some], [])
        self.assertEqual(state.delivered, {})
        self.assertLess(len(state.living) + len(state.touched), 4)
