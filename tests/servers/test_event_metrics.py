"""Events as figures."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.events.log import FILE_NAME, EventLog
from qmailpy.servers.event_metrics import EventCounts


class EventMetricsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.path = f"{self.directory}/{FILE_NAME}"
        self.events = EventLog(self.path, "mta-0", lambda: self.now, size=2000)
        self.counts = EventCounts(1000.0)

    def samples(self) -> dict[str, dict[str, float]]:
        """By family, by event; without those there were none of."""
        return {
            metric.name: {one.labels["event"]: one.value for one in metric.samples if one.value}
            for metric in self.counts.thd_metrics(self.directory)
        }

    def banned(self, count: int = 1) -> None:
        for _ in range(count):
            self.events.happened("auth.banned", address="192.0.2.1", login="a", failures=10)

    def test_without_a_file_every_event_is_counted_0_times(self) -> None:
        """Who watches for a rise wants to have seen where it began."""
        (counted, last) = self.counts.thd_metrics(self.directory)
        self.assertEqual({one.value for one in counted.samples}, {0})
        self.assertIn({"event": "message.lost", "severity": "critical"}, [one.labels for one in counted.samples])
        self.assertEqual(last.samples, [])

    def test_they_are_counted_with_those_that_were_not_written_one_by_one(self) -> None:
        self.banned(7)
        self.assertEqual(self.samples()["qmailpy_events"], {"auth.banned": 1})
        self.now += 400
        self.banned()
        found = self.samples()
        self.assertEqual(found["qmailpy_events"], {"auth.banned": 8})
        self.assertEqual(found["qmailpy_event_last_time_seconds"], {"auth.banned": 1400})

    def test_those_of_an_earlier_daemon_are_not(self) -> None:
        self.now = 990.0
        self.banned()
        self.assertEqual(self.samples()["qmailpy_events"], {})

    def test_through_files_that_are_rolled_and_go_none_is_counted_twice_or_left_out(self) -> None:
        for number in range(100):
            self.now += 10
            self.events.happened("worker.restarted", worker=f"mta-{number}", how="signal 9", wait=0)
            if number % 3 == 0:
                self.samples()
        self.assertEqual(self.samples()["qmailpy_events"], {"worker.restarted": 100})

    def test_a_line_that_is_not_finished_waits_for_its_end(self) -> None:
        self.banned()
        with open(self.path, "rb") as source:
            line = source.read()
        with open(self.path, "wb") as target:
            target.write(line[:100])
        self.assertEqual(self.samples()["qmailpy_events"], {})
        with open(self.path, "ab") as target:
            target.write(line[100:])
        self.assertEqual(self.samples()["qmailpy_events"], {"auth.banned": 1})

    def test_a_file_that_somebody_has_emptied_is_read_from_its_beginning(self) -> None:
        self.banned()
        self.samples()
        open(self.path, "wb").close()
        self.samples()
        self.now += 400
        self.banned()
        self.assertEqual(self.samples()["qmailpy_events"], {"auth.banned": 2})
