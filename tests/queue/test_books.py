"""Checkpoints of the books between those of segments: a start has few lines of the log to read."""

from __future__ import annotations

import contextlib
import errno
from random import Random
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.journal import Journal
from qmailpy.queue.segments import BEHIND
from qmailpy.queue.service import QueueService
from qmailpy.records.record import Action, LogRecord
from qmailpy.stats.fold import balanced
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from tests.queue import test_crash
from tests.queue.world import HOME, World, in_thread

REFUSED = LogRecord(action=Action.REJECTED, time=1e9, source="tcp_local", current_to="nobody@here.example")


def refuse(world: World, count: int = 3) -> None:
    """Lines that the journal knows nothing of."""
    world.recorder.write([REFUSED] * count)
    world.pump()


def keep(world: World) -> None:
    """What the upkeep does each second."""
    assert world.shard is not None
    world.shard.shard.segments.keep_books()
    world.pump()


def kept(world: World) -> None:
    """Mail in all states, refused mail between, and no segment that is retired but those that are full."""
    shard = world.up().shard
    shard.segments.behind = 4
    keep(world)
    world.send("bob@here.example", "later@out.example")
    refuse(world)
    keep(world)
    refuse(world, 5)
    world.send("eve@here.example", hold=True)  # on its way into the journal, in one batch with the checkpoint
    keep(world)
    world.send("bad@out.example", sender="eve@here.example")
    refuse(world)
    keep(world)
    world.wait(500)
    keep(world)
    refuse(world, 5)
    shard.segments.keep_books()
    shard.segments.roll()  # while the checkpoint is on its way
    world.pump()
    world.send("bob@here.example")
    refuse(world, 5)
    keep(world)


class KeepBooksTests(SynchronousTestCase):
    """L{Segments.keep_books}."""

    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.shard = self.world.up().shard
        self.shard.segments.behind = 10

    def known(self, world: World) -> int:
        """The line up to which the newest checkpoint on the disk has the books."""
        files, layout = world.disk, self.shard.layout
        newest = Journal(files, layout.journal, layout.corrupt, world.config.queue.segment_octets).recover()
        return newest.books.sequence if newest is not None else 0

    def test_a_shard_bounds_what_a_start_reads(self) -> None:
        self.assertEqual(World(CrashDisk(directories=[HOME, f"{HOME}/log"])).up().shard.segments.behind, BEHIND)
        self.assertLessEqual(BEHIND, 50_000)

    def test_refused_mail_alone_makes_a_checkpoint(self) -> None:
        """Nothing is in the journal, so there is no segment to retire."""
        refuse(self.world, 9)
        keep(self.world)
        self.assertEqual(self.known(self.world), 0)
        refuse(self.world, 1)
        keep(self.world)
        self.assertEqual(self.known(self.world), 10)
        refuse(self.world, 9)
        keep(self.world)
        self.assertEqual(self.known(self.world), 10)
        after = self.world.crash("none")
        recorder = after.up().shard.recorder
        self.assertEqual(recorder.sequence, 10)
        self.assertEqual(len(recorder.thd_recover(None)), 10)

    def test_the_upkeep_sees_to_it(self) -> None:
        assert self.world.shard is not None
        service = QueueService(reactor=cast(Any, self.world.clock), shards={})
        service.shards = {"0": self.world.shard}
        service.in_thread = in_thread
        refuse(self.world, 12)
        self.successResultOf(Deferred.fromCoroutine(service._look_after()))
        self.world.pump()
        self.assertEqual(self.known(self.world), 12)

    def test_what_is_durable_is_counted_from_after_a_start(self) -> None:
        refuse(self.world, 15)
        keep(self.world)
        shard = self.world.crash("none").up().shard
        self.assertEqual(shard.recorder.sequence, 15)
        self.assertEqual(shard.segments._books, 15)

    def test_a_start_over_a_log_that_no_checkpoint_knows_makes_one(self) -> None:
        refuse(self.world, BEHIND)
        self.world.recorder.checkpoint()
        after = self.world.crash("all")
        after.up()
        self.assertEqual(self.known(after), BEHIND)

    def test_a_log_that_cannot_be_written_is_waited_for(self) -> None:
        refuse(self.world, 12)
        self.world.recorder.write([REFUSED])
        self.world.disk.fail("append", number=errno.ENOSPC)
        keep(self.world)
        self.assertEqual(self.known(self.world), 0)
        keep(self.world)
        self.assertEqual(self.known(self.world), 13)

    def test_a_log_that_cannot_be_synced_is_tried_again(self) -> None:
        refuse(self.world, 12)
        self.world.disk.fail("fdatasync", number=errno.EIO)
        keep(self.world)
        self.assertEqual(self.known(self.world), 0)
        keep(self.world)  # not at once
        self.assertEqual(self.known(self.world), 0)
        self.world.wait(6)
        keep(self.world)
        self.assertEqual(self.known(self.world), 12)

    def test_it_and_retiring_keep_out_of_each_others_way(self) -> None:
        self.world.send("later@out.example")
        refuse(self.world, 12)
        self.shard.segments.keep_books()
        self.shard.segments.roll()
        self.world.pump()
        self.assertEqual(
            (len(self.shard.segments.generations), self.known(self.world)), (1, self.world.recorder.sequence)
        )
        after = self.world.crash("none")
        shard = after.up()
        self.assertEqual(shard.recovered.warnings, [])
        after.wait(5000)
        log, counters = after.books()
        self.assertEqual(log, counters)
        self.assertTrue(all(balanced(row) for row in counters.values()))


class KeptCrashTests(test_crash.CrashTests):
    """The power cut before every step, with checkpoints of the books between."""

    def test_nothing_unsynced_survives(self) -> None:
        self.survive(test_crash.cuts(kept), survivors="none")

    def test_everything_survives(self) -> None:
        self.survive(test_crash.cuts(kept), survivors="all")

    def test_a_random_part_survives(self) -> None:
        self.survive(test_crash.cuts(kept), survivors=Random(5), reorder=True)

    def test_the_process_is_killed(self) -> None:
        self.survive(test_crash.cuts(kept), killed=True)

    def test_a_restart_with_waiting_mail(self) -> None:
        """The books of the mail alone, too: each line once."""
        for _, world in test_crash.cuts(kept):
            after = world.crash("none")
            after.up()
            log = [evolve(record, sequence=0, process=0, time=0.0) for record in after.log()]
            told = [record for record in log if record.action is Action.ENQUEUED]
            self.assertEqual(len(told), len(set(told)))

    def test_power_fails_again_during_recovery(self) -> None:
        for _, world in test_crash.cuts(kept)[::5]:
            middle = world.crash("none")
            middle.disk.die_at = 9
            with contextlib.suppress(PowerCut):
                middle.up()
            after = middle.crash("none")
            after.up()
            self.examine(after, killed=False)
            self.flushLoggedErrors(PowerCut)

    def test_each_sync_counts(self) -> None:
        """A checkpoint that says more than the log durably has is missed."""

        def ignore(operation: str, path: str) -> bool:
            return operation == "fdatasync" and path.endswith("/log/mail.log_current")

        with self.assertRaises(self.failureException):
            self.survive(test_crash.cuts(kept, ignore), survivors="none")
