"""Forwards and quotas with the real daemon: what leaves, what comes back, what is refused at the door."""

from __future__ import annotations

from typing import ClassVar

from qmailpy.directory.accounts import Accounts
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from tests.integration.node import Node, NodeCase

MESSAGE = b"Subject: hi\r\n\r\nhi\r\n"


class DeliveryTests(NodeCase):
    users: ClassVar = ("alice", "bob", "full")

    def begin(self, node: Node) -> None:
        store = Store(store_path(node.home))
        try:
            accounts = Accounts(store, "o=qmailpy")
            accounts.thd_add_alias("info@example.org", ["alice@example.org", "ann@far.example", "eve@far.example"])
            accounts.thd_set_user("full@example.org", quota_octets=2000)
        finally:
            store.thd_close()
        node.start()

    def test_a_forward_has_a_sender_of_ours_whose_bounces_come_back(self) -> None:
        with self.node.talk() as talk:
            self.assertIn("queued", talk.mail("x@remote.example", ["info@example.org"], MESSAGE))
        self.node.wait_mailbox("alice", 1)
        [sent] = self.sink.wait_mails(1)
        self.assertEqual(sorted(sent.recipients), ["ann@far.example", "eve@far.example"])
        self.assertTrue(sent.sender.startswith("SRS0=") and sent.sender.endswith("=remote.example=x@example.org"))
        self.assertTrue(sent.content.startswith(b"Delivered-To: info@example.org\r\nReceived: "), sent.content)
        self.sink.forget()
        with self.node.talk(source="127.0.0.9") as talk:
            self.assertIn("queued", talk.mail("", [sent.sender], b"Subject: bounce\r\n\r\n"))
            self.assertTrue(talk.say("MAIL FROM:<>").startswith("250"))
            forged = sent.sender.replace("=x@", "=y@")
            self.assertTrue(talk.say(f"RCPT TO:<{forged}>").startswith("550 5.1.1"))
        [back] = self.sink.wait_mails(1)
        self.assertEqual((back.sender, back.recipients), ("", ["x@remote.example"]))
        self.wait_idle()

    def test_what_a_forward_has_passed_on_and_comes_back_ends(self) -> None:
        with self.node.talk() as talk:
            again = b"Delivered-To: info@example.org\r\n" + MESSAGE
            self.assertIn("queued", talk.mail("x@remote.example", ["info@example.org"], again))
        [notice] = self.sink.wait_mails(1)
        self.assertEqual(notice.recipients, ["x@remote.example"])
        self.assertEqual(notice.content.count(b"Status: 5.4.6"), 2)
        self.wait_idle()

    def test_a_full_mailbox_is_refused_at_the_door_and_its_user_warned(self) -> None:
        with self.node.talk() as talk:
            self.assertTrue(talk.say("MAIL FROM:<x@remote.example> SIZE=2001").startswith("250"))
            self.assertTrue(talk.say("RCPT TO:<full@example.org>").startswith("552 5.2.3"))
            talk.say("RSET")
            self.assertIn(
                "queued", talk.mail("x@remote.example", ["full@example.org"], MESSAGE + b"x" * 1650 + b"\r\n")
            )
            [first, warning] = self.node.wait_mailbox("full", 2)
            self.assertIn(b"\nSubject: Your mailbox is nearly full\n", warning if b"nearly" in warning else first)
            self.assertTrue(talk.say("MAIL FROM:<x@remote.example> SIZE=1000").startswith("250"))
            self.assertTrue(talk.say("RCPT TO:<full@example.org>").startswith("452 4.2.2"))
            talk.say("RSET")
            reply = talk.mail("x@remote.example", ["full@example.org"], MESSAGE + b"x" * 1000 + b"\r\n")
            self.assertTrue(reply.startswith("452 4.2.2"), reply)
            talk.say("RSET")
            self.node.empty("full")
            reply = talk.mail("x@remote.example", ["full@example.org"], MESSAGE + b"x" * 1000 + b"\r\n")
            self.assertIn("queued", reply)
        self.node.wait_mailbox("full", 1)
        self.wait_idle()
