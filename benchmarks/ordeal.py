"""
What torture and powercut share: a home under load, and the reckoning once it is quiet.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from attrs import define, field

from benchmarks import wide as every
from benchmarks.load import Load
from benchmarks.mailing import SENDER, USERS
from benchmarks.node import Node
from benchmarks.places import free_port
from benchmarks.promises import Findings, check, thd_stored

QUIET_S = 60.0

# Segments small enough that they are retired, and recycled, many times in a run.
QUEUE = """
[queue]
segment_octets = 1048576
segments = 4
roll_s = 2.0
spill_octets = 131072
"""
RETRY = """
backoff = [1.0, 2.0]
connections_idle_s = 1.0
"""


@define
class Verdict:
    """What the reckoning came to."""

    findings: Findings
    problems: list[str] = field(factory=list)  # besides: books, queue, ends

    @property
    def kept(self) -> bool:
        """Whether all is well."""
        return self.findings.kept and not self.problems

    def lines(self) -> list[str]:
        """For people."""
        return [*self.findings.lines(), *(f"FAULT: {problem}" for problem in self.problems)]


class Ordeal:
    """A node under load."""

    def __init__(self, home: str, *, seed: int, senders: int = 8, pause_s: float = 0.03, wide: bool = False) -> None:
        """
        @param home: a path that is not there yet.
        @param wide: with channels of every kind (L{benchmarks.wide}), not only local and relay.
        @param pause_s: about how long each sender waits between messages.
        """
        sink = free_port()
        self.node = Node(home, relay=sink)
        self.wide = wide
        self.load = Load(port=lambda: self.node.port, sink=sink, senders=senders, seed=seed, pause_s=pause_s, wide=wide)

    def start(self) -> None:
        """Make the home, start the daemon and the other side. @raise OSError: it cannot be had."""
        tables = QUEUE + (every.tables(self.node) if self.wide else "")
        users = [*USERS, SENDER, *(every.USERS if self.wide else ())]
        self.node.make(users, queue=tables, remote=RETRY, local="backoff = [1.0]")
        if self.wide:
            every.furnish(self.node)
        self.node.start()
        self.load.start()

    def stop(self) -> None:
        """End what is left, however things stand."""
        self.load.stop()
        self.node.kill()
        if self.node.process is not None:
            self.node.reap()
            self.node.process = None

    def queued(self) -> int:
        """How many messages the queue has. @raise OSError: it cannot be asked."""
        return len(json.loads(self.node.command("qm", "directory", "--json")))

    def settle(self) -> str:
        """Wait until the queue is empty; "" or how it is not."""
        deadline = time.monotonic() + QUIET_S
        left = -1
        while time.monotonic() < deadline:
            left = self.queued()
            if not left:
                return ""
            time.sleep(0.3)
        return f"{left} messages are still queued after {QUIET_S:.0f} s"

    def reckon(self, say: Callable[[str], None]) -> Verdict:
        """
        Stop sending, wait for the end of all deliveries, compare.

        @raise OSError: senders hang, or the daemon cannot be asked.
        """
        self.load.pause()
        say("senders have stopped; waiting for an empty queue")
        problems = []
        if self.wide:
            every.release(self.node)
        problems.append(self.settle())
        problems.append(self.books("running"))
        if self.wide:
            every.collect(self.node, self.load.ledger)
            problems += every.unused(self.node, self.load.ledger)
        findings = check(self.load.ledger, thd_stored(os.path.join(self.node.home, "mail")))
        return Verdict(findings, [problem for problem in problems if problem])

    def books(self, when: str) -> str:
        """Whether the counters equal the log; "" or how they do not."""
        status, text = self.node.try_command("qm", "counters", "verify")
        return f"counters verify ({when}): {text.strip()}" if status else ""

    def close(self, verdict: Verdict) -> None:
        """Stop the daemon in an orderly way and look again."""
        status = self.node.stop()
        if status:
            verdict.problems.append(f"the daemon ended with status {status} on SIGTERM")
        problem = self.books("stopped")
        if problem:
            verdict.problems.append(problem)
        left = self.queued()
        if left:
            verdict.problems.append(f"{left} messages are queued in the stopped home")
