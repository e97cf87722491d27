"""
The queue manager on a very large queue: C{python -m benchmarks.queue_million HOME [--messages N]}.

Makes a home with N waiting messages (each failed once), without the daemon: their files are put where they would be by
the queue's own classes, and their lines into the log and the counters by its recorder. Then it runs the commands as an
operator would, on the running daemon and on the stopped home, and prints a table: how long until the first line, until
the last, and how much memory the worker has. A home that is there already is used as it is.

The messages: 2,000 domains, a few of which have most of the mail; 500 senders, the same; born over five days; a
thousandth held. Some ten minutes and 12 GB of disk for a million.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from zlib import crc32

from benchmarks import processes
from benchmarks.node import Node
from benchmarks.places import free_port
from qmailpy.cli.opened import OpenShards
from qmailpy.config.load import load
from qmailpy.disk.files import RealFiles
from qmailpy.queue.codec import Attempted, Enqueued, Outcome, Result
from qmailpy.queue.ids import IdSource
from qmailpy.queue.journal import Position
from qmailpy.queue.shelf import filing
from qmailpy.queue.state import Message, State, enqueued_lines
from qmailpy.queue.switches import Switches
from qmailpy.records.record import LogRecord
from qmailpy.values import Envelope, MemoryContent, Recipient

BATCH = 5000
DOMAINS = 2000
SENDERS = 500
DAYS_S = 5 * 86400.0
LIMIT_S = 900.0
SUBJECTS = ("Invoice", "Your order", "Weekly report", "Re: meeting", "Undelivered parcel", "Newsletter")
REFUSED = "smtp;451 4.2.0 try again later"


class UnsyncedFiles(RealFiles):
    """What is made here may be lost in a power cut."""

    def fsync(self, handle: int) -> None:
        """Not now."""

    def syncfs(self, path: str, held: int | None = None) -> None:
        """Not now."""

    def sync_directory(self, path: str) -> None:
        """Not now."""


def thd_fill(home: str, count: int, domains: int = DOMAINS) -> Iterator[int]:
    """Put so many messages into the queue of a stopped home, a batch a step: yields how many there are. Blocks."""
    config = load(home)
    files = UnsyncedFiles()
    work = OpenShards(config, files, Switches(files, config.path("queue", "stopped")), alone=True)
    chance = Random(1)  # noqa: S311 - reproducible
    now = time.time()
    moment = now - DAYS_S
    ids = IdSource(lambda: moment, "0", 0, chance)
    state = State(ids.code)
    try:
        work.open("0")
        shard = work.shards["0"]
        for start in range(0, count, BATCH):
            batch: list[Message] = []
            lines: list[LogRecord] = []
            for at in range(start, min(start + BATCH, count)):
                moment = now - 120.0 - DAYS_S * (1 - at / count)
                op, content = _mail(ids.next_number(), at, moment, chance, domains)
                message = state.admit(op, content, Position(1, 1))
                lines += enqueued_lines(message)
                tried = Result(0, Outcome.DEFERRED, now + chance.uniform(6 * 3600.0, 86400.0), 0, "", REFUSED)
                lines += state.apply(Attempted(op.number, "tcp_local", moment + 1.0, (tried,)), Position(1, 1))
                if not at % 1000:
                    message.copies["tcp_local"].held = "held by the operator"
                batch.append(message)
            shard.shelf.thd_file([filing(message) for message in batch])
            shard.shard.recorder.write(lines)
            shard.shard.recorder.flush()
            state = State(ids.code)
            yield start + len(batch)
    finally:
        work.close()


def _mail(number: int, at: int, moment: float, chance: Random, domains: int) -> tuple[Enqueued, MemoryContent]:
    domain = f"d{int(domains * chance.random() ** 3)}.example"
    address = f"user{at}@{domain}"
    recipient = Recipient(address=address, original=address, channel="tcp_local", host=domain)
    envelope = Envelope(
        sender=f"s{int(SENDERS * chance.random() ** 3)}@load.example.net",
        recipients=(recipient,),
        source="tcp_local",
        arrival=moment,
        message_id=f"<{at}@load.example.net>",
        source_system="load.example.net ([127.0.0.1])",
    )
    octets = b"Subject: %s %d\r\nFrom: <%s>\r\nTo: <%s>\r\n\r\n%s" % (
        SUBJECTS[at % len(SUBJECTS)].encode(),
        at % 50,
        envelope.sender.encode(),
        address.encode(),
        b"It has waited for some time.\r\n" * 10,
    )
    return Enqueued(number, envelope, len(octets), crc32(octets), octets), MemoryContent(octets)


def timed(node: Node, *words: str) -> tuple[float, float, int]:
    """
    One command of the queue manager.

    @return: seconds until its first line that is about mail, until its end, and how many lines there were.
    """
    begun = time.monotonic()
    first = 0.0
    lines = 0
    command = [sys.executable, "-c", "from qmailpy.cli.main import main; main()", "--home", node.home, "qm", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=65536) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines += 1
            if not first and (b"tcp_local" in line or b".example" in line or b"Invoice" in line):
                first = time.monotonic() - begun
    if process.returncode:
        raise OSError(f"qm {' '.join(words)} failed")
    return first, time.monotonic() - begun, lines


COMMANDS: Sequence[Sequence[str]] = (
    ("summarize",),
    ("messages",),
    ("directory",),
    ("directory", "--domain", "d1999.example"),
    ("directory", "--older", "4d20h"),
    ("qshape",),
    ("qshape", "--sender"),
    ("top", "--from"),
    ("top", "--domain-to"),
    ("top",),
)


def run(home: str, count: int, say: Callable[[str], None]) -> None:
    """Do it. @raise OSError: something failed."""
    there = os.path.exists(home)
    node = Node(home, relay=free_port())
    if not there:
        node.make([], remote="backoff = [3600.0]")
        begun = time.monotonic()
        for done in thd_fill(home, count):
            if not done % 100_000:
                say(f"{done} messages after {time.monotonic() - begun:.0f} s")
    else:
        node.port = int(load(home).listeners[0].endpoint.split(":")[1])
    say("the stopped home")
    for words in COMMANDS:
        _tell(node, words, say)
    begun = time.monotonic()
    node.launch()
    try:
        say(f"greets after {node.wait_open():.2f} s")
        say(f"worker: {processes.rss(node.worker()) / 2**20:.0f} MiB")
        for words in COMMANDS:
            _tell(node, words, say)
        say(f"worker: {processes.rss(node.worker()) / 2**20:.0f} MiB, {time.monotonic() - begun:.0f} s after its start")
    finally:
        node.stop()


def _tell(node: Node, words: Sequence[str], say: Callable[[str], None]) -> None:
    first, whole, lines = timed(node, *words)
    say(f"{' '.join(words):<36} first line {first:7.2f} s, last {whole:7.1f} s, {lines} lines")


def say(text: str) -> None:
    """Tell the person at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="the queue manager on a very large queue")
    parser.add_argument("home")
    parser.add_argument("--messages", type=int, default=1_000_000)
    chosen = parser.parse_args()
    run(chosen.home, chosen.messages, say)


if __name__ == "__main__":
    main()
