"""
Tests for L{qmailpy.remote.mx} and L{qmailpy.remote.peers}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ChannelConfig, DestinationConfig
from qmailpy.errors import Permanent, Temporary
from qmailpy.remote.mx import Exchange, Hop, Reach, at_home, destination, exchanges
from qmailpy.remote.peers import Finder, Peer, is_address_of_this_machine
from qmailpy.remote.policy import Policies
from qmailpy.testing.tables_resolver import TablesResolver


class DestinationTests(SynchronousTestCase):
    """How a destination is written."""

    def test_a_name_is_a_domain(self) -> None:
        """Lower case, without the root's dot."""
        found = destination("Example.ORG.", trusted=False)
        self.assertEqual((found.domain, found.hops), ("example.org", ()))

    def test_everything_else_names_hosts(self) -> None:
        """Literals, and the forms of the configuration."""
        for text, hops in (
            ("[192.0.2.1]", [("192.0.2.1", 25)]),
            ("[IPv6:2001:DB8:0::1]", [("2001:db8::1", 25)]),
            ("[::1]:2525", [("::1", 2525)]),
            ("[mail.example]", [("mail.example", 25)]),
            ("mail.example:26", [("mail.example", 26)]),
            (
                "127.0.0.1:26, [mail.example]:27,[b.example]",
                [("127.0.0.1", 26), ("mail.example", 27), ("b.example", 25)],
            ),
        ):
            self.assertEqual(destination(text, trusted=True).hops, tuple(Hop(host=h, port=p) for h, p in hops), text)

    def test_what_has_no_such_form_is_refused(self) -> None:
        """With a ValueError for the configuration's reader."""
        for text in ("", "a:b", "a:0", "a:65536", "a:9999999999", "[a", "[a]b", "[]", ":25", "a,", "[IPv6:x]", "::1"):
            self.assertRaises(ValueError, destination, text, trusted=True)


class SocketTests(SynchronousTestCase):
    """UNIX sockets as relays."""

    def test_a_socket_is_a_hop_of_the_configuration_alone(self) -> None:
        """A path from HOME on is made absolute first."""
        found = destination(at_home("unix:run/store.sock, mail.example:24", "/home"), trusted=True)
        self.assertEqual(found.hops, (Hop(host="/home/run/store.sock", port=0), Hop(host="mail.example", port=24)))
        self.assertEqual(at_home("unix:/run/a,mail.example:24", "/home"), "unix:/run/a,mail.example:24")
        self.assertRaises(ValueError, destination, "unix:/run/a", trusted=False)
        for text in ("unix:", "unix:a", "unix:/" + "x" * 107, "unix:/a\nb"):
            self.assertRaises(ValueError, destination, text, trusted=True)

    def test_nobody_is_asked_for_its_address(self) -> None:
        finder = Finder(TablesResolver(), our_names=(), reach=Reach(allow_loopback=False, is_ours=lambda _: False))
        found = self.successResultOf(Deferred.fromCoroutine(finder.find(destination("unix:/run/a", trusted=True))))
        self.assertEqual([(peer.host, peer.address) for peer in found], [("localhost", "/run/a")])


class ExchangesTests(SynchronousTestCase):
    """The order of RFC 5321 s.5.1."""

    def order(self, *records: tuple[int, str]) -> list[str]:
        """By a shuffle that turns round."""
        return [exchange.host for exchange in exchanges("d.example", records, list[Exchange].reverse)]

    def test_smaller_preferences_come_first_and_equal_ones_are_shuffled(self) -> None:
        """The load is spread over equals only."""
        self.assertEqual(self.order((20, "c"), (10, "A."), (10, "b"), (5, "d")), ["d", "b", "a", "c"])

    def test_without_mx_the_domain_is_its_own_exchanger(self) -> None:
        """The implicit MX."""
        self.assertEqual(self.order(), ["d.example"])

    def test_null_mx_takes_no_mail(self) -> None:
        """RFC 7505: 556 5.1.10; beside real ones it is nothing."""
        error = self.assertRaises(Permanent, exchanges, "d.example", [(0, "")], list.reverse)
        self.assertEqual((error.reply.code, error.reply.enhanced), (556, "5.1.10"))
        self.assertEqual(self.order((0, ""), (10, "a")), ["a"])


