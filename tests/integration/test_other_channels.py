"""Channels that pass mail on, over the real daemon: reprocess and defragment, with their records and counters."""

from __future__ import annotations

from contextlib import ExitStack
from typing import ClassVar

from qmailpy.queue.ids import shard_of
from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import NodeCase, Settings, trace_and_message
from tests.integration.peers.client import message

PIECES = 8
ONE = (1, 1, 1)
THREE = (3, 3, 3)
DONE = {"received": ONE, "delivered": ONE, "first": 1, "timed": 1, "timed_first": 1}
TABLES = """
[[rewrite]]
pattern = "again.example"
channel = "reprocess"
address = "$U@example.org"

[[conversion]]
destination = "local"
partial = true
channel = "defragment"
"""


class WithTables(NodeCase):
    settings: ClassVar[Settings] = {"channel.defragment.backoff": [1.0], "channel.defragment.jitter": 0.0}

    def begin(self, node: object) -> None:
        self.node = node  # type: ignore[assignment]
        path = self.node.path("etc", "qmailpy.toml")
        with open(path) as source:
            text = source.read()
        with open(path, "w") as target:  # before the rule that fits everything
            at = text.index("\n[[rewrite]]")
            target.write(text[:at] + TABLES + text[at:])
        self.node.start()


class TwoWorkers(WithTables):
    settings: ClassVar[Settings] = {**WithTables.settings, "server.workers": 2}

    def test_pieces_that_two_workers_took_make_one_message(self) -> None:
        """Whichever took which; each in its shard until the whole has gone on."""
        shards: set[str] = set()
        sent = 0
        while len(shards) < 2:
            sent += 1
            self.assertLess(sent, 20)  # connections go to whoever is quicker
            shards |= self.send(f"x{sent}")
        self.wait_idle()
        for octets in self.node.wait_mailbox("alice", sent):
            content = trace_and_message(octets)[1]
            self.assertEqual(content.partition(b"\n\n")[2], b"".join(b"line %d\n" % number for number in range(1, 9)))
        self.assertEqual(len(self.node.mailbox("alice")), sent)
        counted = self.node.counters()["defragment"]
        self.assertEqual([counted["delivered"]["messages"], counted["submitted"]["messages"]], [PIECES * sent, sent])

    def send(self, name: str) -> set[str]:
        """The pieces of a message, all at once; the shards that have them."""
        start = len(self.node.records())
        with ExitStack() as stack:
            talks = [stack.enter_context(self.node.talk()) for _ in range(PIECES)]
            for number, talk in enumerate(talks, 1):
                value = f"Content-Type: message/partial; id={name}; total={PIECES}; number={number}\r\n"
                inner = "Subject: whole\r\n\r\n" if number == 1 else ""
                text = f"From: a@client.example\r\nSubject: piece\r\n{value}\r\n{inner}line {number}\r\n"
                reply = talk.mail("a@client.example", ["alice@example.org"], text.encode())
                self.assertTrue(reply.startswith("250"), reply)
        until(lambda: len(self.enqueued(start)) >= PIECES, 20)
        return {shard_of(queue_id) for queue_id in self.enqueued(start)}

    def enqueued(self, start: int) -> list[str]:
        found = self.node.records()[start:]
        return [
            one.file.id
            for one in found
            if one.action is Action.ENQUEUED and one.source == "tcp_local" and one.file is not None
        ]


class PassingOn(WithTables):
    def test_mail_is_routed_once_more(self) -> None:
        start = len(self.node.records())
        with self.node.talk() as talk:
            talk.mail("a@client.example", ["alice@again.example"], message("x", b"hello\r\n"))
        self.node.wait_mailbox("alice", 1)
        self.expect({"tcp_local": {"submitted": ONE, "in": 1}, "reprocess": {**DONE, "submitted": ONE}, "local": DONE})
        lines = [one for one in self.node.records()[start:] if one.action in (Action.ENQUEUED, Action.DEQUEUED)]
        self.assertEqual(
            [(one.source, one.destination, one.action.value) for one in lines],
            [
                ("tcp_local", "reprocess", "E"),
                ("reprocess", "local", "E"),
                ("reprocess", "", "D"),
                ("local", "", "D"),
            ],
        )

    def test_a_message_in_pieces_is_delivered_whole(self) -> None:
        bodies = {1: b"Subject: whole\r\n\r\none\r\n", 2: b"two\r\n", 3: b"three\r\n"}
        with self.node.talk() as talk:
            for number in (3, 1, 2):
                value = b"Content-Type: message/partial; id=x; total=3; number=%d\r\n" % number
                content = b"From: a@client.example\r\nSubject: piece\r\n" + value + b"\r\n" + bodies[number]
                reply = talk.mail("a@client.example", ["alice@example.org"], content)
                self.assertTrue(reply.startswith("250"), reply)
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertEqual(trace_and_message(octets)[1], b"From: a@client.example\nSubject: whole\n\none\ntwo\nthree\n")
        self.wait_idle()
        # The piece that was the last leaves at its first attempt; the others were tried before.
        counted = self.node.counters()
        found = counted["defragment"]
        for event, numbers in (("received", THREE), ("delivered", THREE), ("submitted", ONE), ("stored", (0, 0, 0))):
            self.assertEqual(tuple(found[event][unit] for unit in ("messages", "recipients", "blocks")), numbers)
        self.assertEqual(found["delivered"]["first_time_messages"], 1)
        self.assertGreaterEqual(found["attempted"]["messages"], 2)
