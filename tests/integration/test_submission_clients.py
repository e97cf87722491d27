"""Mail clients of other people against our listeners: swaks, msmtp, nodemailer; openssl for versions and ciphers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from qmailpy.values import Notify
from tests.integration.submitting import PASSWORD, USER, SubmissionCase, made_pair

LOGIN = ("--auth-user", USER, "--auth-password", PASSWORD)
NODE = os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "peers", "node", "node_modules")
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "nodemailer.js")


class SwaksTests(SubmissionCase):
    """What it has beside the two mechanisms: see L{tests.integration.test_submission}."""

    async def test_every_way_to_tls(self) -> None:
        """Versions, names, trust in our certificate, a certificate that was not asked for, pipelining."""
        pair = made_pair("joe")
        shown = ("--tls-cert", self.file(pair.certificate), "--tls-key", self.file(pair.key))
        for listener, words in (
            ("submission", ("--tls", "--auth")),
            ("submission", ("--tls", "--auth", "--auth-plaintext")),
            ("submission", ("--tls", "--auth", "--pipeline")),
            ("submission", ("--tls-optional-strict", "--auth")),
            ("submission", ("--tls-optional", "--auth-optional", "PLAIN")),
            ("submission", ("--tls", "--tls-protocol", "tlsv1_2", "--auth", "LOGIN")),
            ("submission", ("--tls", "--tls-protocol", "tlsv1_3", "--auth", "LOGIN")),
            ("submission", ("--tls", "--tls-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384", "--auth")),
            (
                "submission",
                ("--tls", "--tls-sni", "localhost", "--tls-verify", "--tls-ca-path", self.authority, "--auth"),
            ),
            ("submission", ("--tls", *shown, "--auth")),
            ("submissions", ("--tls-on-connect", "--tls-protocol", "tlsv1_2", "--auth")),
            ("submissions", ("--tls-on-connect", "--tls-verify", "--tls-ca-path", self.authority, "--auth")),
        ):
            code, said = await self.swaks(listener, *words, *LOGIN)
            self.assertEqual(code, 0, said)
            self.assertEqual(self.queue.messages[-1].envelope.user, USER)

    async def test_what_we_do_not_have(self) -> None:
        """Its other mechanisms (28), versions of TLS and ciphers that are too old (29), TLS where there is none."""
        before = len(self.queue.messages)
        for listener, words, expected in (
            *(("submission", ("--tls", "--auth", name), 28) for name in ("CRAM-MD5", "CRAM-SHA1", "DIGEST-MD5")),
            ("submission", ("--tls", "--tls-protocol", "tlsv1", "--auth"), 29),
            ("submissions", ("--tls-on-connect", "--tls-protocol", "tlsv1_1", "--auth"), 29),
            ("submission", ("--tls", "--tls-protocol", "tlsv1_2", "--tls-cipher", "AES128-SHA", "--auth"), 29),
            ("submission", ("--auth", "LOGIN"), 28),
            ("lmtp", ("--protocol", "LMTP", "--tls"), 29),
        ):
            code, said = await self.swaks(listener, *words, *LOGIN)
            self.assertEqual(code, expected, (words, said))
        self.assertEqual(len(self.queue.messages), before)


class MsmtpTests(SubmissionCase):
    """msmtp, which uses GnuTLS and GNU SASL."""

    async def msmtp(self, listener: str, *words: str) -> tuple[int, str]:
        letter = self.file(b"From: joe@example.org\nTo: out@example.com\nSubject: msmtp\n\n.body\n")
        tls = "off" if listener == "submissions" else "on"
        where = ("--host=localhost", f"--port={self.ports[listener]}", "--tls=on", f"--tls-starttls={tls}")
        trust = (f"--tls-trust-file={self.authority}", f"--user={USER}", f"--from={USER}", "--file=/dev/null")
        return await self.run_tool("msmtp", *where, *trust, *words, "out@example.com", source=letter)

    async def test_every_mechanism(self) -> None:
        """Both kinds of TLS, and a wrong password."""
        secret = f"--passwordeval=echo {PASSWORD}"
        for listener in ("submission", "submissions"):
            for mechanism in ("plain", "login", "scram-sha-256"):
                code, said = await self.msmtp(listener, f"--auth={mechanism}", secret)
                self.assertEqual(code, 0, (mechanism, said))
                message = self.queue.messages[-1]
                self.assertEqual((message.envelope.user, message.envelope.protocol), (USER, "ESMTPSA"))
                self.assertTrue(message.content.endswith(b"\r\n\r\n.body\r\n"))
        before = len(self.queue.messages)
        code, said = await self.msmtp("submission", "--auth=plain", "--passwordeval=echo wrong")
        self.assertNotEqual(code, 0)
        self.assertIn("535", said)
        self.assertEqual(len(self.queue.messages), before)

    async def test_it_asks_for_reports(self) -> None:
        """RFC 3461."""
        words = ("--auth=plain", f"--passwordeval=echo {PASSWORD}", "--dsn-notify=success,delay", "--dsn-return=hdrs")
        code, said = await self.msmtp("submission", *words)
        self.assertEqual(code, 0, said)
        envelope = self.queue.messages[-1].envelope
        self.assertEqual(envelope.ret, "HDRS")
        self.assertEqual(envelope.recipients[0].notify, Notify.SUCCESS | Notify.DELAY)


class NodemailerTests(SubmissionCase):
    """nodemailer, from npm: C{make test} brings it."""

    async def node(self, options: Mapping[str, object], mail: Mapping[str, object], count: int = 1) -> tuple[int, str]:
        options = {"host": "localhost", **options}
        mail = {"from": USER, "to": "out@example.com", "subject": "nodemailer", "text": "body", **mail}
        environment = {"NODE_PATH": NODE, "TRUSTED": self.authority}
        words = (SCRIPT, json.dumps(options), json.dumps(mail), str(count))
        return await self.run_tool("node", *words, **environment)

    async def test_every_mechanism_and_both_kinds_of_tls(self) -> None:
        """Several messages over one connection too."""
        for listener in ("submission", "submissions"):
            way = {"port": self.ports[listener], "secure": listener == "submissions", "requireTLS": True}
            for mechanism in ("PLAIN", "LOGIN"):
                login = {"auth": {"user": USER, "pass": PASSWORD}, "authMethod": mechanism}
                code, said = await self.node({**way, **login}, {}, 3)
                self.assertEqual((code, said.count("250 2.")), (0, 3), said)
            code, said = await self.node({**way, "auth": {"user": USER, "pass": "wrong"}}, {})
            self.assertEqual(code, 1)
            self.assertIn("535", said)
        self.assertEqual(len(self.queue.messages), 12)
        self.assertEqual({message.envelope.user for message in self.queue.messages}, {USER})

    async def test_attachments_letters_and_reports(self) -> None:
        """A megabyte in base64, a subject and a name beyond ASCII, DSN, a recipient who is not there among others."""
        way = {"port": self.ports["submission"], "auth": {"user": USER, "pass": PASSWORD}}
        mail = {
            "subject": "Grüße, 你好",
            "to": ["Jörg <out@example.com>", "bad@example.org"],
            "text": "Zeile\n.\n..\n" * 10,
            "attachments": [{"filename": "größe.bin", "path": self.file(b"\xff" * 1_000_000)}],
            "dsn": {"id": "QQ314159", "return": "headers", "notify": ["success", "failure"], "recipient": USER},
        }
        code, said = await self.node(way, mail)
        self.assertEqual(code, 0, said)
        message = self.queue.messages[-1]
        self.assertEqual((message.envelope.envid, message.envelope.ret), ("QQ314159", "HDRS"))
        (recipient,) = message.envelope.recipients
        self.assertEqual((recipient.address, recipient.orcpt), ("out@example.com", f"rfc822;{USER}"))
        self.assertEqual(recipient.notify, Notify.SUCCESS | Notify.FAILURE)
        self.assertGreater(len(message.content), 1_300_000)


class OpensslTests(SubmissionCase):
    """openssl s_client."""

    async def client(self, listener: str, *words: str, source: str = "/dev/null") -> str:
        start = () if listener == "submissions" else ("-starttls", "lmtp" if listener == "lmtp" else "smtp")
        where = ("s_client", "-connect", f"localhost:{self.ports[listener]}", *start)
        return (await self.run_tool("openssl", *where, *words, source=source))[1]

    async def test_versions(self) -> None:
        """RFC 8996: nothing before TLS 1.2, whatever the client is ready for."""
        for listener in ("smtp", "submission", "submissions"):
            for version in ("-tls1_2", "-tls1_3"):
                said = await self.client(listener, version, "-brief", "-CAfile", self.authority, "-verify_return_error")
                self.assertIn("CONNECTION ESTABLISHED", said)
            for version in ("-tls1", "-tls1_1"):
                said = await self.client(listener, version, "-brief", "-cipher", "ALL:@SECLEVEL=0")
                self.assertNotIn("CONNECTION ESTABLISHED", said)
                self.assertRegex(said, "alert protocol version|unsupported protocol|no protocols available")

    async def test_ciphers(self) -> None:
        """RFC 9325: ephemeral keys and AEAD, nothing else."""
        for words in (
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
            ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
            ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ):
            self.assertIn("CONNECTION ESTABLISHED", await self.client("submissions", *words, "-brief"), words)
        for weak in (
            "ECDHE-ECDSA-AES128-SHA",
            "ECDHE-ECDSA-AES128-SHA256",
            "AES128-GCM-SHA256",
            "AES128-SHA",
            "aNULL",
        ):
            said = await self.client("submissions", "-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0", "-brief")
            self.assertNotIn("CONNECTION ESTABLISHED", said, weak)
            self.assertIn("handshake failure", said, weak)

    async def test_sessions_are_resumed_by_ticket(self) -> None:
        """The ticket comes with the first words under TLS (RFC 8446 s.4.6.1)."""
        quit_it = self.file(b"EHLO client.example.net\nQUIT\n")
        for listener in ("submission", "submissions"):
            for version in ("-tls1_2", "-tls1_3"):
                ticket = self.file(b"")
                words = (version, "-crlf", "-ign_eof")
                said = await self.client(listener, *words, "-sess_out", ticket, source=quit_it)
                self.assertIn("New, TLSv1", said)
                self.assertIn("221 2.0.0", said)
                said = await self.client(listener, *words, "-sess_in", ticket, source=quit_it)
                self.assertIn("Reused, TLSv1", said)
                self.assertIn("221 2.0.0", said)
