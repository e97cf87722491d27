"""The channel counters of mission s.4 over the real daemon, with exact numbers."""

from __future__ import annotations

import json
import os
import signal
from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.node import Node, NodeCase, Settings, flat, grown
from tests.integration.peers.client import message
from tests.integration.peers.sink import always, first

ONE = (1, 1, 1)  # a message, a recipient, a block
NOTHING_SENT = (1, 1, 0)  # refused at RCPT: no octets of the message had gone out


class Counters(NodeCase):
    """One connection a message to the next hop, so that associations are exact; only 127.0.0.2 may relay."""

    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.2/32"],
        "channel.tcp_local.messages_per_connection": 1,
        "bounce.copy_postmaster": True,
    }

    def send(self, *recipients: str, sender: str = "a@client.example", octets: int = 0) -> None:
        content = message("counted", b"x" * 60 + b"\r\n" if not octets else (b"y" * 62 + b"\r\n") * (octets // 64))
        with self.node.talk(source="127.0.0.2") as talk:
            reply = talk.mail(sender, recipients, content)
            self.assertTrue(reply.startswith("250"), reply)

    def test_two_recipients_on_two_channels_are_two_enqueues_of_one_message(self) -> None:
        """C1, C4, C7, C8: the server half submits, the client half receives and delivers."""
        self.send("alice@example.org", "x@remote.example")
        done = {"received": ONE, "delivered": ONE, "first": 1, "timed": 1, "timed_first": 1}
        self.expect({"tcp_local": {**done, "submitted": (2, 2, 2), "in": 1, "out": 1}, "local": done})

    def test_recipients_on_one_channel_are_one_enqueue(self) -> None:
        """C4: messages, recipients and blocks are three different things."""
        self.send("alice@example.org", "bob@example.org", octets=5000)
        self.node.wait_mailbox("bob", 1)
        record = self.node.records(Action.ENQUEUED)[-1]
        self.assertEqual(record.size_octets % 1024, 0)
        size = record.size_octets // 1024
        self.assertEqual(size, 6)  # 5,000 octets, their header and our Received field
        many = (1, 2, size)
        done = {"received": many, "delivered": many, "first": 1, "timed": 1, "timed_first": 1}
        self.expect({"tcp_local": {"submitted": many, "in": 1}, "local": done})

    def test_a_bounce_with_a_copy_to_postmaster_is_two_submitted(self) -> None:
        """C7: one dequeue, more enqueues. C8: C{process} is passed through."""
        self.sink.answer = always("RCPT", "550 5.1.1 unknown")
        self.send("gone@remote.example", sender="alice@example.org")
        self.node.wait_mailbox("alice", 1)
        self.node.wait_mailbox("postmaster", 1)
        self.wait_idle()
        notice = [one for one in self.node.records(Action.ENQUEUED) if one.destination == "process"][-1]
        size = notice.size_octets // 1024
        two, twice = (1, 2, size), (2, 2, 2 * size)
        done = {"received": two, "delivered": two, "first": 1, "timed": 1, "timed_first": 1}
        failing = {"received": ONE, "delivered": ONE, "failed": ONE, "in": 1, "out": 1}
        self.expect(
            {
                "tcp_local": {**failing, "submitted": (2, 3, 1 + size)},
                "process": {**done, "submitted": twice},
                "local": {**done, "received": twice, "delivered": twice, "first": 2, "timed": 2, "timed_first": 2},
            }
        )

    def test_refused_recipients_are_rejected(self) -> None:
        """C4: nobody of that name, and relaying by a stranger; one message a transaction."""
        with self.node.talk() as talk:
            replies = talk.envelope("a@client.example", ["nobody@example.org", "x@remote.example"])
            self.assertEqual([reply[:9] for reply in replies], ["250 2.1.0", "550 5.1.1", "550 5.7.1"])
            talk.say("RSET")
            self.assertEqual(talk.envelope("a@client.example", ["nobody@example.org"])[1][:9], "550 5.1.1")
        self.expect({"tcp_local": {"rejected": (2, 3, 0), "in": 1}})
        records = self.node.records(Action.REJECTED)[-3:]
        self.assertEqual(
            [one.original_to for one in records], ["nobody@example.org", "x@remote.example", "nobody@example.org"]
        )
        self.assertEqual([one.diagnostic[:9] for one in records], ["550 5.1.1", "550 5.7.1", "550 5.1.1"])
        self.assertEqual([one.destination for one in records], ["local", "tcp_local", "local"])

    def test_a_message_refused_for_what_it_is_counts_its_blocks(self) -> None:
        """C4: a J record with a size."""
        with self.node.talk() as talk:
            reply = talk.mail(
                "a@client.example", ["alice@example.org"], message("bare", b"a\nb" + b"x" * 1500 + b"\r\n")
            )
            self.assertEqual(reply[:10], "550 5.6.11")
        self.expect({"tcp_local": {"rejected": (1, 1, 2), "in": 1}})

    def test_a_deferral_is_attempted_and_its_delivery_not_the_first(self) -> None:
        """C4, C5: Q, then D at the second attempt; the time in the queue is all of it."""
        start = self.node.counters().get("tcp_local", {}).get("queue_time", {"seconds": 0.0})["seconds"]
        self.sink.answer = first(1, "RCPT", "450 4.2.1 wait")
        self.send("x@remote.example")
        self.expect(
            {
                "tcp_local": {
                    "received": ONE,
                    "delivered": ONE,
                    "attempted": NOTHING_SENT,
                    "submitted": ONE,
                    "timed": 1,
                    "in": 1,
                    "out": 2,
                }
            }
        )
        waited = self.node.counters()["tcp_local"]["queue_time"]["seconds"] - start
        self.assertTrue(1.0 <= waited < 5.0, waited)

    def test_a_deferral_of_some_is_attempted_for_those(self) -> None:
        """C4: Z and D in one attempt; the message is delivered when its last recipient is."""
        self.sink.answer = first(1, "RCPT TO:<later@", "450 4.2.1 wait")
        self.send("now@remote.example", "later@remote.example")
        self.expect(
            {
                "tcp_local": {
                    "received": (1, 2, 1),
                    "delivered": (1, 2, 1),
                    "attempted": NOTHING_SENT,
                    "submitted": (1, 2, 1),
                    "timed": 1,
                    "in": 1,
                    "out": 2,
                }
            }
        )
        self.assertEqual(self.node.records(Action.PARTLY)[-1].current_to, "later@remote.example")

    def test_a_clear_with_mail_queued(self) -> None:
        """C6, C9: Stored goes below zero as that mail leaves; the value less the smallest is what is queued."""
        self.sink.answer = always("RCPT", "450 4.2.1 wait")
        self.send("x@remote.example")
        self.wait_attempted(1)
        self.node.qmailpy("qm", "counters", "clear", "-associations")
        stored = self.node.counters()["tcp_local"]["stored"]
        self.assertEqual((stored["messages"], stored["minimum"]["messages"]), (0, 0))
        self.node.verify()
        self.sink.answer = lambda _: None
        self.until(lambda: self.node.counters()["tcp_local"]["stored"]["messages"] == -1, 10)
        self.send("y@remote.example")
        self.sink.wait_mails(2)
        self.sink.answer = always("RCPT", "450 4.2.1 wait")
        self.send("z@remote.example")
        self.until(lambda: self.node.counters()["tcp_local"]["stored"]["true"]["messages"] == 1, 10)
        row = self.node.counters()["tcp_local"]
        self.assertEqual((row["stored"]["messages"], row["stored"]["minimum"]["messages"]), (0, -1))
        self.sink.answer = lambda _: None
        self.sink.wait_mails(3)
        self.until(lambda: self.node.counters()["tcp_local"]["stored"]["true"]["messages"] == 0, 10)
        self.node.qmailpy("qm", "counters", "clear")
        self.assertEqual(grown({}, flat(self.node.counters())), {})

    def test_a_clear_that_keeps_what_is_queued(self) -> None:
        """C9: without options Stored is what is in the queue, and never negative."""
        self.sink.answer = always("RCPT", "450 4.2.1 wait")
        self.send("x@remote.example")
        self.wait_attempted(1)
        self.node.qmailpy("qm", "counters", "clear")
        self.assertEqual(self.counted()["tcp_local"]["stored"], ONE)
        self.node.verify()
        self.sink.answer = lambda _: None
        self.sink.wait_mails(1)
        self.wait_idle()
        row = self.node.counters()["tcp_local"]
        self.assertEqual((row["stored"]["messages"], row["stored"]["minimum"]["messages"]), (0, 0))
        # Received since the clear and what was stored then are delivered or stored now.
        self.assertEqual((row["received"]["messages"], row["delivered"]["messages"]), (0, 1))
        self.node.verify()
        self.node.qmailpy("qm", "counters", "clear")

    def wait_attempted(self, count: int) -> None:
        before = self.before.get("tcp_local", {}).get("attempted", (0,))[0]
        self.until(lambda: self.counted()["tcp_local"]["attempted"][0] >= before + count, 10)

    def test_the_commands_show_what_was_counted(self) -> None:
        """C9: the layout of the document, JSON, verify."""
        self.send("alice@example.org")
        self.node.wait_mailbox("alice", 1)
        text = self.node.qmailpy("qm", "counters", "show")
        self.assertEqual(text.splitlines()[0], "Channel          Messages    Recipients    Blocks")
        self.assertIn("\ntcp_local\n   Received ", text)
        found = json.loads(self.node.qmailpy("qm", "counters", "show", "--json"))
        self.assertEqual(found["channels"], self.node.counters())
        self.assertIn("the counters equal the transaction log", self.node.qmailpy("qm", "counters", "verify"))
        self.assertIn("messages processed so far today", self.node.qmailpy("qm", "counters", "today"))


class CountersInTheWay(NodeCase):
    """C2, C3: whatever becomes of the file, mail goes on."""

    def mails(self, count: int) -> None:
        """Accepted and delivered, all of them, by the process that was there before."""
        pid = self.node.pid()
        have = len(self.node.mailbox("alice"))
        with self.node.talk() as talk:
            for number in range(count):
                self.assertTrue(talk.mail("a@b.example", ["alice@example.org"], message(str(number))).startswith("250"))
        self.node.wait_mailbox("alice", have + count)
        self.assertEqual(self.node.pid(), pid)

    def path(self) -> str:
        return self.node.path("run", "counters")

    def test_a_file_that_is_deleted_comes_back_with_its_counts(self) -> None:
        self.mails(3)
        self.wait_idle()
        self.node.qmailpy("qm", "counters", "delete")
        sent = 3

        def back() -> bool:
            nonlocal sent
            self.mails(1)
            sent += 1
            return os.path.exists(self.path())

        self.until(back, 10)  # it looks for the file every second, when there is something to count
        many = (sent, sent, sent)
        done = {"received": many, "delivered": many, "first": sent, "timed": sent, "timed_first": sent}
        self.expect({"tcp_local": {"submitted": many, "in": sent - 2}, "local": done})

    def test_a_file_that_is_truncated(self) -> None:
        """A mapping of a file without octets is a trap (SIGBUS): nobody may fall into it."""
        self.mails(3)
        self.wait_idle()
        os.truncate(self.path(), 0)
        self.mails(3)
        self.recovered(6)

    def test_a_file_that_is_cut_in_the_middle(self) -> None:
        self.mails(1)
        self.wait_idle()
        os.truncate(self.path(), 5000)
        self.mails(3)
        self.recovered(4)

    def test_a_file_of_garbage(self) -> None:
        self.mails(1)
        self.wait_idle()
        with open(self.path(), "r+b") as target:
            target.write(b"\xff" * 100000)
        self.mails(3)
        self.recovered(4)

    def test_a_file_nobody_may_read(self) -> None:
        """Without effect for root, and a directory in its place for everybody."""
        self.mails(1)
        self.wait_idle()
        os.chmod(self.path(), 0)
        self.mails(2)
        os.unlink(self.path())
        os.mkdir(self.path())
        self.mails(2)
        self.assertLessEqual(self.log().count("counters"), 2, self.log())
        os.rmdir(self.path())
        self.mails(1)
        self.recovered(6)

    def recovered(self, count: int) -> None:
        """At the latest after the next start the counts are those of the log."""
        self.node.stop()
        self.node.start()
        found = grown(self.before, self.counted())
        self.assertEqual(found["local"]["delivered"], (count, count, count))
        self.assertEqual(found["local"]["received"], (count, count, count))


class Lanes(NodeCase):
    """C3: two processes count the mail of one channel."""

    settings: ClassVar[Settings] = {"server.workers": 2}

    def test_two_workers_add_up(self) -> None:
        pids = [self.node.pid("mta-0"), self.node.pid("mta-1")]
        for pid in pids:  # one stands still, so that the other takes them all
            os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(10):
                    with self.node.talk() as talk:
                        reply = talk.mail("a@b.example", ["alice@example.org"], message("m"))
                    self.assertTrue(reply.startswith("250"))
            finally:
                os.kill(pid, signal.SIGCONT)
        self.node.wait_mailbox("alice", 20)
        all_of_it = (20, 20, 20)
        done = {"received": all_of_it, "delivered": all_of_it, "first": 20, "timed": 20, "timed_first": 20}
        self.expect({"tcp_local": {"submitted": all_of_it, "in": 20}, "local": done})
        lanes = {one.lane for one in self.node.records(Action.ENQUEUED)}
        self.assertEqual(lanes, {"0", "1"})

    def begin(self, node: Node) -> None:
        node.start()
        node.wait_for("mta-1 is ready")
