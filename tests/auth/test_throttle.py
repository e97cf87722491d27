"""Tests of the brake on guessing."""

from __future__ import annotations

import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.auth.marks import LANE, Mark, SharedMarks, thd_open
from qmailpy.auth.throttle import Throttle, network
from tests.disk.full import full_disk

JOE, HERE, THERE = "joe@example.org", "192.0.2.1", "198.51.100.7"


class ThrottleTests(SynchronousTestCase):
    """L{Throttle}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = Throttle(self.clock.seconds, client_failures=5, account_failures=8, ban_s=100, fade_s=10)

    def test_waits_grow_and_end_somewhere(self) -> None:
        waits = [self.throttle.failed(f"u{number}@example.org", HERE) for number in range(4)]
        self.assertEqual(waits, [0, 0, 1, 2])
        throttle = Throttle(self.clock.seconds, client_failures=100)
        self.assertEqual([throttle.failed("", HERE) for _ in range(50)][-1], 10)

    def test_a_client_with_too_many_is_banned_for_a_time(self) -> None:
        for number in range(5):
            self.assertFalse(self.throttle.banned(JOE, HERE))
            self.throttle.failed(f"u{number}@example.org", HERE)
        self.assertTrue(self.throttle.banned(JOE, HERE))
        self.assertTrue(self.throttle.banned("", HERE))
        self.assertFalse(self.throttle.banned(JOE, THERE))
        self.clock.advance(99)
        self.assertTrue(self.throttle.banned(JOE, HERE))
        self.clock.advance(1)
        self.assertFalse(self.throttle.banned(JOE, HERE))

    def test_failures_fade(self) -> None:
        for _ in range(20):
            self.assertEqual(self.throttle.failed(JOE, HERE), 0)
            self.clock.advance(10)
        self.assertFalse(self.throttle.banned(JOE, HERE))

    def test_an_account_guessed_from_everywhere_is_open_to_its_owner_only(self) -> None:
        """A botnet has an address for each guess; the owner must not be locked out by it."""
        self.throttle.succeeded(JOE, HERE)
        for number in range(8):
            self.throttle.failed(JOE.upper(), f"198.51.100.{number}")
        self.assertTrue(self.throttle.banned(JOE, THERE))
        self.assertFalse(self.throttle.banned(JOE, HERE))
        self.assertFalse(self.throttle.banned("ann@example.org", THERE))

    def test_a_success_forgives_the_account_and_not_the_client(self) -> None:
        """Who owns one account must not reset the count of his guesses at others."""
        for _ in range(3):
            self.throttle.failed(JOE, HERE)
        self.throttle.succeeded("evil@example.org", HERE)
        self.assertEqual(self.throttle.failed("ann@example.org", HERE), 2)
        self.throttle.succeeded(JOE, THERE)
        self.assertEqual(self.throttle.failed(JOE, THERE), 0)

    def test_uncounted_clients_are_never_banned_themselves(self) -> None:
        for number in range(20):
            self.throttle.failed(f"u{number}@example.org", "")
        self.assertFalse(self.throttle.banned(JOE, ""))

    def test_memory_is_bounded(self) -> None:
        throttle = Throttle(self.clock.seconds, entries=10)
        for number in range(1000):
            throttle.failed(f"u{number}@example.org", f"10.0.{number // 250}.{number % 250}")
            throttle.succeeded(f"g{number}@example.org", HERE)
        self.assertLessEqual(len(throttle), 50)

    def test_what_is_one_client(self) -> None:
        self.assertEqual(network("192.0.2.1"), "192.0.2.1")
        self.assertEqual(network("2001:db8::1"), network("2001:db8::ffff:1"))
        self.assertNotEqual(network("2001:db8::1"), network("2001:db8:0:1::1"))
        self.assertEqual(network(""), "")


class TogetherTests(SynchronousTestCase):
    """Two processes that count together: the same file, a lane each."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.path = self.mktemp()
        self.told: list[tuple[str, str, str, int]] = []
        self.first, self.second = self.throttle(0), self.throttle(1)

    def throttle(self, lane: int) -> Throttle:
        area = thd_open(self.path, 2)
        marks = [SharedMarks(area, number, b"key") for number in range(2)]
        return Throttle(
            self.clock.seconds,
            client_failures=6,
            account_failures=6,
            ban_s=100,
            fade_s=10,
            own=marks[lane],
            others=[marks[1 - lane]],
            told=lambda *what: self.told.append(what),
        )

    def both(self, account: str, client: str) -> list[bool]:
        return [self.first.banned(account, client), self.second.banned(account, client)]

    def test_a_client_gains_nothing_by_asking_each_of_them(self) -> None:
        for _ in range(3):
            self.first.failed("a@example.org", HERE)
            self.assertEqual(self.both("", HERE), [False, False])
            self.second.failed("b@example.org", HERE)
        self.assertEqual(self.both("", HERE), [True, True])
        self.assertEqual(self.told, [("client", HERE, "b@example.org", 6)])
        self.assertEqual(self.both("", THERE), [False, False])
        self.clock.advance(101)
        self.assertEqual(self.both("", HERE), [False, False])

    def test_waits_are_those_of_all_failures(self) -> None:
        waits = [(self.first, self.second)[number % 2].failed("", HERE) for number in range(5)]
        self.assertEqual(waits, [0, 0, 1, 2, 4])

    def test_failures_fade_in_all_lanes(self) -> None:
        for number in range(30):
            (self.first, self.second)[number % 2].failed(JOE, HERE)
            self.clock.advance(10)
        self.assertEqual(self.both(JOE, HERE), [False, False])

    def test_a_success_at_one_forgives_the_account_at_all(self) -> None:
        for _ in range(4):
            self.first.failed(JOE, "")
        self.clock.advance(0.1)
        self.second.succeeded(JOE, HERE)
        self.clock.advance(0.1)
        self.assertEqual(self.first.failed(JOE, ""), 0)
        self.assertEqual(self.second.failed(JOE, ""), 0)

    def test_an_owner_is_let_in_by_all_where_he_was_let_in_by_one(self) -> None:
        self.first.succeeded(JOE, HERE)
        for number in range(6):
            self.second.failed(JOE, f"198.51.100.{number}")
        self.assertEqual(self.told[-1][:3], ("account", "198.51.100.5", JOE))
        self.assertEqual(self.both(JOE, THERE), [True, True])
        self.assertEqual(self.both(JOE, HERE), [False, False])

    def test_a_new_life_of_a_process_remembers(self) -> None:
        for _ in range(6):
            self.first.failed("", HERE)
        self.assertTrue(self.throttle(0).banned("", HERE))

    def test_an_operator_may_forgive(self) -> None:
        for _ in range(6):
            self.first.failed(JOE, HERE)
        for each in (self.first, self.second):
            each.forgive(HERE)
            each.forgive(JOE.upper())
        self.assertEqual(self.both(JOE, HERE), [False, False])

    def test_a_clock_that_is_set_back_shuts_nobody_out_for_years(self) -> None:
        for _ in range(6):
            self.first.failed("", HERE)
        self.clock.rightNow -= 500_000
        self.assertEqual(self.both("", HERE), [False, False])
        self.assertEqual(self.first.failed("", HERE), 0)

    def test_damage_is_nothing_and_memory_is_bounded(self) -> None:
        for number in range(30000):
            self.first.failed(f"u{number}@example.org", f"10.0.{number >> 8 & 255}.{number & 255}")
        self.assertEqual(os.stat(self.path).st_size, 2 * LANE)
        for _ in range(6):
            self.first.failed("", HERE)
        self.assertTrue(self.first.banned("", HERE))
        with open(self.path, "r+b") as file:
            file.write(os.urandom(2 * LANE))
        self.assertEqual(self.both(JOE, HERE), [False, False])
        self.first.failed(JOE, HERE)

    def test_names_that_share_a_bucket_are_told_apart(self) -> None:
        area = thd_open(self.mktemp(), 1)
        marks = SharedMarks(area, 0, b"key")
        for number in range(4000):
            marks.put("client", str(number), Mark(float(number), 1.0 + number))
        found = {number: marks.get("client", str(number)) for number in range(4000)}
        self.assertGreater(sum(one is not None for one in found.values()), 3600)
        for number, one in found.items():
            self.assertIn(one, (None, Mark(float(number), 1.0 + number)))
        self.assertIsNone(marks.get("account", "1"))

    def test_a_slot_that_is_half_written_is_none(self) -> None:
        area = thd_open(self.mktemp(), 1)
        marks = SharedMarks(area, 0, b"key")
        marks.put("client", HERE, Mark(1.0, 2.0, 3.0, 4.0))
        start = next(at for at in range(0, LANE, 64) if area.read(at, 64).strip(b"\0"))
        (octet,) = area.read(start + 20, 1)
        area.write(start + 20, bytes([octet ^ 1]))
        self.assertIsNone(marks.get("client", HERE))

    def test_a_full_disk_stops_no_brake(self) -> None:
        """Each process counts for itself then, and nobody is killed."""
        with full_disk(self):
            for _ in range(6):
                self.first.failed(JOE, HERE)
            self.assertEqual(self.both(JOE, HERE), [True, False])
            self.flushLoggedErrors()
        self.first.failed(JOE, HERE)
        self.assertTrue(self.first.banned(JOE, HERE))

    def test_a_file_that_is_cut_off_is_forgotten_and_made_good(self) -> None:
        """A mapping would have us killed."""
        for _ in range(6):
            self.first.failed(JOE, HERE)
        os.truncate(self.path, 0)
        self.assertEqual(self.both(JOE, HERE), [False, False])
        for _ in range(6):
            self.first.failed(JOE, HERE)
        self.assertEqual(self.both(JOE, HERE), [True, True])
