"""Segments of the journal are settled into files and used again; a power cut at any point of it costs nothing."""

from __future__ import annotations

import errno

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue import segments
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World


class SegmentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, HOME + "/log"]))
        self.world.up()

    def test_deferred_mail_moves_into_files_and_is_delivered_from_them(self) -> None:
        """Settled: the journal does not know it any more."""
        queue_id = self.world.send("later@out.example", "bob@here.example")
        self.world.settle()
        assert self.world.shard is not None
        self.assertEqual(self.world.shard.shard.state.messages, {})
        self.world.wait(3000)
        self.assertEqual(self.world.outside.taken["later@out.example", self.world.accepted[queue_id][1]], 1)
        self.world.settle()
        self.world.settle()
        left = [path for path in self.world.files() if "/queue/" in path and "/journal/" not in path]
        self.assertEqual(left, [f"{HOME}/queue/0/lock"])

    def test_an_orderly_stop_leaves_everything_in_files(self) -> None:
        """And the next start finds it there."""
        queue_id = self.world.send("later@out.example")
        self.world.down()
        self.assertEqual(len([path for path in self.world.files() if "/chan/tcp_local/" in path]), 1)
        after = self.world.crash("none")
        after.up()
        after.wait(3000)
        self.assertEqual(after.outside.taken["later@out.example", self.world.accepted[queue_id][1]], 1)

    def test_segments_are_reused(self) -> None:
        """The journal does not grow with the mail that went through it."""
        for _ in range(200):
            self.world.send("bob@here.example", body=b"y" * 300)
        self.world.wait(1)
        self.assertLess(len(self.world.disk.listdir(f"{HOME}/queue/0/journal")), 7)
        self.assertEqual(len(self.world.mailbox("bob")), 200)

    def boundaries(self, first: str, last: str, *, restart: bool) -> None:
        """A power cut after large mail that was recorded over the boundary of two segments, for many boundaries."""
        for octets in range(0, 400, 10):
            self.setUp()
            if restart:
                self.world.send("bob@here.example")
                self.world = self.world.crash("none")
                self.world.up()
            self.world.send(first, body=b"m" * octets)
            self.world.send("bad@out.example")
            self.world.send("bob@here.example", "bad@out.example")
            everybody = ("bob@here.example", "ok@out.example", "eve@here.example", "bad@out.example")
            self.world.send(*everybody, sender="", body=b"m" * 700)
            self.world.send("ok@out.example", "bob@here.example", "eve@here.example", last, body=b"m" * 3000)
            self.world = self.world.crash("none")
            self.world.up()
            self.world.wait(20000)
            for name in ("bob", "eve"):
                box = self.world.mailbox(name)
                for envelope, content in self.world.accepted.values():
                    if f"{name}@here.example" in [recipient.address for recipient in envelope.recipients]:
                        self.assertEqual(box.count(content), 1, (octets, name))
            self.assertEqual(self.world.stored(), {}, octets)

    def test_a_delivery_that_files_know_of_is_durable(self) -> None:
        """A message with files from its birth, delivered in another segment than the one that holds it."""
        self.boundaries("bob@here.example", "later@out.example", restart=True)

    def test_no_checkpoint_stands_amid_a_record(self) -> None:
        """A notice and the failure it is about: both lines are there after a power cut."""
        self.boundaries("bad@out.example", "bad@out.example", restart=False)

    def test_what_happens_while_a_segment_is_composed_reaches_the_files_later(self) -> None:
        """A mark made after the slice of its message: the next retiring writes it."""
        self.patch(segments, "SLICE", 1)
        assert self.world.shard is not None
        local = self.world.shard.runner("local")
        local.stop()
        self.world.send("bob@here.example", "eve@here.example")
        for _ in range(3):
            self.world.send("never@out.example")
        self.world.disk.fail("open", number=errno.EACCES, path=f"{HOME}/mail/here.example/bob", times=2)
        self.world.shard.settle()
        while not self.world.shard.shard.state.messages or not any(
            message.filed for message in self.world.shard.shard.state.messages.values()
        ):
            self.world.committer.step()
        local.start()
        self.world.pump()
        self.world.disk.heal()
        self.world.settle()
        self.world.settle()
        self.world.wait(2000)
        local_lines = [record.action.value for record in self.world.log() if record.source == "local"]
        self.assertEqual(sorted(local_lines), ["D", "D", "Z"])
        self.assertEqual(self.world.stored(), {"tcp_local": 3})

    def test_who_waits_for_segments_to_be_settled_hears_when_the_disk_does_not_let_us(self) -> None:
        """Or a stop would wait for ever; what is left is in the journal."""
        self.world.send("never@out.example")
        assert self.world.shard is not None
        under_way: Deferred[None] = Deferred()
        self.patch(self.world.shard.shard.segments, "_in_thread", lambda *arguments: under_way)
        settled: list[None] = []
        self.world.shard.settle().addCallback(settled.append)
        self.world.pump()
        self.assertEqual(settled, [])
        under_way.errback(OSError(errno.EIO, "the disk does not answer"))
        self.world.pump()
        self.assertEqual(settled, [None])
