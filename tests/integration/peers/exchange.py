"""What any other mail server does with us in the same way: it passes mail on to us, or is given all that leaves us."""

from __future__ import annotations

from collections.abc import Iterable

from tests.integration.node import NodeCase, trace_and_message, without_received
from tests.integration.peers.client import Talk
from tests.integration.peers.postfix import MESSAGES, kind

UTF8 = "Subject: Grüße\r\nFrom: <пример@client.example>\r\n\r\ntext\r\n".encode()


def our_part(octets: bytes) -> bytes:
    """Of a message that the other has put fields before: what it got from the other side, line ends as they are."""
    marker = octets.index(b"From: <a@client.example>")
    return octets[marker:]


def by_subject(messages: Iterable[bytes]) -> dict[str, bytes]:
    """L{our_part} of each, by its subject, which is its name in L{MESSAGES}."""
    parts = map(our_part, messages)
    return {part.partition(b"Subject: ")[2].partition(b"\n")[0].strip().decode(): part for part in parts}


def whole(names: Iterable[str], end: bytes = b"\r\n") -> dict[str, bytes]:
    """What is to arrive of these L{MESSAGES}."""
    return {name: kind(name).replace(b"\r\n", end) for name in names}


class Sends(NodeCase):
    """The other passes on to us what we hand to it: to mailboxes here, or on to the sink."""

    def passes_on(self, port: int, names: Iterable[str] = MESSAGES) -> None:
        """Each to a mailbox and, through us, to the sink, octet for octet."""
        names = list(names)
        with Talk(port) as talk:
            for name in names:
                reply = talk.mail("a@client.example", ["alice@example.org", "x@remote.example"], kind(name))
                self.assertTrue(reply.startswith("250"), reply)
        delivered = [trace_and_message(octets)[1] for octets in self.node.wait_mailbox("alice", len(names))]
        self.assertEqual(by_subject(delivered), whole(names, b"\n"))
        relayed = [without_received(mail.content) for mail in self.sink.wait_mails(len(names))]
        self.assertEqual(by_subject(relayed), whole(names))
        self.wait_idle()

    def passes_on_utf8(self, port: int) -> None:
        """SMTPUTF8 in, SMTPUTF8 out, and to us (RFC 6531)."""
        with Talk(port) as talk:
            talk.say("MAIL FROM:<пример@client.example> SMTPUTF8")
            talk.say("RCPT TO:<alice@example.org>")
            self.assertTrue(talk.content(UTF8).startswith("250"))
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertIn("Return-Path: <пример@client.example>".encode(), octets)
        self.assertIn("Subject: Grüße".encode(), octets)
        self.wait_idle()

    def asks_for_success(self, port: int) -> None:
        """RFC 3461 s.5.2: delivered here by us, relayed to the sink, which knows no DSN; ENVID and ORCPT come along."""
        with Talk(port) as talk:
            talk.say("EHLO client.example")
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


class Receives(NodeCase):
    """The other is the next hop of all our remote mail."""

    def relay_to(self, port: int) -> None:
        """A channel's relay is read at the start; the sink's port is what the other cannot have."""
        self.node.stop()
        self.node.set({"channel.tcp_local.relay": f"127.0.0.1:{port}"})
        self.node.start()

    def give(self, to: str, names: Iterable[str] = MESSAGES) -> None:
        """One connection, one after the other."""
        with self.node.talk() as talk:
            for name in names:
                reply = talk.mail("alice@example.org", [to], kind(name))
                self.assertTrue(reply.startswith("250"), reply)
