"""
Tests for L{qmailpy.remote.tls_results}.
"""

from __future__ import annotations

from itertools import count

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.tls_results import DAY_S, DOMAINS, FAILURES, POLICIES, ResultFiles, TlsResults, counted
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from qmailpy.wire.tlsrpt import NOTHING, Applied, Failed

PLACE = "/queue/tls-results"
STS = Applied("sts", ("version: STSv1",), ("mx.example",))
BAD = Failed("certificate-expired", "mx.example", "192.0.2.1", "192.0.2.9", "it has")


class ResultsTests(SynchronousTestCase):
    """Counting, writing and reading."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = 20000.0 * DAY_S + 5
        self.disk = CrashDisk(directories=["/queue"])

    def process(self, name: str) -> TlsResults:
        return TlsResults(self.disk, PLACE, name, self.clock.seconds)

    def write(self, results: TlsResults) -> None:
        results.thd_write(results.pending())

    def test_processes_are_added_up(self) -> None:
        """With failures by kind, and policies apart."""
        one, other = self.process("mta0.1.1"), self.process("mta1.2.2")
        for results in (one, other):
            results.note("d.example", STS, None)
            results.note("d.example", STS, BAD)
            self.write(results)
        other.note("d.example", NOTHING, None)
        self.write(other)
        self.write(other)
        files = ResultFiles(self.disk, PLACE)
        self.assertEqual(files.thd_days(), [20000])
        day = files.thd_read(20000)
        first, second = counted(day, "d.example")
        self.assertEqual((first.applied, first.good, first.bad, first.failures), (STS, 2, 2, ((BAD, 2),)))
        self.assertEqual((second.applied, second.good, second.bad), (NOTHING, 1, 0))
        files.thd_remove(20000)
        self.assertEqual((files.thd_days(), files.thd_read(20000)), ([], {}))

    def test_days_are_apart(self) -> None:
        """A session before midnight that is written after it is of the day before."""
        results = self.process("a.1.1")
        results.note("d.example", NOTHING, None)
        self.clock.advance(DAY_S)
        results.note("d.example", NOTHING, BAD)
        self.write(results)
        results.note("d.example", NOTHING, BAD)
        self.write(results)
        files = ResultFiles(self.disk, PLACE)
        self.assertEqual(files.thd_days(), [20000, 20001])
        [old], [new] = (counted(files.thd_read(day), "d.example") for day in (20000, 20001))
        self.assertEqual((old.good, old.bad, new.good, new.bad), (1, 0, 0, 2))

    def test_nothing_new_is_not_written(self) -> None:
        results = self.process("a.1.1")
        self.write(results)
        self.assertEqual((self.disk.operations, ResultFiles(self.disk, PLACE).thd_days()), ([], []))

    def test_everything_is_bounded(self) -> None:
        """What is beyond is in the sum alone; sums stay right on the disk."""
        results = self.process("a.1.1")
        for number in range(FAILURES + 5):
            results.note("d.example", STS, Failed("validation-failure", f"mx{number}.example"))
        for number in range(POLICIES + 5):
            results.note("e.example", Applied("sts", (f"{number}",)), None)
        for number in range(DOMAINS + 5):
            results.note(f"{number}.example", NOTHING, None)
        self.write(results)
        day = ResultFiles(self.disk, PLACE).thd_read(20000)
        [one] = counted(day, "d.example")
        self.assertEqual((one.bad, len(one.failures)), (FAILURES + 5, FAILURES))
        self.assertEqual((len(day["e.example"]), len(day)), (POLICIES, DOMAINS))

    def test_the_power_may_fail_at_any_time(self) -> None:
        """The older figures, or the newer ones."""
        for die_at in count():
            self.disk = CrashDisk(directories=["/queue", PLACE])
            results = self.process("a.1.1")
            results.note("d.example", NOTHING, None)
            self.write(results)
            self.disk.die_at = len(self.disk.operations) + die_at
            results.note("d.example", NOTHING, None)
            try:
                self.write(results)
            except PowerCut:
                day = ResultFiles(self.disk.reboot(), PLACE).thd_read(20000)
                self.assertIn(counted(day, "d.example")[0].good, (1, 2))
                continue
            break

    def test_a_file_that_cannot_be_read_is_left_out(self) -> None:
        """And names that are none of ours."""
        results = self.process("a.1.1")
        results.note("d.example", NOTHING, None)
        self.write(results)
        for name, octets in (("20000.b", b"{"), ("20000.c", b'{"version": 2}'), ("20000.d", b"[]"), ("notes", b"")):
            handle = self.disk.open(f"{PLACE}/{name}", create=True)
            self.disk.pwrite(handle, octets, 0)
            self.disk.close(handle)
        files = ResultFiles(self.disk, PLACE)
        self.assertEqual((files.thd_days(), counted(files.thd_read(20000), "d.example")[0].good), ([20000], 1))

    def test_a_disk_that_is_full_costs_figures_and_nothing_else(self) -> None:
        results = self.process("a.1.1")
        results.note("d.example", NOTHING, None)
        self.disk.fail("fsync", path=PLACE)
        self.write(results)
        results.note("d.example", NOTHING, None)
        self.write(results)
        [one] = counted(ResultFiles(self.disk, PLACE).thd_read(20000), "d.example")
        self.assertEqual(one.good, 2)