class FinderTests(SynchronousTestCase):
    """From a destination to its peers."""

    def finder(self, *, allow_loopback: bool = False, **tables: Any) -> Finder:
        self.resolver = TablesResolver(**tables)
        reach = Reach(allow_loopback=allow_loopback, is_ours=lambda address: address in ("192.0.2.99", "127.0.0.1"))
        return Finder(self.resolver, our_names=("US.example",), reach=reach, shuffle=lambda exchanges: None)

    def find(self, finder: Finder, text: str, *, trusted: bool = False) -> list[str]:
        found: tuple[Peer, ...] = self.successResultOf(
            Deferred.fromCoroutine(finder.find(destination(text, trusted=trusted)))
        )
        return [f"{peer.host} {peer.address} {peer.port}" for peer in found]

    def refused(self, finder: Finder, text: str, kind: type[Permanent | Temporary], *, trusted: bool = False) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(finder.find(destination(text, trusted=trusted))), kind)
        reply = failure.value.reply
        return f"{reply.code} {reply.enhanced}"

    def test_all_addresses_of_all_exchangers_are_peers_in_order(self) -> None:
        """As the resolver orders the addresses."""
        finder = self.finder(
            mx={"d.example": [(20, "b.example"), (10, "a.example")]},
            addresses={"a.example": ["2001:db8::1", "192.0.2.1"], "b.example": ["192.0.2.2"]},
        )
        self.assertEqual(
            self.find(finder, "d.example"),
            ["a.example 2001:db8::1 25", "a.example 192.0.2.1 25", "b.example 192.0.2.2 25"],
        )

    def test_families_take_turns(self) -> None:
        """RFC 8305 s.4: one that leads nowhere does not use up the attempt; the first stays the first."""
        for given, expected in (
            (["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"], "6 4 6 6"),
            (["2001:db8::1", "192.0.2.1", "192.0.2.2"], "6 4 4"),
            (["192.0.2.1", "192.0.2.2", "2001:db8::1"], "4 6 4"),
            (["2001:db8::1", "2001:db8::2", "2001:db8::3"], "6 6 6"),
        ):
            finder = self.finder(mx={"d.example": [(10, "a.example")]}, addresses={"a.example": given})
            found = [one.split()[1] for one in self.find(finder, "d.example")]
            self.assertEqual(" ".join("6" if ":" in one else "4" for one in found), expected)
            self.assertEqual(sorted(found), sorted(given))

    def test_each_of_several_hosts_has_its_own_policy(self) -> None:
        """Port, TLS, name and address of ours; a login only where the configuration sends us."""
        tables = [
            DestinationConfig(pattern="b.example", port=587, tls="must", helo="h.example", user="u", password_file="f"),
            DestinationConfig(pattern="c.example", source_address=("192.0.2.98", "2001:db8::98")),
        ]
        of = Policies(ChannelConfig(name="tcp_local", kind="smtp"), tables).of
        finder = self.finder(
            addresses={
                "a.example": ["192.0.2.1"],
                "b.example": ["192.0.2.2"],
                "c.example": ["192.0.2.3", "2001:db8::3"],
            },
            mx={"b.example": [(10, "b.example")]},
        )
        where = destination("a.example:26,b.example,c.example", of("a.example"), trusted=True, of=of)
        found: tuple[Peer, ...] = self.successResultOf(Deferred.fromCoroutine(finder.find(where)))
        self.assertEqual(
            [(one.address, one.port, one.tls.value, one.helo, one.account[0], one.source) for one in found],
            [
                ("192.0.2.1", 26, "may", "", "", ""),
                ("192.0.2.2", 587, "must", "h.example", "u", ""),
                ("192.0.2.3", 25, "may", "", "", "192.0.2.98"),
                ("2001:db8::3", 25, "may", "", "", "2001:db8::98"),
            ],
        )
        stranger = destination("b.example", of("b.example"), trusted=False)
        [one] = self.successResultOf(Deferred.fromCoroutine(finder.find(stranger)))
        self.assertEqual((one.helo, one.account), ("h.example", ("", "")))

    def test_when_we_are_an_exchanger_only_better_ones_are_tried(self) -> None:
        """Found by our name or by an address of ours; equal preferences are left out too (RFC 5321 s.5.1)."""
        for us, address in (("us.example", "192.0.2.50"), ("alias.example", "192.0.2.99")):
            finder = self.finder(
                mx={"d.example": [(10, "a.example"), (20, "b.example"), (20, us), (30, "c.example")]},
                addresses={
                    "a.example": ["192.0.2.1"],
                    "b.example": ["192.0.2.2"],
                    "c.example": ["192.0.2.3"],
                    us: [address],
                },
            )
            self.assertEqual(self.find(finder, "d.example"), ["a.example 192.0.2.1 25"])

    def test_when_we_are_the_best_exchanger_the_mail_loops(self) -> None:
        """554 5.4.6: not ours to deliver, and nobody is nearer."""
        for host, address in (
            ("us.example", "192.0.2.50"),
            ("x.example", "192.0.2.99"),
            ("x.example", "127.0.0.1"),
            ("x.example", "127.9.9.9"),
            ("x.example", "::1"),
            ("x.example", "::ffff:127.0.0.1"),
            ("x.example", "0.0.0.0"),
            ("x.example", "::"),
        ):
            finder = self.finder(mx={"d.example": [(10, host)]}, addresses={host: [address]})
            self.assertEqual(self.refused(finder, "d.example", Permanent), "554 5.4.6", address)
        finder = self.finder(addresses={"d.example": ["127.0.0.1"]})
        self.assertEqual(self.refused(finder, "d.example", Permanent), "554 5.4.6")

    def test_loopback_addresses_from_the_dns_can_be_allowed(self) -> None:
        """allow_loopback, for test beds."""
        finder = self.finder(allow_loopback=True, addresses={"d.example": ["127.0.0.1", "::1"]})
        self.assertEqual(self.find(finder, "d.example"), ["d.example 127.0.0.1 25", "d.example ::1 25"])

    def test_a_literal_of_this_machine_loops_unless_configured(self) -> None:
        """A stranger cannot reach our inside with user@[127.0.0.1]; the administrator may."""
        finder = self.finder()
        for text in ("[127.0.0.1]", "[192.0.2.99]", "[IPv6:::1]"):
            self.assertEqual(self.refused(finder, text, Permanent), "554 5.4.6", text)
        self.assertEqual(self.find(finder, "[192.0.2.7]"), ["192.0.2.7 192.0.2.7 25"])
        self.assertEqual(self.find(finder, "[127.0.0.1]:26", trusted=True), ["127.0.0.1 127.0.0.1 26"])

    def test_what_is_no_host_is_no_peer(self) -> None:
        """Multicast and broadcast."""
        finder = self.finder(addresses={"d.example": ["224.0.0.1", "255.255.255.255", "ff02::1"]})
        self.assertEqual(self.refused(finder, "d.example", Permanent), "550 5.1.2")

    def test_an_exchanger_that_is_no_host_is_passed_over(self) -> None:
        """The machine lets sockets be bound to such addresses; that does not make it the exchanger (RFC 5321 s.5.1)."""
        table = TablesResolver(
            mx={"d.example": [(10, "group.example"), (20, "b.example")]},
            addresses={"group.example": ["224.0.0.1", "255.255.255.255"], "b.example": ["192.0.2.2"]},
        )
        reach = Reach(allow_loopback=False, is_ours=lambda address: address != "192.0.2.2")
        finder = Finder(table, our_names=(), reach=reach, shuffle=lambda exchanges: None)
        self.assertEqual(self.find(finder, "d.example"), ["b.example 192.0.2.2 25"])

    def test_a_domain_that_does_not_exist_is_permanent(self) -> None:
        """NXDOMAIN, and a domain without any address."""
        finder = self.finder(mx={"empty.example": [(1, "x.example")], "bare.example": []})
        for text in ("none.example", "empty.example", "bare.example"):
            self.assertEqual(self.refused(finder, text, Permanent), "550 5.1.2", text)

    def test_dns_trouble_is_temporary_unless_another_host_is_known(self) -> None:
        """At MX, and at the addresses of every exchanger."""
        finder = self.finder(
            mx={"d.example": [(1, "a.example"), (2, "b.example")], "e.example": [(1, "a.example")]},
            addresses={"b.example": ["192.0.2.2"]},
            broken=["a.example", "c.example"],
        )
        self.assertEqual(self.find(finder, "d.example"), ["b.example 192.0.2.2 25"])
        self.assertEqual(self.refused(finder, "e.example", Temporary), "451 4.4.3")
        self.assertEqual(self.refused(finder, "c.example", Temporary), "451 4.4.3")
        self.assertEqual(self.refused(finder, "c.example:25", Temporary, trusted=True), "451 4.4.3")

    def test_a_relay_without_address_is_temporary(self) -> None:
        """The administrator's mistake is not the sender's to pay for."""
        self.assertEqual(self.refused(self.finder(), "relay.example:25", Temporary, trusted=True), "451 4.4.4")

    def test_endless_lists_are_cut(self) -> None:
        """Exchangers and addresses are bounded."""
        finder = self.finder(
            mx={"d.example": [(number, f"m{number}.example") for number in range(100)]},
            addresses={f"m{number}.example": [f"192.0.2.{end}" for end in range(50)] for number in range(100)},
        )
        self.assertEqual(len(self.find(finder, "d.example")), 24)
        self.assertEqual(len(self.resolver.asked), 17)

    def test_an_address_of_this_machine_is_known(self) -> None:
        """Without sending anything."""
        self.assertTrue(is_address_of_this_machine("127.0.0.1"))
        self.assertFalse(is_address_of_this_machine("192.0.2.1"))
        self.assertFalse(is_address_of_this_machine("2001:db8::1"))
