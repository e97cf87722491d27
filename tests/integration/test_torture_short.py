"""The short form of C{make torture}: the daemon under load, killed three times."""

from __future__ import annotations

import io

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.places import scratch
from benchmarks.showing import Showing
from benchmarks.torture import torment


class TortureTests(SynchronousTestCase):
    """Promises, with everything real."""

    def test_nothing_acknowledged_is_lost_or_doubled_when_processes_are_killed(self) -> None:
        """Worker, then all processes, then the supervisor: mail whole and once, queue empty, books balanced."""
        output = io.StringIO()
        victims = ("worker", "everything", "supervisor")
        showing = Showing("torture", len(victims), Console(file=output))
        with scratch("torture") as directory, showing:
            verdict, tally = torment(directory, victims, seed=3, seconds=60.0, showing=showing)
        self.assertTrue(verdict.kept, "\n".join(verdict.lines()))
        self.assertEqual(sum(tally.kinds.values()), len(victims))
        self.assertGreater(verdict.findings.stored, 20)
        self.assertGreater(verdict.findings.relayed, 5)
        self.assertGreater(verdict.findings.returned, 1)
        self.assertEqual(output.getvalue().count("messages acknowledged so far"), len(victims))
