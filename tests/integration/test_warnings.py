"""The real daemon and senders who are told that their mail waits, by its age alone."""

from __future__ import annotations

import json
import time
from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import NodeCase, Settings
from tests.integration.peers.client import message

AGES_S = (1.0, 2.5)


class Warnings(NodeCase):
    settings: ClassVar[Settings] = {
        "listener.smtp.kind": "submission",
        "listener.smtp.auth": "none",
        "queue.warn_s": list(AGES_S),
    }

    def test_mail_of_a_stopped_channel_is_warned_of_and_kept(self) -> None:
        """Until the channel goes on."""
        self.node.qmailpy("qm", "stop", "tcp_local")
        began = time.time()
        with self.node.talk() as talk:
            talk.say("MAIL FROM:<alice@example.org>")
            talk.say("RCPT TO:<x@far.example>")
            self.assertEqual(talk.content(message("waits"))[:3], "250")
        self.node.wait_mailbox("alice", 1)
        self.assertGreaterEqual(time.time(), began + AGES_S[0])
        self.node.wait_mailbox("alice", 2)
        self.assertGreaterEqual(time.time(), began + AGES_S[1])
        for notice in self.node.mailbox("alice"):
            self.assertIn(b"delivery is suspended", notice)
            self.assertIn(b"Action: delayed", notice)
            self.assertNotIn(b"Last-Attempt-Date", notice)
        until(lambda: len(self.node.records(Action.WARNED)) == 2)
        [entry] = json.loads(self.node.qmailpy("qm", "messages", "--json"))
        self.assertIn("Channel tcp_local is stopped", self.node.qmailpy("qm", "why", entry["id"]))
        self.node.qmailpy("qm", "start", "tcp_local")
        self.sink.wait_mails(1)
        self.wait_idle()
        self.assertEqual((len(self.node.records(Action.WARNED)), len(self.node.records(Action.FAILED))), (2, 0))
        self.assertEqual(len(self.node.mailbox("alice")), 2)
