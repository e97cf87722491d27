"""
Many SMTP connections that do nothing: what they cost in memory.
"""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack

from attrs import frozen

from benchmarks import processes
from benchmarks.node import Node

SPARE = 200  # descriptors this process needs besides


@frozen(kw_only=True)
class Idle:
    """What was found."""

    connections: int
    worker: int  # resident octets of the worker that holds them
    daemon: int  # of all processes of the daemon together, shared pages counted once
    before: int  # of the worker, without them
    answers_s: float  # how long a new connection then waits for its greeting

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.connections} connections: worker {self.worker / 1e6:.0f} MB (without them {self.before / 1e6:.0f}"
            f"), all processes {self.daemon / 1e6:.0f} MB, a new one is greeted after {self.answers_s * 1000:.0f} ms"
        )


def measure_idle(node: Node, connections: int) -> Idle:
    """
    Measure, on a daemon that runs.

    @raise OSError: it does not take them, or this process may not have so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, OSError) as problem:
            raise OSError(f"this process may not open {wanted} files: {problem}") from None
    worker = node.worker()
    before = processes.rss(worker)
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(_greeted(node.port))
        begun = time.monotonic()
        stack.enter_context(_greeted(node.port))
        answers = time.monotonic() - begun
        return Idle(
            connections=connections,
            worker=processes.rss(worker),
            daemon=sum(processes.pss(one.pid) for one in node.members()),
            before=before,
            answers_s=answers,
        )


def _greeted(port: int) -> socket.socket:
    """A connection past its EHLO."""
    connection = socket.create_connection(("127.0.0.1", port), 10.0)
    for ask, answer in ((b"", b"220 "), (b"EHLO idle.example.net\r\n", b"250-")):
        connection.sendall(ask)
        said = connection.recv(4096)
        if not said.startswith(answer):
            connection.close()
            raise OSError(f"instead of a greeting: {said[:100]!r}")
    return connection
