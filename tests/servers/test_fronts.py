"""Tests of sessions that have the queue run (ETRN), or are somebody else's (XCLIENT)."""

from __future__ import annotations

from typing import Any, ClassVar

from qmailpy.auth.logins import Logins
from qmailpy.records.record import Action
from qmailpy.servers.fronts import NOTHING, may_run
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.wire.smtp_events import QueueRun
from tests.servers.test_smtp import CONTENT, FRIEND, HELLO, MAIL, RCPT, STRANGER, LosableTransport, SmtpTestCase

PROXY = "203.0.113.77"


class FrontTestCase(SmtpTestCase):
    more: ClassVar[dict[str, Any]] = {}

    def make(self, **listener: Any) -> SmtpFactory:
        directory = MemoryDirectory(["example.org"], ["b@example.org"])
        self.flushed: list[str] = []
        logins = Logins(self.clock, directory)
        return self.factory_with(self.more | listener, logins=logins, directory=directory, flush=self.flush)

    async def flush(self, where: str) -> int:
        self.flushed.append(where)
        return 1


class EtrnTests(FrontTestCase):
    more: ClassVar[dict[str, Any]] = {"etrn": ("branch.example", ".lan.example")}

    def test_trusted_clients_have_their_mail_sent(self) -> None:
        transport = self.ready(FRIEND)
        self.assertEqual(self.ask(transport, b"ETRN branch.example\r\nETRN @lan.example\r\n"), ["250", "250"])
        self.assertEqual(self.flushed, ["branch.example", ".lan.example"])

    def test_not_for_other_domains_nor_for_strangers(self) -> None:
        self.assertEqual(self.ask(self.ready(FRIEND), b"ETRN example.com\r\n"), ["459"])
        self.assertEqual(self.ask(self.ready(STRANGER), b"ETRN branch.example\r\n"), ["459"])
        self.assertEqual(self.ask(self.ready(FRIEND, etrn=()), b"ETRN branch.example\r\n"), ["502"])
        self.assertEqual(self.flushed, [])

    def test_patterns(self) -> None:
        def ask(domain: str, below: bool, *patterns: str) -> bool:
            return may_run(patterns, QueueRun(domain, below))

        self.assertTrue(ask("a.example", False, "A.example"))
        self.assertFalse(ask("a.example", True, "a.example"))
        self.assertFalse(ask("a.example", False, ".a.example"))
        self.assertTrue(ask("x.a.example", False, ".a.example"))
        self.assertFalse(ask("xa.example", False, ".a.example"))
        self.assertTrue(ask("a.example", True, ".a.example"))
        self.assertTrue(ask("x.a.example", True, ".a.example"))
        self.assertTrue(ask("any.example", True, "."))
        self.assertFalse(ask("a.example", False))


