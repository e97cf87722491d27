"""
What strangers try, each with the answer it must get: never an open relay, nothing injected, nothing smuggled, memory
flat, others served, no traceback.

The listener is that of an MX, and that of users where it says so; routing is the real one over a directory of one user.
"""

from __future__ import annotations

import base64
import gc
import resource
import socket

from tests.integration.probing import BEGIN, EVIL, HEAD, HELLO, MAIL, RCPT, Probing

RECIPIENTS = (
    # (what is named, the answer)
    ("joe@example.org", "250"),
    ("JOE@EXAMPLE.ORG", "250"),
    ("joe@other.example", "550"),
    ("out%other.example@example.org", "550"),
    ("joe%example.org@other.example", "550"),
    ("other.example!out@example.org", "550"),
    ("example.org!joe@other.example", "550"),
    ('"out@other.example"@example.org', "550"),
    ('"joe@example.org"@other.example', "550"),
    ("@example.org:out@other.example", "550"),
    ("@example.org,@example.org:out@other.example", "550"),
    ("out@[192.0.2.1]", "550"),
    ("out@[127.0.0.1]", "550"),
    ("out@[IPv6:::1]", "550"),
    ("out@other.example@example.org", "501"),
    ("joe@example.org@other.example", "501"),
    ("joe@", "501"),
    ("@example.org", "501"),
    ("joe", "501"),
    ("", "501"),
    (" ", "501"),
    ('""@example.org', "550"),
    ('"joe"@example.org', "250"),
    ("a" * 64 + "@example.org", "550"),
    ("a" * 65 + "@example.org", "501"),
    ("joe@" + "a" * 64 + ".example", "501"),
    ("joe@" + "a." * 130 + "example", "501"),
    ("joe@example..org", "501"),
    ("joe@.example.org", "501"),
    (".joe@example.org", "501"),
    ("joe.@example.org", "501"),
    ("|id@example.org", "550"),
    ("`id`@example.org", "550"),
    ("$(id)@example.org", "501"),
    ("${HOME}@example.org", "550"),
    ("../../etc/passwd@example.org", "501"),
    ("etc/../passwd@example.org", "501"),
    ("etc/passwd@example.org", "550"),
    ("..@example.org", "501"),
    ("%s%n%x@example.org", "550"),
    ("-f@example.org", "550"),
    ("--help@example.org", "550"),
    ("*@example.org", "550"),
    ("j*@example.org", "550"),
    ('"joe)(mail=*"@example.org', "550"),
    ('"joe\\\\"@example.org', "550"),
    ("joe@example.org\0", "501"),
    ("jo\0e@example.org", "501"),
    ("jo\re@example.org", "501"),
    ('"jo\te"@example.org', "501"),
    ("joe@exam\u2028ple.org", "553"),
    ("jo\u2028e@example.org", "553"),
    ("joe@example.org> NOTIFY=NEVER <x", "555"),
    ("postmaster", "250"),
)

PARAMETERS = (
    # (behind MAIL FROM:<a@probe.example>, the answer)
    ("SIZE=1", "250"),
    ("SIZE=1 SIZE=1", "501"),
    ("size=1 SIZE=2", "501"),
    ("SIZE=-1", "501"),
    ("SIZE=", "501"),
    ("SIZE", "501"),
    ("SIZE=1.5", "501"),
    ("SIZE=0x10", "501"),
    ("SIZE=" + "9" * 20, "552"),
    ("SIZE=" + "9" * 21, "501"),
    ("SIZE=\u00b2", "501"),
    ("BODY=BINARYMIME", "250"),
    ("BODY=BINARY", "501"),
    ("BODY=8BITMIME BODY=7BIT", "501"),
    ("SMTPUTF8=x", "501"),
    ("AUTH=<>", "555"),
    ("X=Y", "555"),
    ("=", "555"),
    ("=" * 100, "555"),
    ("X" * 1900, "555"),
    ("X" * 2100, "500"),
    ("SIZE=1\tBODY=7BIT", "501"),
    ("SIZE=1\0", "501"),
    ("\u2028", "555"),
)

ENDS = (
    # what other servers have taken for the end of data
    b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\n", b"\n.\r", b"\r.\n", b"\r\n\0.\r\n",
    b"\r\n.\0\r\n", b"\0\r\n.\0\r\n", b"\r\n.\r\0\n", b"\r\n. \r\n", b"\r\n .\r\n", b"\r\n..\r\n", b"\n..\n",
    b"\r\n.\r\r\n", b"\x85.\x85", b"\xe2\x80\xa8.\xe2\x80\xa8", b"\x0b.\x0b", b"\r\n.\x0c\r\n", b"\r\n\x08.\r\n",
)  # fmt: skip

