"""TLS, logins, submission and LMTP on real sockets, with clients that are not ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import smtplib
import socket
import ssl
from typing import Any

from twisted.internet.defer import gatherResults

from qmailpy.records.record import Action
from qmailpy.servers.tls import OWN
from tests.integration.submitting import PASSWORD, USER, SubmissionCase, made_pair


class SubmissionTests(SubmissionCase):
    """Each listener for itself."""

    async def test_swaks_in_every_mode(self) -> None:
        """Issue 3: swaks, every TLS and AUTH mode it has in common with us."""
        login = ("--auth-user", USER, "--auth-password", PASSWORD)
        for listener, tls in (("submission", "--tls"), ("submissions", "--tls-on-connect")):
            for mechanism in ("PLAIN", "LOGIN"):
                code, said = await self.swaks(listener, tls, "--auth", mechanism, *login)
                self.assertEqual(code, 0, said)
        self.assertEqual(len(self.queue.messages), 4)
        for message in self.queue.messages:
            self.assertEqual((message.envelope.protocol, message.envelope.user), ("ESMTPSA", USER))
            self.assertRegex(message.content, rb"\r\n\ttls TLS_[A-Z0-9_]+ \(TLSv1\.[23]\); ")
        for words, expected in (
            (("--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", "x"), 28),  # no login
            (("--tls",), 23),  # MAIL refused
            (("--auth", "PLAIN", *login), 28),  # in the clear
            (("--tls", "--auth", "CRAM-MD5", *login), 28),  # not offered
            (("--tls", "--tls-protocol", "tlsv1_1", "--auth", "PLAIN", *login), 29),  # too old
        ):
            code, said = await self.swaks("submission", *words)
            self.assertEqual(code, expected, said)
        self.assertEqual(len(self.queue.messages), 4)

    async def test_swaks_speaks_lmtp_and_opportunistic_tls(self) -> None:
        where = ("--server", "127.0.0.1", "--from", "a@example.net", "--helo", "client.example.net")
        to = ("--to", "b@example.org,c@example.org")
        code, said = await self.run_tool("swaks", *where, *to, "--port", str(self.ports["lmtp"]), "--protocol", "LMTP")
        self.assertEqual((code, self.queue.messages[-1].envelope.protocol), (0, "LMTP"), said)
        code, said = await self.run_tool("swaks", *where, *to, "--port", str(self.ports["smtp"]), "--tls-optional")
        self.assertEqual((code, self.queue.messages[-1].envelope.protocol), (0, "ESMTPS"), said)
        self.assertNotIn("AUTH", said)

    async def test_curl_submits_with_every_mechanism_it_has(self) -> None:
        letter = self.file(b"Subject: curl\r\n\r\nbody\r\n")
        common = ("--silent", "--show-error", "--cacert", self.authority, "--mail-from", USER, "--upload-file", letter)
        for url, more in (
            (f"smtp://localhost:{self.ports['submission']}", ("--ssl-reqd",)),
            (f"smtps://localhost:{self.ports['submissions']}", ()),
        ):
            for mechanism in ("PLAIN", "LOGIN"):
                words = (*common, *more, "--url", url, "--user", f"{USER}:{PASSWORD}", "--mail-rcpt", "out@example.com")
                code, said = await self.run_tool("curl", *words, "--login-options", f"AUTH={mechanism}")
                self.assertEqual(code, 0, said)
                self.assertIn(b"Subject: curl", self.queue.messages[-1].content)
        code, _ = await self.run_tool("curl", *words[:-4], "--user", f"{USER}:wrong", "--mail-rcpt", "b@example.org")
        self.assertEqual(code, 67)  # login denied

    async def test_gsasl_logs_in_by_scram(self) -> None:
        """GNU SASL's client, which checks our proof too (RFC 5802): -PLUS binds the channel under TLS 1.3."""
        for mechanism, more in (("SCRAM-SHA-256", ["--no-cb"]), ("SCRAM-SHA-256-PLUS", []), ("PLAIN", [])):
            words = ("--smtp", "--connect", f"localhost:{self.ports['submission']}", "--mechanism", mechanism)
            login = ("--authentication-id", USER, "--password", PASSWORD, "--starttls")
            code, said = await self.run_tool("gsasl", *words, *login, "--x509-ca-file", self.authority, *more)
            self.assertEqual(code, 0, said)
            self.assertIn("235 2.7.0", said)

    async def test_scram_plus_with_the_end_point_binding(self) -> None:
        """RFC 5929 s.4, as clients do it that cannot export keys; a binding to another certificate fails."""

        def client(spoil: bool) -> tuple[int, bytes]:
            with smtplib.SMTP("localhost", self.ports["submission"], "client.example.net", timeout=10) as smtp:
                smtp.starttls(context=self.context)
                smtp.ehlo()
                assert isinstance(smtp.sock, ssl.SSLSocket)
                certificate = smtp.sock.getpeercert(binary_form=True) or b""
                header = b"p=tls-server-end-point,,"
                bare = b"n=" + USER.encode() + b",r=clientnonce"
                code, said = smtp.docmd("AUTH", "SCRAM-SHA-256-PLUS " + base64.b64encode(header + bare).decode())
                first = base64.b64decode(said)
                fields = dict(part.split(b"=", 1) for part in first.split(b","))
                salted = hashlib.pbkdf2_hmac(
                    "sha256", PASSWORD.encode(), base64.b64decode(fields[b"s"]), int(fields[b"i"])
                )
                bound = header + hashlib.sha256(certificate + b"x" * spoil).digest()
                without = b"c=" + base64.b64encode(bound) + b",r=" + fields[b"r"]
                key = hmac.digest(salted, b"Client Key", "sha256")
                signature = hmac.digest(hashlib.sha256(key).digest(), b",".join((bare, first, without)), "sha256")
                proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
                code, said = smtp.docmd(base64.b64encode(without + b",p=" + base64.b64encode(proof)).decode())
                if code == 334:
                    code, said = smtp.docmd("")
                return code, said

        self.assertEqual((await self.in_thread(lambda: client(False)))[0], 235)
        self.assertEqual((await self.in_thread(lambda: client(True)))[0], 535)

    async def test_smtplib_sends_large_mail_both_ways_of_tls(self) -> None:
        """A megabyte with dots at line starts, under TLS, with a login."""
        large = b"Subject: large\r\n\r\n" + (b"." * 70 + b"\r\n") * 15000

        def client() -> None:
            with smtplib.SMTP("localhost", self.ports["submission"], "client.example.net", timeout=10) as smtp:
                smtp.starttls(context=self.context)
                smtp.login(USER, PASSWORD)
                smtp.sendmail(USER, ["b@example.org", "out@example.com"], large)
            with smtplib.SMTP_SSL(
                "localhost", self.ports["submissions"], "client.example.net", timeout=10, context=self.context
            ) as smtps:
                smtps.login(USER, PASSWORD)
                smtps.sendmail(USER, ["b@example.org"], large)

        await self.in_thread(client)
        for message in self.queue.messages:
            self.assertEqual(message.content.partition(b"Subject: large")[2], large[14:])

    async def test_openssl_sees_the_versions_and_the_names(self) -> None:
        """s_client: TLS 1.2 and 1.3, nothing older; the certificate by SNI; STARTTLS for SMTP and LMTP not offered."""
        where = ("s_client", "-connect", f"127.0.0.1:{self.ports['submissions']}", "-brief")
        for words, expected in (
            (("-tls1_3",), "Protocol version: TLSv1.3"),
            (("-tls1_2",), "Protocol version: TLSv1.2"),
            (("-servername", "mail.example.net"), "CN = mail.example.net"),
            (("-servername", "other.example"), "CN = localhost"),
        ):
            _, said = await self.run_tool("openssl", *where, *words)
            self.assertIn(expected, said.replace("CN=", "CN = "))
        _, said = await self.run_tool("openssl", *where, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        self.assertNotIn("CONNECTION ESTABLISHED", said)
        starting = ("s_client", "-connect", f"127.0.0.1:{self.ports['smtp']}", "-starttls", "smtp", "-brief")
        _, said = await self.run_tool("openssl", *starting)
        self.assertIn("CONNECTION ESTABLISHED", said)

    async def test_commands_injected_before_tls_are_never_run(self) -> None:
        """The command in the same segment as STARTTLS, and in the next (issue 3's probe table)."""

        def same() -> bytes:
            with socket.create_connection(("127.0.0.1", self.ports["smtp"]), timeout=10) as client:
                client.sendall(b"EHLO x\r\nSTARTTLS\r\nRSET\r\nNOOP\r\n")
                return b"".join(iter(lambda: client.recv(65536), b""))

        def following() -> bytes:
            with socket.create_connection(("127.0.0.1", self.ports["smtp"]), timeout=10) as client:
                client.sendall(b"EHLO x\r\nSTARTTLS\r\n")
                said = b""
                while b"\r\n220 " not in said:
                    said += client.recv(65536)
                client.sendall(b"MAIL FROM:<evil@example.net>\r\n")
                try:
                    return b"".join(iter(lambda: client.recv(65536), b""))
                except ConnectionResetError:
                    return b""

        self.assertEqual((await self.in_thread(same)).splitlines()[-1][:3], b"421")
        self.assertNotIn(b"250", await self.in_thread(following))
        closed = [record for record in self.recorder.records if record.action is Action.CLOSED]
        self.assertIn("TLS handshake failed", closed[-1].diagnostic)

    async def test_tls_behind_a_load_balancer(self) -> None:
        """The PROXY header in the clear, the handshake right behind it in the same segment or later."""

        def client(together: bool) -> bytes:
            header = b"PROXY TCP4 192.0.2.44 203.0.113.1 4321 465\r\n"
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            with socket.create_connection(("127.0.0.1", self.ports["behind"]), timeout=10) as connection:
                if not together:
                    connection.sendall(header)
                    header = b""
                said = b""
                while b"220" not in said:
                    try:
                        tls.do_handshake()
                        said += tls.read(4096)
                    except ssl.SSLWantReadError:
                        connection.sendall(header + outgoing.read())
                        header = b""
                        incoming.write(connection.recv(65536))
                return said

        for together in (True, False):
            self.assertIn(b"220 mx", await self.in_thread(lambda together=together: client(together)))  # type: ignore[misc]
        opened = [record for record in self.recorder.records if record.action is Action.OPENED]
        self.assertEqual([record.transport.split("|")[3] for record in opened], ["192.0.2.44"] * 2)

    async def test_certificates_change_and_sessions_stay(self) -> None:
        """Issue 3: reload without dropping sessions."""

        def begin() -> smtplib.SMTP:
            smtp = smtplib.SMTP("localhost", self.ports["submission"], "client.example.net", timeout=10)
            smtp.starttls(context=self.context)
            return smtp

        def finish(smtp: smtplib.SMTP) -> Any:
            smtp.login(USER, PASSWORD)
            refused = smtp.sendmail(USER, ["b@example.org"], "Subject: x\r\n\r\n")
            smtp.quit()
            return refused

        smtp = await self.in_thread(begin)
        self.certificates.use({OWN: made_pair("new.example.org")})
        self.assertEqual(await self.in_thread(lambda: finish(smtp)), {})
        _, said = await self.run_tool(
            "openssl", "s_client", "-connect", f"127.0.0.1:{self.ports['submissions']}", "-brief"
        )
        self.assertIn("new.example.org", said)

    async def test_handshakes_of_many_clients_at_once(self) -> None:
        def client() -> int:
            with smtplib.SMTP_SSL(
                "localhost", self.ports["submissions"], "client.example.net", timeout=20, context=self.context
            ) as smtps:
                return smtps.noop()[0]

        self.assertEqual(await gatherResults([self.in_thread(client) for _ in range(30)]), [250] * 30)
