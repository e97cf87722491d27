"""The arithmetic of the measurements, and what they need of the system."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import places, powercut, processes
from benchmarks.idle import Idle
from benchmarks.matrix import (
    DOUBTFULLY,
    MAILDIR,
    MESSAGES_MAX,
    OCTETS_MAX,
    RELAY,
    SLOWLY,
    Cell,
    Result,
    cells,
    count_for,
)
from benchmarks.measure import Run
from benchmarks.node import Node
from benchmarks.postfix_tools import SECURE, SUBMISSION, Shape
from benchmarks.recording import Books, Share
from benchmarks.report import OURS, THEIRS, Report
from benchmarks.sinks import Connection, Sink
from benchmarks.waiting import Waiting, thd_fill
from qmailpy.config.load import load
from qmailpy.disk.files import RealFiles
from qmailpy.queue.ids import shard_code
from qmailpy.queue.layout import Layout
from qmailpy.queue.shelf import Shelf


def shape(octets: int = 1024, connections: int = 20) -> Shape:
    """A load."""
    return Shape(octets=octets, connections=connections, reuse=False)


def runs(*rates: float, messages: int = 1000, cpu_s: float = 0.5) -> list[Run]:
    """Measurements with these rates."""
    return [
        Run(messages=messages, accept_s=messages / rate, arrive_s=2 * messages / rate, cpu_s=cpu_s) for rate in rates
    ]


class MatrixTests(SynchronousTestCase):
    """What is measured."""

    def test_all_of_the_matrix_is_in_the_full_form(self) -> None:
        """
        3 sizes, 3 numbers of connections, reused or not, to Maildirs and through the relay; TLS and logins; two sinks.
        """
        self.assertEqual(len(set(cells(False))), 3 * 3 * 2 * 2 + 2 * 2 * 2 + 2)
        self.assertTrue(set(cells(True)) < set(cells(False)))

    def test_a_run_is_bounded_in_messages_and_octets(self) -> None:
        """And every connection gets some."""
        self.assertEqual(count_for(shape(), 1e9, 10.0), MESSAGES_MAX)
        self.assertEqual(count_for(shape(1_000_000), 1e9, 10.0), OCTETS_MAX // 1_000_000)
        self.assertEqual(count_for(shape(connections=100), 1.0, 1.0), 200)


class SinkTests(SynchronousTestCase):
    """The sinks that are not easy."""

    def test_every_tenth_recipient_is_put_off(self) -> None:
        """And everything is counted, in pieces however small."""
        sink = Sink(0.0, 10)
        connection = Connection(sink)
        transport = _Transport()
        connection.connection_made(transport)
        for _ in range(20):
            for octet in b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n..\r\n.\r\nRSET\r\n":
                connection.data_received(bytes([octet]))
        self.assertEqual(sink.messages, 18)
        self.assertEqual((transport.said.count(b"451 4.2.1"), transport.said.count(b"taken")), (2, 18))
        connection.data_received(b"QUIT\r\n")
        self.assertTrue(transport.is_closing())


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    said = b""
    _gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self._gone = True

    def is_closing(self) -> bool:
        return self._gone


class ReportTests(SynchronousTestCase):
    """The report."""

    def report(self, octets: int, ours: list[Run], theirs: list[Run], kind: str = MAILDIR) -> Report:
        """One cell."""
        result = Result(Cell(kind, shape(octets)), {OURS: ours, THEIRS: theirs})
        return Report(where="a disk", command="make bench", results=[result])

    def test_ratios_are_of_medians_and_judged_by_their_targets(self) -> None:
        """3 times for accepting, 4 times into the Maildir, 1 ms of CPU."""
        rows = self.report(1024, runs(100, 3500, 9000), runs(900, 1000, 1100)).rows()
        self.assertEqual([round(row.ratio, 2) for row in rows[:2]], [3.5, 3.5])
        self.assertEqual([row.verdict for row in rows], ["reached", "not reached", "reached"])

    def test_large_messages_need_only_be_as_fast(self) -> None:
        """And have no target for CPU."""
        rows = self.report(1_000_000, runs(110), runs(100)).rows()
        self.assertEqual([row.verdict for row in rows], ["reached", "reached", ""])

    def test_under_tls_twice_as_much_is_wanted(self) -> None:
        """And nothing of who logs in, or of sinks that keep both waiting."""
        report = self.report(1024, [], [])
        secure = Shape(octets=1024, connections=20, reuse=True, way=SECURE)
        login = Shape(octets=1024, connections=20, reuse=True, way=SUBMISSION)
        report.results = [
            Result(Cell(kind, one), {OURS: runs(250), THEIRS: runs(100)})
            for kind, one in ((MAILDIR, secure), (MAILDIR, login), (SLOWLY, shape()), (DOUBTFULLY, shape()))
        ]
        rows = report.rows()
        self.assertEqual([row.target for row in rows], [2, 2, 0, 0, 0, 0, 0, 1, 0, 1])
        self.assertEqual(rows[0].verdict, "reached")
        self.assertIn("451", rows[-2].figure)

    def test_without_postfix_there_is_no_verdict_on_ratios(self) -> None:
        """Our own figures are there all the same."""
        rows = self.report(1024, runs(1000), [], RELAY).rows()
        self.assertEqual([row.verdict for row in rows], ["", "reached"])
        self.assertEqual(rows[0].cells()[2:5], ("-", "500", "-"))

    def test_a_failed_run_is_shown_as_such(self) -> None:
        """Not as something reached."""
        report = self.report(1024, [], runs(100))
        report.results[0].failed[OURS] = "0 of 10 arrived"
        self.assertEqual({row.verdict for row in report.rows()}, {"failed"})

    def test_the_document_has_all_figures_and_their_targets(self) -> None:
        """Also those of the extremes, and why something is missing."""
        report = self.report(1024, runs(4000), runs(1000))
        report.waiting = Waiting(
            messages=200_000, written_s=60.0, greeting_s=1.0, first_s=6.0, listed_s=9.0, octets_each=120.0
        )
        report.idle = Idle(connections=5000, worker=140_000_000, daemon=200_000_000, before=60_000_000, answers_s=0.001)
        report.books = Books(
            rates=(960.0, 1000.0),
            cpu_us=(500.0, 470.0),
            of_rate=Share(part=0.04, error=0.005),
            of_cpu=Share(part=0.06, error=0.002),
        )
        report.conversions["disclaimer"] = Run(messages=1000, accept_s=2.0, arrive_s=4.0, cpu_s=1.5)
        report.notes.append("something: no root")
        text = report.markdown()
        self.assertIn(
            "| 1 KiB, 20 conn., one message each | accepted (1/s) | 1000 | 4000 | 4.00 | >= 3x | reached |", text
        )
        self.assertIn("| 200,000 waiting messages: start to first delivery | 6.00 s | < 5 s | not reached |", text)
        self.assertIn("| 5,000 idle connections: memory of the worker | 140 MB | <= 150 MB | reached |", text)
        self.assertIn(
            "share of what is accepted | 4.0% (+- 0.5%) (960/s, without them 1000/s) | <= 3 % | not reached |", text
        )
        self.assertIn("their share of the CPU time, accepted and delivered | 6.0% (+- 0.2%) of 500 us |  |  |", text)
        self.assertIn(
            "1,000 messages of 10 KiB, disclaimer | 500/s accepted, 250/s delivered, 1.50 ms of CPU each |  |  |",
            text,
        )
        self.assertIn("- something: no root", text)


class SystemTests(SynchronousTestCase):
    """What is asked of the system."""

    def test_cpu_time_and_memory_of_children_count(self) -> None:
        """The tree of this process."""
        code = "import sys, time\nwhile time.process_time() < 0.15: pass\nprint(flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            self.assertIn(child.pid, [one.pid for one in processes.tree(os.getpid())])
            self.assertGreaterEqual(processes.cpu_s(child.pid), 0.1)
            self.assertGreater(processes.rss(child.pid), 1_000_000)
            self.assertLessEqual(processes.pss(child.pid), processes.rss(child.pid))
            child.communicate()
        self.assertEqual(processes.tree(child.pid), [])
        self.assertEqual(processes.rss(child.pid), 0)

    def test_a_directory_for_a_run_is_gone_afterwards(self) -> None:
        """Also when it fails."""

        def work() -> None:
            with places.disk("test", 1 << 20, loop=False) as (path, where):
                self.path = path
                self.assertTrue(os.path.isdir(path))
                self.assertIn("as asked", where)
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, work)
        self.assertFalse(os.path.exists(os.path.dirname(self.path)))

    def test_powercut_says_why_it_is_skipped(self) -> None:
        """With status 0: not every machine has loop devices."""
        self.patch(powercut, "missing_for_loop", lambda: "no loop devices here")
        done = CliRunner().invoke(powercut.main, ["--rounds", "1"])
        self.assertEqual((done.exit_code, done.output), (0, "skipped: no loop devices here\n"))


class WaitingTests(SynchronousTestCase):
    """The large queue."""

    def test_messages_written_for_it_are_those_the_daemon_would_write(self) -> None:
        """Each can be loaded, with its checksum right, and is due when it says."""
        home = os.path.abspath(self.mktemp())
        Node(home, relay=1).make([])
        self.assertEqual(list(thd_fill(home, 5)), [5])
        layout = Layout(load(home).path("queue", "0"), shard_code("0"))
        shelf = Shelf(RealFiles(), layout, 131072)
        numbers = list(shelf.thd_scan("chan", "tcp_local"))
        self.assertEqual(len(numbers), 5)
        for number in numbers:
            message = shelf.thd_load(number)
            assert message is not None
            self.assertEqual(list(message.copies), ["tcp_local"])
            times = shelf.thd_times("tcp_local", number)
            self.assertEqual((message.copies["tcp_local"].next_attempt(), 0, 0.0), times)
        self.assertEqual(shelf.aside, [])
