"""Opening a shard: what another process, or the disk, does not let us do leaves everything as it was."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.ids import shard_code, to_number
from qmailpy.queue.layout import Layout
from qmailpy.queue.opening import ShardBusy, thd_open
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World

SHARD = f"{HOME}/queue/0"


class OpeningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))

    def test_a_shard_is_opened_by_one_at_a_time(self) -> None:
        around = self.world.surroundings()
        opened = thd_open("0", around)
        with self.assertRaisesRegex(ShardBusy, "shard 0 is in use by another process"):
            thd_open("0", around)
        around.files.close(opened.lock)
        thd_open("0", around)

    def test_what_the_disk_does_not_let_us_make_leaves_the_lock_to_the_next(self) -> None:
        """In the directories, in recovery, and in the journal that is begun after it."""
        around = self.world.surroundings()
        for operation, path in (("mkdir", f"{SHARD}/mess"), ("listdir", f"{SHARD}/journal"), ("open", f"{SHARD}/jour")):
            self.world.disk.fail(operation, path=path)
            self.assertRaises(OSError, thd_open, "0", around)
            self.world.disk.heal()
        thd_open("0", around)

    def test_a_disk_that_fails_in_the_directories_is_noted_for_the_next(self) -> None:
        """The error may be of what a former life has written, and is told once."""
        around = self.world.surroundings()
        note = Layout(SHARD, "0").doubt
        self.world.disk.fail("syncfs", path=SHARD)
        self.assertRaises(OSError, thd_open, "0", around)
        self.assertTrue(self.world.disk.exists(note))
        self.world.disk.heal()
        self.assertTrue(thd_open("0", around).shelf.doubt.noted)

    def test_mail_in_the_journal_for_a_channel_that_is_gone_has_directories(self) -> None:
        world = self.world
        world.config = evolve(world.config, channels={"local": world.config.channels["local"]})
        world.up()
        world.send("never@out.example")
        self.assertFalse(world.disk.exists(f"{SHARD}/chan/tcp_local"))
        after = world.crash()
        thd_open("0", after.surroundings())
        self.assertTrue(after.disk.exists(f"{SHARD}/chan/tcp_local"))

    def test_what_the_disk_does_not_give_back_keeps_the_shard_closed_until_somebody_takes_it_away(self) -> None:
        """Only of mail that left the journal, but for an attempt; the rest is there as if nothing had been."""
        world = self.world
        world.up()
        lost = world.send("later@out.example")
        world.settle()
        world.settle()
        while world.actions() == "EQ":
            world.wait(60)
        kept = world.send("later@out.example")
        after = world.crash("all")
        layout, number = Layout(SHARD, shard_code("0")), to_number(lost)
        after.disk.fail("read", path=layout.info(number), times=10**9)
        for _ in range(2):
            self.assertRaises(OSError, thd_open, "0", after.surroundings())
        for path, name in (
            (layout.info(number), "info"),
            (layout.mess(number), "mess"),
            (layout.chan("tcp_local", number, False), "chan-tcp_local"),
        ):
            after.disk.rename(path, f"{layout.corrupt}/{lost}.{name}")
        after.disk.heal()
        after.disk.fail("read", path=layout.corrupt, times=10**9)  # it is not any better there
        after.up()
        self.assertEqual(after.stored(), {"tcp_local": 2})  # until qm clean -corrupt
        after.wait(20000)
        self.assertEqual([body for _, body in after.outside.taken], [b"Subject: " + kept.encode() + b"\r\n\r\n\r\n"])
        self.assertEqual(after.stored(), {"tcp_local": 1})
