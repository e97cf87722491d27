"""Who is here at once, over all workers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LimitsConfig
from qmailpy.policy import present
from qmailpy.policy.limits import Limits
from qmailpy.policy.present import LANE, SharedPresent
from qmailpy.testing.memory_events import MemoryEvents
from tests.disk.full import full_disk

LANES = 3


class PresentTests(SynchronousTestCase):
    """L{SharedPresent}."""

    def setUp(self) -> None:
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        self.path = os.path.join(folder, "present")

    def workers(self, begun: int = 1, lanes: int = LANES) -> list[SharedPresent]:
        return [SharedPresent(self.path, lane, lanes, b"key", begun + lane) for lane in range(lanes)]

    def test_a_small_limit_is_that_of_all_workers(self) -> None:
        one, two, three = self.workers()
        self.assertEqual([one.add("joe", 5), two.add("joe", 5), one.add("joe", 5), three.add("joe", 5)], [1, 2, 3, 4])
        self.assertEqual(one.add("eve", 5), 1)
        one.remove("joe")
        two.remove("joe")
        self.assertEqual(two.add("joe", 5), 3)
        for worker in (one, two, three):
            worker.remove("joe")
        self.assertEqual([one.add("joe", 5), len(two)], [1, 0])

    def test_who_has_a_small_share_of_a_large_limit_costs_nothing(self) -> None:
        """There is not even a file."""
        for worker in self.workers():
            for _ in range(83):
                worker.add("192.0.2.0/24", 1000)
            worker.add("joe")
        self.assertFalse(os.path.exists(self.path))
        single = SharedPresent(self.path, 0, 1, b"key", 1)
        self.assertEqual([single.add("joe", 2) for _ in range(3)], [1, 2, 3])
        self.assertFalse(os.path.exists(self.path))

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, LANES - 1), st.booleans()), max_size=200),
        st.sampled_from([1, 2, 5, 11, 12, 24, 60]),
    )
    def test_a_limit_is_never_exceeded_by_more_than_a_quarter(
        self, done: Sequence[tuple[int, bool]], most: int
    ) -> None:
        """Clients stay that are let in; exactly kept when it is small."""
        if os.path.exists(self.path):
            os.unlink(self.path)
        workers, there = self.workers(), [0] * LANES
        for lane, comes in done:
            if comes:
                before = sum(there)
                found = workers[lane].add("joe", most)
                self.assertLessEqual(found, before + 1)
                if found <= most:
                    there[lane] += 1
                else:
                    workers[lane].remove("joe")
                self.assertLessEqual(sum(there), most + most // 4)
            elif there[lane]:
                workers[lane].remove("joe")
                there[lane] -= 1

    def test_what_a_worker_left_that_is_gone_does_not_count(self) -> None:
        """It was killed; the one in its place begins anew, and those that are there still count."""
        before = self.workers()
        for worker in before:
            worker.add("joe", 9)
        again = SharedPresent(self.path, 1, LANES, b"key", 100)
        self.assertEqual(before[0].add("joe", 9), 3)
        self.assertEqual(again.add("joe", 9), 4)
        self.assertEqual(before[0].add("joe", 9), 5)
        after = self.workers(begun=1000)
        self.assertEqual([worker.add("joe", 9) for worker in after][-1], 3)

    def test_networks_and_users_share_a_lane(self) -> None:
        users, networks = (SharedPresent(self.path, 0, LANES, b"key", 1) for _ in range(2))
        other = SharedPresent(self.path, 1, LANES, b"key", 2)
        users.add("joe", 1)
        networks.add("192.0.2.0/24", 1)
        self.assertEqual((other.add("joe", 1), other.add("192.0.2.0/24", 1)), (2, 2))

    def test_without_room_or_a_file_a_worker_counts_for_itself(self) -> None:
        self.patch(present, "SLOTS", 8)
        one, two, _ = self.workers()
        for number in range(9):
            one.add(f"u{number}", 1)
        self.assertEqual([two.add(f"u{number}", 1) for number in range(9)], [2] * 8 + [1])
        one.remove("u0")
        one.add("u8", 2)
        self.assertEqual(two.add("u8", 2), 4)
        self.path = os.path.dirname(self.path)
        with capturedLogs() as logs:
            lonely = SharedPresent(self.path, 0, LANES, b"key", 1)
            self.assertEqual([lonely.add("joe", 1), lonely.add("joe", 1)], [1, 2])
        self.assertEqual(len(logs), 1)

    def test_a_full_disk_or_a_file_that_is_cut_off_kills_nobody(self) -> None:
        one, two, _ = self.workers()
        one.add("joe", 1)
        os.truncate(self.path, 0)
        self.assertEqual([two.add("joe", 5), one.add("joe", 5)], [1, 3])
        with full_disk(self), capturedLogs() as logs:
            self.assertEqual([one.add("eve", 5), two.add("eve", 5), one.add("eve", 5)], [1, 1, 2])
            one.remove("joe")
        self.assertEqual(len(logs), 2)  # each worker tells

    def test_a_lane_is_as_large_as_it_says(self) -> None:
        for worker in self.workers():
            worker.add("joe", 1)
        self.assertEqual(os.stat(self.path).st_size, LANES * LANE)
        self.assertLessEqual(present._FORM.size + 4, present.SLOT)

    def test_limits_of_connections_are_those_of_all_workers(self) -> None:
        """Networks and users (L{Limits})."""
        config = LimitsConfig(network_connections=2, user_connections=2)

        def limits(lane: int) -> Limits:
            return Limits(
                config,
                Clock().seconds,
                MemoryEvents(),
                here=lambda: SharedPresent(self.path, lane, LANES, b"key", lane + 1),
            )

        one, two = limits(0), limits(1)
        said = [each.connected("192.0.2.1") for each in (one, two, one)]
        self.assertEqual([reply is None for _, reply in said], [True, True, False])
        self.assertEqual([each.logged_in("joe") is None for each in (one, two, two)], [True, True, False])
        two.logged_out("joe")
        two.logged_out("joe")
        self.assertIsNone(one.logged_in("joe"))
