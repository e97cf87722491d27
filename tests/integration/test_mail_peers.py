"""Exim and OpenSMTPD before us and behind us: octet for octet, with what they can do beside plain SMTP."""

from __future__ import annotations

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import NodeCase, trace_and_message, without_received
from tests.integration.peers.client import Talk
from tests.integration.peers.exim import Exim
from tests.integration.peers.opensmtpd import OpenSmtpd
from tests.integration.peers.postfix import MESSAGES, kind
from tests.integration.test_mail_postfix import our_part

_UTF8 = "Subject: Grüße\r\nFrom: <пример@client.example>\r\n\r\ntext\r\n".encode()


def subject(text: bytes) -> str:
    return text.partition(b"Subject: ")[2].partition(b"\n")[0].strip().decode()


class _Sends(NodeCase):
    """Somebody else passes on to us what we hand to it."""

    def passes_on(self, port: int, names: list[str]) -> None:
        with Talk(port) as talk:
            for name in names:
                reply = talk.mail("a@client.example", ["alice@example.org", "x@remote.example"], kind(name))
                self.assertTrue(reply.startswith("250"), reply)
        have = [our_part(trace_and_message(octets)[1]) for octets in self.node.wait_mailbox("alice", len(names))]
        self.assertEqual(
            {subject(text): text for text in have}, {name: kind(name).replace(b"\r\n", b"\n") for name in names}
        )
        passed = [our_part(without_received(mail.content)) for mail in self.sink.wait_mails(len(names))]
        self.assertEqual({subject(text): text for text in passed}, {name: kind(name) for name in names})
        self.wait_idle()


class EximSends(_Sends):
    """With STARTTLS and BDAT."""

    def setUp(self) -> None:
        super().setUp()
        self.exim = Exim(self.node.port)
        self.addCleanup(self.exim.close)

    def test_messages_of_several_kinds(self) -> None:
        """Modifier S of each E record says that TLS was used, C that it came in chunks."""
        self.passes_on(self.exim.port, list(MESSAGES))
        arrived = [one for one in self.node.records(Action.ENQUEUED) if one.sender == "a@client.example"]
        self.assertTrue(all("S" in one.modifiers for one in arrived), arrived[-1])

    def test_mail_with_addresses_in_utf8(self) -> None:
        """SMTPUTF8 in, SMTPUTF8 out, and to us (RFC 6531)."""
        with Talk(self.exim.port) as talk:
            talk.say("MAIL FROM:<пример@client.example> SMTPUTF8")
            talk.say("RCPT TO:<alice@example.org>")
            self.assertTrue(talk.content(_UTF8).startswith("250"))
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertIn("Return-Path: <пример@client.example>".encode(), octets)

    def test_success_is_asked_for_through_exim_and_told_by_us(self) -> None:
        """RFC 3461 s.5.2: delivered here, relayed to the sink, which knows no DSN; ENVID and ORCPT come along."""
        with Talk(self.exim.port) as talk:
            talk.say("MAIL FROM:<alice@example.org> RET=HDRS ENVID=QQ314159")
            talk.say("RCPT TO:<bob@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@Example.ORG")
            talk.say("RCPT TO:<x@remote.example> NOTIFY=SUCCESS ORCPT=rfc822;x@remote.example")
            talk.say("RCPT TO:<y@remote.example> NOTIFY=NEVER")
            self.assertTrue(talk.content(kind("plain")).startswith("250"))
        told = [trace_and_message(octets)[1] for octets in self.node.wait_mailbox("alice", 2)]
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("alice")), 2)
        by_action = {text.partition(b"\nAction: ")[2].partition(b"\n")[0]: text for text in told}
        for action, wanted in (
            (b"delivered", b"Original-Recipient: rfc822; Bob@Example.ORG\nFinal-Recipient: rfc822; bob@example.org\n"),
            (b"relayed", b"Final-Recipient: rfc822; x@remote.example\n"),
        ):
            self.assertIn(wanted, by_action[action])
            self.assertIn(b"Original-Envelope-Id: QQ314159\n", by_action[action])
            self.assertEqual(by_action[action].count(b"Final-Recipient"), 1)

    def test_a_user_who_is_not_there_comes_back(self) -> None:
        """It is told at RCPT and builds the notice itself."""
        with Talk(self.exim.port) as talk:
            talk.mail("a@here.example", ["nobody@example.org"], kind("plain"))
        until(lambda: len(self.exim.mailbox()) == 1, 20)
        self.assertIn(b"5.1.1", self.exim.mailbox()[0])


