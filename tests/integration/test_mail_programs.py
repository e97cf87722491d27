"""Groups, answers, programs and .qmail files over the real daemon: what is recorded, and what is counted."""

from __future__ import annotations

import mailbox
import os
import stat
from collections.abc import Sequence
from typing import ClassVar

from qmailpy.records.record import Action, LogRecord
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.client import message

ONE = (1, 1, 1)
DONE = {"received": ONE, "delivered": ONE, "first": 1, "timed": 1, "timed_first": 1}
GATE = """#!/bin/sh
{ echo "$#:$*"; env | sort; cat; } >"$OUT/$LOCAL.$ATTEMPT"
case "$LOCAL" in
bad*) echo "no such number"; exit 67 ;;
later*) test "$ATTEMPT" -gt 1 || exit 75 ;;
slow*) test "$ATTEMPT" -gt 1 || { sleep 100 & echo $! >"$OUT/child"; wait; } ;;
esac
"""


class Programs(NodeCase):
    settings: ClassVar[Settings] = {
        "rewrite": [{"pattern": "fax.example", "channel": "fax"}],
        "channel.fax.backoff": [1.0],
        "channel.fax.jitter": 0.0,
        "channel.fax.run_s": 2.0,
        "channel.autoreply.backoff": [1.0],
        "local.programs": True,
        "local.program_s": 2.0,
    }
    users: ClassVar[Sequence[str]] = ("alice", "bob", "carol")

    def begin(self, node: Node) -> None:
        self.out = node.path("..", "out")
        os.makedirs(self.out, exist_ok=True)
        gate = node.path("..", "gate")
        with open(gate, "w") as target:
            target.write(GATE.replace("$OUT", os.path.abspath(self.out)))
        os.chmod(gate, stat.S_IRWXU)
        node.set(
            {"channel.fax.kind": "pipe", "channel.fax.command": [os.path.abspath(gate), "$SENDER", "--", "$LOCAL"]}
        )
        node.qmailpy("group", "add", "all@example.org", "alice@example.org", "bob@example.org", "x@remote.example")
        node.qmailpy("user", "vacation", "bob@example.org", "--text-file", "-", octets=b"I am away.\n")
        node.qmailpy("user", "set", "carol@example.org", "dot-qmail=yes")
        node.start()

    def setUp(self) -> None:
        super().setUp()
        self.out = os.path.abspath(self.node.path("..", "out"))
        self.start = len(self.node.records())

    def send(self, recipient: str, sender: str = "a@client.example", fields: bytes = b"") -> None:
        with self.node.talk() as talk:
            reply = talk.mail(sender, [recipient], fields + message("x", b"hello\r\n"))
            self.assertTrue(reply.startswith("250"), reply)

    def lines(self) -> list[LogRecord]:
        kinds = (Action.ENQUEUED, Action.DEQUEUED, Action.DEFERRED, Action.FAILED)
        return [one for one in self.node.records()[self.start :] if one.action in kinds]

    def ways(self) -> list[tuple[str, str, str]]:
        return [(one.source, one.destination, one.action.value) for one in self.lines()]

    def test_a_group_is_one_message_for_ours_and_one_for_others(self) -> None:
        """Row C7: one E in, four for the members and the answerer, one D in process."""
        self.send("all@example.org")
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"\nDelivered-To: all@example.org\n", octets)
        self.node.wait_mailbox("bob", 1)
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(mail.recipients, ["x@remote.example"])
        self.assertRegex(mail.sender, r"^SRS0=.*@example\.org$")
        self.wait_idle()
        self.assertEqual(
            sorted(self.ways()),
            sorted(
                [
                    ("tcp_local", "process", "E"),
                    ("process", "local", "E"),
                    ("process", "local", "E"),
                    ("process", "tcp_local", "E"),
                    ("process", "", "D"),
                    ("local", "", "D"),
                    ("local", "", "D"),
                    ("tcp_local", "", "D"),
                ]
            ),
        )

    def test_a_user_who_is_away_answers_once(self) -> None:
        """The delivery waits for nothing; E to autoreply with its D, and the answer with that one's."""
        fields = b"To: Bob <bob@example.org>\r\nMessage-ID: <1@client.example>\r\n"
        self.send("bob@example.org", fields=fields)
        self.node.wait_mailbox("bob", 1)
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual((mail.sender, mail.recipients), ("", ["a@client.example"]))
        self.assertIn(b"\r\nIn-Reply-To: <1@client.example>\r\n", mail.content)
        self.assertIn(b"\r\nAuto-Submitted: auto-replied\r\n", mail.content)
        self.wait_idle()
        self.assertEqual(
            self.ways(),
            [
                ("tcp_local", "local", "E"),
                ("local", "autoreply", "E"),
                ("local", "", "D"),
                ("autoreply", "tcp_local", "E"),
                ("autoreply", "", "D"),
                ("tcp_local", "", "D"),
            ],
        )
        self.send("bob@example.org", fields=fields)
        self.node.wait_mailbox("bob", 2)
        self.wait_idle()
        self.assertEqual(self.ways()[6:], [*self.ways()[:3], ("autoreply", "", "D")])
        self.assertIn("the sender has had one", self.lines()[-1].diagnostic)
        self.send("bob@example.org", "b@client.example", b"List-Id: <l>\r\n" + fields)
        self.node.wait_mailbox("bob", 3)
        self.wait_idle()
        self.assertEqual(self.ways()[10:], [("tcp_local", "local", "E"), ("local", "", "D")])

    def test_a_program_takes_a_message(self) -> None:
        self.send("12@fax.example", "a'|`id`@client.example")
        self.expect({"tcp_local": {"submitted": ONE, "in": 1}, "fax": DONE})
        with open(os.path.join(self.out, "12.1")) as source:
            lines = source.read().split("\n")
        self.assertEqual(lines[0], "3:a'|`id`@client.example -- 12")
        self.assertIn("RECIPIENT=12@fax.example", lines)
        self.assertNotIn("HOME", [line.partition("=")[0] for line in lines])
        self.assertEqual(lines[-2], "hello")

    def test_a_program_that_refuses_sends_the_message_back(self) -> None:
        self.send("bad@fax.example")
        (mail,) = self.sink.wait_mails(1)
        self.assertIn(b"Status: 5.1.1", mail.content)
        self.assertIn(b"no such number", mail.content)
        self.wait_idle()
        self.assertIn(("fax", "", "R"), self.ways())

    def test_a_program_that_cannot_now_has_it_again(self) -> None:
        self.send("later@fax.example")
        self.wait_idle()
        self.assertEqual([way[2] for way in self.ways()], ["E", "Q", "D"])

    def test_a_program_that_takes_too_long_is_killed_with_its_children(self) -> None:
        self.send("slow@fax.example")
        self.wait_idle()
        self.assertEqual([way[2] for way in self.ways()], ["E", "Q", "D"])
        self.assertIn("took longer than 2 s", self.lines()[1].diagnostic)
        with open(os.path.join(self.out, "child")) as source:
            child = int(source.read())
        self.until(lambda: not os.path.exists(f"/proc/{child}") or _is_dead(child))

    def dot_qmail(self, text: str, name: str = ".qmail") -> str:
        """Write a file of Carol's."""
        home = self.node.path("mail", "example.org", "carol")
        os.makedirs(home, 0o700, exist_ok=True)
        for old in os.listdir(home):
            if old.startswith(".qmail"):
                os.unlink(os.path.join(home, old))
        with open(os.path.join(home, name), "w") as target:
            target.write(text)
        return home

    def test_a_users_file_says_what_is_done(self) -> None:
        """A copy here, a program, an mbox, and forwards inside and outside, in one transaction with the D."""
        home = self.dot_qmail(
            "./Maildir/\n|cat >got; echo $EXT >>got\n./mbox\n&alice\n&x@remote.example\n", ".qmail-a-default"
        )
        self.send("carol+a-b@example.org")
        self.node.wait_mailbox("carol", 1)
        (octets,) = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"\nDelivered-To: carol+a-b@example.org\n", octets)
        (mail,) = self.sink.wait_mails(1)
        self.assertRegex(mail.sender, r"^SRS0=.*@example\.org$")
        self.wait_idle()
        self.assertEqual(
            sorted(self.ways()[:4]),
            [("local", "", "D"), ("local", "local", "E"), ("local", "tcp_local", "E"), ("tcp_local", "local", "E")],
        )
        with open(os.path.join(home, "got")) as source:
            text = source.read()
        self.assertTrue(text.startswith("Received: ") and text.endswith("hello\na-b\n"), text)
        self.assertEqual([one["Subject"] for one in mailbox.mbox(os.path.join(home, "mbox"))], ["x"])

    def test_a_file_that_others_may_write_makes_mail_wait(self) -> None:
        home = self.dot_qmail("&alice\n")
        os.chmod(os.path.join(home, ".qmail"), 0o602)
        self.send("carol@example.org")
        self.until(lambda: ("local", "", "Q") in self.ways())
        self.assertIn(".qmail can be written by others", self.lines()[-1].diagnostic)
        os.chmod(os.path.join(home, ".qmail"), 0o600)
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()

    def test_an_extension_that_is_nobodys_comes_back(self) -> None:
        self.dot_qmail("./Maildir/\n")
        self.send("carol+none@example.org")
        (mail,) = self.sink.wait_mails(1)
        self.assertIn(b"Status: 5.1.1", mail.content)
        self.wait_idle()

    def test_a_users_program_that_hangs_is_killed_and_what_is_before_it_is_done_once(self) -> None:
        """The Maildir line is done again with each attempt, to the same file."""
        home = self.dot_qmail("./Maildir/\n|test -e ran || { touch ran; sleep 100; }\n")
        self.send("carol@example.org")
        self.wait_idle()
        self.assertEqual([way[2] for way in self.ways()], ["E", "Q", "D"])
        self.assertEqual(len(self.node.mailbox("carol")), 1)
        os.unlink(os.path.join(home, "ran"))


def _is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as source:
            return source.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
