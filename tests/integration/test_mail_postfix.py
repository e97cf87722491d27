"""A real Postfix before us and behind us: what it sends arrives, and what we send arrives, octet for octet."""

from __future__ import annotations

from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.peers.client import Talk
from tests.integration.peers.exchange import UTF8, Receives, Sends, by_subject, our_part, whole
from tests.integration.peers.postfix import MESSAGES, Postfix, kind


class PostfixSends(Sends):
    """All its mail goes to us: to mailboxes here, or on to the sink."""

    def setUp(self) -> None:
        super().setUp()
        self.postfix = Postfix(f"virtual_mailbox_domains =\ndefault_transport = smtp:[127.0.0.1]:{self.node.port}\n")
        self.addCleanup(self.postfix.close)

    def test_messages_of_several_kinds(self) -> None:
        """Each to a mailbox and, through us, to the sink: 8 bits, long lines, dots, blank lines, 1 MB."""
        self.passes_on(self.postfix.port)

    def test_fifty_recipients_of_one_message(self) -> None:
        """They come in one transaction and leave in one."""
        people = [f"u{number}@remote.example" for number in range(50)]
        with Talk(self.postfix.port) as talk:
            self.assertTrue(talk.mail("a@client.example", people, kind("dots")).startswith("250"))
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(sorted(mail.recipients), sorted(people))
        self.assertEqual(our_part(mail.content), kind("dots"))
        self.wait_idle()
        found = self.counted()["tcp_local"]["delivered"]
        before = self.before.get("tcp_local", {}).get("delivered", (0, 0, 0))
        self.assertEqual((found[0] - before[0], found[1] - before[1]), (1, 50))

    def test_a_user_who_is_not_there_comes_back_by_postfix(self) -> None:
        """It gets our 550 at RCPT and builds the notice itself; we have a J record and no message."""
        with Talk(self.postfix.port) as talk:
            talk.mail("a@client.example", ["nobody@example.org"], kind("plain"))
        (mail,) = self.sink.wait_mails(1)  # the notice, relayed by us
        self.assertEqual((mail.sender, mail.recipients), ("", ["a@client.example"]))
        self.assertIn(b"5.1.1", mail.content)
        (rejected,) = self.node.records(Action.REJECTED)[-1:]
        self.assertEqual(rejected.original_to, "nobody@example.org")
        self.wait_idle()

    def test_mail_with_addresses_in_utf8(self) -> None:
        self.passes_on_utf8(self.postfix.port)

    def test_success_is_asked_for_through_postfix_and_told_by_us(self) -> None:
        self.asks_for_success(self.postfix.port)


class PostfixReceives(Receives):
    """The next hop of all our remote mail is a Postfix with Maildirs."""

    postfix: ClassVar[Postfix]

    def setUp(self) -> None:
        super().setUp()
        self.postfix = Postfix("virtual_mailbox_domains = remote.example")  # type: ignore[misc]
        self.addCleanup(self.postfix.close)
        self.relay_to(self.postfix.port)

    def test_messages_of_several_kinds(self) -> None:
        """One connection, one after the other; an unknown domain is refused by it and comes back to alice."""
        self.give("x@remote.example")
        until(lambda: len(self.postfix.mailbox()) == len(MESSAGES), 20)
        self.assertEqual(by_subject(self.postfix.mailbox()), whole(MESSAGES, b"\n"))
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])
        (last,) = self.node.records(Action.DEQUEUED)[-1:]
        self.assertIn("250", last.diagnostic)
        self.assertIn("queued as", last.diagnostic)

    def test_addresses_in_utf8(self) -> None:
        """Postfix has SMTPUTF8: sender and header arrive as they are."""
        with self.node.talk() as talk:
            talk.say("EHLO client.example")
            talk.say("MAIL FROM:<пример@client.example> SMTPUTF8")
            talk.say("RCPT TO:<x@remote.example>")
            self.assertTrue(talk.content(UTF8).startswith("250"))
        until(lambda: len(self.postfix.mailbox()) == 1, 20)
        self.assertIn("<пример@client.example>".encode(), self.postfix.mailbox()[0])
        self.assertIn("Subject: Grüße".encode(), self.postfix.mailbox()[0])
        self.wait_idle()

    def test_postfix_takes_dsn_and_tells_of_success_itself(self) -> None:
        """One report and no second one by us; it names the recipient as the sender did."""
        with self.node.talk() as talk:
            talk.say("EHLO client.example")
            talk.say("MAIL FROM:<alice@remote.example> RET=HDRS ENVID=QQ314159")
            talk.say("RCPT TO:<x@remote.example> NOTIFY=SUCCESS ORCPT=rfc822;X@Remote.example")
            self.assertTrue(talk.content(kind("plain")).startswith("250"))
        until(lambda: len(self.postfix.mailbox()) == 2, 20)
        self.wait_idle()
        self.assertEqual(len(self.postfix.mailbox()), 2)
        [report] = [octets for octets in self.postfix.mailbox() if b"report-type=delivery-status" in octets]
        self.assertIn(b"Action: delivered", report)
        self.assertIn(b"Original-Envelope-Id: QQ314159", report)
        self.assertIn(b"Original-Recipient: rfc822;X@Remote.example", report)
