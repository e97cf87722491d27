"""
The scenarios of mission s.4 on the real daemon: what is counted, to the number, and the transaction log field by field
as a reviewed sample has it (samples/).
"""

from __future__ import annotations

from typing import ClassVar

from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always, first
from tests.scenarios.samples import differences, sample

ONE = (1, 1, 1)
DONE = {"received": ONE, "delivered": ONE, "first": 1, "timed": 1, "timed_first": 1}


class ScenarioCase(NodeCase):
    """Only 127.0.0.2 may relay; one connection a message to the next hop."""

    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.2/32"],
        "channel.tcp_local.messages_per_connection": 1,
        "log.notary": True,
    }

    def setUp(self) -> None:
        super().setUp()
        self.wait_idle()
        self._from = len(self.lines())

    def lines(self) -> list[str]:
        with open(self.node.path("log", "mail.log_current")) as source:
            return source.read().splitlines()

    def send(
        self, *recipients: str, sender: str = "a@client.example", source: str = "127.0.0.2", more: str = ""
    ) -> None:
        with self.node.talk(source=source) as talk:
            self.assertEqual(talk.say(f"MAIL FROM:<{sender}>")[:3], "250")
            for one in recipients:
                self.assertEqual(talk.say(f"RCPT TO:<{one}>{more}")[:3], "250")
            self.assertEqual(talk.content(message("scenario", b"x" * 60 + b"\r\n"))[:3], "250")
            talk.say("QUIT")

    def told(self, name: str) -> None:
        """What was recorded since the test began is the sample of that name."""
        expected = sample(name)
        self.wait_idle()
        found: list[str] = []

        def whole() -> bool:
            found[:] = self.lines()[self._from :]
            return len(found) >= len(expected)

        self.until(whole, 10)
        told = differences(expected, found)
        self.assertEqual(told, [], "\n" + "\n".join([*told, "", "the log:", *found]))


class Ordinary(ScenarioCase):
    """What happens every second."""

    def test_c1_two_recipients_on_two_channels(self) -> None:
        """C1, C4, C7, C8: two E lines of one message, each copy delivered by its channel; the connections around it."""
        self.send("alice@example.org", "x@remote.example")
        self.expect({"tcp_local": {**DONE, "submitted": (2, 2, 2), "in": 1, "out": 1}, "local": DONE})
        self.told("two-channels")

    def test_c4_recipients_refused_at_the_door(self) -> None:
        """J, one a recipient, of one message; B for a command that is none; V for a promise that was not used."""
        with self.node.talk(source="127.0.0.1") as talk:
            talk.say("MAIL FROM:<a@client.example>")
            talk.say("RCPT TO:<nobody@example.org>")
            talk.say("RCPT TO:<x@remote.example>")
            talk.say("RCPT TO:<alice@example.org>")
            talk.say("XYZZY")
            talk.say("QUIT")
        self.expect({"tcp_local": {"rejected": (1, 2, 0), "in": 1}})
        self.told("refused")

    def test_c5_a_deferral_and_the_delivery_after_it(self) -> None:
        """Q and D; attempt codes ZZ and ZY; not a first time, so only the one time is counted."""
        self.sink.answer = first(1, "RCPT", "450 4.2.1 wait")
        self.send("x@remote.example")
        counted = {"received": ONE, "delivered": ONE, "attempted": (1, 1, 0), "submitted": ONE, "timed": 1}
        self.expect({"tcp_local": {**counted, "in": 1, "out": 2}})
        self.told("deferral")

    def test_c4_a_deferral_of_some(self) -> None:
        """D and Z of one attempt, then D of the rest: the message is delivered with its last recipient."""
        self.sink.answer = first(1, "RCPT TO:<later@", "450 4.2.1 wait")
        self.send("now@remote.example", "later@remote.example")
        both = (1, 2, 1)
        counted = {"received": both, "delivered": both, "attempted": (1, 1, 0), "submitted": both, "timed": 1}
        self.expect({"tcp_local": {**counted, "in": 1, "out": 2}})
        self.told("partly")

    def test_a_failure_of_which_nobody_wants_to_hear(self) -> None:
        """K in place of R for NOTIFY=NEVER, and no notice (RFC 3461 s.4.1)."""
        self.sink.answer = always("RCPT", "550 5.1.1 unknown")
        self.send("gone@remote.example", more=" NOTIFY=NEVER")
        self.expect(
            {"tcp_local": {"received": ONE, "delivered": ONE, "failed": ONE, "submitted": ONE, "in": 1, "out": 1}}
        )
        self.told("silenced")


class Bounce(ScenarioCase):
    """A failure with a copy of the notice to the postmaster."""

    settings: ClassVar[Settings] = {**ScenarioCase.settings, "bounce.copy_postmaster": True}

    def test_c7_one_dequeue_and_two_enqueues(self) -> None:
        """C{process} is passed through (C8): the notice is enqueued to it, and by it to both mailboxes."""
        self.sink.answer = always("RCPT", "550 5.1.1 unknown")
        self.send("gone@remote.example", sender="alice@example.org")
        self.node.wait_mailbox("alice", 1)
        self.node.wait_mailbox("postmaster", 1)
        self.told("bounce")


class Delay(ScenarioCase):
    """A delay notice."""

    settings: ClassVar[Settings] = {**ScenarioCase.settings, "queue.warn_s": [0.5]}

    def test_a_delay_of_which_the_sender_is_told(self) -> None:
        """W with the attempt that came behind the age; the notice goes by C{process}, and counts there."""
        self.sink.answer = first(2, "RCPT", "450 4.2.1 wait")
        self.send("x@remote.example", sender="alice@example.org")
        self.node.wait_mailbox("alice", 1)
        self.sink.wait_mails(1)
        self.told("delay")


class Conversion(ScenarioCase):
    """All mail from outside passes the conversion channel."""

    def begin(self, node: Node) -> None:
        with open(node.path("etc", "qmailpy.toml"), "a") as target:
            target.write('\n[[conversion]]\nsource = "tcp_local"\n')
        super().begin(node)

    def test_c8_a_channel_that_is_passed_through(self) -> None:
        """E to it, E from it, D of it, in this order; then D of who got it."""
        self.send("alice@example.org")
        through = {**DONE, "submitted": ONE}
        self.expect({"tcp_local": {"submitted": ONE, "in": 1}, "conversion": through, "local": DONE})
        self.told("conversion")
