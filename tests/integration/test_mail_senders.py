"""Mail from those who send it for a living: their clients, the real daemon, the content compared octet for octet."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess

from twisted.trial.unittest import SkipTest

from tests.integration.node import NodeCase, trace_and_message, without_received
from tests.integration.peers.client import message


def program(name: str, package: str) -> str:
    """Where a program is. @raise SkipTest: it is not installed."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise SkipTest(f"{name} is not there (apt-get install {package})")
    return found


class Senders(NodeCase):
    """Each sends to a mailbox and to a next hop."""

    def arrived(self, content: bytes) -> None:
        """One message, in alice's mailbox and at the sink, as it was sent."""
        (delivered,) = self.node.wait_mailbox("alice", 1)
        fields, text = trace_and_message(delivered)
        self.assertEqual([field.split(b":")[0] for field in fields], [b"Return-Path", b"Delivered-To", b"Received"])
        self.assertEqual(text.replace(b"\n", b"\r\n"), content)
        (mail,) = self.sink.wait_mails(1)
        self.assertEqual(without_received(mail.content), content)
        self.wait_idle()

    def test_swaks(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as target:
            target.write(message("swaks").removesuffix(b"\r\n"))  # it ends the last line itself
        command = [program("swaks", "swaks"), "--server", "127.0.0.1", "--port", str(self.node.port)]
        command += ["--from", "a@client.example", "--to", "alice@example.org,x@remote.example", "--data", "@" + path]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.arrived(message("swaks"))

    def test_smtplib(self) -> None:
        """The form of MAIL with SIZE and BODY, and bodies of every octet above 127."""
        content = message("smtplib", bytes(range(128, 256)) + b"\r\n.\r\n..\r\n.a\r\n" + b"x" * 990 + b"\r\n")
        with smtplib.SMTP("127.0.0.1", self.node.port, timeout=20) as client:
            refused = client.sendmail(
                "a@client.example", ["alice@example.org", "x@remote.example"], content, ["BODY=8BITMIME"]
            )
        self.assertEqual(refused, {})
        self.arrived(content)

    def test_curl(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as target:
            target.write(message("curl", b".hidden\r\nend\r\n"))
        command = [program("curl", "curl"), "-sS", f"smtp://127.0.0.1:{self.node.port}/client.example"]
        command += ["--mail-from", "a@client.example", "--mail-rcpt", "alice@example.org"]
        command += ["--mail-rcpt", "x@remote.example", "-T", path]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.arrived(message("curl", b".hidden\r\nend\r\n"))

    def test_smtp_source(self) -> None:
        """40 messages over 8 connections at once, each of 4,000 octets: all of them, once."""
        command = [program("smtp-source", "postfix"), "-s", "8", "-m", "40", "-l", "4000", "-f", "a@client.example"]
        command += ["-t", "alice@example.org", f"127.0.0.1:{self.node.port}"]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        mails = self.node.wait_mailbox("alice", 40)
        self.assertEqual(len({trace_and_message(mail)[1] for mail in mails}), len(mails), "ids of smtp-source")
        self.wait_idle()
        counted = self.counted()
        self.assertEqual(counted["local"]["delivered"][0] - self.before.get("local", {}).get("delivered", (0,))[0], 40)

    def test_a_client_that_sends_everything_at_once(self) -> None:
        """RFC 2920 asks it to wait behind DATA; nothing of ours depends on it."""
        content = message("at once")
        with self.node.talk() as talk:
            talk.send(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<alice@example.org>\r\nRCPT TO:<x@remote.example>\r\n")
            talk.send(b"DATA\r\n" + content + b".\r\nQUIT\r\n")
            replies = [talk.reply()[:3] for _ in range(6)]
        self.assertEqual(replies, ["250", "250", "250", "354", "250", "221"])
        self.arrived(content)
