"""
qmailpy as it is measured and tortured: a home of its own on free ports, and the daemon on it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import processes
from benchmarks.places import free_port
from qmailpy.config.load import load
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOMAIN = "example.org"
VOID = "void.example"
"""A domain whose mail goes to the bitbucket."""

REMOTE = "remote.example"
SLOW = "slow.example"
DOUBTING = "doubting.example"
"""Domains whose mail goes to sinks: any other's too, but these two have their own."""

ABREAST = 50
"""Deliveries at once to the sinks of those two."""

PASSWORD = "sesame"  # noqa: S105

START_S = 30.0

CONFIGURATION = """
[server]
hostname = "mail.example.org"
user = "root"
group = "root"
workers = {workers}

[directory]
endpoint = ""

{queue}
[[listener]]
name = "smtp"
kind = "smtp"
endpoint = "tcp:{port}:interface=127.0.0.1"
messages = 1000000

[[listener]]
name = "submission"
kind = "submission"
endpoint = "tcp:{submission}:interface=127.0.0.1"
messages = 1000000

[channel.tcp_local]
kind = "smtp"
relay = "127.0.0.1:{relay}"
{remote}

[channel.local]
kind = "local"
{local}

[channel.process]
kind = "process"
{local}

[channel.bitbucket]
kind = "bitbucket"

[channel.tcp_slow]
kind = "smtp"
relay = "127.0.0.1:{slow}"
concurrency = {abreast}
destination_concurrency = {abreast}

[channel.tcp_doubting]
kind = "smtp"
relay = "127.0.0.1:{doubting}"
concurrency = {abreast}
destination_concurrency = {abreast}
backoff = [1.0]
jitter = 0.0

[[rewrite]]
pattern = "{slow_domain}"
channel = "tcp_slow"

[[rewrite]]
pattern = "{doubting_domain}"
channel = "tcp_doubting"

[[rewrite]]
pattern = "{void}"
channel = "bitbucket"

[[rewrite]]
pattern = "."
channel = "tcp_local"
"""