class EximReceives(NodeCase):
    """Our next hop."""

    def setUp(self) -> None:
        super().setUp()
        self.exim = Exim()
        self.addCleanup(self.exim.close)
        self.node.stop()
        self.node.set({"channel.tcp_local.relay": f"127.0.0.1:{self.exim.port}"})
        self.node.start()

    def test_messages_of_several_kinds(self) -> None:
        """Over TLS, in chunks."""
        with self.node.talk() as talk:
            for name in MESSAGES:
                reply = talk.mail("alice@example.org", ["x@here.example"], kind(name))
                self.assertTrue(reply.startswith("250"), reply)
        until(lambda: len(self.exim.mailbox()) == len(MESSAGES), 20)
        found = {subject(text): our_part(text) for text in self.exim.mailbox()}
        for name in MESSAGES:
            self.assertEqual(found[name], kind(name).replace(b"\r\n", b"\n"), name)
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])
        last = self.node.records(Action.DEQUEUED)[-1]
        self.assertEqual(set("SC") - set(last.modifiers), set(), last)

    def test_addresses_in_utf8_and_wishes_for_reports(self) -> None:
        """Exim takes both over, and tells of success itself."""
        with self.node.talk() as talk:
            talk.say("EHLO client.example")
            talk.say("MAIL FROM:<пример@here.example> SMTPUTF8 ENVID=QQ314159")
            talk.say("RCPT TO:<x@here.example> NOTIFY=SUCCESS ORCPT=rfc822;X@here.example")
            self.assertTrue(talk.content(_UTF8).startswith("250"))
        until(lambda: len(self.exim.mailbox()) >= 2, 20)
        self.wait_idle()
        mails = self.exim.mailbox()
        self.assertEqual(len(mails), 2)
        (report,) = [one for one in mails if b"delivery-status" in one]
        self.assertIn(b"Action: delivered", report)
        self.assertIn(b"QQ314159", report)


class OpenSmtpdSends(_Sends):
    """With STARTTLS."""

    def setUp(self) -> None:
        super().setUp()
        self.smtpd = OpenSmtpd(self.node.port)
        self.addCleanup(self.smtpd.close)

    def test_messages_of_several_kinds(self) -> None:
        """All but the one whose lines it breaks."""
        self.passes_on(self.smtpd.port, [name for name in MESSAGES if name != "long"])
        last = self.node.records(Action.ENQUEUED)[-1]
        self.assertIn("S", last.modifiers)


class OpenSmtpdReceives(NodeCase):
    """Our next hop; what it got goes to the sink."""

    def setUp(self) -> None:
        super().setUp()
        self.smtpd = OpenSmtpd(self.sink.port, tls=False)
        self.addCleanup(self.smtpd.close)
        self.node.stop()
        self.node.set({"channel.tcp_local.relay": f"127.0.0.1:{self.smtpd.port}"})
        self.node.start()

    def test_messages_of_several_kinds(self) -> None:
        """
        Debian's package offers STARTTLS and cannot complete a handshake (it fails with OpenSSL 3): with tls = "may"
        each message gets there without, in the same attempt.
        """
        names = [name for name in MESSAGES if name != "long"]
        with self.node.talk() as talk:
            for name in names:
                reply = talk.mail("alice@example.org", ["x@remote.example"], kind(name))
                self.assertTrue(reply.startswith("250"), reply)
        found = [our_part(mail.content) for mail in self.sink.wait_mails(len(names))]
        self.assertEqual({subject(text): text for text in found}, {name: kind(name) for name in names})
        self.wait_idle()
        last = self.node.records(Action.DEQUEUED)[-1]
        self.assertNotIn("S", last.modifiers)
        assert last.file is not None
        self.assertEqual(last.file.attempts, 0)
