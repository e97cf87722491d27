"""A real mail store behind us: Dovecot's LMTP server, on a port and on a UNIX socket; a reply for each recipient."""

from __future__ import annotations

from twisted.trial.unittest import SkipTest

from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import NodeCase, trace_and_message
from tests.integration.peers import dovecot_lmtp
from tests.integration.peers.client import message


class StoreCase(NodeCase):
    """All mail for store.example goes to the store."""

    fresh = True

    def relay(self) -> str:
        return f"127.0.0.1:{self.store.port}"

    def setUp(self) -> None:
        why = dovecot_lmtp.missing()
        if why:
            raise SkipTest(why)
        super().setUp()
        self.store = dovecot_lmtp.DovecotLmtp()
        self.addCleanup(self.store.stop)
        self.node.stop()
        settings = {"kind": "lmtp", "relay": self.relay(), "backoff": [1.0], "jitter": 0.0}
        self.node.set({f"channel.tcp_store.{key}": value for key, value in settings.items()})
        self.node.set({"rewrite": [{"pattern": "store.example", "channel": "tcp_store"}]})
        self.node.start()

    def mixed(self) -> None:
        """Two get it, one is full, one is nobody; the two are relayed to a store that tells of no deliveries."""
        with self.node.talk() as talk:
            talk.say("MAIL FROM:<alice@example.org>")
            for name in ("joe", "full", "nobody", "eve"):
                reply = talk.say(f"RCPT TO:<{name}@store.example> NOTIFY=SUCCESS,FAILURE")
                self.assertTrue(reply.startswith("250"), reply)
            self.assertTrue(talk.content(message("mixed", b"x" * 70 + b"\r\n")).startswith("250"))
        told = [trace_and_message(octets)[1] for octets in self.node.wait_mailbox("alice", 2)]
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("alice")), 2)
        [success] = [text for text in told if b"Action: relayed" in text]
        [failure] = [text for text in told if b"Action: failed" in text]
        for who, text, status in (
            (b"joe", success, b"Status: 2.0.0\n"),
            (b"eve", success, b"Status: 2.0.0\n"),
            (b"full", failure, b"Status: 5.2.2\n"),
            (b"nobody", failure, b"Status: 5.1.1\n"),
        ):
            about = text.partition(b"Final-Recipient: rfc822; " + who + b"@store.example\n")[2].partition(b"\n\n")[0]
            self.assertIn(status, about + b"\n", who)
        self.assertEqual(success.count(b"Final-Recipient"), 2)
        for name, count in (("joe", 1), ("eve", 1), ("full", 0)):
            self.assertEqual(len(self.store.mailbox(name)), count)
        delivered = [record for record in self.node.records(Action.DEQUEUED) if record.source == "tcp_store"]
        self.assertEqual([record.modifiers for record in delivered], ["L", "L"])


class TcpStore(StoreCase):
    def test_each_recipient_has_a_reply_of_its_own(self) -> None:
        """RFC 2033 s.4.2."""
        self.mixed()


class SocketStore(StoreCase):
    def relay(self) -> str:
        return f"unix:{self.store.socket}"

    def test_each_recipient_has_a_reply_of_its_own(self) -> None:
        self.mixed()
        [opened] = [record for record in self.node.records(Action.OPENED) if record.source == "tcp_store"]
        self.assertEqual((opened.transport, opened.application), ("UNIX", "LMTP/localhost"))

    def test_mail_waits_while_the_store_is_away(self) -> None:
        """A socket that nobody listens on, or that is not there, is trouble that passes."""
        path = self.store.socket
        self.store.stop()
        with self.node.talk() as talk:
            talk.mail("alice@example.org", ["joe@store.example"], message("later"))
        until(lambda: bool(self.node.records(Action.DEFERRED)), 20)
        [put_off, *_] = self.node.records(Action.DEFERRED)
        self.assertIn(f"UNIX active open: Failed connect() {path}  Error: ", put_off.diagnostic)
        self.assertEqual(self.node.mailbox("alice"), [])
