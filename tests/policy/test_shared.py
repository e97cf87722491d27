"""What limits count, in a file that workers share."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LimitsConfig
from qmailpy.policy import shared
from qmailpy.policy.limits import DAY, HOUR, Limits, Window
from qmailpy.policy.shared import LANE, SharedCounts, SharedWindow
from qmailpy.testing.memory_events import MemoryEvents
from tests.disk.full import full_disk

NOW = 1_800_000_000.0
NAME = "user_messages_per_hour"


class FileCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        self.path = os.path.join(folder, "limits")

    def window(self, lane: int = 0, lanes: int = 2, name: str = NAME, period_s: float = HOUR) -> SharedWindow:
        found = SharedCounts(self.path, lane, lanes, b"key").window(name, period_s)
        assert isinstance(found, SharedWindow)
        return found


class SharedWindowTests(FileCase):
    """L{SharedWindow}."""

    def test_workers_count_together(self) -> None:
        one, two = self.window(0), self.window(1)
        for window in (one, two, one):
            window.add("a", NOW)
        self.assertEqual((one.get("a", NOW), two.get("a", NOW)), (3, 3))
        self.assertEqual((one.get("b", NOW), len(one)), (0, 0))

    def test_a_restart_forgets_nothing(self) -> None:
        """With fewer workers than before, too: what the others had counted holds as long as it would have."""
        self.window(3, 4).add("a", NOW)
        self.window(0, 4).add("a", NOW + 10)
        again = self.window(0, 1)
        again.add("a", NOW + 20)
        self.assertEqual(again.get("a", NOW + 20), 3)
        self.assertEqual(self.window(5, 6).get("a", NOW + 20), 3)
        self.assertEqual(os.stat(self.path).st_size, 6 * LANE)
        self.assertLess(os.stat(self.path).st_blocks * 512, 200_000)  # what is not used takes no room

    def test_limits_do_not_mix(self) -> None:
        """Nor names that look alike; nor does another key find them."""
        self.window().add("a", NOW)
        for name in ("user_recipients_per_hour", "client_messages_per_hour", "network_messages_per_hour"):
            self.assertEqual(self.window(name=name).get("a", NOW), 0, name)
        self.assertEqual(self.window(name="user_sends_a_day", period_s=DAY).get("a", NOW), 0)
        other = SharedCounts(self.path, 0, 2, b"other").window(NAME, HOUR)
        self.assertEqual(other.get("a", NOW), 0)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 3000), st.sampled_from("ab"), st.integers(0, 1)), max_size=40))
    def test_it_counts_as_the_window_of_one_worker_does(self, done: Sequence[tuple[float, str, int]]) -> None:
        if os.path.exists(self.path):
            os.unlink(self.path)
        lanes = [self.window(0), self.window(1)]
        model, now = Window(HOUR), NOW
        for pause_s, key, lane in done:
            now += pause_s
            lanes[lane].add(key, now)
            model.add(key, now)
            for each in "ab":
                self.assertEqual(lanes[0].get(each, now), model.get(each, now))

    def test_a_clock_that_is_set_back_shuts_nobody_out(self) -> None:
        """A little is borne; counts of far ahead are none, and are overwritten."""
        window = self.window()
        window.add("a", NOW)
        self.assertEqual(window.get("a", NOW - 600), 1)
        self.assertEqual(window.get("a", NOW - 2 * DAY), 0)
        window.add("a", NOW - 2 * DAY)
        self.assertEqual(window.get("a", NOW - 2 * DAY), 1)

    def test_what_is_broken_counts_as_none(self) -> None:
        """And the next that is counted makes it good."""
        window = self.window()
        window.add("a", NOW)
        with open(self.path, "r+b") as file:
            octets = file.read()
            place = next(at for at, octet in enumerate(octets) if octet)
            file.seek(place + 20)
            file.write(b"\xff")
        self.assertEqual(window.get("a", NOW), 0)
        window.add("a", NOW)
        self.assertEqual(window.get("a", NOW), 1)

    def test_where_there_is_no_room_the_oldest_goes(self) -> None:
        """Not whoever was seen since."""
        self.patch(shared, "AREAS", {"": (0, 8)})
        window = self.window()
        for number in range(8):
            window.add(f"u{number}", NOW + number * 300)
        window.add("u0", NOW + 2400)
        window.add("new", NOW + 2400)
        kept = [window.get(f"u{number}", NOW + 2400) for number in range(8)]
        self.assertEqual((kept, window.get("new", NOW + 2400)), ([2, 0, 1, 1, 1, 1, 1, 1], 1))

    def test_areas_fit_into_a_lane_and_each_other_not(self) -> None:
        """Every limit has its place."""
        places = sorted(shared.AREAS.values())
        self.assertEqual([first for first, _ in places], [0, *(sum(place) for place in places[:-1])])
        self.assertEqual(sum(places[-1]) * shared.SLOT, LANE)
        self.assertLessEqual(shared._FORM.size + 4, shared.SLOT)

    def test_where_there_is_no_file_a_worker_counts_for_itself(self) -> None:
        """That is told once."""
        os.mkdir(self.path)
        counts = SharedCounts(self.path, 0, 1, b"key")
        with capturedLogs() as logs:
            window, other = counts.window(NAME, HOUR), counts.window(NAME, HOUR)
        self.assertIsInstance(window, Window)
        self.assertIsInstance(other, Window)
        self.assertEqual(len(logs), 1)

    def test_a_file_that_is_cut_off_kills_nobody(self) -> None:
        """As it would who had it mapped; it is made good by what is counted next."""
        one, two = self.window(0), self.window(1)
        one.add("a", NOW)
        os.truncate(self.path, LANE // 2)
        self.assertEqual((one.get("a", NOW), two.get("a", NOW)), (0, 0))
        os.truncate(self.path, 0)
        two.add("a", NOW)
        self.assertEqual((one.get("a", NOW), two.get("a", NOW)), (1, 1))

    def test_what_a_full_disk_has_no_room_for_a_worker_counts_for_itself(self) -> None:
        """That is told once; what had room before still counts."""
        one, two = self.window(0), self.window(1)
        one.add("a", NOW)
        with full_disk(self), capturedLogs() as logs:
            for _ in range(3):
                one.add("a", NOW)
            self.assertEqual((one.get("a", NOW), two.get("a", NOW), len(one)), (4, 1, 1))
        self.assertEqual(len(logs), 1)
        one.add("a", NOW)
        self.assertEqual((one.get("a", NOW), two.get("a", NOW)), (5, 2))

    def test_nothing_of_whom_it_is_about_is_in_the_file(self) -> None:
        self.window().add("joe@example.org", NOW)
        with open(self.path, "rb") as file:
            self.assertNotIn(b"joe", file.read())
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)


class SharedLimitsTests(FileCase):
    """L{Limits} of several workers."""

    def test_a_limit_is_that_of_all_workers(self) -> None:
        """Also over a restart of all of them; and an hour later it is forgotten."""
        clock = Clock()
        clock.advance(NOW)
        config = LimitsConfig(user_messages_per_hour=5, user_sends_a_day=3)

        def workers() -> list[Limits]:
            made = [SharedCounts(self.path, lane, 4, b"key") for lane in range(4)]
            return [Limits(config, clock.seconds, MemoryEvents(), one.window) for one in made]

        before = workers()
        said = [before[number % 4].message("192.0.2.1", "joe") for number in range(4)]
        self.assertEqual(said, [None] * 4)
        after = workers()
        self.assertIsNone(after[0].message("192.0.2.1", "joe"))
        for worker in after:
            self.assertEqual(str(worker.message("192.0.2.1", "joe"))[:10], "450 4.7.28")
        self.assertIsNone(after[0].message("192.0.2.1", "eve"))
        sent = [worker.recipient("192.0.2.1", "joe", 0) is None for worker in after]
        self.assertEqual(sent, [True, True, True, False])
        clock.advance(HOUR * 13 / 12)
        self.assertIsNone(after[1].message("192.0.2.1", "joe"))
        self.assertIsNotNone(after[1].recipient("192.0.2.1", "joe", 0))
