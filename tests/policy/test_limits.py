"""How much clients, networks and users may do."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LimitsConfig
from qmailpy.policy.limits import STEPS, Limits, Window
from qmailpy.testing.memory_events import MemoryEvents


class WindowTests(SynchronousTestCase):
    """L{Window}."""

    def test_it_slides(self) -> None:
        window = Window(3600)
        for moment in range(0, 3600, 60):
            window.add("a", moment)
        self.assertEqual(window.get("a", 3599), 60)
        self.assertLessEqual(window.get("a", 5400), 35)
        self.assertGreaterEqual(window.get("a", 5400), 30)
        self.assertEqual(window.get("a", 7500), 0)
        self.assertEqual(window.get("b", 0), 0)

    def test_nothing_of_the_period_is_forgotten(self) -> None:
        """A limit can be broken by a twelfth of time at most, never overrun."""
        window = Window(3600)
        window.add("a", 299.0)
        self.assertEqual(window.get("a", 299.0 + 3599), 1)
        self.assertEqual(window.get("a", 299.0 + 3600 + 301), 0)

    def test_memory_is_bounded(self) -> None:
        window = Window(3600, most=1000)
        for number in range(10000):
            window.add(str(number), number)
        self.assertEqual(len(window), 1000)
        window.add("9000", 10000)  # seen again: not the oldest any more
        for number in range(500):
            window.add(f"more {number}", 10000)
        self.assertEqual((window.get("9000", 10000), window.get("9001", 10000)), (2, 0))
        for moment in range(0, 360000, 7):
            window.add("busy", 10000 + moment)
        self.assertLessEqual(len(window._kept["busy"]), 2 * (STEPS + 1))
        self.assertLess(sys.getsizeof(window._kept["busy"]), 400)


class LimitsTests(SynchronousTestCase):
    """L{Limits}."""

    def make(self, **config: Any) -> Limits:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.events = MemoryEvents()
        return Limits(LimitsConfig(**config), self.clock.seconds, self.events)

    def code(self, reply: Any) -> str:
        return "" if reply is None else str(reply)[:10]

    def test_connections_of_a_network_at_once(self) -> None:
        limits = self.make(network_connections=2)
        said = [limits.connected(ip) for ip in ("192.0.2.1", "192.0.2.99", "192.0.2.200", "192.0.3.1")]
        self.assertEqual([self.code(reply) for _, reply in said], ["", "", "421 4.7.28", ""])
        six = [limits.connected(f"2001:db8::{n}") for n in range(3)]
        self.assertEqual([self.code(reply) for _, reply in six], ["", "", "421 4.7.28"])
        for network, _ in (*said, *six):
            limits.gone(network)
        self.assertEqual(len(limits), 0)
        self.assertEqual(
            self.events.happenings[0],
            ("limit.broken", {"who": "192.0.2.0/24", "limit": "network_connections", "most": 2}),
        )

    def test_rates_of_clients_and_networks(self) -> None:
        limits = self.make(client_messages_per_hour=2, network_messages_per_hour=3)
        ips = ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.3.1")
        said = [self.code(limits.message(ip, "")) for ip in ips]
        self.assertEqual(said, ["", "", "450 4.7.28", "", "450 4.7.28", ""])
        self.assertIsNone(limits.message("192.0.2.1", "joe@example.org"))  # a user is no client
        self.clock.advance(3901)
        self.assertIsNone(limits.message("192.0.2.1", ""))

    def test_recipients_of_a_user_a_day(self) -> None:
        limits = self.make(user_sends_a_day=2, user_recipients_per_hour=100)
        said = [self.code(limits.recipient("192.0.2.1", "joe@example.org", 0)) for _ in range(3)]
        self.assertEqual(said, ["", "", "450 4.7.28"])
        self.assertIsNone(limits.recipient("192.0.2.1", "ann@example.org", 0))
        self.assertIsNone(limits.recipient("192.0.2.1", "joe@example.org", 10))  # a plan says more
        self.assertEqual(self.code(limits.recipient("192.0.2.1", "joe@example.org", 1)), "450 4.7.28")
        self.clock.advance(86400 / 2)
        self.assertEqual(self.code(limits.recipient("192.0.2.1", "joe@example.org", 0)), "450 4.7.28")
        self.clock.advance(86400 / 2 + 7201)
        self.assertIsNone(limits.recipient("192.0.2.1", "joe@example.org", 0))
        self.assertEqual(self.events.names, ["limit.broken"] * 3)

    def test_logins_at_once(self) -> None:
        limits = self.make(user_connections=1)
        self.assertIsNone(limits.logged_in("joe@example.org"))
        self.assertEqual(self.code(limits.logged_in("joe@example.org")), "421 4.7.28")
        limits.logged_out("joe@example.org")
        limits.logged_out("joe@example.org")
        self.assertIsNone(limits.logged_in("joe@example.org"))

    def test_without_limits_nothing_is_remembered(self) -> None:
        limits = self.make(network_connections=0)
        for number in range(100):
            limits.message(f"192.0.2.{number}", "")
            limits.recipient("192.0.2.1", f"u{number}", 0)
        self.assertEqual(len(limits), 0)
