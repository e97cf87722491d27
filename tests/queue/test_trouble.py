"""The queue when the disk says no: nothing is lost, nothing is said that is not so, and it goes on where it can."""

from __future__ import annotations

import errno

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import Space
from qmailpy.errors import Temporary
from qmailpy.queue import runner
from qmailpy.queue.committer import Answer
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World


class TroubleTests(SynchronousTestCase):
    """Full disks, failing syncs, files that cannot be written."""

    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.shard = self.world.up()

    def test_below_the_reserve_new_mail_is_told_452_and_queued_mail_goes_on(self) -> None:
        """Said once in the log, and once when it is over."""
        self.world.send("later@out.example")
        self.shard.config = self.world.config
        self.shard.look_at_space(Space(-1, 10**6))
        refused = self.assertRaises(Temporary, self.shard.begin, self.shard.new_id())
        self.assertEqual((refused.reply.code, refused.reply.enhanced), (452, "4.3.1"))
        self.world.wait(2500)
        self.assertEqual(self.world.actions(), "EQQD")
        self.shard.look_at_space(Space(10**9, 10**6))
        self.world.send("bob@here.example")
        self.assertEqual(len(self.world.mailbox("bob")), 1)

    def test_a_failed_journal_sync_tells_451_and_stops_the_shard(self) -> None:
        """Until it has been reopened: fsync that fails is final."""
        self.world.disk.fail("fdatasync", number=errno.EIO, path=f"{HOME}/queue/0/journal")
        self.world.send("bob@here.example")
        self.assertEqual(self.world.accepted, {})
        refused = self.assertRaises(Temporary, self.shard.begin, self.shard.new_id())
        self.assertEqual(refused.reply.code, 451)
        after = self.world.crash(killed=True)
        after.up()
        after.send("eve@here.example")
        self.assertEqual(len(after.mailbox("eve")), 1)

    def test_nothing_is_started_whose_end_cannot_be_recorded(self) -> None:
        """What is out comes again in the next life, and no more than that."""
        world = self.world
        most = world.config.channels["tcp_local"].concurrency
        self.assertLess(most, 100)
        world.outside.silent = True
        for number in range(3 * most):
            world.send(f"ok@{number}.example")
        world.wait(1)
        world.disk.fail("fdatasync", number=errno.EIO, path=f"{HOME}/queue/0/journal")
        world.send("ok@last.example")
        assert world.shard is not None and world.shard.shard.broken is not None
        world.outside.release()
        world.wait(100)
        self.assertEqual(len(world.outside.asked), most)
        after = world.crash(killed=True)
        after.up(replay=False)
        after.wait(100)
        asked = list(after.outside.asked.values())
        self.assertEqual((asked.count(2), max(asked)), (most, 2))
        self.assertGreaterEqual(len(asked), 3 * most)

    def test_while_nothing_can_be_recorded_little_is_begun(self) -> None:
        """A disk without room for a mark: what was delivered would all come again after the death of the process."""
        self.patch(runner, "UNRECORDED", 8)
        world = self.world
        shard = world.shard
        assert shard is not None
        kept, commit = [], shard.committer.submit

        def standing(payload: bytes, answer: Answer, essential: bool = False) -> None:
            kept.append((payload, answer, essential))

        for number in range(40):
            world.outside.silent = True
            world.send(f"ok@{number}.example")
        shard.committer.submit = standing  # type: ignore[method-assign]
        world.outside.release()
        world.wait(100)
        # Those that were out, and as many more as may wait at most.
        out = world.config.channels["tcp_local"].concurrency
        self.assertLessEqual(len(world.outside.asked), out + 8)
        shard.committer.submit = commit  # type: ignore[method-assign]
        for each in kept:
            commit(*each)
        world.wait(100)
        self.assertEqual(len(world.outside.asked), 40)
        self.assertEqual(world.stored(), {})

    def test_a_large_message_whose_file_cannot_be_written_is_told_452(self) -> None:
        """And leaves nothing behind."""
        self.world.disk.fail("pwrite", number=errno.ENOSPC, path=f"{HOME}/queue/0/mess", times=100)
        self.world.send("bob@here.example", body=b"x" * 5000)
        self.assertEqual(self.world.accepted, {})
        self.world.disk.heal()
        self.world.send("bob@here.example", body=b"y" * 5000)
        self.assertEqual(len(self.world.mailbox("bob")), 1)

    def test_a_mailbox_that_cannot_be_written_defers_only_its_own_mail(self) -> None:
        """The other recipient of the same message has it."""
        self.world.disk.fail("open", number=errno.EACCES, path=f"{HOME}/mail/here.example/bob", times=3)
        self.world.send("bob@here.example", "eve@here.example")
        self.assertEqual(len(self.world.mailbox("eve")), 1)
        self.assertEqual(sorted(self.world.actions()), ["D", "E", "E", "Z"])
        self.world.disk.heal()
        self.world.wait(500)
        self.assertEqual(len(self.world.mailbox("bob")), 1)

    def test_settling_that_fails_is_tried_again(self) -> None:
        """The journal keeps what the files could not take."""
        queue_id = self.world.send("later@out.example")
        self.world.disk.fail("fsync", number=errno.EIO, path=f"{HOME}/queue/0/info", times=1)
        self.world.settle()
        self.assertEqual(self.world.events.names, ["disk.failed"])
        self.world.wait(3000)
        self.assertEqual(self.world.outside.taken["later@out.example", self.world.accepted[queue_id][1]], 1)
        self.world.down()

    def test_the_log_that_cannot_be_written_keeps_the_journal(self) -> None:
        """No line is lost: segments stay until the log is written."""
        self.world.disk.fail("append", number=errno.ENOSPC, path=f"{HOME}/log", times=10000)
        self.world.send("bob@here.example")
        self.world.settle()
        self.assertEqual(len(self.world.mailbox("bob")), 1)
        after = self.world.crash("all")
        after.up()
        self.assertEqual(after.actions(), "ED")

    def test_a_damaged_recipients_file_is_set_aside_whole(self) -> None:
        """Never deleted, never guessed at; other mail goes on."""
        queue_id = self.world.send("later@out.example")
        other = self.world.send("later@else.example")
        self.world.settle()
        path = f"{HOME}/queue/0/chan/tcp_local"
        (where,) = [
            f"{path}/{nn}"
            for nn in self.world.disk.listdir(path)
            if queue_id in self.world.disk.listdir(f"{path}/{nn}")
        ]
        handle = self.world.disk.open(f"{where}/{queue_id}")
        self.world.disk.pwrite(handle, b"\xff\xff", 5)
        self.world.wait(3000)
        self.assertEqual(self.world.outside.taken["later@else.example", self.world.accepted[other][1]], 1)
        aside = self.world.disk.listdir(f"{HOME}/queue/0/corrupt")
        self.assertEqual(sorted(aside), [f"{queue_id}.chan-tcp_local", f"{queue_id}.info", f"{queue_id}.mess"])
