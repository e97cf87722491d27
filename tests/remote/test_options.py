"""Tests of what a message asks for on its way to other hosts, with a whole attempt around it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.mx import destination
from qmailpy.testing.smtp_sink import Received
from qmailpy.values import Disposition, MemoryContent, Verdict
from qmailpy.wire.client_events import Transaction
from tests.remote.network import World

MX = destination("mx.example", trusted=False)
HEAD = b"MIME-Version: 1.0\r\nContent-Type: image/gif\r\nContent-Transfer-Encoding: binary\r\n\r\n"
BINARY = HEAD + b"GIF\0\n.\r\n.\r\nMAIL FROM:<evil@example.org>\r\n\r"
SIGNED = b"Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n\0\r\n--x--\r\n"


class OptionTests(SynchronousTestCase):
    def send(self, ehlo: str, content: bytes, **more: Any) -> tuple[Disposition, list[Received]]:
        """What came of it, and what arrived at a host that offers this."""
        world = World()
        sink = world.network.host("192.0.2.1", {"EHLO": "250-x\n250-PIPELINING\n" + ehlo})
        transaction = Transaction(sender="a@example.org", recipients=("b@mx.example",), size=len(content), **more)
        going = world.run(world.remote.send(MX, transaction, MemoryContent(content)))
        [found] = self.successResultOf(going)
        return found, sink.log.messages

    def test_binary_content_arrives_as_it_is(self) -> None:
        found, [message] = self.send("250-CHUNKING\n250 BINARYMIME", BINARY, binary=True)
        self.assertEqual((found.verdict, found.modifiers), (Verdict.DELIVERED, "EC"))
        self.assertEqual(message.content, BINARY)
        self.assertIn("BODY=BINARYMIME", message.mail_parameters)

    def test_other_hosts_get_lines_and_nothing_that_reads_as_an_end(self) -> None:
        """In base64: also those of 8 bits."""
        for ehlo in ("250 8BITMIME", "250 SIZE", "250-BINARYMIME\n250 8BITMIME", "250-8BITMIME\n250 CHUNKING"):
            found, [message] = self.send(ehlo, BINARY, binary=True)
            self.assertEqual(found.verdict, Verdict.DELIVERED)
            self.assertIn(b"Content-Transfer-Encoding: base64\r\n\r\nR0lGAAouDQou", message.content)
            self.assertTrue(message.content.isascii())
            self.assertEqual(message.content.count(b"\n"), message.content.count(b"\r\n"))
            self.assertNotIn("BODY", message.mail_parameters)

    def test_what_cannot_be_lines_comes_back(self) -> None:
        found, messages = self.send("250 8BITMIME", SIGNED, binary=True)
        self.assertEqual((found.verdict, found.reply.enhanced, messages), (Verdict.FAILED, "5.6.3", []))
        self.assertIn("takes lines only", found.reply.text)

    def test_time_that_is_left_goes_on(self) -> None:
        """RFC 2852 s.4.1.4.1; the clock of these tests stands at 0."""
        found, [message] = self.send("250-DELIVERBY\n250 MT-PRIORITY", b"\r\n", by_mode="RT", deliver_by=90.0)
        self.assertEqual((found.verdict, message.mail_parameters), (Verdict.DELIVERED, "BY=90;RT"))
        found, [message] = self.send("250 MT-PRIORITY", b"\r\n", by_mode="N", deliver_by=90.0, mt_priority=4)
        self.assertEqual((found.verdict, message.mail_parameters), (Verdict.DELIVERED, "MT-PRIORITY=4"))

    def test_what_is_to_come_back_goes_to_no_host_that_would_not_send_it(self) -> None:
        found, messages = self.send("250 SIZE", b"\r\n", by_mode="R", deliver_by=90.0)
        self.assertEqual((found.verdict, found.reply.enhanced, messages), (Verdict.FAILED, "5.4.7", []))
