"""The real daemon and mail with a time of its own: held, wanted back, or asked for; and content that is no lines."""

from __future__ import annotations

import json
import time
from typing import ClassVar

from tests.integration.daemon_process import gone, until
from tests.integration.node import NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always

HELD_S = 3


class Times(NodeCase):
    settings: ClassVar[Settings] = {
        "listener.smtp.kind": "submission",
        "listener.smtp.auth": "none",
        "listener.smtp.etrn": ["far.example"],
        "server.workers": 2,
        "channel.tcp_local.backoff": [3600.0],
    }

    def say(self, parameters: str, to: str, content: bytes) -> str:
        """The reply to a message whose MAIL had these parameters."""
        with self.node.talk() as talk:
            talk.say(f"MAIL FROM:<alice@example.org> {parameters}")
            talk.say(f"RCPT TO:<{to}>")
            return talk.content(content)

    def test_held_mail_outlives_a_crash_and_goes_at_its_time(self) -> None:
        until_then = time.time() + HELD_S
        self.assertEqual(self.say(f"HOLDFOR={HELD_S}", "bob@example.org", message("held"))[:3], "250")
        shown = self.node.qmailpy("qm", "messages")
        self.assertIn("waiting until ", shown)
        found = json.loads(self.node.qmailpy("qm", "messages", "--json"))
        [entry] = [one for one in found if one["hold_until"]]
        self.assertLess(abs(entry["hold_until"] - until_then), HELD_S)
        old = [self.node.kill(f"mta-{index}") for index in (0, 1)]
        until(lambda: all(map(gone, old)))
        self.assertEqual(self.node.mailbox("bob"), [])
        self.node.wait_mailbox("bob", 1)
        self.assertGreaterEqual(time.time(), until_then - 0.5)

    def test_etrn_reaches_all_workers(self) -> None:
        """Whoever of them has the mail, and whoever is asked."""
        self.sink.answer = always("RCPT", "451 4.3.0 not now")
        for number in range(8):
            self.assertEqual(self.say("", "x@far.example", message(f"far {number}"))[:3], "250")
            self.assertEqual(self.say("", "x@other.example", message(f"other {number}"))[:3], "250")
        until(lambda: all(one["attempts"] for one in json.loads(self.node.qmailpy("qm", "messages", "--json"))))
        self.sink.answer = lambda _: None
        with self.node.talk() as talk:
            self.assertIn("ETRN", talk.say("EHLO client.example.net"))
            self.assertEqual(talk.say("ETRN other.example")[:3], "459")
            self.assertEqual(talk.say("ETRN far.example")[:3], "250")
        self.sink.wait_mails(8)
        self.assertEqual({mail.recipients[0] for mail in self.sink.mails}, {"x@far.example"})
        self.assertEqual(len(json.loads(self.node.qmailpy("qm", "messages", "--json"))), 8)

    def test_binary_content_for_a_mailbox(self) -> None:
        content = b"Content-Type: image/gif\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\n\r\xff"
        with self.node.talk() as talk:
            self.assertIn("BINARYMIME", talk.say("EHLO client.example.net"))
            talk.say("MAIL FROM:<alice@example.org> BODY=BINARYMIME")
            talk.say("RCPT TO:<alice@example.org>")
            talk.send(b"BDAT %d LAST\r\n" % len(content) + content)
            self.assertEqual(talk.reply()[:3], "250")
        [mail] = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"\nContent-Transfer-Encoding: base64\n\nAAoN/w==", mail)
