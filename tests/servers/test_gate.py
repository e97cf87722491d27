"""Access tables, limits and checks as a client meets them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred

from qmailpy.config.schema import (
    AccessConfig,
    ChannelConfig,
    ChecksConfig,
    Config,
    DnsListConfig,
    GreylistConfig,
    LimitsConfig,
    ServerConfig,
    TrustConfig,
)
from qmailpy.policy.gate import Gate
from qmailpy.records.record import Action
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.testing.tables_resolver import TablesResolver
from tests.servers.test_smtp import CONTENT, FRIEND, HELLO, MAIL, NOON, RCPT, STRANGER, LosableTransport, SmtpTestCase

LISTED, WELCOME = "203.0.113.66", "203.0.113.77"


def rule(action: str, **keys: Any) -> AccessConfig:
    return AccessConfig(action=action, **keys)


class SilentResolver(TablesResolver):
    """Does not answer about lists until it is let."""

    def __init__(self, **tables: Any) -> None:
        super().__init__(**tables)
        self.waiting: list[Deferred[None]] = []
        self.silent = True

    async def ipv4(self, host: str) -> Sequence[str]:
        if self.silent:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
        return await super().ipv4(host)


class GateTestCase(SmtpTestCase):
    """A listener with a gate."""

    def guarded(self, resolver: TablesResolver | None = None, listener: Mapping[str, Any] = {}, **config: Any) -> None:
        """Make the factory anew; C{config} is that of the gate."""
        self.events = MemoryEvents()
        self.resolver = resolver or self.zone()
        self.config = Config(
            home=self.mktemp(),
            server=ServerConfig(hostname="mx.example.org"),
            channels={kind: ChannelConfig(name=kind, kind=kind) for kind in ("local", "hold", "bitbucket")},
            trust=TrustConfig(networks=("192.0.2.0/24",)),
            **config,
        )
        self.gate = Gate(self.clock, self.config, {}, self.resolver, self.events, maybeDeferred)
        self.addCleanup(self.gate.thd_close)
        self.factory = self.factory_with(listener, trust=self.config.trust, gate=self.gate)

    def zone(self) -> TablesResolver:
        return TablesResolver(
            mx={"example.net": [(10, "mx.example.net")], "null.example": [(0, "")]},
            addresses={
                "66.113.0.203.bad.example": ["127.0.0.2"],
                "77.113.0.203.bad.example": ["127.0.0.2"],
                "77.113.0.203.good.example": ["127.0.0.3"],
                "9.100.51.198.bad.example": ["127.255.255.254"],
                "host.example.net": [STRANGER],
                "plain.example": ["192.0.2.77"],
            },
            reverse={STRANGER: "host.example.net", LISTED: "host.example.net"},
            broken=("broken.example", "9.9.9.9.bad.example"),
        )

    def said(self, octets: bytes, ip: str = STRANGER) -> list[str]:
        """The replies behind the greeting, whole."""
        transport = self.connect(ip)
        transport.clear()
        transport.session.dataReceived(octets)
        return [line.decode() for line in transport.value().splitlines() if line[3:4] == b" "]

    def last(self, octets: bytes, ip: str = STRANGER) -> str:
        return self.said(octets, ip)[-1]


class AccessTests(GateTestCase):
    """The tables."""

    def test_connections_are_refused_by_network(self) -> None:
        self.guarded(
            port_access=(
                rule("accept", client=(STRANGER,)),
                rule("reject", client=("198.51.100.0/24",), text="Go away"),
                rule("defer", client=("203.0.113.0/24",)),
            )
        )
        self.assertTrue(self.connect().value().startswith(b"220"))
        other = self.connect("198.51.100.10")
        self.assertEqual((other.value(), other.disconnecting), (b"554 5.7.1 Go away\r\n", True))
        self.assertTrue(self.connect("203.0.113.1").value().startswith(b"421 4.7.1"))
        self.assertEqual(self.records(Action.REFUSED)[0].diagnostic, "554 5.7.1 Go away")

    def test_senders_are_refused_at_mail(self) -> None:
        self.guarded(from_access=(rule("reject", sender=("example.net",), helo=("client.*",), text="Not you"),))
        self.assertEqual(self.said(HELLO + MAIL)[1:], ["550 5.7.1 Not you"])
        self.assertEqual(self.last(b"EHLO other.example\r\n" + MAIL)[:3], "250")
        self.assertEqual([record.diagnostic for record in self.records(Action.BAD_COMMAND)], ["550 5.7.1 Not you"])

    def test_recipients_are_refused_with_a_record(self) -> None:
        self.guarded(send_access=(rule("reject", source=("tcp_*",), recipient=("b@*",), text="Ask her", code="5.7.2"),))
        self.assertEqual(self.last(HELLO + MAIL + RCPT), "550 5.7.2 Ask her")
        (record,) = self.records(Action.REJECTED)
        self.assertEqual((record.original_to, record.diagnostic), ("b@example.org", "550 5.7.2 Ask her"))
        self.assertEqual(record.destination, "local")
        self.assertEqual(self.last(HELLO + MAIL + b"RCPT TO:<c@example.org>\r\n")[:3], "250")

    def test_trusted_clients_are_asked_about_too(self) -> None:
        self.guarded(mail_access=(rule("defer", recipient=("*@example.com",)),))
        self.assertEqual(self.last(HELLO + MAIL + b"RCPT TO:<out@example.com>\r\n", FRIEND)[:9], "450 4.7.1")

    def test_the_postmaster_has_an_address_here_too(self) -> None:
        self.router.now["postmaster@mx.example.org"] = self.router.now["b@example.org"]
        self.guarded(orig_send_access=(rule("reject", recipient=("postmaster@*",)),))
        self.assertEqual(self.last(HELLO + MAIL + b"RCPT TO:<postmaster>\r\n")[:3], "550")

    def test_no_rule_opens_a_relay(self) -> None:
        everything = (rule("accept"),)
        self.guarded(
            port_access=everything,
            from_access=everything,
            orig_send_access=everything,
            send_access=everything,
            mail_access=everything,
        )
        self.assertEqual(self.last(HELLO + MAIL + b"RCPT TO:<out@example.com>\r\n"), "550 5.7.1 Relaying denied")

    def test_mail_is_held_or_discarded_for_some(self) -> None:
        self.guarded(
            mail_access=(rule("hold", recipient=("b@*",)), rule("discard", recipient=("c@*",), sender=("<>", "a@*"))),
        )
        transport = self.ready_at()
        octets = MAIL + RCPT + b"RCPT TO:<c@example.org>\r\nDATA\r\n" + CONTENT + b".\r\n"
        self.assertEqual(self.ask(transport, octets), ["250", "250", "250", "354", "250"])
        found = [(each.address, each.channel) for each in self.queue.messages[0].envelope.recipients]
        self.assertEqual(found, [("b@example.org", "hold"), ("c@example.org", "bitbucket")])

    def test_tags_are_seen_by_later_tables_and_go_on_top(self) -> None:
        self.guarded(
            port_access=(rule("tag", tag="odd", client=(STRANGER,)),),
            from_access=(rule("tag", tag="net", sender=("example.net",)),),
            mail_access=(rule("reject", tagged=("odd",), recipient=("c@*",)),),
        )
        transport = self.ready_at()
        octets = MAIL + b"RCPT TO:<c@example.org>\r\n" + RCPT + b"DATA\r\n" + CONTENT + b".\r\n"
        self.assertEqual(self.ask(transport, octets), ["250", "550", "250", "354", "250"])
        self.assertTrue(self.queue.messages[0].content.startswith(b"X-Qmailpy-Tags: odd, net\r\nReceived: "))

    def test_other_settings_are_taken_while_it_runs(self) -> None:
        self.guarded()
        self.gate.reconfigure(evolve(self.config, mail_access=(rule("reject"),)), {})
        self.assertEqual(self.last(HELLO + MAIL + RCPT)[:3], "550")

    def test_nothing_configured_costs_trusted_clients_nothing(self) -> None:
        self.guarded()
        self.assertIsNone(self.connect(FRIEND).session._visit)

    def ready_at(self, ip: str = STRANGER) -> LosableTransport:
        transport = self.connect(ip)
        self.ask(transport, HELLO)
        return transport


class LimitTests(GateTestCase):
    """[limits]."""

    def test_a_network_has_so_many_connections(self) -> None:
        self.guarded(limits=LimitsConfig(network_connections=2))
        there = [self.connect(f"198.51.100.{n}") for n in range(3)]
        self.assertEqual([each.value()[:10] for each in there[1:]], [b"220 mx.exa", b"421 4.7.28"])
        self.assertTrue(self.connect("198.51.101.1").value().startswith(b"220"))
        self.assertTrue(self.connect(FRIEND).value().startswith(b"220"))
        for each in there:
            each.lose()
        self.assertTrue(self.connect().value().startswith(b"220"))
        self.assertEqual(self.events.names, ["limit.broken"])

    def test_a_client_has_so_many_messages_and_recipients(self) -> None:
        self.guarded(limits=LimitsConfig(client_messages_per_hour=2, client_recipients_per_hour=3))
        octets = HELLO + MAIL + RCPT * 4 + b"RSET\r\n" + MAIL + b"RSET\r\n" + MAIL
        codes = [line[:10] for line in self.said(octets)[2:]]
        self.assertEqual([code[:3] for code in codes[:3]], ["250"] * 3)
        self.assertEqual(codes[3], "452 4.7.28")
        self.assertEqual(codes[-1], "450 4.7.28")
        self.assertEqual(self.said(HELLO + MAIL, "198.51.100.10")[-1][:3], "250")


class CheckTests(GateTestCase):
    """[checks] and [[dnslist]]."""

    bad = (DnsListConfig(zone="bad.example"), DnsListConfig(zone="good.example", weight=-5.0))

    def test_clients_on_a_list_are_refused_at_rcpt(self) -> None:
        self.guarded(dnslists=self.bad)
        said = self.said(HELLO + MAIL + RCPT, LISTED)
        self.assertEqual([line[:3] for line in said], ["250", "250", "550"])
        self.assertEqual(said[-1], f"550 5.7.1 {LISTED} is listed by bad.example")
        self.assertEqual(self.records(Action.REJECTED)[0].sender, "a@example.net")
        for ip in (WELCOME, STRANGER, "9.9.9.9", "2001:db8::1"):  # good too; an error code; broken; unknown
            self.assertEqual(self.last(HELLO + MAIL + RCPT, ip)[:3], "250", ip)
        self.assertEqual(self.gate.counts["dnslist"], 1)

    def test_a_list_may_only_mark(self) -> None:
        self.guarded(dnslists=self.bad, checks=ChecksConfig(lists_action="tag"))
        self.said(HELLO + MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n", LISTED)
        self.assertTrue(self.queue.messages[0].content.startswith(b"X-Qmailpy-Tags: dnslist\r\n"))

    def test_a_rule_spares_its_mail(self) -> None:
        self.guarded(dnslists=self.bad, mail_access=(rule("accept", recipient=("c@*",)),))
        said = self.said(HELLO + MAIL + b"RCPT TO:<c@example.org>\r\n" + RCPT, LISTED)
        self.assertEqual([line[:3] for line in said[2:]], ["250", "550"])

    def test_some_listeners_and_clients_are_not_looked_at(self) -> None:
        self.guarded(dnslists=self.bad, listener={"checks": False})
        self.assertEqual(self.last(HELLO + MAIL + RCPT, LISTED)[:3], "250")
        self.guarded(dnslists=self.bad)
        self.last(HELLO + MAIL + RCPT, FRIEND)
        self.assertEqual(self.resolver.asked, [])

    def test_silent_lists_hold_nobody_up_for_long(self) -> None:
        resolver = SilentResolver(addresses={"66.113.0.203.bad.example": ["127.0.0.2"]})
        self.guarded(resolver, dnslists=self.bad, checks=ChecksConfig(dns_timeout_s=3.0))
        transport = self.connect(LISTED)
        self.assertTrue(transport.value().startswith(b"220"))
        self.assertEqual(len(resolver.waiting), 2)  # at once, beside each other
        self.assertEqual(self.ask(transport, HELLO + MAIL + RCPT), ["250", "250"])
        transport.clear()
        self.clock.advance(2.9)
        self.assertEqual(self.codes(transport), [])
        self.clock.advance(0.2)
        self.assertEqual(self.codes(transport), ["250"])
        self.assertEqual(self.ask(transport, RCPT), ["250"])

    def test_an_answer_in_time_counts_while_another_is_missing(self) -> None:
        resolver = SilentResolver(addresses={"66.113.0.203.bad.example": ["127.0.0.2"]})
        self.guarded(resolver, dnslists=self.bad)
        transport = self.connect(LISTED)
        self.ask(transport, HELLO + MAIL + RCPT)
        transport.clear()
        resolver.waiting[0].callback(None)
        self.assertEqual(self.codes(transport), [])
        self.clock.advance(5.1)
        self.assertEqual(self.codes(transport), ["550"])

    def test_who_leaves_is_not_asked_about_any_more(self) -> None:
        resolver = SilentResolver()
        self.guarded(resolver, dnslists=self.bad)
        transport = self.connect(LISTED)
        self.ask(transport, HELLO + MAIL + RCPT)
        transport.lose()
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])
        self.assertEqual(len(self.gate.limits), 0)

    def test_names_in_hello(self) -> None:
        self.guarded(checks=ChecksConfig(helo_syntax="reject", helo_ours="tag", helo_literal="reject"))
        for helo, code in (
            ("client.example.net", "250"),
            ("client", "550"),
            (f"[{STRANGER}]", "250"),
            ("[192.0.2.1]", "550"),
            ("mx.example.org", "250"),
        ):
            self.assertEqual(self.last(f"EHLO {helo}\r\n".encode() + MAIL + RCPT)[:3], code, helo)
        self.assertEqual(self.last(b"EHLO client\r\n" + MAIL + RCPT, FRIEND)[:3], "250")
        self.assertEqual(self.gate.counts["helo_syntax"], 1)

    def test_names_of_addresses(self) -> None:
        for wanted, ip, code in (
            ("exists", STRANGER, "250"),
            ("exists", WELCOME, "550 5.7.25"),
            ("exists", LISTED, "250"),
            ("confirmed", STRANGER, "250"),
            ("confirmed", LISTED, "550 5.7.25"),
        ):
            self.guarded(checks=ChecksConfig(reverse_name=wanted))
            self.assertEqual(self.last(HELLO + MAIL + RCPT, ip)[: len(code)], code, (wanted, ip))

    def test_domains_of_senders(self) -> None:
        self.guarded(checks=ChecksConfig(sender_domain="reject"))
        for sender, code in (
            ("a@example.net", "250"),
            ("a@plain.example", "250"),
            ("a@nowhere.example", "550 5.1.8"),
            ("a@null.example", "550 5.7.27"),
            ("a@broken.example", "250"),
            ("a@[192.0.2.1]", "250"),
            ("", "250"),
        ):
            said = self.last(HELLO + f"MAIL FROM:<{sender}>\r\n".encode() + RCPT)
            self.assertEqual(said[: len(code)], code, sender)


class EagerTests(GateTestCase):
    """Clients that do not wait."""

    def test_who_talks_before_the_greeting_is_hung_up_on(self) -> None:
        self.guarded(checks=ChecksConfig(greet_delay_s=3.0))
        transport = self.connect()
        self.assertEqual(transport.value(), b"")
        transport.session.dataReceived(b"EHLO")
        self.assertEqual((transport.value()[:9], transport.disconnecting), (b"554 5.5.1", True))
        transport.lose()
        self.assertEqual(self.records(Action.CLOSED)[0].diagnostic[:9], "554 5.5.1")
        self.assertEqual(self.gate.counts["early_talkers"], 1)

    def test_who_waits_is_greeted(self) -> None:
        self.guarded(checks=ChecksConfig(greet_delay_s=3.0))
        transport = self.connect()
        self.clock.advance(3.0)
        self.assertTrue(transport.value().startswith(b"220"))
        self.assertEqual(self.ask(transport, HELLO + MAIL + RCPT), ["250", "250", "250"])
        self.assertTrue(self.connect(FRIEND).value().startswith(b"220"))

    def test_who_leaves_before_is_not(self) -> None:
        self.guarded(checks=ChecksConfig(greet_delay_s=3.0))
        transport = self.connect()
        transport.lose()
        self.clock.advance(5.0)
        self.assertEqual(transport.value(), b"")
        stopped = self.connect()
        self.factory.drain(1.0)
        self.clock.advance(5.0)
        self.assertEqual(stopped.value()[:9], b"421 4.3.2")
        self.assertEqual(stopped.value().count(b"\r\n"), 1)

    def test_early_talk_may_only_mark(self) -> None:
        self.guarded(checks=ChecksConfig(greet_delay_s=3.0, early_talkers="tag"))
        transport = self.connect()
        codes = self.ask(transport, HELLO + MAIL + RCPT + b"DATA\r\n" + CONTENT + b".\r\n")
        self.assertEqual(codes, ["220", "250", "250", "250", "354", "250"])
        self.assertTrue(self.queue.messages[0].content.startswith(b"X-Qmailpy-Tags: early-talker\r\n"))

    def test_pipelining_before_it_is_allowed(self) -> None:
        self.guarded(checks=ChecksConfig(pipelining="reject"))
        self.assertEqual(self.last(HELLO + MAIL + RCPT)[:9], "550 5.5.1")
        self.assertEqual(self.last(b"HELO a.example\r\n" + MAIL + RCPT)[:9], "550 5.5.1")
        transport = self.connect()
        self.ask(transport, HELLO)
        self.assertEqual(self.ask(transport, MAIL + RCPT + b"DATA\r\n"), ["250", "250", "354"])
        slow = self.connect()
        said = [self.ask(slow, each) for each in (b"HELO a.example\r\n", MAIL, RCPT, b"DATA\r\n", CONTENT + b".\r\n")]
        self.assertEqual(said, [["250"], ["250"], ["250"], ["354"], ["250"]])


class GreylistTests(GateTestCase):
    """[greylist]."""

    def test_the_first_attempt_is_put_off(self) -> None:
        self.guarded(greylist=GreylistConfig(enabled=True), dnslists=CheckTests.bad)
        self.prepare()
        self.assertEqual(self.last(HELLO + MAIL + RCPT)[:9], "451 4.7.1")
        self.assertEqual(self.records(Action.REJECTED)[0].diagnostic[:9], "451 4.7.1")
        self.clock.advance(301)
        self.assertEqual(self.last(HELLO + MAIL + RCPT, "198.51.100.10")[:3], "250")  # of the same network
        self.assertEqual(self.last(HELLO + MAIL + b"RCPT TO:<bad@example.org>\r\n")[:3], "550")

    def test_friends_do_not_wait(self) -> None:
        self.guarded(
            greylist=GreylistConfig(enabled=True),
            dnslists=(DnsListConfig(zone="good.example", weight=-1.0),),
            mail_access=(rule("accept", sender=("b@*",)),),
        )
        self.prepare()
        self.assertEqual(self.last(HELLO + MAIL + RCPT, FRIEND)[:3], "250")
        self.assertEqual(self.last(HELLO + MAIL + RCPT, WELCOME)[:3], "250")
        self.assertEqual(self.last(HELLO + b"MAIL FROM:<b@example.net>\r\n" + RCPT)[:3], "250")
        self.assertEqual(self.last(HELLO + MAIL + RCPT, LISTED)[:3], "451")

    def prepare(self) -> None:
        import os

        os.makedirs(f"{self.config.home}/run")


class CrowdTests(GateTestCase):
    """Issue 3: 10,000 connections from one network, and clients that dawdle."""

    def test_ten_thousand_connections_of_a_network_leave_room_for_others(self) -> None:
        self.guarded(limits=LimitsConfig(network_connections=1000), listener={"connections_per_client": 100})
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        there = [self.connect(f"198.51.100.{number % 250}") for number in range(1000)]
        before, _ = tracemalloc.get_traced_memory()
        greeted = sum(each.value().startswith(b"220") for each in there)
        for number in range(9000):
            turned_away = self.connect(f"198.51.100.{number % 250}")
            greeted += turned_away.value().startswith(b"220")
            turned_away.lose()
        self.assertEqual(greeted, 1000)
        self.assertEqual(set(self.events.names), {"limit.broken"})
        self.recorder.records.clear()
        self.events.happenings.clear()
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 200_000)
        self.assertEqual(len(self.factory.site.sessions), 1000)
        self.assertEqual(self.last(HELLO + MAIL + RCPT, "203.0.113.1")[:3], "250")
        for each in there:
            each.lose()
        self.assertEqual((len(self.factory.site.sessions), len(self.gate.limits)), (1, 1))

    def test_an_octet_every_ten_seconds_ends_like_silence(self) -> None:
        self.guarded()
        transport = self.connect()
        for octet in (HELLO * 10).rstrip(b"\r\n").replace(b"\r\n", b" "):
            self.clock.advance(10)
            transport.session.dataReceived(bytes([octet]))
            if transport.disconnecting:
                break
        self.assertLessEqual(self.clock.seconds() - NOON, self.listener.command_timeout_s + 10)
        self.assertEqual(self.last(HELLO + MAIL + RCPT, "203.0.113.1")[:3], "250")
