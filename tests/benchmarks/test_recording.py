"""What is measured of log and counters."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.recording import alone_us, records
from qmailpy.records.record import Action


class RecordingTests(SynchronousTestCase):
    def test_a_message_has_the_records_the_daemon_writes(self) -> None:
        self.assertEqual("".join(one.action.value for one in records(1, 0.0)), "OECD")
        self.assertEqual(records(1, 0.0)[0].action, Action.OPENED)

    def test_it_costs_something(self) -> None:
        self.assertGreater(alone_us(20, 10), 0.0)
