"""Exim and OpenSMTPD before us and behind us: octet for octet, with what they can do beside plain SMTP."""

from __future__ import annotations

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.peers.client import Talk
from tests.integration.peers.exchange import UTF8, Receives, Sends, by_subject, whole
from tests.integration.peers.exim import Exim
from tests.integration.peers.opensmtpd import OpenSmtpd
from tests.integration.peers.postfix import MESSAGES, kind


class EximSends(Sends):
    """With STARTTLS and BDAT."""

    def setUp(self) -> None:
        super().setUp()
        self.exim = Exim(self.node.port)
        self.addCleanup(self.exim.close)

    def test_messages_of_several_kinds(self) -> None:
        """Modifier S of each E record says that TLS was used, C that it came in chunks."""
        self.passes_on(self.exim.port)
        arrived = [one for one in self.node.records(Action.ENQUEUED) if one.sender == "a@client.example"]
        self.assertTrue(all("S" in one.modifiers for one in arrived), arrived[-1])

    def test_mail_with_addresses_in_utf8(self) -> None:
        self.passes_on_utf8(self.exim.port)

    def test_success_is_asked_for_through_exim_and_told_by_us(self) -> None:
        self.asks_for_success(self.exim.port)

    def test_a_user_who_is_not_there_comes_back(self) -> None:
        """It is told at RCPT and builds the notice itself."""
        with Talk(self.exim.port) as talk:
            talk.mail("a@here.example", ["nobody@example.org"], kind("plain"))
        until(lambda: len(self.exim.mailbox()) == 1, 20)
        self.assertIn(b"5.1.1", self.exim.mailbox()[0])


class EximReceives(Receives):
    """Our next hop."""

    def setUp(self) -> None:
        super().setUp()
        self.exim = Exim()
        self.addCleanup(self.exim.close)
        self.relay_to(self.exim.port)

    def test_messages_of_several_kinds(self) -> None:
        """Over TLS, in chunks."""
        self.give("x@here.example")
        until(lambda: len(self.exim.mailbox()) == len(MESSAGES), 20)
        self.assertEqual(by_subject(self.exim.mailbox()), whole(MESSAGES, b"\n"))
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
            self.assertTrue(talk.content(UTF8).startswith("250"))
        until(lambda: len(self.exim.mailbox()) >= 2, 20)
        self.wait_idle()
        mails = self.exim.mailbox()
        self.assertEqual(len(mails), 2)
        (report,) = [one for one in mails if b"delivery-status" in one]
        self.assertIn(b"Action: delivered", report)
        self.assertIn(b"QQ314159", report)


class OpenSmtpdSends(Sends):
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


class OpenSmtpdReceives(Receives):
    """Our next hop; what it got goes to the sink."""

    def setUp(self) -> None:
        super().setUp()
        self.smtpd = OpenSmtpd(self.sink.port, tls=False)
        self.addCleanup(self.smtpd.close)
        self.relay_to(self.smtpd.port)

    def test_messages_of_several_kinds(self) -> None:
        """
        Debian's package offers STARTTLS and cannot complete a handshake (it fails with OpenSSL 3): with tls = "may"
        each message gets there without, in the same attempt.
        """
        names = [name for name in MESSAGES if name != "long"]
        self.give("x@remote.example", names)
        self.assertEqual(by_subject(mail.content for mail in self.sink.wait_mails(len(names))), whole(names))
        self.wait_idle()
        last = self.node.records(Action.DEQUEUED)[-1]
        self.assertNotIn("S", last.modifiers)
        assert last.file is not None
        self.assertEqual(last.file.attempts, 0)
