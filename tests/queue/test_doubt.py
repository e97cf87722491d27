"""What the disk did not take and told one process of, the next one writes again: it would not be told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.doubt import Doubt
from qmailpy.queue.service import QueueShard
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World

NOTE = f"{HOME}/queue/0/doubt"
NEW = f"{HOME}/mail/here.example/bob/Maildir/new"


class DoubtTests(SynchronousTestCase):
    def delivered(self, count: int = 1) -> World:
        """A node that has delivered so many messages to Bob, and synced nothing."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.up()
        for _ in range(count):
            world.send("bob@here.example")
        world.wait(1)
        self.assertEqual(len(world.mailbox("bob")), count)
        return world

    def examine(self, world: World) -> None:
        """All of it is durable once the journal says so."""
        world.settle()
        world.settle()
        after = world.crash("none")
        after.up()
        after.wait(10)
        sent = [octets for envelope, octets in after.accepted.values() if envelope.recipients[0].channel == "local"]
        self.assertEqual(sorted(after.mailbox("bob")), sorted(sent))

    def test_a_process_dies_after_a_sync_of_its_deliveries_failed(self) -> None:
        """Of a few files one by one, or of the file system; the supervisor lives, or is new on the same machine."""
        for operation, count in (("fsync", 1), ("syncfs", 12)):
            for replay in (False, True):
                world = self.delivered(count)
                world.disk.fail(operation, path=f"{HOME}/mail")
                world.settle()
                self.assertTrue(world.disk.exists(NOTE))
                after = world.crash(killed=True)
                after.up(replay=replay)
                self.examine(after)

    def test_another_program_was_told_in_our_place(self) -> None:
        """Its C{sync -f} failed between our deliveries and our own, which succeeds."""
        for count in (1, 12):
            world = self.delivered(count)
            world.disk.lose(f"{HOME}/mail")
            self.examine(world)

    def test_so_it_was_when_descriptors_were_short_at_the_first_delivery(self) -> None:
        """The next delivery into a mailbox that is new has them."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.up()
        world.disk.fail("hold", path=f"{HOME}/mail")
        world.send("ann@here.example")
        for _ in range(12):
            world.send("bob@here.example")
        world.wait(1)
        world.disk.lose(f"{HOME}/mail")
        world.settle()
        world.settle()
        after = world.crash("none")
        after.up()
        after.wait(10)
        self.assertEqual(len(after.mailbox("bob")), 12)

    def test_what_another_segment_covers_is_written_anew_too(self) -> None:
        """The failed sync was of the file system as a whole; that of the mail's group, or of the queue's files."""
        for path, count in ((f"{HOME}/mail", 12), (f"{HOME}/queue", 1)):
            world = self.delivered(count)
            world.outside.silent = True
            for number in range(20):
                world.send(f"ok@{number}.example")
            world.disk.fail("syncfs", path=path)
            tripped: list[str] = []

            def late(kind: str, path: str, world: World = world, tripped: list[str] = tripped) -> None:
                if kind == "syncfs" and not tripped:
                    tripped.append(path)
                    world.send("bob@here.example", hold=True)
                    world.committer.step()
                    world.clock.advance(0)

            world.disk.before = late
            world.settle()
            world.disk.before = None
            self.assertEqual(len(tripped), 1)
            world.wait(6)
            # Where the other one waits still, so does the note.
            self.assertEqual(world.disk.exists(NOTE), path.endswith("/queue"))
            after = world.fork().crash(killed=True)
            after.up(replay=False)
            self.examine(after)
            self.examine(world)

    def test_it_may_die_again_before_that_is_durable(self) -> None:
        world = self.delivered()
        world.disk.fail("fsync", path=f"{HOME}/mail")
        world.settle()
        after = world.crash(killed=True)
        after.up(replay=False)
        last = after.crash(killed=True)
        last.up(replay=False)
        self.examine(last)

    def test_a_sync_of_the_queues_files_may_hear_of_the_mail(self) -> None:
        """They are on one file system."""
        world = self.delivered()
        world.disk.ignore_sync = lambda kind, path: path.startswith(f"{HOME}/mail")
        world.outside.silent = True
        world.send(*[f"ok@{number}.example" for number in range(30)])
        for number in range(30):
            world.send(f"ok@{number}.example")
        world.disk.fail("syncfs", path=f"{HOME}/queue")
        world.settle()
        self.assertTrue(world.disk.exists(NOTE))
        after = world.crash(killed=True)
        after.up(replay=False)
        self.examine(after)

    def test_so_may_the_first_sync_of_a_start(self) -> None:
        world = self.delivered()
        after = world.crash(killed=True)
        after.disk.fail("syncfs", path=f"{HOME}/queue")
        self.assertRaises(OSError, after.up, replay=False)
        last = after.crash(killed=True)
        last.up(replay=False)
        self.examine(last)

    def test_and_that_of_the_mail(self) -> None:
        """The process hears of it, and dies before it has written anything anew."""
        world = self.delivered()
        after = world.crash(killed=True)
        after.disk.ignore_sync = lambda kind, path: kind == "syncfs" and "/queue" in path  # another file system
        after.disk.fail("syncfs", path=f"{HOME}/mail")
        after.disk.fail("open", path=NEW.replace("/new", "/tmp"), times=10**9)
        with self.before_it_retires():
            after.up(replay=False)
        last = after.crash(killed=True)
        last.up(replay=False)
        self.examine(last)

    @contextmanager
    def before_it_retires(self) -> Iterator[None]:
        """A process that dies as soon as it has recovered."""
        patched = self.patch(QueueShard, "take_up", lambda shard: None)
        yield
        patched.restore()

    def test_what_has_been_made_up_for_is_forgotten(self) -> None:
        """The next start repeats nothing: what a reader has removed stays removed."""
        world = self.delivered()
        world.disk.fail("fsync", path=f"{HOME}/mail")
        world.settle()
        world.wait(6)
        self.assertFalse(world.disk.exists(NOTE))
        world.send("bob@here.example")
        world.wait(1)
        for name in world.disk.listdir(NEW):
            world.disk.unlink(f"{NEW}/{name}")
        after = world.crash(killed=True)
        after.up(replay=False)
        self.assertEqual(after.mailbox("bob"), [])

    def test_a_note_that_cannot_be_made_is_told_of(self) -> None:
        disk = CrashDisk(directories=[HOME])
        disk.fail("open", number=28)
        doubt = Doubt(disk, f"{HOME}/doubt")
        doubt.thd_note()
        self.assertFalse(doubt.noted)
        doubt.thd_note()
        self.assertTrue(Doubt(disk, f"{HOME}/doubt").thd_look())
