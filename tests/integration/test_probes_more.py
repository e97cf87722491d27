"""
More of what strangers try: parameters of RCPT and of the extensions, commands behind STARTTLS, what leaves us.
"""

from __future__ import annotations

import re
import resource
import socket
import time
from threading import Thread

from qmailpy.servers import conversation, pace
from qmailpy.wire.client_data import Stuffer
from tests.integration.probing import BEGIN, EVIL, HEAD, HELLO, MAIL, RCPT, Probing
from tests.integration.test_probes import ENDS

WISHES = (
    # (behind RCPT TO:<joe@example.org>, the answer)
    ("NOTIFY=NEVER", "250"),
    ("NOTIFY=NEVER NOTIFY=NEVER", "501"),
    ("NOTIFY=NEVER,SUCCESS", "501"),
    ("NOTIFY=SUCCESS,SUCCESS", "501"),
    ("NOTIFY=", "501"),
    ("NOTIFY", "501"),
    ("NOTIFY=-1", "501"),
    ("NOTIFY=" + "DELAY," * 200, "501"),
    ("ORCPT=rfc822;joe@example.org", "250"),
    ("ORCPT=rfc822;a ORCPT=rfc822;b", "501"),
    ("ORCPT=joe@example.org", "501"),
    ("ORCPT=;joe", "501"),
    ("ORCPT=rfc822;", "501"),
    ("ORCPT=rfc822;a+0D+0Ab", "501"),
    ("ORCPT=rfc822;a+00b", "501"),
    ("ORCPT=rfc822;a+4", "501"),
    ("ORCPT=rfc822;" + "a" * 600, "501"),
    ("ORCPT=rfc822;a\u2028b", "501"),
    ("SIZE=1", "555"),
    ("X=Y", "555"),
    ("X" * 2100, "500"),
)

WANTS = (
    # (behind MAIL FROM:<a@probe.example>, the answer)
    ("ENVID=a+0D+0Ab", "501"),
    ("ENVID=a ENVID=a", "501"),
    ("ENVID=" + "a" * 101, "501"),
    ("ENVID=a\u2028b", "501"),
    ("RET=FULL RET=HDRS", "501"),
    ("RET=ALL", "501"),
    ("BODY=BINARYMIME", "250"),
    ("BY=-99999999999;N", "501"),
    ("BY=100000000000000;R", "501"),
    ("BY=0;R", "501"),
    ("BY=1;X", "501"),
    ("BY=60;R BY=60;R", "501"),
    ("MT-PRIORITY=10", "501"),
    ("MT-PRIORITY=-10", "501"),
    ("MT-PRIORITY=--1", "501"),
    ("MT-PRIORITY=1 MT-PRIORITY=1", "501"),
    ("HOLDFOR=1", "555"),
    ("HOLDFOR=-1", "555"),
    ("REQUIRETLS", "555"),
)


