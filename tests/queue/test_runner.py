"""One channel's side of the queue: who is told what, and when."""

from __future__ import annotations

import errno
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides

from qmailpy.interfaces import IRecorded
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Job
from tests.queue.world import HOME, Outside, World


class RunnerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.world.up()

    def exchange(self) -> tuple[Outside, list[str]]:
        """Another channel in the place of the one there is; and the names of those that may stop, as they are told."""
        shard, way = self.world.shard, Outside()
        assert shard is not None
        ended = shard.reconfigure(self.world.config, {"tcp_local": way})
        told: list[str] = []

        def end(_: None, name: str) -> None:
            told.append(name)

        for name, one in ended.items():
            one.addCallback(end, name)
        return way, told

    def test_a_channel_that_has_nothing_out_may_stop_at_once_when_another_takes_over(self) -> None:
        self.world.send("ok@out.example")
        way, told = self.exchange()
        self.assertEqual(sorted(told), ["local", "tcp_local"])
        self.world.send("ok@out.example")
        self.assertEqual((sum(self.world.outside.taken.values()), sum(way.taken.values())), (1, 1))

    def test_a_channel_that_has_mail_out_may_stop_when_the_last_of_it_has_ended(self) -> None:
        self.world.outside.silent = True
        self.world.send("ok@out.example")
        self.world.send("ok@out.example")
        way, told = self.exchange()
        self.world.send("ok@out.example")
        self.assertEqual((told, sum(way.taken.values())), (["local"], 1))
        first, *self.world.outside._waiting = self.world.outside._waiting
        first.callback(None)
        self.assertEqual(told, ["local"])
        self.world.outside.release()
        self.assertEqual(told, ["local", "tcp_local"])

    def recorded(self) -> list[tuple[str, bool]]:
        """What a channel that wants to know is told from now on."""
        told: list[tuple[str, bool]] = []

        def recorded(job: Job, done: bool) -> None:
            told.append((job.id, done))

        outside: Any = self.world.outside
        outside.recorded = recorded
        alsoProvides(outside, IRecorded)
        return told

    def test_a_channel_hears_of_each_attempt_that_is_in_the_journal(self) -> None:
        """With whether anything of it is left; not before, and not when the journal broke."""
        told = self.recorded()
        self.world.outside.silent = True
        first, second = self.world.send("ok@out.example"), self.world.send("later@out.example")
        self.world.outside.release()
        self.assertEqual(told, [])
        self.world.pump()
        self.assertEqual(sorted(told), sorted([(first, True), (second, False)]))
        self.world.outside.silent = True
        self.world.send("ok@out.example")
        self.world.disk.fail("fdatasync", number=errno.EIO, path=f"{HOME}/queue/0/journal")
        self.world.outside.release()
        self.world.pump()
        self.assertEqual(len(told), 2)
        self.flushLoggedErrors()

    def drained(self) -> list[object]:
        """Where the end of a drain that begins now is told."""
        assert self.world.shard is not None
        ended: list[object] = []
        self.world.shard.drain().addBoth(ended.append)
        self.world.pump()
        return ended

    def test_a_drain_ends_with_the_record_of_the_last_attempt(self) -> None:
        """Also where an attempt left nothing to record, because its failures wait for others."""
        self.world.outside.silent = True
        self.world.send("slow@out.example", "gone@here.example")
        ended = self.drained()
        self.assertEqual(ended, [])
        self.world.outside.release()
        self.assertEqual(ended, [])
        self.world.pump()
        self.assertEqual(len(ended), 1)

    def test_who_waits_is_tried_again_though_another_of_the_copy_has_failed_meanwhile(self) -> None:
        """The failure waited for a third; with it, it is over."""
        world = self.world
        world.outside.silent = True
        world.send("bad@out.example", "later@out.example", "ok@else.example")
        first, *world.outside._waiting = world.outside._waiting
        first.callback(None)
        world.pump()
        self.assertEqual(sorted(world.actions()), sorted("EEEQ"))
        world.outside.release()
        world.wait(1)
        world.wait(5000)
        self.assertEqual(world.stored(), {})
        self.assertEqual(sum(world.outside.taken.values()), 2)
