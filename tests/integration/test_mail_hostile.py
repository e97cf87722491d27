"""What strangers send: smuggled ends, floods, slow trickles. The daemon stays small, quick for others and quiet."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from typing import ClassVar

from tests.integration.node import NodeCase, Settings, trace_and_message, without_received
from tests.integration.peers.client import Talk, message

MIB = 1 << 20
GROWTH = 60 * MIB
"""More than this a single stranger must not cost."""


class Hostile(NodeCase):
    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.2/32"],
        "listener.smtp.connections_per_client": 5000,
        "limits.network_connections": 5000,
    }

    def setUp(self) -> None:
        super().setUp()
        self.start_rss = self.node.rss()
        self.start_pid = self.node.pid()

    def tearDown(self) -> None:
        self.assertEqual(self.node.pid(), self.start_pid)
        self.assertLess(self.node.rss() - self.start_rss, GROWTH)
        super().tearDown()

    def serves(self) -> None:
        """Somebody else gets mail through."""
        have = len(self.node.mailbox("bob"))
        with self.node.talk() as talk:
            self.assertTrue(talk.mail("a@b.example", ["bob@example.org"], message("others")).startswith("250"))
        self.node.wait_mailbox("bob", have + 1)

    def test_no_end_of_data_but_the_one(self) -> None:
        """Each false end, with a second message behind it: one refusal, nothing delivered, nothing relayed."""
        smuggled = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n" + message("smuggled")
        for end in (
            b"\n.\n",
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r\n.\r",
            b"\r.\r\n",
            b"\n.\r",
            b"\r\n\x00.\r\n",
            b"\r\r\n.\r\r\n",
        ):
            with self.node.talk(source="127.0.0.2") as talk:
                talk.envelope("a@b.example", ["alice@example.org", "x@remote.example"])
                talk.say("DATA")
                talk.send(message("outer") + b"text" + end + smuggled + b"\r\n.\r\n")
                reply = talk.reply()
                self.assertTrue(reply.startswith("5"), (end, reply))
        self.serves()
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])
        self.assertEqual([mail.count(b"Subject: smuggled") for mail in self.node.mailbox("bob")], [0])
        self.assertEqual(self.sink.mails, [])

    def test_what_leaves_has_dots_in_their_place(self) -> None:
        """
        Compared as the raw octets at the next hop. Content is read in pieces of 2^16 octets: of lines of 3 octets every
        third piece begins with one.
        """
        body = b".\r\n" * 130000 + b"..\r\n.a\r\n" + b"".join(b"x" * (n % 7) + b"\r\n." for n in range(9000)) + b"\r\n"
        content = message("dots", body)
        with self.node.talk(source="127.0.0.2") as talk:
            self.assertTrue(
                talk.mail("a@b.example", ["x@remote.example", "alice@example.org"], content).startswith("250")
            )
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(without_received(mail.content), content)
        self.assertEqual(mail.raw.count(b"\r"), mail.raw.count(b"\r\n"))
        self.assertEqual(mail.raw.count(b"\n"), mail.raw.count(b"\r\n"))
        self.assertEqual(mail.raw.count(b"\r\n.\r\n"), 1)
        (delivered,) = self.node.wait_mailbox("alice", 1)
        self.assertEqual(trace_and_message(delivered)[1], content.replace(b"\r\n", b"\n"))
        self.wait_idle()

    def test_a_hundred_thousand_noops(self) -> None:
        """Answered or cut off, and others are served meanwhile."""
        with self.node.talk() as talk:
            sender = threading.Thread(target=self._flood, args=(talk.socket, b"NOOP\r\n" * 1000, 100), daemon=True)
            sender.start()
            self.serves()
            reply = talk.reply()
            count = 0
            while reply:
                count += 1
                if not reply.startswith("250") or count == 100000:
                    break
                reply = talk.reply()
            self.assertIn(reply[:3], ("250", "421", ""))
            talk.socket.close()
            sender.join(20)
        self.wait_idle()

    def _flood(self, connection: socket.socket, octets: bytes, times: int) -> None:
        with contextlib.suppress(OSError):
            for _ in range(times):
                connection.sendall(octets)

    def test_a_command_line_without_end(self) -> None:
        """100 MB of it, or as much as we take."""
        with self.node.talk() as talk:
            self._flood(talk.socket, b"A" * MIB, 100)
            self.serves()
        self.wait_idle()

    def test_a_header_line_without_end(self) -> None:
        """100 MB of it: refused as too large, never kept in memory."""
        with self.node.talk() as talk:
            talk.envelope("a@b.example", ["alice@example.org"])
            talk.say("DATA")
            talk.send(b"Subject: ")
            self._flood(talk.socket, b"x" * MIB, 100)
            self.assertLess(self.node.rss() - self.start_rss, GROWTH)
            with contextlib.suppress(OSError):
                talk.send(b"\r\n\r\n.\r\n")
                self.assertIn(talk.reply()[:1], ("5", "4", ""))
            self.serves()
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])

    def test_ten_thousand_received_fields(self) -> None:
        """A loop: 554 5.4.6."""
        content = b"Received: from a by b; Tue, 24 Nov 2026 06:00:00 +0000\r\n" * 10000 + message("loop")
        with self.node.talk() as talk:
            reply = talk.mail("a@b.example", ["alice@example.org"], content)
        self.assertEqual(reply[:9], "554 5.4.6")
        self.serves()
        self.wait_idle()

    def test_two_thousand_idle_connections(self) -> None:
        """Others are served beside them."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 4000:
            self.fail("needs 4,000 descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
        idle = []
        try:
            for _ in range(2000):
                idle.append(socket.create_connection(("127.0.0.1", self.node.port), 10))
            self.serves()
            with self.node.talk() as talk:
                for _ in range(20):
                    self.assertTrue(talk.mail("a@b.example", ["alice@example.org"], message("m")).startswith("250"))
            idle[-1].settimeout(10)
            self.assertEqual(idle[-1].recv(3), b"220")
        finally:
            for one in idle:
                one.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.node.wait_mailbox("alice", 20)
        self.wait_idle()

    def test_an_octet_now_and_then(self) -> None:
        """A whole transaction, each octet in a segment of its own."""
        with self.node.talk() as talk:
            text = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n"
            for at in range(len(text)):
                talk.send(text[at : at + 1])
            self.assertEqual([talk.reply()[:3] for _ in range(3)], ["250", "250", "354"])
            for octet in message("slow") + b".\r\n":
                talk.send(bytes((octet,)))
            self.assertTrue(talk.reply().startswith("250"))
        (mail,) = self.node.wait_mailbox("alice", 1)
        self.assertEqual(trace_and_message(mail)[1].replace(b"\n", b"\r\n"), message("slow"))
        self.wait_idle()

    def test_half_open_and_broken_connections(self) -> None:
        """Shut down for writing in every state, and reset in every state."""
        parts = [b"", b"EHLO x\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<alice@example.org>\r\n", b"DATA\r\n"]
        parts += [message("cut"), b".\r"]
        for reset in (False, True):
            for until in range(len(parts) + 1):
                talk = Talk(self.node.port, greet=False)
                talk.send(b"".join(parts[:until]))
                if reset:
                    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    talk.socket.close()
                else:
                    talk.socket.shutdown(socket.SHUT_WR)
                    while talk.reply():
                        pass
                    talk.socket.close()
        self.serves()
        self.wait_idle()
        self.assertEqual(self.node.mailbox("alice"), [])

    def test_garbage(self) -> None:
        """TLS, HTTP and noise at our port."""
        for octets in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            os.urandom(100000),
            bytes(100000),
        ):
            with Talk(self.node.port, greet=False) as talk:
                self._flood(talk.socket, octets, 1)
                with contextlib.suppress(OSError):
                    talk.socket.shutdown(socket.SHUT_WR)
                    while talk.reply():
                        pass
        self.serves()
        self.wait_idle()
