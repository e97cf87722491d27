"""The file of the stopped channels that cannot be read: mail is kept, and goes on by itself when it can."""

from __future__ import annotations

import errno

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.halted import AGAIN_S, Halted
from qmailpy.queue.switches import Switches
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import in_thread


class Startable:
    def __init__(self, name: str) -> None:
        self.name = name
        self.started = 0

    def start(self) -> None:
        self.started += 1


class HaltedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.disk = CrashDisk(directories=["/home", "/home/queue"])
        self.switches = Switches(self.disk, "/home/queue/stopped")
        self.switches.thd_switch("local", True)
        self.clock = Clock()
        self.runners = [Startable("local"), Startable("tcp_local")]
        self.halted = Halted(self.clock, self.switches, in_thread, lambda: self.runners)

    def test_a_file_that_can_be_read_is_believed(self) -> None:
        stopped = self.halted.thd_stopped()
        self.halted.watch()
        self.assertEqual((stopped("local"), stopped("tcp_local")), (True, False))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_wait_until_it_can_be_read_and_the_stopped_ones_longer(self) -> None:
        self.disk.fail("read", number=errno.EACCES, path="/home/queue/stopped", times=3)
        stopped = self.halted.thd_stopped()
        self.assertEqual((stopped("local"), stopped("tcp_local")), (True, True))
        self.halted.watch()
        for _ in range(2):
            self.clock.advance(AGAIN_S)
            self.assertEqual([one.started for one in self.runners], [0, 0])
        self.clock.advance(AGAIN_S)
        self.assertEqual([one.started for one in self.runners], [0, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_looked_at_after_the_end(self) -> None:
        self.disk.fail("read", number=errno.EIO, path="/home/queue/stopped", times=3)
        self.halted.thd_stopped()
        self.halted.watch()
        self.halted.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