class XclientTests(FrontTestCase):
    more: ClassVar[dict[str, Any]] = {"xclient": ("203.0.113.64/26",)}

    def claimed(self, claim: bytes) -> LosableTransport:
        transport = self.ready(PROXY)
        self.assertIn(b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT REVERSE_NAME", self.hello)
        self.assertEqual(self.ask(transport, b"XCLIENT " + claim + b"\r\n" + HELLO), ["220", "250"])
        return transport

    def ready(self, ip: str = STRANGER, **listener: Any) -> LosableTransport:
        transport = super().ready(ip, **listener)
        self.hello = transport.value().replace(b"250 ", b"250-")
        return transport

    def send(self, transport: LosableTransport, to: bytes = RCPT) -> list[str]:
        return self.ask(transport, MAIL + to + b"DATA\r\n") + self.ask(transport, CONTENT + b".\r\n")

    def test_the_client_is_who_the_front_says(self) -> None:
        """In trace, envelope and records."""
        transport = self.claimed(
            b"NAME=relay.example.net ADDR=198.51.100.9 PORT=1111 HELO=spike PROTO=ESMTP "
            b"DESTADDR=203.0.113.2 DESTPORT=26"
        )
        self.assertEqual(self.send(transport), ["250", "250", "354", "250"])
        [message] = self.queue.messages
        self.assertEqual(message.envelope.source_system, "spike (relay.example.net [198.51.100.9])")
        self.assertIn(b"from spike (relay.example.net [198.51.100.9])", message.content.replace(b"\r\n\t", b" "))
        self.assertEqual(
            [record.transport for record in self.records(Action.OPENED)],
            ["TCP|203.0.113.1|25|203.0.113.77|4321", "TCP|203.0.113.2|26|198.51.100.9|1111"],
        )
        self.assertEqual(
            [record.transport for record in self.records(Action.CLOSED)], ["TCP|203.0.113.1|25|203.0.113.77|4321"]
        )
        transport.lose()
        self.assertEqual(len(self.factory.site.counts), 0)

    def test_its_rights_are_the_clients(self) -> None:
        """Trust comes with the address, a login with LOGIN; an address that is not known has none."""
        away = b"RCPT TO:<out@example.com>\r\n"
        for claim, codes in (
            (b"ADDR=198.51.100.9", ["250", "550"]),
            (b"ADDR=[UNAVAILABLE]", ["250", "550"]),
            (b"ADDR=192.0.2.4", ["250", "250"]),
        ):
            self.assertEqual(self.ask(self.claimed(claim), MAIL + away), codes, claim)
        logged_in = self.claimed(b"ADDR=198.51.100.9 LOGIN=b@example.org")
        self.assertEqual(self.ask(logged_in, b"MAIL FROM:<b@example.org>\r\n" + away), ["250", "250"])
        self.assertEqual(self.ask(logged_in, b"RSET\r\n" + MAIL), ["250", "553"])

    def test_who_is_behind_a_front_is_none(self) -> None:
        """Proxies pass on whatever their clients say: with a second XCLIENT anybody could be anybody, and relay."""
        transport = self.claimed(b"ADDR=198.51.100.9")
        self.assertNotIn(b"XCLIENT", transport.value().partition(b"220 ")[2])
        away = b"RCPT TO:<out@example.com>\r\n"
        for claim in (b"ADDR=192.0.2.4", b"LOGIN=b@example.org"):
            self.assertEqual(self.ask(transport, b"XCLIENT " + claim + b"\r\n"), ["550"])
        self.assertEqual(self.ask(transport, MAIL + away), ["250", "550"])

    def test_it_may_tell_in_several_commands_the_address_last(self) -> None:
        """Or name another front, which goes on."""
        transport = self.claimed(b"LOGIN=b@example.org")
        self.assertEqual(self.ask(transport, b"XCLIENT ADDR=203.0.113.78 HELO=next\r\n"), ["220"])
        self.assertEqual(self.ask(transport, b"XCLIENT ADDR=198.51.100.9\r\n"), ["220"])
        self.assertEqual(self.ask(transport, b"XCLIENT ADDR=198.51.100.9\r\n"), ["550"])

    def test_a_front_on_this_machine_does_not_make_its_clients_near(self) -> None:
        """plain_auth is for those who are."""
        for client, near in ((b"198.51.100.9", False), (b"127.0.0.1", True)):
            transport = self.ready("127.0.0.1", plain_auth=True, auth="offered", xclient=("127.0.0.0/8",))
            self.assertIn(b"AUTH ", self.hello)
            self.ask(transport, b"XCLIENT ADDR=" + client + b"\r\n" + HELLO)
            self.assertEqual(b"AUTH " in transport.value(), near)

    def test_it_is_believed_from_named_networks_alone(self) -> None:
        """Not even from trusted clients."""
        for ip in (STRANGER, FRIEND):
            transport = self.ready(ip)
            self.assertNotIn(b"XCLIENT", self.hello)
            self.assertEqual(self.ask(transport, b"XCLIENT ADDR=192.0.2.4\r\n"), ["550"])

    def test_limits_count_for_the_client(self) -> None:
        factory = self.make(connections_per_client=1)
        first, second = self.connect(PROXY, factory), self.connect("203.0.113.78", factory)
        self.assertEqual(self.ask(first, b"XCLIENT ADDR=198.51.100.9\r\n"), ["220"])
        self.assertEqual(self.ask(second, b"XCLIENT ADDR=198.51.100.9\r\n"), ["421"])
        self.assertTrue(second.disconnecting)

    def test_what_is_not_told_stays(self) -> None:
        told = NOTHING.told({"NAME": "x.example", "HELO": "x"}).told({"HELO": "", "REVERSE_NAME": ""})
        self.assertEqual((told.name, told.helo, told.extended), ("", "", None))
        self.assertEqual(NOTHING.told({"NAME": "x.example", "REVERSE_NAME": ""}).name, "x.example")
