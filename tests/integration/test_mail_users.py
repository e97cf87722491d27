"""Mail of users who log in, over the real daemon: passwords and SCRAM secrets come from the directory's process."""

from __future__ import annotations

import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Sequence
from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.node import Node, NodeCase, Settings

PASSWORD = "sesame open"


class Users(NodeCase):
    """A stranger's address, so that only a login lets mail out."""

    settings: ClassVar[Settings] = {
        "trust.networks": ["127.0.0.2/32"],
        "listener.smtp.auth": "offered",
        "listener.lmtp.endpoint": "unix:run/lmtp.sock:mode=600",
    }
    users: ClassVar[Sequence[str]] = ("alice", "bob")

    def begin(self, node: Node) -> None:
        node.qmailpy("user", "passwd", "alice@example.org", "--password-stdin", octets=PASSWORD.encode())
        node.start()

    def connect(self) -> smtplib.SMTP:
        context = ssl.create_default_context(cafile=self.node.path("tls", "cert.pem"))
        context.check_hostname = False  # 127.0.0.1 is not its name
        smtp = smtplib.SMTP("127.0.0.1", self.node.port, "client.example.net", timeout=20)
        smtp.starttls(context=context)
        return smtp

    def test_a_user_sends_out_and_in_and_it_is_recorded(self) -> None:
        """Issue 3: authenticated may relay; modifiers, user and U records in the log."""
        with self.connect() as smtp:
            smtp.login("alice@example.org", PASSWORD)
            smtp.sendmail("alice@example.org", ["bob@example.org", "x@remote.example"], "Subject: hi\r\n\r\nbody\r\n")
        (delivered,) = self.node.wait_mailbox("bob", 1)
        self.assertRegex(delivered, rb"with ESMTPSA id \w+\n\ttls TLS_[A-Z0-9_]+ \(TLSv1\.3\); ")
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(mail.recipients, ["x@remote.example"])
        self.wait_idle()
        for record in self.node.records(Action.ENQUEUED)[-2:]:
            self.assertEqual((record.modifiers, record.user), ("ESA", "alice@example.org"))
        login = self.node.records(Action.AUTHENTICATED)[-1]
        self.assertEqual((login.user, login.diagnostic[:3]), ("alice@example.org", "235"))

    def test_without_a_login_nothing_goes_out(self) -> None:
        with self.connect() as smtp:
            smtp.ehlo()
            self.assertEqual(smtp.docmd("AUTH", "PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHdyb25n")[0], 535)
            smtp.docmd("MAIL", "FROM:<alice@example.org>")
            self.assertEqual(smtp.docmd("RCPT", "TO:<x@remote.example>")[0], 550)
            self.assertEqual(smtp.docmd("RCPT", "TO:<bob@example.org>")[0], 250)

    def test_scram_secrets_come_from_the_directory(self) -> None:
        """With a binding to the channel, by GNU SASL; what the user sets a new password to is seen at once."""
        gsasl = shutil.which("gsasl")
        assert gsasl is not None, "gsasl is missing: make test installs it"
        command = [gsasl, "--smtp", "--connect", f"127.0.0.1:{self.node.port}", "--starttls", "--x509-ca-file", ""]
        command += ["--mechanism", "SCRAM-SHA-256-PLUS", "--authentication-id", "alice@example.org", "--password"]

        def log_in(password: str) -> bool:
            done = subprocess.run(
                [*command, password], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
            )
            return b"235 2.7.0" in done.stdout and b"server trusted" in done.stdout + done.stderr

        self.assertTrue(log_in(PASSWORD))
        self.assertFalse(log_in("wrong"))
        self.node.qmailpy("user", "passwd", "alice@example.org", "--password-stdin", octets=b"another")
        try:
            self.assertTrue(log_in("another"))
            self.assertFalse(log_in(PASSWORD))
        finally:
            self.node.qmailpy("user", "passwd", "alice@example.org", "--password-stdin", octets=PASSWORD.encode())

    def test_lmtp_over_its_socket(self) -> None:
        """RFC 2033: a reply a recipient, in their order."""
        from qmailpy.control.client import short_path

        with socket.socket(socket.AF_UNIX) as client, short_path(self.node.path("run", "lmtp.sock")) as name:
            client.settimeout(20)
            client.connect(name)
            stream = client.makefile("rwb")
            stream.write(
                b"LHLO x.example\r\nMAIL FROM:<list@remote.example>\r\nRCPT TO:<alice@example.org>\r\n"
                b"RCPT TO:<nobody-such@example.org>\r\nRCPT TO:<bob@example.org>\r\n"
                b"BDAT 15 LAST\r\nSubject: l\r\n\r\nx" + b"QUIT\r\n"
            )
            stream.flush()
            codes = [line[:3] for line in stream if line[3:4] == b" "]
        self.assertEqual(codes, [b"220", b"250", b"250", b"250", b"550", b"250", b"250", b"250", b"221"])
        for user in ("alice", "bob"):
            (delivered,) = self.node.wait_mailbox(user, 1)
            self.assertIn(b"with LMTP id", delivered)
        self.wait_idle()
