"""The brake on guessing, over processes: what POP3 and SMTP count, both heed, and an operator is told."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from typing import ClassVar

from tests.integration.daemon_process import until
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.running import free_port


class Bans(NodeCase):
    users: ClassVar = ("alice",)
    pop3: ClassVar[int] = 0

    def make_node(self, settings: Settings) -> Node:
        type(self).pop3 = free_port()
        more = {
            "listener.pop3.endpoint": f"tcp:{self.pop3}:interface=127.0.0.1",
            "listener.pop3.plain_auth": True,
            "listener.smtp.auth": "offered",
            "listener.smtp.plain_auth": True,
            "trust.networks": ["10.0.0.0/8"],
        }
        node = Node({**settings, **more}, self.users)
        node.qmailpy("user", "passwd", "alice@example.org", "--password-stdin", octets=b"sesame\n")
        return node

    def begin(self, node: Node) -> None:
        node.start()
        node.wait_for("access-0 is ready")

    def guess(self, port: int, octets: bytes) -> socket.socket:
        """Say it and do not wait: each answer takes longer than the one before."""
        connection = socket.create_connection(("127.0.0.1", port), 20)
        self.addCleanup(connection.close)
        connection.recv(4096)
        if port == self.node.port:
            connection.sendall(b"EHLO client.example\r\n")
            connection.recv(4096)
        connection.sendall(octets)
        return connection

    def login(self, password: bytes) -> bytes:
        return b"AUTH PLAIN " + base64.b64encode(b"\0alice@example.org\0" + password) + b"\r\n"

    def events(self) -> list[dict[str, object]]:
        path = self.node.path("log", "events.log")
        if not os.path.exists(path):
            return []
        with open(path) as source:
            return [json.loads(line) for line in source]

    def test_a_client_is_shut_out_by_all_for_what_it_did_at_each(self) -> None:
        for _ in range(8):
            self.guess(self.pop3, b"USER alice@example.org\r\nPASS wrong\r\n")
        for number in range(7):
            self.guess(self.node.port, self.login(b"wrong%d" % number))
        until(lambda: any(one["event"] == "auth.banned" for one in self.events()))
        told = next(one for one in self.events() if one["event"] == "auth.banned")
        self.assertIn("127.0.0.1", str(told["text"]))
        # The right password is of no use now, here or there, and the answer comes at once.
        pop3 = self.guess(self.pop3, b"USER alice@example.org\r\nPASS sesame\r\n")
        smtp = self.guess(self.node.port, self.login(b"sesame"))
        said = {name: self.heard(one, end) for name, one, end in (("pop3", pop3, b"-ERR"), ("smtp", smtp, b"\r\n"))}
        self.assertNotIn(b"235", said["smtp"])
        self.assertNotIn(b"sesame", b"".join(said.values()))
        with open(self.node.path("log", "events.log")) as source:
            self.assertNotIn("wrong", source.read().replace("wrong passwords", ""))
        found = json.loads(self.node.qmailpy("directory", "status", "--json"))
        self.assertEqual([(one["server"], one["up"]) for one in found["servers"]], [("embedded", True)])
        self.assertIn("embedded", self.node.qmailpy("directory", "status"))
        self.node.qmailpy("directory", "forgive", "127.0.0.1")
        again = self.guess(self.pop3, b"USER alice@example.org\r\nPASS sesame\r\n")
        self.heard(again, b"+OK", 2)

    def test_hostile_logins_are_refused_and_nothing_breaks(self) -> None:
        names = (b"*)(uid=*", b"*", b"uid=alice,dc=example.org,o=qmailpy", b"alice@example.org\\00", b"x" * 1_000_000)
        for number, name in enumerate(names):
            with socket.create_connection(("127.0.0.1", self.pop3), 20, (f"127.0.1.{number}", 0)) as client:
                client.recv(4096)
                with contextlib.suppress(ConnectionError):  # too long: it hangs up
                    client.sendall(b"USER " + name + b"\r\nPASS sesame\r\n")
                    said = b""
                    while b"-ERR" not in said and (octets := client.recv(4096)):
                        said += octets
                    self.assertNotIn(b"messages", said)
            blob = base64.b64encode(b"\0" + name[:1000] + b"\0sesame")
            with self.node.talk(source=f"127.0.2.{number}") as talk:
                self.assertEqual(talk.say(f"AUTH PLAIN {blob.decode()}")[:1], "5")
        with self.node.talk(source="127.0.3.1") as talk:
            self.assertEqual(talk.say(self.login(b"sesame").decode().strip())[:3], "235")

    def heard(self, connection: socket.socket, what: bytes, times: int = 1) -> bytes:
        said = b""
        while said.count(what) < times:
            octets = connection.recv(4096)
            self.assertTrue(octets, said)
            said += octets
        return said
