"""The events file."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.log import WAITING, EventLog


class EventLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.path = Path(self.mktemp())
        self.events = EventLog(str(self.path), "mta-0", lambda: self.now)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def banned(self, address: str) -> None:
        self.events.happened("auth.banned", address=address, login="a\nb@example.org", failures=10)

    def test_an_event_is_a_line_that_says_what_happened_and_what_to_do(self) -> None:
        """Control characters in a field make no second line."""
        self.banned("192.0.2.1")
        (line,) = self.lines()
        self.assertEqual(line["event"], "auth.banned")
        self.assertEqual(line["severity"], "warning")
        self.assertEqual(line["process"], "mta-0")
        self.assertEqual(line["fields"], {"address": "192.0.2.1", "login": "a b@example.org", "failures": "10"})
        self.assertIn("192.0.2.1 tried 10 wrong passwords", str(line["text"]))

    def test_the_same_of_the_same_key_is_counted_for_a_while(self) -> None:
        """Nobody is told a thousand times."""
        for _ in range(12):
            self.banned("192.0.2.1")
        self.banned("192.0.2.2")
        self.assertEqual(len(self.lines()), 2)
        self.now += 301
        self.banned("192.0.2.1")
        self.assertEqual(self.lines()[-1]["times"], 12)

    def test_the_end_of_what_was_told_is_told_and_so_is_that_it_comes_back(self) -> None:
        for _ in range(2):
            self.events.happened("queue.size", limit=5, messages=9, channel="local")
            self.events.happened("trouble.over", event="queue.size", about="5", lasted="2 min")
            self.now += 301
        self.assertEqual([line["event"] for line in self.lines()], ["queue.size", "trouble.over"] * 2)

    def test_a_flood_is_told_as_one(self) -> None:
        for number in range(10_000):
            self.banned(f"client{number}")
        lines = self.lines()
        self.assertEqual(len(lines), 51)
        self.assertEqual(
            (lines[-1]["event"], lines[-1]["fields"]), ("events.many", {"event": "auth.banned", "most": "50"})
        )

    def test_a_name_that_is_not_in_the_catalogue_is_a_bug_and_harms_nobody(self) -> None:
        """It is logged."""
        self.events.happened("no.such", a=1)
        self.assertFalse(self.path.exists())

    def test_a_file_that_cannot_be_written_harms_nobody(self) -> None:
        """It is said once."""
        EventLog(str(self.path / "x"), "mta-0", lambda: self.now).happened("auth.banned", address="a")

    def test_what_could_not_be_written_is_written_once_it_can_in_its_order(self) -> None:
        """With the next event, be that one that is only counted; a line that was torn is there whole."""
        room = [30]

        def write(handle: int, octets: bytes) -> int:
            taken = min(room[0], len(octets))
            if not taken:
                raise OSError(28, "No space left on device")
            room[0] -= taken
            return original(handle, octets[:taken])

        original = os.write
        self.patch(os, "write", write)
        self.banned("192.0.2.1")
        self.banned("192.0.2.2")
        self.assertEqual(len(self.path.read_bytes()), 30)
        room[0] = 1_000_000
        self.banned("192.0.2.2")
        self.now += 2
        self.banned("192.0.2.2")
        torn, *lines = self.path.read_text().splitlines()
        self.assertTrue(lines[0].startswith(torn))
        self.assertEqual([json.loads(line)["fields"]["address"] for line in lines], ["192.0.2.1", "192.0.2.2"])

    def test_what_waits_to_be_written_is_bounded_and_tried_now_and_then(self) -> None:
        tries = []

        def write(handle: int, octets: bytes) -> int:
            tries.append(octets)
            raise OSError(28, "No space left on device")

        self.patch(os, "write", write)
        for number in range(3 * WAITING):
            self.events.happened("queue.age", channel=f"c{number}", age="5 h", limit="4 h")
        del tries[:]
        for _ in range(1000):
            self.events.happened("queue.age", channel="c1", age="5 h", limit="4 h")
        self.assertEqual(tries, [])
        self.assertEqual(len(self.events._waiting), WAITING)
        self.now += 2
        self.events.happened("queue.age", channel="c1", age="5 h", limit="4 h")
        self.assertEqual(len(tries), 1)


class CatalogueTests(SynchronousTestCase):
    def test_texts_and_remedies_use_the_fields_there_are(self) -> None:
        """Each row of the catalogue."""
        for name, kind in CATALOGUE.items():
            for text in (kind.text, kind.remedy):
                used = {field for _, field, _, _ in string.Formatter().parse(text) if field}
                self.assertLessEqual(used, set(kind.fields), name)
