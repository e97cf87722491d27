"""C{python -m qmailpy.app.demo}, the whole of it: real daemon, real mail, on ports that are free."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.daemon_process import ROOT, gone, read, until

LIMIT_S = 60.0


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return found


class DemonstrationTests(SynchronousTestCase):
    """L{qmailpy.app.demo}."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        self.smtp, ldap, self.sink = free_ports(3)
        relay = f"127.0.0.1:{self.sink}"
        names = ("--hostname", "mail.example.org", "--domain", "example.org")
        self.qmailpy("init", self.home, *names, "--unprivileged", "--relay", relay)
        self.qmailpy("config", "set", "listener.smtp.endpoint", f"tcp:{self.smtp}:interface=127.0.0.1")
        for name in ("submissions", "submission", "lmtp", "pop3", "pop3s"):
            self.qmailpy("config", "set", f"listener.{name}.endpoint", f"unix:run/{name}.sock")
        self.qmailpy("config", "set", "directory.endpoint", f"tcp:{ldap}:interface=127.0.0.1")

    def qmailpy(self, *words: str) -> str:
        program = os.path.join(os.path.dirname(sys.executable), "qmailpy")
        return subprocess.run(
            [program, "--home", self.home, *words], check=True, capture_output=True, text=True, timeout=LIMIT_S
        ).stdout

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "qmailpy.app.demo", "--home", self.home, *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_once(self) -> tuple[str, str, int]:
        process = self.start("--once")
        output, error = process.communicate(timeout=LIMIT_S)
        return output, error, process.returncode

    def test_it_shows_mail_log_and_counters_twice_on_the_same_home(self) -> None:
        """The contract of C{make run ARGS=--once}: status 0, the message, its records, balanced books; twice."""
        output, error, status = self.run_once()
        self.assertEqual((error, status), ("", 0))
        self.assertIn("Return-Path: <alice@example.org>\nDelivered-To: bob@example.org\nReceived: from ", output)
        self.assertIn("this one stays in the house.", output)
        self.assertRegex(output, r"tcp_local +local +EE 1 alice@example\.org rfc822;bob@example\.org")
        self.assertRegex(output, r"tcp_local +RE 1 alice@example\.org rfc822;nobody@example\.net")
        self.assertIn("the counters equal the transaction log: ", output)
        passwords = os.path.join(self.home, "demo-passwords")
        self.assertEqual(stat.S_IMODE(os.stat(passwords).st_mode), 0o600)
        for line in read(passwords).splitlines():
            for word in line.split():
                self.assertIn(word, output)
        self.interrupted()
        mailbox = os.path.join(self.home, "mail", "example.org", "bob", "Maildir")
        self.assertEqual([len(os.listdir(os.path.join(mailbox, name))) for name in ("tmp", "new")], [0, 4])

    def interrupted(self) -> None:
        """The second run, on the same home: Ctrl-C after the show stops the daemon in order, with status 0."""
        process = self.start()
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if "until Ctrl-C" in line:
                break
        self.assertIn("kept from before", "".join(shown))
        pid = int(read(self.home, "run", "qmailpy.pid"))
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=LIMIT_S)
        self.assertEqual((error, process.returncode), ("", 0))
        self.assertTrue(gone(pid))
        self.assertEqual(read(self.home, "log", "qmailpy.log").count("qmailpy has stopped"), 2)

    def test_a_taken_port_is_one_clear_line(self) -> None:
        """First the sink's, then the daemon's; status 1, no traceback."""
        for port, words in ((self.sink, f"port {self.sink}"), (self.smtp, "the daemon did not start: listener smtp:")):
            with socket.create_server(("127.0.0.1", port)):
                _, error, status = self.run_once()
            self.assertEqual(status, 1)
            self.assertEqual(len(error.splitlines()), 1)
            self.assertIn(words, error)
            self.assertIn("Address already in use", error)

    def test_the_daemon_does_not_outlive_a_demonstration_that_is_killed(self) -> None:
        """Or the next one would find its ports taken by nobody's daemon."""
        process = self.start()
        assert process.stdout is not None
        for line in process.stdout:
            if "daemon ready" in line:
                break
        pid = int(read(self.home, "run", "qmailpy.pid"))
        process.kill()
        process.communicate(timeout=LIMIT_S)
        until(lambda: gone(pid), LIMIT_S)
