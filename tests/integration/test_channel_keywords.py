"""Keys of channels on a whole node: what the peer is told, what is recorded and counted, and what the operator does."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import ClassVar

from qmailpy.config.load import load
from qmailpy.records.record import Action
from tests.integration.node import Node, NodeCase, Settings, grown
from tests.integration.peers.client import message

ALICE = "alice@example.org"


class KeywordNode(NodeCase):
    """One node: remote mail has limits, the partner's goes one by one."""

    settings: ClassVar[Settings] = {
        "channel.tcp_local.blocklimit": 5000,
        "channel.tcp_local.holdlimit": 3,
        "channel.tcp_local.maxreceived": 5,
        "channel.tcp_local.expandlimit": 2,
        "channel.tcp_local.logging": "brief",
        "channel.tcp_partner.kind": "smtp",
        "channel.tcp_partner.single": True,
    }

    def begin(self, node: Node) -> None:
        relay = load(node.home).channels["tcp_local"].relay
        node.set({"channel.tcp_partner.relay": ["127.0.0.1:1", relay]})  # at the first nobody listens
        rules = [
            {"pattern": "partner.example", "channel": "tcp_partner"},
            {"pattern": ".", "sender": ["*@special.example"], "channel": "tcp_partner"},
            {"pattern": "special.example", "direction": "from", "address": "$U@house.example"},
            {"pattern": ".", "channel": "tcp_local"},
        ]
        node.set({"rewrite": rules})
        node.qmailpy("alias", "add", "many@example.org", "alice@example.org", "bob@example.org", "x@remote.example")
        node.start()

    def send(self, *recipients: str, sender: str = ALICE, content: bytes = b"", size: int = 0) -> list[str]:
        with self.node.talk() as talk:
            replies = [talk.say(f"MAIL FROM:<{sender}>" + (f" SIZE={size}" if size else ""))]
            replies += [talk.say(f"RCPT TO:<{one}>") for one in recipients]
            if any(reply.startswith("250") for reply in replies[1:]):
                replies.append(talk.content(content or message("keyword")))
        return replies

    def test_a_message_too_large_is_refused_as_soon_as_it_is_known(self) -> None:
        """At RCPT by SIZE, J; behind the data without, J; another recipient gets it, and the sender a notice: R."""
        large = message("large", b"x" * 6000 + b"\r\n")
        replies = self.send("x@remote.example", "alice@example.org", size=6000, content=large)
        self.assertTrue(replies[1].startswith("552 5.3.4"), replies)
        self.assertTrue(replies[-1].startswith("250"), replies)
        replies = self.send("x@remote.example", content=large)
        self.assertTrue(replies[1].startswith("250") and replies[2].startswith("552 5.3.4"), replies)
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()
        rejected = [one for one in self.node.records(Action.REJECTED) if "5.3.4" in one.diagnostic]
        self.assertEqual([one.current_to for one in rejected], ["x@remote.example"] * 2)
        found = grown(self.before, self.counted())
        self.assertEqual((found["tcp_local"]["rejected"][0], found["tcp_local"]["submitted"][0]), (2, 1))
        self.assertNotIn("delivered", found["tcp_local"])

    def test_what_is_held_goes_when_the_operator_says_so(self) -> None:
        """holdlimit: E for each, then nothing; stored is what says so; D after qm release."""
        people = [f"u{number}@remote.example" for number in range(4)]
        self.send(*people)
        self.until(lambda: bool(json.loads(self.node.qmailpy("qm", "held", "--json"))))
        [held] = json.loads(self.node.qmailpy("qm", "held", "--json"))
        self.assertEqual(held["reason"], "4 recipients, more than the 3 of holdlimit")
        found = grown(self.before, self.counted())["tcp_local"]
        self.assertEqual(found["stored"], found["received"])
        self.assertIn("message.held", self.node.qmailpy("events"))
        self.assertEqual(self.sink.mails, [])
        self.node.qmailpy("qm", "release", held["id"])
        self.sink.wait_mails(1)
        self.wait_idle()
        self.assertEqual(sorted(self.sink.mails[0].recipients), people)

    def test_a_loop_is_held(self) -> None:
        trace = b"Received: from a by b; Thu, 1 Jan 2026 00:00:00 +0000\r\n" * 5  # and our own
        self.send("x@remote.example", content=trace + message("loop"))
        self.until(lambda: "6 Received fields" in self.node.qmailpy("qm", "held", "--json"))
        [held] = json.loads(self.node.qmailpy("qm", "held", "--json"))
        self.node.qmailpy("qm", "return", held["id"], "--yes")
        [notice] = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"returned by the operator", notice)
        self.wait_idle()

    def test_an_address_for_many_is_expanded_behind_the_door(self) -> None:
        """E to reprocess, and from there E for each; all of them get it."""
        self.send("many@example.org")
        self.node.wait_mailbox("alice", 1)
        self.node.wait_mailbox("bob", 1)
        self.sink.wait_mails(1)
        self.wait_idle()
        first = next(one for one in self.node.records(Action.ENQUEUED) if one.current_to == "many@example.org")
        self.assertEqual((first.source, first.destination), ("tcp_local", "reprocess"))
        after = [one for one in self.node.records(Action.ENQUEUED) if one.source == "reprocess"]
        self.assertEqual(
            sorted(one.current_to for one in after), ["alice@example.org", "bob@example.org", "x@remote.example"]
        )

    def test_single_and_the_second_relay_and_the_sender_s_other_name(self) -> None:
        """A transaction each; the dead relay is passed over in the same attempt: Y and no Q."""
        self.send("a@partner.example", "b@partner.example", sender="joe@special.example")
        self.send("c@elsewhere.example", sender="joe@special.example")
        mails = self.sink.wait_mails(3)
        self.assertEqual([len(one.recipients) for one in mails], [1, 1, 1])
        self.assertEqual({one.sender for one in mails}, {"joe@house.example"})
        self.wait_idle()
        records = [one for one in self.node.records() if one.source == "tcp_partner" and one.sender != ALICE]
        kinds = {one.action.value for one in records}
        self.assertTrue({"O", "Y", "D"} <= kinds and "Q" not in kinds, kinds)
        self.assertEqual({one.sender for one in records if one.action is Action.DEQUEUED}, {"joe@special.example"})

    def test_brief_logging_leaves_connections_out(self) -> None:
        self.send("x@remote.example")
        self.sink.wait_mails(1)
        self.wait_idle()
        found = [one for one in self.node.records() if one.source == "tcp_local" and one.direction == "-"]
        self.assertEqual([one for one in found if one.action.value in "OCY"], [])

    def test_limits_are_others_after_a_reload(self) -> None:
        path = self.node.path("etc", "qmailpy.toml")
        with open(path) as source:
            text = source.read()
        try:
            self.node.set({"channel.tcp_local.holdlimit": 1})
            os.kill(self.node.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
            self.node.wait_for("mta-0 has the new configuration")
            self.send("p@remote.example", "q@remote.example")
            self.until(lambda: "2 recipients" in self.node.qmailpy("qm", "held", "--json"))
            [held] = json.loads(self.node.qmailpy("qm", "held", "--json"))
            self.node.qmailpy("qm", "delete", held["id"], "--yes")
        finally:
            with open(path, "w") as target:
                target.write(text)
            os.kill(self.node.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
            self.node.wait_for("mta-0 has the new configuration", 2)

    def traced(self, *arguments: str) -> str:
        """Switch a trace on; the file of the mail worker."""
        found = json.loads(self.node.qmailpy("qm", "trace", "on", *arguments, "--json"))["files"]
        return str(next(file for file in found if "-mta-0" in file))

    def text(self, path: str) -> str:
        with open(path) as source:
            return source.read()

    def test_a_trace_of_a_channel_shows_what_is_said_to_its_hosts(self) -> None:
        """While the daemon runs, from the next message on; without the message; no more once it is off."""
        self.send("x@remote.example")
        self.sink.wait_mails(1)
        path = self.traced("tcp_local")
        self.send("y@remote.example", content=message("traced", b"very private\r\n"))
        self.sink.wait_mails(2)
        self.until(lambda: "octets of a message" in self.text(path))
        self.assertIn("C: MAIL FROM:<alice@example.org>", self.text(path))
        self.assertIn("C: RCPT TO:<y@remote.example>", self.text(path))
        self.assertNotIn("private", self.text(path))
        self.assertNotIn("x@remote.example", self.text(path))
        [one] = [one for one in json.loads(self.node.qmailpy("qm", "trace", "list", "--json")) if one["sessions"]]
        self.assertEqual((one["what"], one["file"]), ("tcp_local", path))
        self.assertIn("ended", self.node.qmailpy("qm", "trace", "off", "tcp_local"))
        self.assertIn("Nothing is traced", self.node.qmailpy("qm", "trace", "list"))
        size = len(self.text(path))
        self.send("z@remote.example")
        self.sink.wait_mails(3)
        self.assertEqual(len(self.text(path)), size)

    def test_a_trace_of_a_destination_and_of_one_session(self) -> None:
        path = self.traced("partner.example", "--sessions", "1", "--content")
        for recipient in ("x@remote.example", "x@partner.example"):
            self.send(recipient, content=message("seen"))
        self.sink.wait_mails(2)
        self.until(lambda: "Subject: seen" in self.text(path))
        self.assertNotIn("remote.example", self.text(path))
        self.node.qmailpy("qm", "trace", "off")

    def test_a_trace_of_a_listener_shows_what_its_clients_say(self) -> None:
        path = self.traced("listener:smtp", "--client", "127.0.0.1")
        with self.node.talk() as talk:
            talk.say("AUTH PLAIN AGpvZQBwZW5jaWw=")
            talk.say("NOOP trace")
        self.until(lambda: "closed" in self.text(path))
        self.assertIn("C: AUTH PLAIN ***", self.text(path))
        self.assertIn("C: NOOP trace", self.text(path))
        self.assertNotIn("AGpvZQ", self.text(path))
        self.node.qmailpy("qm", "trace", "off", "listener:smtp")

    def test_what_cannot_be_traced_is_told(self) -> None:
        for what, words in (
            ("tcp_locl", "did you mean"),
            ("listener:smpt", "did you mean"),
            ("smtp", "listener:smtp"),
        ):
            self.assertIn(words, self.node.qmailpy("qm", "trace", "on", what, status=1))

    def test_a_trace_of_pop3_shows_no_password(self) -> None:
        files = json.loads(self.node.qmailpy("qm", "trace", "on", "listener:pop3", "--json"))["files"]
        [path] = [file for file in files if "-access-0" in file]
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(self.node.path("run", "pop3.sock"))
            client.sendall(b"USER alice@example.org\r\nPASS pencil\r\nQUIT\r\n")
            while client.recv(4096):
                pass
        self.until(lambda: "closed" in self.text(path))
        self.assertIn("C: USER alice@example.org", self.text(path))
        self.assertIn("C: PASS ***", self.text(path))
        self.assertNotIn("pencil", self.text(path))
        self.node.qmailpy("qm", "trace", "off")
