"""A Debian Postfix with directories of its own: takes mail on a port, passes all of it on or keeps it in Maildirs."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile

from twisted.trial.unittest import SkipTest

from benchmarks.postfix import COMMON, SERVICES
from tests.integration.daemon_process import gone, until
from tests.integration.peers.running import messages_in

DAEMONS = "/usr/lib/postfix/sbin"

MAIN = (
    COMMON
    + """
myhostname = postfix.example
smtp_tls_security_level = none
smtpd_tls_security_level = none
biff = no
maillog_file = {top}/log
maillog_file_prefixes = /tmp, /var
smtp_line_length_limit = 0
message_size_limit = 20480000
virtual_mailbox_maps = static:all/
minimal_backoff_time = 5s
queue_run_delay = 5s
{more}
"""
)

MASTER = "127.0.0.1:{port} inet n - n - - smtpd" + SERVICES

HEAD = (
    b"From: <a@client.example>\r\nTo: <alice@example.org>\r\nSubject: %s\r\n"
    b"Date: Tue, 24 Nov 2026 06:00:00 +0000\r\nMessage-ID: <%s@client.example>\r\n"
)

MESSAGES = {
    "plain": b"Hello.\r\n",
    "8bit": bytes(range(128, 256)) + "Grüße\r\n".encode(),
    "long": b"y" * 998 + b"\r\n" + b"z" * 900 + b"\r\n",
    "dots": b".\r\n..\r\n...\r\n.a\r\n\r\n.\r\nend\r\n",
    "blank": b"\r\n\r\n  \r\n\t\r\n\r\n",
    "large": b"".join(b"%07d " % n + b"q" * 68 + b"\r\n" for n in range(13500)),
}
"""Bodies of several kinds, by name; the last one has over 1 MB."""


STARTS = 3
"""Others may take a port between its choice and Postfix's start."""


def kind(name: str) -> bytes:
    """A whole message with one of L{MESSAGES} as its body: complete, so that nobody has to add a field."""
    return HEAD % (name.encode(), name.encode()) + b"\r\n" + MESSAGES[name]


class Postfix:
    """Runs from its making to C{close}."""

    def __init__(self, more: str) -> None:
        """
        @param more: lines of main.cf: where mail goes.
        @raise SkipTest: not installed, or we are not root, whom it wants to be started by.
        """
        program = shutil.which("postfix", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None or os.geteuid() != 0:
            raise SkipTest("needs Postfix (apt-get install postfix) and root")
        self.base = tempfile.mkdtemp(prefix="qmailpy-postfix-")
        os.chmod(self.base, 0o755)
        owner = pwd.getpwnam("postfix")
        for name in ("queue", "data", "mail", "etc"):
            os.mkdir(os.path.join(self.base, name))
        for name in ("data", "mail"):
            os.chown(os.path.join(self.base, name), owner.pw_uid, owner.pw_gid)
        self._write(
            "main.cf", MAIN.format(top=self.base, daemons=DAEMONS, uid=owner.pw_uid, gid=owner.pw_gid, more=more)
        )
        self.port = 0
        self.pid = 0
        try:
            for _ in range(STARTS):
                said = self._start(program)
                if not said:
                    break
            else:
                raise AssertionError(f"Postfix does not start: {said}\n{self.log()}")
            until(self._answers)
        except BaseException:
            self.close()
            raise
        with open(os.path.join(self.base, "queue", "pid", "master.pid")) as source:
            self.pid = int(source.read())

    def _start(self, program: str) -> str:
        """Start it on a port that was free a moment ago; why it did not, "" when it did."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._write("master.cf", MASTER.format(port=self.port))
        command = [program, "-c", os.path.join(self.base, "etc"), "start"]
        # Into a file: its daemons keep what they are given for their output.
        with open(os.path.join(self.base, "output"), "w+") as output:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=30, check=False
            )
            output.seek(0)
            return output.read() or f"status {done.returncode}" if done.returncode else ""

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.base, "etc", name), "w") as target:
            target.write(text)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            return connection.recv(3) == b"220"
        return False

    def log(self) -> str:
        with contextlib.suppress(OSError), open(os.path.join(self.base, "log"), errors="replace") as source:
            return source.read()
        return ""

    def mailbox(self) -> list[bytes]:
        """What was delivered here."""
        return messages_in(os.path.join(self.base, "mail", "all", "new"))

    def close(self) -> None:
        if not self.pid:
            with contextlib.suppress(OSError, ValueError), open(f"{self.base}/queue/pid/master.pid") as source:
                self.pid = int(source.read())
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)  # it ends its children
            until(lambda: gone(self.pid), 10)
        shutil.rmtree(self.base, ignore_errors=True)