class MoreProbeTests(Probing):
    """Issue 3: probes, continued."""

    async def test_wishes_for_a_recipient_of_every_kind(self) -> None:
        def client() -> list[str]:
            lines = [f"RCPT TO:<joe@example.org> {text}\r\n".encode() for text, _ in WISHES]
            return self.talk([HELLO, MAIL, *lines])

        codes = (await self.in_thread(client))[2:]
        self.assertEqual(dict(zip((text for text, _ in WISHES), codes, strict=True)), dict(WISHES))

    async def test_wants_of_a_message_of_every_kind(self) -> None:
        def client() -> list[str]:
            lines = [f"MAIL FROM:<a@probe.example> {text}\r\nRSET\r\n".encode() for text, _ in WANTS]
            return self.talk([HELLO, *lines])

        codes = (await self.in_thread(client))[1::2]
        self.assertEqual(dict(zip((text for text, _ in WANTS), codes, strict=True)), dict(WANTS))

    async def test_commands_behind_starttls_are_not_taken(self) -> None:
        """RFC 3207 s.4.2: in the same segment, and in the next."""

        def client(parts: list[bytes]) -> bytes:
            said = b""
            with self.connect() as talking:
                talking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    for part in parts:
                        talking.sendall(part)
                        time.sleep(0.05)  # a segment of its own
                    talking.shutdown(socket.SHUT_WR)
                    while more := talking.recv(65536):
                        said += more
                except OSError:
                    pass  # it hung up on us
            return said

        for parts in ([HELLO + b"STARTTLS\r\n" + EVIL], [HELLO + b"STARTTLS\r\n", EVIL]):
            said = await self.in_thread(lambda parts=parts: client(parts))  # type: ignore[misc]
            behind = said.partition(b"\r\n220 ")[2].split(b"\r\n", 1)[-1]
            self.assertNotIn(b"250", behind, said)
            self.assertNotIn(b"354", said)
        self.assertEqual(self.queue.messages, [])

    async def test_binary_content_comes_in_chunks_alone(self) -> None:
        """RFC 3030 s.3: with DATA its bare CR and LF would be ends of lines to somebody."""
        octets = HELLO + b"MAIL FROM:<a@probe.example> BODY=BINARYMIME\r\n" + RCPT + b"DATA\r\n"
        codes = await self.in_thread(lambda: self.talk([octets, EVIL]))
        self.assertEqual(codes[:4], ["250", "250", "250", "503"])
        self.assert_nothing_evil()

    def test_no_end_of_data_leaves_us_but_our_own(self) -> None:
        """Whatever is in the queue, and wherever it is cut: what the laxest peer takes for an end is there once."""
        for end in ENDS:
            content = HEAD + b"a" + end + EVIL.replace(b"\r\n.\r\n", end) + b"b\r\n"
            whole = _sent(content)
            for at in range(len(content)):
                self.assertEqual(_sent(content[:at], content[at:]), whole, end)
            self.assertEqual(whole.count(b"\r"), whole.count(b"\r\n"), end)
            self.assertEqual(whole.count(b"\n"), whole.count(b"\r\n"), end)
            lax = [found.start() for found in re.finditer(rb"(?:\r\n|\r|\n)\.(?=\r|\n)", whole)]
            self.assertEqual(lax, [len(whole) - 5], end)

    async def test_a_million_recipients_are_answered_and_memory_stays(self) -> None:
        """Others are served meanwhile. Who names a thousand that are unknown is hung up on: these count as errors."""
        last = bytearray()

        def flood() -> None:
            with self.connect() as talking:
                reader = Thread(target=drain, args=(talking,))
                reader.start()
                talking.sendall(HELLO + MAIL)
                for _ in range(1000):
                    talking.sendall(many)
                talking.sendall(b"QUIT\r\n")
                reader.join()

        def drain(talking: socket.socket) -> None:
            while more := talking.recv(262144):
                last[:] = (last + more)[-200:]

        many = RCPT * 1000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        flooding = self.in_thread(flood)
        codes = await self.in_thread(lambda: self.talk([BEGIN]))
        self.assertFalse(flooding.called)
        self.assertEqual(codes, ["250"] * 3)
        await flooding
        self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 24000)
        unknown = [b"RCPT TO:<joe%d@example.org>\r\n" % number for number in range(1100)]
        codes = await self.in_thread(lambda: self.talk([HELLO, MAIL, *unknown]))
        self.assertLess(codes.count("550"), 1002)  # and a 421
        self.assertTrue(bytes(last).endswith(b"221 2.0.0 Bye\r\n"), bytes(last[-100:]))


def _sent(*pieces: bytes) -> bytes:
    stuffer = Stuffer()
    return b"".join(map(stuffer.feed, pieces)) + stuffer.end()


class DripTests(Probing):
    """One octet every 10 s, with minutes made tenths of a second."""

    async def test_whoever_lets_a_message_drip_is_sent_away(self) -> None:
        """By DATA, by BDAT, and with an end of line now and then; whoever sends at once is served meanwhile."""
        self.patch(conversation, "LOOK_S", 0.2)
        self.patch(pace, "GRACE_S", 0.5)

        def drip(begin: bytes, octets: bytes) -> tuple[bytes, float]:
            with self.connect() as client:
                client.sendall(begin)
                said, begun = b"", time.monotonic()
                client.settimeout(0.05)
                while time.monotonic() - begun < 15:
                    time.sleep(0.05)
                    try:
                        client.sendall(octets)
                        piece = client.recv(4096)
                    except TimeoutError:
                        continue
                    except ConnectionError:
                        break
                    if not piece:
                        break
                    said += piece
                return said, time.monotonic() - begun

        for begin, octets in (
            (BEGIN + b"DATA\r\n", b"x"),
            (BEGIN + b"DATA\r\n", b"\r\n"),
            (BEGIN, b"BDAT 1\r\nx"),
            (BEGIN + b"BDAT 1000000\r\n", b"x"),
        ):
            dripping = self.in_thread(lambda begin=begin, octets=octets: drip(begin, octets))  # type: ignore[misc]
            codes = await self.in_thread(lambda: self.talk([BEGIN + b"DATA\r\n", HEAD + b"x\r\n.\r\n"], 5))
            self.assertEqual(codes[-1], "250")
            said, seconds = await dripping
            self.assertTrue(said.endswith(b"421 4.4.2 Timeout: the message comes too slowly\r\n"), said[-100:])
            self.assertLess(seconds, 10)
