"""Access tables, limits and greylisting in a whole server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from typing import ClassVar

from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.client import message


class PolicyNode(NodeCase):
    """A daemon with rules; the tests come from addresses that are not trusted."""

    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.1/32"],
        "greylist.enabled": True,
        "greylist.delay_s": 1,
        "limits.network_connections": 3,
        "limits.ipv4_network": 32,
        "mail_access": [
            {"action": "hold", "sender": ["odd@*"]},
            {"action": "discard", "sender": ["void@*"]},
            {"action": "accept", "sender": ["list:friends"]},
            {"action": "reject", "sender": ["enemy.example"], "text": "Not you", "code": "5.7.9"},
        ],
    }

    def begin(self, node: Node) -> None:
        with open(node.path("etc", "friends"), "w") as target:
            target.write("friend.example\n")
        super().begin(node)

    def say(self, *lines: str, source: str = "127.0.0.9") -> list[str]:
        """The replies, the greeting first."""
        with socket.create_connection(("127.0.0.1", self.node.port), timeout=20, source_address=(source, 0)) as client:
            client.sendall("".join(f"{line}\r\n" for line in (*lines, "QUIT")).encode())
            said = b""
            while more := client.recv(65536):
                said += more
        return [line.decode() for line in said.split(b"\r\n") if line[3:4] == b" "]

    def to_alice(self, sender: str, *more: str) -> list[str]:
        return self.say("EHLO x.example", f"MAIL FROM:<{sender}>", "RCPT TO:<alice@example.org>", *more)

    def test_mail_is_held_and_goes_when_it_is_released(self) -> None:
        with self.node.talk() as talk:
            talk.mail("odd@example.net", ["alice@example.org"], message("held"))
        held: list[dict[str, str]] = []

        def some() -> bool:
            held.extend(json.loads(self.node.qmailpy("qm", "held", "--json")))
            return bool(held)

        self.until(some)
        self.assertEqual(self.node.mailbox("alice"), [])
        self.node.qmailpy("qm", "release", held[0]["id"])
        (found,) = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"held", found)
        self.wait_idle()

    def test_mail_is_discarded(self) -> None:
        with self.node.talk() as talk:
            talk.mail("void@example.net", ["alice@example.org"], message("gone"))
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])
        self.assertEqual(self.node.counters()["bitbucket"]["delivered"]["messages"], 1)

    def test_rules_lists_and_greylisting_at_the_door(self) -> None:
        self.assertEqual(self.to_alice("a@enemy.example")[3], "550 5.7.9 Not you")
        self.assertEqual(self.to_alice("a@friend.example")[3][:3], "250")
        self.assertEqual(self.to_alice("a@stranger.example")[3][:9], "451 4.7.1")
        self.until(lambda: self.to_alice("a@stranger.example")[3][:3] == "250", 5)
        self.assertTrue(os.path.exists(self.node.path("run", "greylist.sqlite")))

    def test_a_limit_is_told_of(self) -> None:
        held = [
            socket.create_connection(("127.0.0.1", self.node.port), timeout=20, source_address=("127.0.0.10", 0))
            for _ in range(4)
        ]
        said = sorted(each.recv(100)[:10] for each in held)
        self.assertEqual(said[-1], b"421 4.7.28")
        self.assertEqual(self.say("NOOP", source="127.0.0.11")[0][:3], "220")
        for each in held:
            each.close()
        with open(self.node.path("log", "events.log")) as source:
            events = [json.loads(line) for line in source]
        self.assertIn("127.0.0.10/32", [one["fields"]["who"] for one in events if one["event"] == "limit.broken"])

    def test_other_rules_are_taken_on_reload_and_bad_ones_are_not(self) -> None:
        with open(self.node.path("etc", "friends"), "a") as target:
            target.write("new.example\n")
        assert self.node.process is not None
        self.node.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.to_alice("a@new.example")[3][:3] == "250", 10)
        os.rename(self.node.path("etc", "friends"), self.node.path("etc", "away"))
        self.assertIn("friends: cannot be read", self.node.qmailpy("check", status=1))
        self.node.process.send_signal(signal.SIGHUP)
        self.until(lambda: "keeps the old configuration" in self.log(), 10)
        self.assertEqual(self.to_alice("a@new.example")[3][:3], "250")
        os.rename(self.node.path("etc", "away"), self.node.path("etc", "friends"))

    def test_which_rule_decides_is_shown(self) -> None:
        found = json.loads(self.node.qmailpy("test", "mapping", "MAIL_ACCESS", "sender=a@friend.example", "--json"))
        self.assertEqual([step["fits"] for step in found["steps"]], [False, False, True])
        self.assertEqual(found["decides"]["action"], "accept")
        with open(found["decides"]["file"]) as source:
            self.assertEqual(source.readlines()[found["decides"]["line"] - 1], "[[mail_access]]\n")


class LimitsOfAllWorkers(NodeCase):
    """[limits] with two workers."""

    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.1/32"],
        "server.workers": 2,
        "limits.client_messages_per_hour": 6,
        "limits.network_connections": 4,
    }

    def send(self, times: int) -> list[str]:
        """Codes of MAIL, each over a connection of its own: the kernel gives them to both workers."""
        found = []
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", self.node.port), 20, source_address=("127.0.0.9", 0)) as client:
                client.sendall(b"EHLO x.example\r\nMAIL FROM:<a@example.net>\r\nQUIT\r\n")
                said = b""
                while more := client.recv(65536):
                    said += more
            found.append(said.split(b"\r\n")[-3][:3].decode())
        return found

    def test_so_many_at_once_are_so_many_for_all_workers(self) -> None:
        """Whoever leaves makes room, whichever worker has had him."""

        def greeting(client: socket.socket) -> str:
            return client.recv(4)[:3].decode()

        with contextlib.ExitStack() as there:

            def come() -> socket.socket:
                where = ("127.0.0.1", self.node.port)
                return there.enter_context(socket.create_connection(where, 20, source_address=("127.0.0.9", 0)))

            clients = [come() for _ in range(4)]
            self.assertEqual([greeting(client) for client in clients], ["220"] * 4)
            self.assertEqual([greeting(come()) for _ in range(4)], ["421"] * 4)
            clients[0].close()
            self.until(lambda: greeting(come()) == "220")

    def test_so_many_are_so_many_for_all_workers_and_over_restarts(self) -> None:
        self.assertEqual(self.send(4), ["250"] * 4)
        self.node.stop()
        self.node.start()
        codes = self.send(20)
        self.assertEqual(codes.count("250"), 2)
        self.assertEqual(set(codes[2:]), {"450"})
        assert self.node.process is not None
        self.node.process.send_signal(signal.SIGHUP)
        for worker in ("mta-0", "mta-1"):
            self.node.wait_for(f"{worker} has the new configuration")
        self.assertEqual(self.send(4), ["450"] * 4)
