"""Tests of what is known about clients."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qmailpy.config.schema import TrustConfig
from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver
from qmailpy.servers.clients import ClientCounts, ReverseNames, TrustedNetworks, plain_address
from qmailpy.values import Reply


@implementer(IResolver)
class SlowResolver:
    """Two addresses with one name, which is that of the first."""

    def __init__(self) -> None:
        self.asked: list[Deferred[str]] = []

    async def mx(self, domain: str) -> Sequence[tuple[int, str]]:
        return ()

    async def addresses(self, host: str) -> Sequence[str]:
        return ["2001:db8::1", "192.0.2.1"] if host == "host.example.net" else []

    async def ipv4(self, host: str) -> Sequence[str]:
        raise NotImplementedError

    async def exists(self, domain: str) -> bool:
        return True

    async def reverse(self, address: str) -> str:
        self.asked.append(Deferred())
        return await self.asked[-1]

    async def text(self, name: str) -> Sequence[str]:
        return ()


class ClientTests(SynchronousTestCase):
    """Addresses, trust and counts."""

    def test_addresses_are_written_plainly(self) -> None:
        for host, plain in {
            "192.0.2.1": "192.0.2.1",
            "::ffff:192.0.2.1": "192.0.2.1",
            "2001:DB8:0::1": "2001:db8::1",
            "fe80::1%eth0": "fe80::1",
            "": "",
            "/run/socket": "",
        }.items():
            self.assertEqual(plain_address(host), plain)

    def test_trust_goes_by_networks_of_the_same_family(self) -> None:
        trusted = TrustedNetworks(TrustConfig(networks=("192.0.2.0/24", "2001:db8::/32", "::/96")))
        for ip, expected in {
            "192.0.2.255": True,
            "192.0.3.0": False,
            "2001:db8:ffff::": True,
            "2001:db9::": False,
            "0.0.0.1": False,
            "": False,
        }.items():
            for _ in range(2):  # the second time from the cache
                self.assertEqual(ip in trusted, expected, ip)

    def test_a_network_that_is_none_is_told(self) -> None:
        self.assertRaises(ValueError, TrustedNetworks, TrustConfig(networks=("example.org",)))

    def test_counts_hold_on_to_nobody_who_has_left(self) -> None:
        counts = ClientCounts()
        self.assertEqual([counts.add("a"), counts.add("a"), counts.add("b")], [1, 2, 1])
        counts.remove("a")
        counts.remove("b")
        self.assertEqual((len(counts), counts.add("a")), (1, 2))


class ReverseNamesTests(SynchronousTestCase):
    """Names that nobody waits for."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = SlowResolver()
        self.names = ReverseNames(self.clock, self.resolver, lifetime_s=600, entries=2)

    def test_a_name_is_there_the_next_time(self) -> None:
        self.assertEqual(self.names.get("192.0.2.1"), "")
        self.assertEqual(self.names.get("192.0.2.1"), "")
        (asked,) = self.resolver.asked
        asked.callback("Host.Example.NET.")
        self.assertEqual(self.names.get("192.0.2.1"), "host.example.net")
        self.clock.advance(601)
        self.assertEqual(self.names.get("192.0.2.1"), "host.example.net")  # stale but better than none
        self.assertEqual(len(self.resolver.asked), 2)

    def test_a_name_that_does_not_lead_back_is_none(self) -> None:
        self.names.get("192.0.2.9")
        self.resolver.asked[0].callback("host.example.net")
        self.assertEqual(self.names.get("192.0.2.9"), "")
        self.assertEqual(len(self.resolver.asked), 1)

    def test_trouble_is_no_name(self) -> None:
        self.names.get("192.0.2.1")
        self.resolver.asked[0].errback(Temporary(Reply(451, "4.4.3", "DNS away")))
        self.names.get("192.0.2.2")
        self.resolver.asked[1].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.names.get("192.0.2.1") + self.names.get("192.0.2.2"), "")

    def test_memory_and_questions_are_bounded(self) -> None:
        for number in range(9):
            self.names.get(f"192.0.2.{number}")
        self.assertEqual(len(self.resolver.asked), 2)
        for number in range(9):
            for asked in self.resolver.asked:
                if not asked.called:
                    asked.callback("")
            self.names.get(f"198.51.100.{number}")
        self.assertLessEqual(len(self.names._names), 2)

    def test_a_stop_gives_up_what_is_asked(self) -> None:
        self.names.get("192.0.2.1")
        self.names.stop()
        self.assertEqual(self.names.get(""), "")
        self.assertEqual(self.names._asked, {})
