"""Bounces through everything that has a hand in them: queue, notices, process channel, router and mailboxes."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.parts import Parts
from qmailpy.channels.process import Notices, ProcessChannel
from qmailpy.config.schema import BounceConfig, ChannelConfig, Config, RuleConfig
from qmailpy.interfaces import IChannel
from qmailpy.stats.fold import apply, balanced
from qmailpy.stats.items import DELIVERED, FAILED, RECEIVED, SUBMITTED, Table
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Notify
from tests.queue.world import HOME, World, configuration

ANN = "ann@here.example"


def bounce_configuration(**bounce: Any) -> Config:
    config = configuration(segment_octets=16384)
    return evolve(
        config,
        server=evolve(config.server, postmaster="pm@here.example"),
        bounce=BounceConfig(**bounce),
        channels={**config.channels, "process": ChannelConfig(name="process", kind="process")},
        rules=(RuleConfig(pattern=".", channel="tcp_local"),),
    )


class BounceWorld(World):
    """The queue's world with the real notices, process channel and router."""

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        super().__init__(disk, config or bounce_configuration())
        self.users = MemoryDirectory(["here.example"], [ANN, "pm@here.example"])

    def directory(self) -> MemoryDirectory:
        return self.users

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        process = ProcessChannel(self.config, self.config.channels["process"], parts)
        return {**super().channels(parts), "process": process}

    def notices(self) -> Notices:
        return Notices(self.config)

    def revived(self, survivors: Any) -> BounceWorld:
        """The next life after a power cut."""
        self.disk.cut()
        self._silence()
        after = BounceWorld(self.disk.reboot(survivors), self.config)
        after.clock.advance(100)
        after.accepted, after.offered = dict(self.accepted), dict(self.offered)
        return after


class BounceTests(SynchronousTestCase):
    def make(self, **bounce: Any) -> BounceWorld:
        world = BounceWorld(CrashDisk(directories=[HOME, f"{HOME}/log"]), bounce_configuration(**bounce))
        world.up()
        return world

    def books(self, world: World) -> Table:
        table: Table = {}
        for record in world.log():
            apply(table, record)
        self.assertTrue(all(balanced(row) for row in table.values()))
        return table

    def test_the_sender_gets_one_report_of_all_that_failed(self) -> None:
        """From channel to process, from process to the sender's mailbox: tcp_local E process, process E local."""
        world = self.make()
        queue_id = world.send("bad@out.example", "ok@out.example", "bad@out.example")
        [notice] = world.mailbox("ann")
        self.assertIn(b"multipart/report", notice)
        self.assertIn(queue_id.encode(), notice)
        self.assertEqual(world.mailbox("pm"), [])
        records = [(record.action.value, record.source, record.destination) for record in world.log()]
        self.assertIn(("E", "tcp_local", "process"), records)
        self.assertIn(("E", "process", "local"), records)
        self.assertLess(records.index(("E", "process", "local")), records.index(("D", "process", "")))
        self.assertEqual(self.books(world)["tcp_local"][FAILED : FAILED + 2], [1, 2])
        self.assertEqual(notice.count(b"Action: failed"), 2)

    def test_a_copy_for_the_postmaster_is_a_second_submission(self) -> None:
        """Mission C7: process takes one message with two recipients and submits two."""
        world = self.make(copy_postmaster=True)
        world.send("bad@out.example")
        self.assertEqual((len(world.mailbox("ann")), len(world.mailbox("pm"))), (1, 1))
        row = self.books(world)["process"]
        self.assertEqual(row[RECEIVED : RECEIVED + 2], [1, 2])
        self.assertEqual(row[DELIVERED : DELIVERED + 2], [1, 2])
        self.assertEqual(row[SUBMITTED : SUBMITTED + 2], [2, 2])

    def test_a_report_that_cannot_be_delivered_goes_to_the_postmaster_and_no_further(self) -> None:
        world = self.make()
        world.send("bad@out.example", sender="bad@elsewhere.example")
        [notice] = world.mailbox("pm")
        self.assertIn(b"Subject: Undeliverable notice\r\n", notice)
        self.books(world)
        del world.users.entries["pm@here.example"]
        world.send("bad@out.example", sender="bad@elsewhere.example")
        self.assertEqual(len(world.mailbox("pm")), 1)
        row = self.books(world)["process"]
        self.assertEqual(row[RECEIVED], row[DELIVERED])

    def test_mail_from_nobody_to_a_user_that_is_gone_is_a_double_bounce(self) -> None:
        world = self.make()
        world.send("gone@here.example", sender="")
        self.assertEqual(len(world.mailbox("pm")), 1)
        quiet = self.make(double_bounce=False)
        quiet.send("gone@here.example", sender="")
        self.assertEqual(quiet.mailbox("pm"), [])

    def test_success_is_reported_through_the_process_channel(self) -> None:
        """From local to process, from process to the sender: E, E, D, D; the header alone comes back."""
        world = self.make()
        world.send("pm@here.example", "ann@here.example", notify=Notify.SUCCESS)
        [notice] = [octets for octets in world.mailbox("ann") if b"multipart/report" in octets]
        self.assertEqual(notice.count(b"Action: delivered\r\n"), 2)
        self.assertEqual(notice.count(b"Status: 2.1.5\r\n"), 2)
        self.assertIn(b"Content-Type: text/rfc822-headers\r\n", notice)
        records = [(record.action.value, record.source, record.destination) for record in world.log()]
        self.assertEqual(
            [record for record in records if "process" in record],
            [("E", "local", "process"), ("E", "process", "local"), ("D", "process", "")],
        )
        self.books(world)
        self.assertEqual(world.stored(), {})

    def test_no_report_is_lost_however_the_power_fails(self) -> None:
        """At every step: what was accepted is told of, at least once, after the next start."""
        for die_at in count():
            disk = CrashDisk(directories=[HOME, f"{HOME}/log"])
            world = BounceWorld(disk)
            world.up()
            disk.die_at = disk.count() + die_at
            try:
                world.send("bad@out.example")
                world.settle()
                done = True
            except PowerCut:
                done = False
            self.flushLoggedErrors(PowerCut)  # where it struck inside a coroutine
            for survivors in ("none", "all", random.Random(die_at)):
                after = world.revived(survivors)
                after.up()
                after.wait(60)
                if after.accepted:
                    self.assertGreaterEqual(len(after.mailbox("ann")), 1, (die_at, survivors))
                for notice in after.mailbox("ann"):
                    self.assertIn(b"Action: failed", notice)
                    self.assertTrue(notice.endswith(b"--\r\n"))
            if done:
                self.assertGreater(die_at, 5)
                return
