"""Channels that come while the queue runs."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.local import LocalChannel
from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.inline import InlineThreads
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


class Homes(World):
    """With every channel of kind C{local} that is configured."""

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        super().__init__(disk, config)
        self.parts: Parts | None = None

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        self.parts = parts
        locals_ = {name: self.local(name) for name, one in self.config.channels.items() if one.kind == "local"}
        return {**locals_, "tcp_local": self.outside}

    def local(self, name: str) -> IChannel:
        assert self.parts is not None
        way: IChannel = LocalChannel(self.config, self.config.channels[name], self.parts, InlineThreads())
        return way


class NewLocalChannelTests(SynchronousTestCase):
    def test_what_it_delivers_outlives_a_power_cut(self) -> None:
        """As that of the others does: not synced by itself, and covered by the journal until it is."""
        for settles in (0, 2):
            world = Homes(CrashDisk(directories=[HOME, f"{HOME}/log"]))
            world.up()
            shard = world.shard
            assert shard is not None
            channel = ChannelConfig(name="local_new", kind="local")
            world.config = evolve(world.config, channels={**world.config.channels, "local_new": channel})
            self.assertEqual(shard.lacking(world.config), ("local_new",))
            shard.shelf.thd_make(("local_new",))
            shard.reconfigure(world.config, {"local_new": world.local("local_new")})
            to = Recipient(address="bob@here.example", original="bob@here.example", channel="local_new")
            intake = shard.begin(shard.new_id())
            intake.write(b"Subject: x\r\n\r\nx\r\n")
            intake.commit(
                Envelope(sender="ann@here.example", recipients=(to,), source="tcp_local", arrival=world.clock.seconds())
            )
            world.pump()
            self.assertEqual(len(world.mailbox("bob")), 1)
            for _ in range(settles):
                world.settle()
            after = world.crash("none")
            self.assertEqual(len(after.mailbox("bob")), settles // 2)  # settled, it is durable by itself
            after.up()
            after.wait(1)
            self.assertEqual(len(after.mailbox("bob")), 1, settles)
