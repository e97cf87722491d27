"""
Load and sinks of the measurements: smtp-source and smtp-sink, which come with Debian's Postfix, and our own for what
those cannot do: TLS, logins, slow answers and refusals.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from attrs import frozen

from benchmarks.places import free_port

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

PLAIN = ""
SECURE = "STARTTLS"
SUBMISSION = "STARTTLS and AUTH"
"""Ways a load is sent; the last to the port for submission."""

SLOW_S = 0.5
"""How late the slow sink says anything."""

LATER = 10
"""Each so many-th recipient is refused for now by the doubting sink."""

_COUNT = re.compile(rb"mesg=(\d+)")


def missing_for_load() -> str:
    """Why no load can be made; "" when it can."""
    for tool in ("smtp-source", "smtp-sink"):
        if shutil.which(tool) is None:
            return f"no {tool} here (apt-get install postfix)"
    return ""


@frozen(kw_only=True)
class Shape:
    """What the load looks like."""

    octets: int
    connections: int
    reuse: bool  # many messages a connection, not one
    way: str = PLAIN

    def __str__(self) -> str:
        size = f"{self.octets // 1024} KiB" if self.octets < 1_000_000 else f"{self.octets // 1_000_000} MB"
        how = f", {self.way}" if self.way else ""
        return f"{size}, {self.connections} conn., {'reused' if self.reuse else 'one message each'}{how}"


class Target(Protocol):
    """Where a load goes."""

    port: int
    submission_port: int
    login: tuple[str, str]
    """A user's address and password."""


def send(target: Target, recipient: str, shape: Shape, messages: int, limit_s: float = 120.0) -> float:
    """
    Send; on return all of it has been accepted.

    @return: the seconds it took.
    @raise OSError: something was refused, or it took too long.
    """
    begun = time.monotonic()
    if not shape.way:
        _send_plain(target.port, recipient, shape, messages, limit_s)
        return time.monotonic() - begun
    command = [sys.executable, "-m", "benchmarks.secure_load"]
    if shape.way == SUBMISSION:
        user, password = target.login
        command += [str(target.submission_port), recipient, "--user", user, "--password", password, "--sender", user]
    else:
        command += [str(target.port), recipient]
    command += ["--connections", str(shape.connections), "--messages", str(messages), "--octets", str(shape.octets)]
    if shape.reuse:
        command.append("--reuse")
    return float(_run(command, limit_s).split()[-1])


def _run(command: Sequence[str], limit_s: float) -> str:
    what = "secure_load" if command[0] == sys.executable else command[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise OSError(f"{what}: not finished after {limit_s:.0f} s") from None
    if done.returncode:
        raise OSError(f"{what}: {done.stderr.strip()[-300:] or done.returncode}")
    return done.stdout


def _send_plain(port: int, recipient: str, shape: Shape, messages: int, limit_s: float) -> None:
    command = ["smtp-source", "-s", str(shape.connections), "-m", str(messages), "-l", str(shape.octets)]
    if shape.reuse:
        command.append("-d")
    command += ["-M", "load.example.net", "-f", "load@load.example.net", "-t", recipient, f"127.0.0.1:{port}"]
    _run(command, limit_s)


class Sink:
    """A running sink that counts."""

    def __init__(self, port: int, *more: str) -> None:
        """@param more: options of L{benchmarks.sinks}; without any it is an smtp-sink."""
        self.port = port
        user = ("-u", "nobody") if os.geteuid() == 0 else ()
        command = [sys.executable, "-m", "benchmarks.sinks", str(port), *more]
        self._process = subprocess.Popen(
            command if more else ["smtp-sink", "-c", *user, f"127.0.0.1:{port}", "1000"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self.messages = 0
        self.last = 0.0  # when the count last grew, monotonic
        self._reader = threading.Thread(target=self._thd_read, daemon=True)
        self._reader.start()

    def _thd_read(self) -> None:
        output = self._process.stdout
        assert output is not None
        rest = b""
        while octets := output.read(65536):
            rest = (rest + octets)[-200:]
            found = _COUNT.findall(rest.rpartition(b"\r")[0])
            if found and int(found[-1]) != self.messages:
                self.last = time.monotonic()
                self.messages = int(found[-1])

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)


@contextmanager
def sink(*more: str, port: int = 0) -> Iterator[Sink]:
    """
    A sink on a port of 127.0.0.1, a free one if none is named.

    @param more: as of L{Sink}.
    """
    running = Sink(port or free_port(), *more)
    try:
        yield running
    finally:
        running.stop()
