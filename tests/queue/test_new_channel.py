"""Channels that come while the queue runs."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ChannelConfig
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Envelope, Recipient
from tests.queue.world import HOME, Outside, World


class NewChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.world.up()

    def send(self) -> None:
        """Mail for a channel that is not there yet."""
        world, shard = self.world, self.world.shard
        assert shard is not None
        to = Recipient(address="ok@x.example", original="ok@x.example", channel="tcp_new", host="x.example")
        intake = shard.begin(shard.new_id())
        intake.write(b"Subject: x\r\n\r\nx\r\n")
        intake.commit(
            Envelope(sender="ann@here.example", recipients=(to,), source="tcp_local", arrival=world.clock.seconds())
        )
        world.pump()

    def test_mail_of_a_channel_without_directories_gets_its_files(self) -> None:
        """The journal does not fill up with it until no mail is taken any more."""
        self.send()
        self.world.settle()
        self.world.settle()
        disk = self.world.disk
        names = [
            name
            for split in disk.listdir(f"{HOME}/queue/0/chan/tcp_new")
            for name in disk.listdir(f"{HOME}/queue/0/chan/tcp_new/{split}")
        ]
        self.assertEqual(len(names), 1)

    def bring(self, stopped: bool = False) -> Outside:
        shard = self.world.shard
        assert shard is not None
        channel = ChannelConfig(name="tcp_new", kind="smtp")
        config = evolve(self.world.config, channels={**self.world.config.channels, "tcp_new": channel})
        self.assertEqual(shard.lacking(config), ("tcp_new",))
        way = Outside("tcp_new")
        shard.reconfigure(config, {"tcp_new": way}, lambda name: stopped)
        self.world.pump()
        self.assertEqual(shard.lacking(config), ())
        return way

    def test_it_takes_mail_that_comes_and_mail_that_waits_for_it(self) -> None:
        for before in (True, False):
            self.setUp()
            if before:
                self.send()
            way = self.bring()
            if not before:
                self.send()
            self.assertEqual(sum(way.taken.values()), 1)

    def test_one_that_an_operator_has_stopped_stays_so(self) -> None:
        self.send()
        way = self.bring(stopped=True)
        self.send()
        self.assertEqual(sum(way.taken.values()), 0)
