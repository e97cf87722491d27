"""Opening a shard: what another process, or the disk, does not let us do leaves everything as it was."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

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
