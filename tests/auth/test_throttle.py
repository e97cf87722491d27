"""Tests of the brake on guessing."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.auth.throttle import Throttle, network

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