BDATS = (
    # (octets behind BEGIN, the answers)
    (b"BDAT 0\r\nQUIT\r\n", "250 221"),
    (b"BDAT 0 LAST\r\n", "250"),
    (b"BDAT -1\r\n" + EVIL, "501"),
    (b"BDAT 100000000000000000000\r\n" + EVIL, "501"),
    (b"BDAT 10000000000000000000\r\n" + EVIL, "552"),
    (b"BDAT 99999999\r\n" + EVIL, "552"),
    (b"BDAT\r\n" + EVIL, "501"),
    (b"BDAT LAST\r\n" + EVIL, "501"),
    (b"BDAT 1 2\r\n" + EVIL, "501"),
    (b"BDAT 3\r\nabcDATA\r\nBDAT 0 LAST\r\n", "250 503 250"),
    (b"BDAT 3\r\nabc" + MAIL + b"RSET\r\nQUIT\r\n", "250 503 250 221"),
    (b"RSET\r\nBDAT %d LAST\r\n" % len(EVIL) + EVIL + b"QUIT\r\n", "250 503 221"),
    (b"BDAT %d LAST\r\n" % len(EVIL) + EVIL + b"QUIT\r\n", "250 221"),
)

AUTHS = (
    # (octets behind EHLO under TLS, the answers)
    (b"AUTH\r\n", "501"),
    (b"AUTH PLAIN !!!\r\n", "501"),
    (b"AUTH PLAIN\r\n*\r\n", "334 501"),
    (b"AUTH PLAIN\r\n\0\r\n", "334 501"),
    (b"AUTH PLAIN\r\n" + b"A" * 1000000 + b"\r\n", "334 500"),
    (b"AUTH PLAIN " + b"A" * 1000000 + b"\r\n", "500"),
    (b"AUTH PLAIN =\r\n", "501"),
    (b"AUTH PLAIN " + base64.b64encode(b"\0joe@example.org\0wrong") + b"\r\n", "535"),
    (b"AUTH PLAIN " + base64.b64encode(b"\0joe@example.org\0sesame\0") + b"\r\n", "501"),
    (b"AUTH PLAIN " + base64.b64encode(b"ann@example.org\0joe@example.org\0sesame") + b"\r\n", "535"),
    (b"AUTH LOGIN\r\n" + base64.b64encode(b"joe@example.org\0") + b"\r\n", "334 501"),
    (b"AUTH LOGIN\r\n\r\n", "334 501"),
    (b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=joe,r=") + b"\r\n", "501"),
    (b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"p=tls-unique,,n=joe,r=x") + b"\r\n", "535"),
    (b"AUTH CRAM-MD5\r\n", "504"),
    (b"AUTH \xe2\x80\xa8\r\n", "504"),
    (b"MAIL FROM:<joe@example.org>\r\n", "530"),
)


