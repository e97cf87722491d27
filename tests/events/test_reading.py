"""The events files, read; and their page of the documentation."""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.events.catalogue import CATALOGUE, Severity
from qmailpy.events.document import markdown
from qmailpy.events.log import FILE_NAME, KEPT, EventLog
from qmailpy.events.reading import Tail, parsed, thd_events, thd_lasting
from tests.cli.running import invoke

_DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"


class _Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.home = os.path.abspath(self.mktemp())
        self.directory = f"{self.home}/log"
        os.makedirs(self.directory)
        self.events = EventLog(f"{self.directory}/{FILE_NAME}", "mta-0", lambda: self.now, size=2000)

    def died(self, worker: str) -> None:
        self.events.happened("worker.restarted", worker=worker, how="signal 9", wait=0)


class ReadingTests(_Case):
    def test_events_come_in_their_order_through_all_files(self) -> None:
        for number in range(12):
            self.now += 1
            self.died(f"mta-{number}")
        self.assertIn("events.log.1", os.listdir(self.directory))
        found = list(thd_events(self.directory))
        self.assertEqual([one.fields["worker"] for one in found], [f"mta-{number}" for number in range(12)])
        self.assertEqual(len({one.id for one in found}), 12)
        self.assertEqual([one.time for one in thd_events(self.directory, since=1011.0)], [1011.0, 1012.0])

    def test_old_files_go(self) -> None:
        for number in range(100):
            self.now += 10
            self.died(f"mta-{number}")
        self.assertEqual(
            {*os.listdir(self.directory)} - {FILE_NAME}, {f"{FILE_NAME}.{number}" for number in range(1, KEPT + 1)}
        )
        found = [one.fields["worker"] for one in thd_events(self.directory)]
        self.assertEqual(found, [f"mta-{number}" for number in range(100 - len(found), 100)])

    def test_what_lasts_still(self) -> None:
        """Through all files; one that ended and began anew by its new beginning, others by their first."""

        def low(directory: str) -> None:
            self.events.happened("disk.low", directory=directory, octets=1, inodes=1, reserve=1)

        for number, directory in enumerate(("queue", "mail", "log", "queue")):
            self.now = 10_000.0 * (number + 1)
            low(directory)
            if number < 2:
                self.events.happened("trouble.over", event="disk.low", about=directory, lasted="1 s")
        self.now += 7200
        low("log")
        self.events.happened("disk.full", directory="queue", octets=1, inodes=1)
        self.assertIn("events.log.1", os.listdir(self.directory))
        found = [(one.fields["directory"], one.time) for one in thd_lasting(self.directory, {"disk.low"})]
        self.assertEqual(found, [("log", 30_000.0), ("queue", 40_000.0)])
        self.assertEqual(thd_lasting(f"{self.home}/nowhere", {"disk.low"}), [])

    def test_only_what_is_grave_enough(self) -> None:
        self.died("mta-0")
        self.events.happened("journal.broken", worker="mta-0", why="EIO")
        found = [one.event for one in thd_events(self.directory, least=Severity.CRITICAL)]
        self.assertEqual(found, ["journal.broken"])

    def test_what_is_no_event_is_passed_over(self) -> None:
        self.died("mta-0")
        with open(f"{self.directory}/{FILE_NAME}", "ab") as file:
            file.write(b'{"time": 1, "ev\n[]\n' + b"[" * 60000 + b"\n" + b"x" * 200_000 + b"\n")
        self.died("mta-1")
        self.assertEqual([one.fields["worker"] for one in thd_events(self.directory)], ["mta-0", "mta-1"])
        self.assertIsNone(parsed(b'{"time": "x", "fields": {}}'))

    def test_a_tail_misses_nothing_when_the_file_is_rolled(self) -> None:
        self.died("before")
        tail = Tail(self.directory)
        found = []
        for number in range(20):
            self.died(f"mta-{number}")
            if number % 3 == 0:
                found += [one.fields["worker"] for one in tail.thd_more()]
        found += [one.fields["worker"] for one in tail.thd_more()]
        self.assertEqual(found, [f"mta-{number}" for number in range(20)])

    def test_root_is_not_led_elsewhere(self) -> None:
        """The directory belongs to the workers' user, who might lay a link there."""
        for there in (False, True):
            if there:
                Path(f"{self.home}/other").touch()
            os.symlink(f"{self.home}/other", f"{self.directory}/{FILE_NAME}")
            self.died("mta-0")
            self.assertEqual(os.path.exists(f"{self.home}/other") and os.path.getsize(f"{self.home}/other"), 0)
            os.unlink(f"{self.directory}/{FILE_NAME}")
        Path(f"{self.home}/hard").touch()
        os.link(f"{self.home}/hard", f"{self.directory}/{FILE_NAME}")
        self.died("mta-1")
        self.assertEqual(os.path.getsize(f"{self.home}/hard"), 0)


class CommandTests(_Case):
    def test_people_see_lines_with_what_to_do(self) -> None:
        self.died("mta-3")
        shown = invoke("--home", self.home, "events").out.splitlines()
        self.assertIn("warning   worker.restarted  mta-3 died (signal 9)", shown[0])
        self.assertIn("-> Why: grep mta-3", shown[1])

    def test_programs_get_json(self) -> None:
        self.died("mta-3")
        self.events.happened("journal.broken", worker="mta-0", why="EIO")
        shown = invoke("--home", self.home, "events", "--severity", "critical", "--json").out
        self.assertEqual(json.loads(shown)["event"], "journal.broken")

    def test_a_home_without_events_shows_none(self) -> None:
        self.assertEqual(invoke("--home", self.home, "events").out, "")

    def test_the_catalogue_is_the_page(self) -> None:
        self.assertEqual(invoke("events", "--catalogue").out, markdown())


class DocumentTests(SynchronousTestCase):
    def test_the_page_is_that_of_the_catalogue(self) -> None:
        """docs/events.md; to make it anew: qmailpy events --catalogue > docs/events.md."""
        self.assertEqual(_DOCUMENT.read_text(), markdown())

    def test_every_event_has_fields_and_a_remedy(self) -> None:
        for name, kind in CATALOGUE.items():
            self.assertRegex(name, r"[a-z]+\.[a-z-]+")
            self.assertTrue(kind.fields and kind.text and kind.remedy, name)
