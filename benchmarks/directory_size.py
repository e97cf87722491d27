"""
What a large directory costs those who send: C{python -m benchmarks.directory_size [--users 100000]}.

Two homes, one with 10 users and one with many; the local channel is stopped, so that accepting is all there is to do.
Each takes the same number of messages, in turns, to users drawn by chance, after each user was named once in RCPT: what
was asked before is remembered (docs/directory.md). That first round is timed, too.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import processes
from benchmarks.node import DOMAIN, Node

FEW = 10
BATCH = 500  # recipients of a transaction of the first round
CONTENT = b"Subject: x\r\nMessage-ID: <x@client.example>\r\n\r\n" + b"x" * 70 + b"\r\n"


class Client:
    """One connection, that pipelines."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60.0)
        self._replies = self._socket.makefile("rb")
        self.say(b"", 220)
        self.say(b"EHLO client.example\r\n", 250)

    def say(self, octets: bytes, *codes: int) -> None:
        """Send, and read the reply for each code. @raise OSError: another one came."""
        self._socket.sendall(octets)
        for code in codes:
            line = self._replies.readline()
            while line[3:4] == b"-":
                line = self._replies.readline()
            if int(line[:3] or 0) != code:
                raise OSError(f"{line!r} in place of {code}")

    def close(self) -> None:
        self.say(b"QUIT\r\n", 221)
        self._socket.close()


def name_each(node: Node, users: int) -> float:
    """Each user once in RCPT; the CPU microseconds of all processes for one."""
    before = processes.cpu_s(node.pid)
    for start in range(0, users, BATCH):
        client = Client(node.port)
        names = range(start, min(users, start + BATCH))
        wanted = b"".join(b"RCPT TO:<u%d@%s>\r\n" % (number, DOMAIN.encode()) for number in names)
        client.say(b"MAIL FROM:<a@client.example>\r\n" + wanted, 250, *([250] * len(names)))
        client.close()
    return (processes.cpu_s(node.pid) - before) / users * 1e6


def accept(node: Node, users: int, messages: int, chance: random.Random) -> float:
    """Messages over one connection; the CPU microseconds of all processes for one."""
    client = Client(node.port)
    before = processes.cpu_s(node.pid)
    for _ in range(messages):
        to = b"u%d@%s" % (chance.randrange(users), DOMAIN.encode())
        client.say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<%s>\r\nDATA\r\n" % to, 250, 250, 354)
        client.say(CONTENT + b".\r\n", 250)
    spent = processes.cpu_s(node.pid) - before
    client.close()
    return spent / messages * 1e6


def ready(top: str, users: int) -> Node:
    """A running node with so many users."""
    node = Node(os.path.join(top, f"home{users}"), relay=9)
    node.make((), local="stopped = true")
    table = os.path.join(top, f"users{users}.csv")
    with open(table, "w") as target:
        target.write("address\n" + "".join(f"u{number}@{DOMAIN}\n" for number in range(users)))
    begun = time.monotonic()
    node.command("user", "import", table)
    say(f"{users} users imported in {time.monotonic() - begun:.1f} s")
    node.start()
    return node


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.directory_size")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    chance = random.Random(1)  # noqa: S311 - the same each time
    with tempfile.TemporaryDirectory(prefix="qmailpy-users-") as top:
        nodes: dict[int, Node] = {}
        try:
            for users in (FEW, chosen.users):
                nodes[users] = ready(top, users)
                say(f"{users} users, first named: {name_each(nodes[users], users):.0f} us of CPU each")
            found: dict[int, list[float]] = {users: [] for users in nodes}
            for _ in range(chosen.rounds):
                for users, node in nodes.items():
                    found[users].append(accept(node, users, chosen.messages, chance))
        finally:
            for node in nodes.values():
                node.stop()
    few, many = (statistics.median(found[users]) for users in (FEW, chosen.users))
    say(f"accepted: {few:.0f} us of CPU with {FEW} users, {many:.0f} us with {chosen.users}, ratio {many / few:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