class ProbeTests(Probing):
    """Issue 3: probes, each a test with the expected safe reply."""

    async def test_recipients_of_every_kind(self) -> None:
        """Never an open relay: no way of writing it leads a stranger's mail elsewhere."""

        def client() -> list[str]:
            lines = [f"RCPT TO:<{address}>\r\n".encode() for address, _ in RECIPIENTS]
            return self.talk([HELLO, MAIL, *lines])

        codes = (await self.in_thread(client))[2:]
        self.assertEqual(dict(zip((name for name, _ in RECIPIENTS), codes, strict=True)), dict(RECIPIENTS))

    async def test_parameters_of_every_kind(self) -> None:
        def client() -> list[str]:
            lines = [f"MAIL FROM:<a@probe.example> {text}\r\nRSET\r\n".encode() for text, _ in PARAMETERS]
            return self.talk([HELLO, *lines])

        codes = (await self.in_thread(client))[1::2]
        self.assertEqual(dict(zip((text for text, _ in PARAMETERS), codes, strict=True)), dict(PARAMETERS))

    async def test_ends_of_data_of_every_kind(self) -> None:
        """SMTP smuggling: what is no end of data ends nothing, and what has such a thing in it is mostly refused."""
        for end in ENDS:
            octets = BEGIN + b"DATA\r\n" + HEAD + b"a" + end + EVIL.replace(b"\r\n.\r\n", b"\r\n") + b"b\r\n.\r\n"
            codes = await self.in_thread(lambda octets=octets: self.talk([octets], 5))  # type: ignore[misc]
            self.assertIn(codes, (["250"] * 3 + ["354", "250"], ["250"] * 3 + ["354", "550"]), end)
        self.assert_nothing_evil()
        self.assertLess(len(self.queue.messages), len(ENDS))

    async def test_chunks_of_every_kind(self) -> None:
        for octets, expected in BDATS:
            codes = await self.in_thread(lambda octets=octets: self.talk([BEGIN, octets], 4))  # type: ignore[misc]
            self.assertEqual(" ".join(codes[3:]), expected, octets[:40])
        self.assert_nothing_evil()

    async def test_logins_of_every_kind(self) -> None:
        for octets, expected in AUTHS:
            codes = await self.in_thread(lambda octets=octets: self.talk([HELLO, octets], wrap=True))  # type: ignore[misc]
            self.assertEqual(" ".join(codes[1:]).split(" 500 250 221")[0], expected, octets[:40])
        self.assert_nothing_evil()

    async def test_values_with_line_ends_and_controls(self) -> None:
        """CR, LF, NUL and U+2028 in every value: refused, or harmless."""
        lines = [
            word + bad + end
            for bad in (b"\r", b"\n", b"\0", b"\xe2\x80\xa8", b"\x1b[2J")
            for word, end in (
                (b"EHLO a", b"b\r\n"),
                (b"MAIL FROM:<a", b"b@probe.example>\r\n"),
                (b"MAIL FROM:<a@b", b".example> SIZE=1\r\n"),
                (b"VRFY a", b"b\r\n"),
                (b"NOOP a", b"b\r\n"),
                (b"X", b"X\r\n"),
            )
        ]
        codes = await self.in_thread(lambda: self.talk([HELLO, *lines]))
        self.assertEqual(set(codes[1:]) - {"500", "501", "502", "503", "553"}, {"250", "252"})  # NOOP and VRFY
        self.assert_nothing_evil()

    async def test_floods_end_or_are_answered_and_memory_stays(self) -> None:
        """10^6 NOOPs and RCPTs, a command line, a header line of megabytes, 10^5 Received fields."""
        big = b"A" * (1 << 20)
        data = BEGIN + b"DATA\r\n"
        for name, parts, last in (
            ("NOOP", [HELLO, *[b"NOOP\r\n" * 10000] * 100], "421"),
            ("RCPT", [HELLO, MAIL, *[RCPT * 500] * 10], "250"),
            ("line", [HELLO, *[big] * 100, b"\r\n"], "500"),
            ("header", [data + b"Subject: ", *[big] * 100, b"\r\n\r\n.\r\n"], "552"),
            ("Received", [data, *[b"Received: x\r\n" * 1000] * 100, b"\r\n.\r\n"], "554"),
            ("body", [data + HEAD, *[big] * 16, b"\r\n.\r\n"], "552"),
            ("dots", [data + HEAD, *[b"..\r\n...\r\n.. x\r\n" * 10000] * 4, b".\r\n"], "250"),
        ):
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            codes = await self.in_thread(lambda parts=parts: self.talk(parts, 2))  # type: ignore[misc]
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
            # Who is hung up on while it talks may not see our last words.
            self.assertIn(codes[-1:], ([last], []) if last == "421" else ([last],), name)
            self.assertLess(grown, 24000, name)
        self.assert_nothing_evil()

    async def test_one_network_cannot_have_all_connections(self) -> None:
        """Those beyond the limit are told so, and others are served."""

        def client() -> tuple[list[bytes], bytes]:
            held = [self.connect() for _ in range(150)]
            said = [each.recv(100)[:3] for each in held]
            with socket.create_connection(
                ("127.0.0.1", self.ports["mx"]), timeout=20, source_address=("127.0.0.2", 0)
            ) as other:
                greeting = other.recv(100)[:3]
            for each in held:
                each.close()
            return said, greeting

        said, greeting = await self.in_thread(client)
        self.assertEqual((said.count(b"220"), said.count(b"421"), greeting), (100, 50, b"220"))

    async def test_other_protocols_are_hung_up_on(self) -> None:
        for octets in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL,
            b"POST / HTTP/1.1\r\n\r\n" + BEGIN,
        ):
            codes = await self.in_thread(lambda octets=octets: self.talk([octets], 5))  # type: ignore[misc]
            self.assertEqual(codes, ["421"], octets)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n"  # TLS where there is none
        self.assertEqual(set(await self.in_thread(lambda: self.talk([hello]))), {"500"})
