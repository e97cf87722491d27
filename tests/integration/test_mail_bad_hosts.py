"""Hosts that are of no use, several at once beside a good one: their mail waits, other mail goes."""

from __future__ import annotations

import time
from typing import ClassVar

from qmailpy.control import call
from qmailpy.records.record import Action
from tests.integration.node import NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import Answer, Sink, always, slowly

BAD: dict[str, Answer] = {
    "mute": slowly("EHLO", 3.0),
    "slow": slowly(".", 3.0),
    "full": always("RCPT", "421 4.3.2 closing"),
    "dead": always(".", "HANG UP"),
    "odd": always("MAIL", "250 fine\r\n250 fine again"),
    "endless": always("EHLO", "250-x\r\n" * 700_000 + "250 x"),
}
"""By the first label of their domain; who is slow has more patience than we."""


class BadHosts(NodeCase):
    users = ("alice", "bob")
    settings: ClassVar[Settings] = {"queue.lifetime_s": 3600.0}

    def setUp(self) -> None:
        self.sinks = {name: Sink() for name in BAD}
        for sink in self.sinks.values():
            self.addCleanup(sink.close)
        channel = {
            "kind": "smtp",
            "allow_loopback": True,
            "backoff": [1.0],
            "jitter": 0.0,
            "greeting_timeout_s": 1.0,
            "command_timeout_s": 1.0,
            "data_timeout_s": 1.0,
            "connections_idle_s": 0.5,
        }
        settings: Settings = {
            **BadHosts.settings,
            **{f"channel.tcp_bad.{key}": value for key, value in channel.items()},
            "rewrite": [
                {"pattern": f"{name}.example", "channel": "tcp_bad", "host": f"127.0.0.1:{sink.port}"}
                for name, sink in self.sinks.items()
            ],
        }
        self.patch(BadHosts, "settings", settings)
        super().setUp()

    def test_others_go_on_and_theirs_comes_once_they_are_well(self) -> None:
        """And once only, where the host had not taken it behind our back."""
        for name, sink in self.sinks.items():
            sink.answer = BAD[name]
        with self.node.talk() as talk:
            for name in BAD:
                reply = talk.mail(
                    "alice@example.org", [f"a@{name}.example", f"b@{name}.example"], message(name, b"x\r\n" * 9)
                )
                self.assertTrue(reply.startswith("250"), reply)
            began = time.monotonic()
            for _ in range(20):
                talk.mail("alice@example.org", ["bob@example.org", "x@good.example"], message("others"))
        self.sink.wait_mails(20)
        self.node.wait_mailbox("bob", 20)
        self.assertLess(time.monotonic() - began, 5.0)  # half a second, on a machine that has nothing else to do
        self.until(lambda: len({one.current_to for one in self.node.records(Action.DEFERRED)}) == 2 * len(BAD))
        taken = {name: len(sink.mails) for name, sink in self.sinks.items()}
        for sink in self.sinks.values():
            sink.answer = lambda _: None
        call(self.node.home, "mta-0", "queue.run", channel="tcp_bad", forgive=True)
        self.wait_idle(30)
        for name, sink in self.sinks.items():
            came = len(sink.mails) - taken[name]
            if name == "slow":  # what it takes when we have gone comes again (RFC 1047); that may still be under way
                self.assertGreaterEqual(len(sink.mails), 1)
            else:
                self.assertEqual((taken[name], came), (0, 1), name)
        self.assertEqual(self.node.mailbox("alice"), [])  # nothing came back
