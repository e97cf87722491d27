"""Drives a real daemon: starts C{twistd qmailpy} on a home of its own and follows what it logs."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from qmailpy.control import call

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIMIT_S = 15.0

CONFIGURATION = """
[server]
hostname = "{hostname}"
user = "root"
group = "root"
workers = {workers}
drain_s = {drain_s}

[directory]
endpoint = "tcp:0:interface=127.0.0.1"

[[listener]]
name = "smtp"
kind = "smtp"
endpoint = "{endpoint}"
channel = "tcp_local"

[channel.tcp_local]
kind = "smtp"

[channel.local]
kind = "local"

[channel.process]
kind = "process"

[[rewrite]]
pattern = "."
channel = "tcp_local"
"""


def configure(
    home: str, hostname: str = "mail.example.org", workers: int = 1, drain_s: float = 20.0, **more: str
) -> None:
    """Write HOME/etc/qmailpy.toml."""
    os.makedirs(os.path.join(home, "etc"), exist_ok=True)
    os.makedirs(os.path.join(home, "queue"), exist_ok=True)
    endpoint = more.get("endpoint", "tcp:0:interface=127.0.0.1")
    text = CONFIGURATION.format(hostname=hostname, workers=workers, drain_s=drain_s, endpoint=endpoint)
    with open(os.path.join(home, "etc", "qmailpy.toml"), "w") as out:
        out.write(text + more.get("extra", ""))


def read(*path: str) -> str:
    """The text of a small file."""
    with open(os.path.join(*path)) as source:
        return source.read()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat") as source:
            return source.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> float:
    """Wait for something outside that tells nobody; the seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit_s:
            raise AssertionError(f"not within {limit_s} s")
        time.sleep(0.005)
    return time.monotonic() - start


class DaemonProcess:
    """C{twistd -n qmailpy} in a process of its own, its output read as it comes."""

    def __init__(
        self, home: str, *options: str, roles: str = "tests.integration.daemon_roles", **environment: str
    ) -> None:
        self.home = home
        self.output = b""
        self.process = subprocess.Popen(
            [
                os.path.join(os.path.dirname(sys.executable), "twistd"),
                *("-n", "qmailpy", "--home", home, "--roles", roles, *options),
            ],
            env={**os.environ, "PYTHONPATH": ROOT, **environment},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait_for(self, text: str, times: int = 1, limit_s: float = LIMIT_S) -> str:
        """Read the log until C{text} has been there so often; everything read so far."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + limit_s
        while self.output.count(text.encode()) < times:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise AssertionError(f"no {text!r} within {limit_s} s in:\n{self.output.decode()}")
            octets = os.read(self.process.stdout.fileno(), 65536)
            if not octets:
                raise AssertionError(f"ended without {text!r}:\n{self.output.decode()}")
            self.output += octets
        return self.output.decode()

    def ready(self) -> DaemonProcess:
        self.wait_for("qmailpy is ready")
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Read to the end of the output; the exit status."""
        rest, _ = self.process.communicate(timeout=limit_s)
        self.output += rest
        return self.process.returncode

    def status(self, target: str = "mta-0") -> dict[str, object]:
        found = call(self.home, target, "status")
        assert isinstance(found, dict)
        return {**found}

    def pid(self, target: str = "mta-0") -> int:
        pid = self.status(target)["pid"]
        assert isinstance(pid, int)
        return pid

    def talk(self) -> tuple[int, socket.socket]:
        """Connect to the echo listener: the process that answers, and the connection."""
        port = call(self.home, "mta-0", "test.port")
        assert isinstance(port, int)
        return answer(port)

    def clean_up(self) -> None:
        """End whatever is left of it, by its own process ids."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=LIMIT_S)


def answer(port: int) -> tuple[int, socket.socket]:
    """Connect and read who answers."""
    connection = socket.create_connection(("127.0.0.1", port), LIMIT_S)
    said = b""
    while not said.endswith(b"\n"):
        octets = connection.recv(100)
        if not octets:
            raise AssertionError("closed without a word")
        said += octets
    return int(said), connection
