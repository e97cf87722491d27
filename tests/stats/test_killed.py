"""Real processes, a real disk, kill -9: the books balance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.records.logfile import roll
from qmailpy.stats.counters import thd_read
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder
from qmailpy.stats.verify import thd_verify
from tests.stats.test_recorder import OPTIONS

WRITER = """
import os, sys, time
from twisted.internet.task import Clock
from qmailpy.disk.files import RealFiles
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder
from tests.stats.test_recorder import OPTIONS, dequeue, enqueue

home, lane = sys.argv[1:]
kept = Lane(home + "/counters", lane, time.time)
recorder = Recorder(Clock(), RealFiles(), home, kept, lane, OPTIONS, process=os.getpid())
recorder.thd_recover(None)
number = 0
while True:
    number += 1
    recorder.write([enqueue(number), dequeue(number)] * 40)
    recorder.flush()
    if number == 3:
        os.write(1, b"x")
    time.sleep(0.002)  # or the log, which each recovery here reads whole, grows by 20 MB a second
"""


class KilledTests(SynchronousTestCase):
    def test_two_writers_killed_again_and_again_while_the_log_rolls(self) -> None:
        """Each time the next process recovers from nothing but the log; in the end all is equal and no line missing."""
        os.mkdir(home := os.path.abspath(self.mktemp()))
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        for _ in range(3):
            writers = [
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, home, lane],
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": root},
                )
                for lane in ("0", "1")
            ]
            for writer in writers:
                assert writer.stdout is not None
                self.assertEqual(writer.stdout.read(1), b"x")
            roll(RealFiles(), home)
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
                assert writer.stdout is not None
                writer.stdout.close()
        for lane in ("0", "1"):
            recorder = Recorder(Clock(), RealFiles(), home, Lane(f"{home}/counters", lane, time.time), lane, OPTIONS)
            recorder.thd_recover(None)
            recorder.close()
        found = thd_verify(RealFiles(), home, OPTIONS, thd_read(f"{home}/counters")[1])
        self.assertTrue(found.equal, found)
        self.assertEqual([note for note in found.notes if "lacks" in note], [])
        self.assertGreater(found.records, 1000)
