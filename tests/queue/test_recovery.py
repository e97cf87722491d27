"""What a crash leaves in the middle of things that take several steps, and what a start makes of it."""

from __future__ import annotations

import errno

from qmailpy.queue.journal import HEADER_OCTETS, Journal
from qmailpy.queue.recovery import Recovered
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.test_crash import Surviving
from tests.queue.world import HOME, World, forks

QUEUE = f"{HOME}/queue/0"
BOB = f"{HOME}/mail/here.example/bob"


def node() -> World:
    """A node that is up."""
    world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
    world.up()
    return world


def started(world: World) -> Recovered:
    """What a start found."""
    assert world.shard is not None
    return world.shard.recovered


def files_of(world: World, queue_id: str) -> list[str]:
    """What the shard's directories have of a message."""
    disk = world.disk
    tops = [f"{QUEUE}/{kind}" for kind in ("mess", "info")]
    tops += [f"{QUEUE}/{kind}/{channel}" for kind in ("chan", "hold") for channel in ("local", "tcp_local")]
    paths = [
        f"{top}/{split}/{name}"
        for top in tops
        for split in disk.listdir(top)
        for name in disk.listdir(f"{top}/{split}")
    ]
    return [path for path in paths if queue_id in path]


class RecoveryTests(Surviving):
    def test_what_ended_while_its_files_were_made_does_not_come_back(self) -> None:
        """They say that it waits. The next start takes them for leftovers, the one after that for mail."""
        for killed in (False, True):
            world = node()
            world.outside.silent = True
            queue_id = world.send("ok@out.example")
            world.disk.fail("fsync", path=f"{QUEUE}/chan")
            world.settle()
            self.assertEqual(len(files_of(world, queue_id)), 3)
            world.outside.release()
            world.pump()
            after = world.crash("all", killed=killed)
            after.up(replay=not killed)
            after.settle()
            self.assertEqual(files_of(after, queue_id), [])
            last = after.crash("all")
            last.up()
            self.examine(last, killed=False)
            self.assertEqual(sum(last.outside.taken.values()), 1)

    def test_a_large_message_leaves_nothing_when_its_segment_goes(self) -> None:
        """Never filed, it has a content file all the same; a crash between does not change that."""
        for crash in (False, True):
            world = node()
            queue_id = world.send("ok@out.example", body=b"x" * 2000)
            self.assertEqual(len(files_of(world, queue_id)), 1)
            if crash:
                world = world.crash("none")
                world.up()
            world.settle()
            self.assertEqual(files_of(world, queue_id), [], crash)

    def test_a_delivery_marked_in_the_next_segment_outlives_that_of_its_message(self) -> None:
        """Once the message has gone with its own segment nobody could repeat what the power cut takes."""
        for size in (100, 2000):
            world = node()
            world.send("bob@here.example", body=b"x" * size, hold=True)
            world.committer.step()
            world.committer._batches.journal.roll()
            world.pump()
            assert world.shard is not None
            self.assertEqual(len(world.shard.shard.segments.generations), 1)
            after = world.crash("none")
            after.up()
            self.examine(after, killed=False)

    def test_a_delivery_while_its_files_could_not_be_made_outlives_its_segment(self) -> None:
        world = node()
        world.disk.fail("open", number=errno.EIO, path=BOB)
        world.send("bob@here.example")
        self.assertEqual(world.actions(), "EQ")
        world.disk.fail("fsync", path=f"{QUEUE}/mess", times=10**9)
        world.settle()
        world.wait(200)
        self.assertEqual(world.actions(), "EQD")
        world.disk.heal()
        world.wait(6)
        assert world.shard is not None
        self.assertEqual(len(world.shard.shard.segments.generations), 1)
        after = world.crash("none")
        after.up()
        self.examine(after, killed=False)

    def test_a_delivery_whose_content_has_gone_is_not_repeated(self) -> None:
        """It went because the delivery is durable, before the checkpoint that says so: nothing is owed."""
        world = node()
        world.send("bob@here.example", body=b"x" * 2000)
        gone = 0
        for _, dying in forks(world, World.settle):
            after = dying.crash("all")
            gone += not files_of(after, *after.accepted)
            after.up()
            self.assertFalse(started(after).owed)
            self.examine(after, killed=False)
            self.assertEqual(after.actions(), "ED")
        self.assertGreater(gone, 1)

    def test_what_a_killed_process_may_not_have_delivered_is_owed(self) -> None:
        """Neither can it be made durable nor written again: the next process has to look at it, too."""
        world = node()
        world.send("bob@here.example")
        after = world.crash(killed=True)
        after.disk.fail("syncfs", path=f"{HOME}/mail")
        after.disk.fail("open", times=10**9, path=BOB)
        after.up(replay=False)
        self.assertTrue(started(after).owed)
        last = after.crash(killed=True)
        last.up(replay=True)
        self.assertFalse(started(last).owed)
        self.examine(last, killed=False)

    def test_the_checkpoint_of_a_start_is_the_newest(self) -> None:
        """Also when all it found is the last one's checkpoint: or the next start would go by that."""
        world = node()
        world.send("bob@here.example")
        world.settle()
        after = world.crash("none")
        shard = after.up().shard
        after.settle()
        layout = shard.layout
        journal = Journal(after.disk, layout.journal, layout.corrupt, after.config.queue.segment_octets)
        newest = journal.recover()
        assert newest is not None
        self.assertEqual([newest.low], [segment.generation for segment in journal.closed])

    def test_small_mail_that_goes_at_once_is_nothing_to_settle(self) -> None:
        """Most mail: no file of it is looked for."""
        world = node()
        world.send("ok@out.example")
        assert world.shard is not None
        state = world.shard.shard.state
        self.assertEqual(
            (state.touched, {number: bool(some) for number, some in state.living.items()}), ({}, {1: False})
        )

    def test_what_the_journal_lacks_is_told(self) -> None:
        """And what can be read is taken up."""
        world = node()
        world.send("later@out.example")
        world.outside.silent = True
        world.send("later@out.example")
        after = world.crash("none")
        path = f"{QUEUE}/journal/00000000"
        handle = after.disk.open(path)
        after.disk.pwrite(handle, b"\xff", HEADER_OCTETS + 40)
        after.disk.close(handle)
        after.up()
        self.assertEqual(after.stored(), {"tcp_local": 1})
        [warning] = started(after).warnings
        self.assertIn("records 1 to 1 in segment 00000000", warning)
