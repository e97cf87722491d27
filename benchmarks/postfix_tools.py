"""
Load and sink of the measurements: smtp-source and smtp-sink, which come with Debian's Postfix.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen

from benchmarks.places import free_port

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

    def __str__(self) -> str:
        size = f"{self.octets // 1024} KiB" if self.octets < 1_000_000 else f"{self.octets // 1_000_000} MB"
        return f"{size}, {self.connections} conn., {'reused' if self.reuse else 'one message each'}"


def send(port: int, recipient: str, shape: Shape, messages: int, limit_s: float = 120.0) -> None:
    """
    Send; on return all of it has been accepted.

    @raise OSError: something was refused, or it took too long.
    """
    command = ["smtp-source", "-s", str(shape.connections), "-m", str(messages), "-l", str(shape.octets)]
    if shape.reuse:
        command.append("-d")
    command += ["-M", "load.example.net", "-f", "load@load.example.net", "-t", recipient, f"127.0.0.1:{port}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"smtp-source: not finished after {limit_s:.0f} s") from None
    if done.returncode:
        raise OSError(f"smtp-source: {done.stderr.strip()[-300:] or done.returncode}")


class Sink:
    """A running smtp-sink that counts."""

    def __init__(self, port: int) -> None:
        self.port = port
        user = ("-u", "nobody") if os.geteuid() == 0 else ()
        self._process = subprocess.Popen(
            ["smtp-sink", "-c", *user, f"127.0.0.1:{port}", "1000"],
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
def sink(port: int = 0) -> Iterator[Sink]:
    """A sink on a port of 127.0.0.1, a free one if none is named."""
    running = Sink(port or free_port())
    try:
        yield running
    finally:
        running.stop()