class Node:
    """A home and its daemon."""

    name = "qmailpy"

    def __init__(self, home: str, *, relay: int, workers: int = 1, slow: int = 9, doubting: int = 9) -> None:
        """
        @param home: a path that is not there yet.
        @param relay: port of 127.0.0.1 that takes remote mail.
        @param slow: another one, for L{SLOW}.
        @param doubting: another one, for L{DOUBTING}.
        @param workers: as [server] workers.
        """
        self.home = home
        self.port = free_port()
        self.submission_port = free_port()
        self.login = ("", "")
        self.relay = relay
        self._slow, self._doubting = slow, doubting
        self.workers = workers
        self.process: subprocess.Popen[bytes] | None = None
        self.wrapper: Sequence[str] = ()  # runs twistd's arguments, in place of twistd itself
        self._known: set[int] = set()  # children seen, for those that outlive a supervisor

    def make(self, users: Sequence[str], *, queue: str = "", remote: str = "", local: str = "") -> None:
        """
        Make the home with its users.

        @param queue: lines of the configuration: tables before the listeners.
        @param remote: lines for the remote channel.
        @param local: lines for the local and the process channel.
        """
        where = ("--hostname", "mail.example.org", "--domain", DOMAIN, "--unprivileged")
        self.command("init", self.home, *where)
        text = CONFIGURATION.format(
            workers=self.workers,
            port=self.port,
            relay=self.relay,
            queue=queue,
            remote=remote,
            local=local,
            void=VOID,
            submission=self.submission_port,
            slow=self._slow,
            doubting=self._doubting,
            abreast=ABREAST,
            slow_domain=SLOW,
            doubting_domain=DOUBTING,
        )
        with open(os.path.join(self.home, "etc", "qmailpy.toml"), "w") as target:
            target.write(text)
        store = Store(store_path(self.home))
        try:
            accounts = Accounts(store, load(self.home).directory.base)
            for user in users:
                self.login = (f"{user}@{DOMAIN}", PASSWORD)
                accounts.thd_add_user(f"{user}@{DOMAIN}", secret=PASSWORD.encode())
        finally:
            store.thd_close()

    def new(self, user: str) -> str:
        """The directory a user's new mail is in."""
        return os.path.join(self.home, "mail", DOMAIN, user, "Maildir", "new")

    def try_command(self, *words: str, limit_s: float = 120.0) -> tuple[int, str]:
        """Exit status and output of C{qmailpy WORDS}."""
        done = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), "qmailpy"), *words],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ROOT, "QMAILPY_HOME": self.home},
        )
        return done.returncode, done.stdout + done.stderr

    def command(self, *words: str) -> str:
        """
        Output of C{qmailpy WORDS}.

        @raise OSError: it failed.
        """
        status, text = self.try_command(*words)
        if status:
            raise OSError(f"qmailpy {' '.join(words)}: {text.strip()}")
        return text

    # --- the daemon ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start the daemon and do not wait for it."""
        twistd = self.wrapper or (os.path.join(os.path.dirname(sys.executable), "twistd"),)
        with open(os.path.join(self.home, "log", "daemon.out"), "ab") as output:
            self.process = subprocess.Popen(
                [*twistd, "-n", "--pidfile=", "qmailpy", "--home", self.home],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": ROOT},
            )
        self._known.add(self.process.pid)

    def start(self) -> None:
        """Start the daemon; on return it takes mail. @raise OSError: it does not."""
        self.launch()
        self.wait_open()

    def wait_open(self, limit_s: float = START_S) -> float:
        """Wait until the daemon greets; the seconds it took. @raise OSError: it does not."""
        begun = time.monotonic()
        while True:
            if self.process is not None and self.process.poll() is not None:
                raise OSError(f"the daemon ended with status {self.process.returncode}:\n{self.last_words()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
                    connection.settimeout(2.0)
                    if connection.recv(4) == b"220 ":
                        connection.sendall(b"QUIT\r\n")
                        return time.monotonic() - begun
            except OSError:
                pass
            if time.monotonic() - begun > limit_s:
                raise OSError(f"the daemon does not greet within {limit_s:.0f} s:\n{self.last_words()}")
            time.sleep(0.02)

    def last_words(self) -> str:
        """The end of the daemon's log."""
        text = ""
        for name in ("daemon.out", "qmailpy.log"):
            try:
                with open(os.path.join(self.home, "log", name), "rb") as source:
                    source.seek(max(0, os.fstat(source.fileno()).st_size - 3000))
                    text += source.read().decode("utf-8", "replace")
            except OSError:
                continue
        return text

    def members(self) -> list[processes.Process]:
        """The living processes of the daemon, those whose supervisor is gone among them."""
        if self.process is not None:
            self._known.update(one.pid for one in processes.tree(self.pid))
        alive = []
        for pid in sorted(self._known):
            one = processes.process(pid)
            if one is None or one.zombie or "qmailpy" not in one.command:
                self._known.discard(pid)
            else:
                alive.append(one)
        return alive

    def worker(self) -> int:
        """Process id of the first mail worker (of the daemon itself when it is alone). @raise OSError: none."""
        if not self.workers:
            return self.pid
        for one in self.members():
            if "qmailpy.app.child mta" in one.command:
                return one.pid
        raise OSError("no mail worker")

    def kill(self, *pids: int) -> None:
        """SIGKILL processes of this daemon; without any, all of them at once."""
        for pid in pids or tuple(one.pid for one in self.members()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def reap(self) -> None:
        """Wait for the supervisor, which has been killed."""
        if self.process is not None:
            self.process.wait(START_S)

    def stop(self, limit_s: float = 60.0) -> int:
        """SIGTERM; the exit status. What has not ended by then is killed."""
        if self.process is None:
            return 0
        members = self.members()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        for one in members:
            now = processes.process(one.pid)
            if now is not None and now.command == one.command and "qmailpy" in now.command:
                self.kill(one.pid)
        self.process = None
        return status
