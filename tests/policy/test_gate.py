"""The gate asked directly: users, aliases, what is kept and let go of."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import (
    AccessConfig,
    ChannelConfig,
    ChecksConfig,
    Config,
    DnsListConfig,
    LimitsConfig,
    ListenerConfig,
    ServerConfig,
)
from qmailpy.policy.gate import Gate
from qmailpy.policy.ruling import Ruling
from qmailpy.policy.visit import Visit
from qmailpy.policy.visitors import DnsList
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Recipient

IP, USER = "198.51.100.9", "joe@example.org"
LISTENER = ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25")


def to(address: str, channel: str = "local") -> Recipient:
    return Recipient(address=address, original=address, channel=channel)


class GateTests(SynchronousTestCase):
    """L{Gate}."""

    def make(self, **config: Any) -> Gate:
        self.config = Config(
            home="/nowhere",
            server=ServerConfig(hostname="mx.example.org"),
            channels={kind: ChannelConfig(name=kind, kind=kind) for kind in ("local", "hold", "bitbucket")},
            **config,
        )
        self.events = MemoryEvents()
        resolver = TablesResolver(addresses={"9.100.51.198.bad.example": ["127.0.0.2"]})
        return Gate(Clock(), self.config, {}, resolver, self.events, maybeDeferred)

    def arrived(self, gate: Gate, ip: str = IP) -> Visit:
        visit, refusal = gate.arrive(LISTENER, ip, "203.0.113.1", trusted=False)
        self.assertIsNone(refusal)
        assert visit is not None
        return visit

    def ruling(self, gate: Gate, visit: Visit, named: str, *recipients: Recipient) -> Ruling:
        found = gate.rcpt(visit, named, recipients or (to(named),))
        return found if isinstance(found, Ruling) else self.successResultOf(found)

    def test_users_are_not_looked_at_as_strangers_are(self) -> None:
        gate = self.make(dnslists=(DnsListConfig(zone="bad.example"),), checks=ChecksConfig(helo_syntax="reject"))
        visit = self.arrived(gate)
        for user, refused in ((USER, False), ("", True)):
            gate.mail(visit, "laptop", user, USER)
            self.assertEqual(self.ruling(gate, visit, "b@example.org").reply is not None, refused)

    def test_a_plan_says_how_many_recipients_a_user_has_a_day(self) -> None:
        gate = self.make()
        visit = self.arrived(gate)
        gate.logged_in(visit, USER, 2)
        gate.mail(visit, "x.example", USER, USER)
        said = [self.ruling(gate, visit, f"{n}@example.com").reply for n in range(3)]
        self.assertEqual([str(reply)[:10] for reply in said], ["None", "None", "450 4.7.28"])
        self.assertEqual(self.events.happenings, [("limit.broken", {"who": USER, "limit": "sends_a_day", "most": 2})])

    def test_connections_of_a_user_are_let_go_of(self) -> None:
        gate = self.make(limits=LimitsConfig(user_connections=1))
        first, second = self.arrived(gate), self.arrived(gate)
        self.assertIsNone(gate.logged_in(first, USER, 0))
        self.assertEqual(str(gate.logged_in(second, USER, 0))[:10], "421 4.7.28")
        gate.leave(second)
        gate.logged_out(first)  # TLS begins
        gate.leave(first)
        gate.leave(first)
        self.assertIsNone(gate.logged_in(self.arrived(gate), USER, 0))

    def test_what_is_said_of_one_of_an_alias_is_for_that_one(self) -> None:
        gate = self.make(
            send_access=(
                AccessConfig(action="hold", recipient=("b@*",)),
                AccessConfig(action="reject", recipient=("evil@*",)),
            )
        )
        visit = self.arrived(gate)
        gate.mail(visit, "x.example", "", "a@example.net")
        some = (to("a@example.org"), to("b@example.org"), to("c@example.org"))
        found = self.ruling(gate, visit, "all@example.org", *some)
        self.assertEqual([each.channel for each in found.recipients], ["local", "hold", "local"])
        found = self.ruling(gate, visit, "all@example.org", to("evil@example.org"), *some)
        self.assertEqual((str(found.reply)[:9], found.recipients), ("550 5.7.1", ()))

    def test_a_sender_may_be_held_for_all(self) -> None:
        gate = self.make(from_access=(AccessConfig(action="discard", sender=("a@*",)),))
        visit = self.arrived(gate)
        gate.mail(visit, "x.example", "", "a@example.net")
        found = self.ruling(gate, visit, "all@example.org", to("a@example.org"), to("b@example.com", "tcp_local"))
        self.assertEqual([each.channel for each in found.recipients], ["bitbucket", "bitbucket"])

    def test_nothing_is_kept_of_the_message_before(self) -> None:
        gate = self.make(mail_access=(AccessConfig(action="reject", sender=("a@*",)),))
        visit = self.arrived(gate)
        gate.mail(visit, "x.example", "", "a@example.net")
        self.assertIsNotNone(visit.letter)
        gate.reconfigure(evolve(self.config, mail_access=()), {})
        gate.mail(visit, "x.example", "", "b@example.net")
        self.assertIsNone(visit.letter)

    def test_questions_to_lists_go_backwards(self) -> None:
        """RFC 5782 s.2.1 and s.2.4."""
        one = DnsList(DnsListConfig(zone="bad.example"))
        self.assertEqual(one.question("192.0.2.99"), "99.2.0.192.bad.example")
        nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
        self.assertEqual(one.question("2001:db8::1"), f"{nibbles}.bad.example")
        self.assertTrue(DnsList(DnsListConfig(zone="x", answers=("127.255.255.0/24",))).listed(["127.255.255.254"]))
        self.assertFalse(DnsList(DnsListConfig(zone="x", answers=("127.0.0.4/31",))).listed(["127.0.0.2"]))
