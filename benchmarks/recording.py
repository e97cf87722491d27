"""
What the books cost, that is transaction log and counters: C{python -m benchmarks.recording}.

Two figures. The CPU time of records alone: made, formatted, written and counted, as the recorder does it, a batch a
turn of the reactor. And what they are in the whole: the daemon takes messages into the bitbucket, with its recorder and
with one that does nothing, in turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack

import click
from attrs import frozen
from rich.console import Console
from twisted.internet.task import Clock

from benchmarks import postfix_tools, processes
from benchmarks.node import VOID, Node
from benchmarks.places import disk
from benchmarks.postfix_tools import Shape
from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder

NAMES = ("with books", "without")


def records(number: int, now: float) -> list[LogRecord]:
    """Those of a message that comes over a connection of its own and is delivered: O, E, C and D."""
    transport = f"TCP|192.0.2.1|25|198.51.100.7|{10000 + number % 50000}"
    ends = {
        "time": now,
        "source": "tcp_local",
        "direction": "+",
        "transport": transport,
        "application": "SMTP/a.example",
    }
    file = QueueFile(channel="local", id=f"{number:013d}", attempts=0)
    common = {
        "time": now,
        "size_octets": 1024,
        "sender": "joe@a.example",
        "original_to": "alice@example.org",
        "current_to": "alice@example.org",
        "file": file,
        "message_id": f"<{number}.1764000000@a.example>",
    }
    return [
        LogRecord(action=Action.OPENED, **ends),  # type: ignore[arg-type]
        LogRecord(
            action=Action.ENQUEUED,
            source="tcp_local",
            destination="local",
            source_system="a.example ([198.51.100.7])",
            **common,  # type: ignore[arg-type]
        ),
        LogRecord(action=Action.CLOSED, **ends),  # type: ignore[arg-type]
        LogRecord(action=Action.DEQUEUED, source="local", queue_time=0.01, diagnostic="delivered", **common),  # type: ignore[arg-type]
    ]


def alone_us(messages: int, batch: int) -> float:
    """Microseconds of CPU a message. @param batch: messages whose records are written together."""
    with tempfile.TemporaryDirectory() as home:
        os.mkdir(f"{home}/log")
        clock = Clock()
        lane = Lane(f"{home}/counters", "0", clock.seconds)
        recorder = Recorder(clock, RealFiles(), f"{home}/log", lane, "0", LogConfig(), process=1, alone=True)
        recorder.thd_recover(None)
        began = time.process_time()
        for start in range(0, messages, batch):
            for number in range(start, start + batch):
                recorder.write(records(number, time.time()))
            recorder.flush()
        used = time.process_time() - began
        recorder.close()
        return used / messages * 1e6


@frozen(kw_only=True)
class Books:
    """
    What they cost in the whole, with them and without: the best of all rounds, for what else the machine does takes
    time away and never gives any.
    """

    rates: tuple[float, float]  # messages accepted a second
    cpu_us: tuple[float, float]  # of CPU, a message

    @property
    def of_rate(self) -> float:
        """Their share of the throughput."""
        return 1 - self.rates[0] / self.rates[1]

    @property
    def of_cpu(self) -> float:
        """Their share of the CPU time."""
        return 1 - self.cpu_us[1] / self.cpu_us[0]


def measure_books(path: str, messages: int, rounds: int, shape: Shape) -> Books:
    """
    Both daemons, in turns.

    @param path: a directory for their homes.
    @raise OSError: one does not start, or does not take all.
    """
    with ExitStack() as stack:
        nodes = []
        for name, module in zip(NAMES, ("", "benchmarks.bookless"), strict=True):
            node = Node(os.path.join(path, module or "benchmarks.booked"), relay=1, workers=0)
            node.make(["user"], queue="[log]\nindex_s = 0.0\n")  # reading the log is another matter
            node.wrapper = (sys.executable, "-m", module) if module else ()
            stack.callback(node.stop)
            node.start()
            postfix_tools.send(node, f"user@{VOID}", shape, messages // 4)
            nodes.append((name, node))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
        for _ in range(rounds):
            for name, node in nodes:
                used = processes.cpu_s(node.pid)
                took = postfix_tools.send(node, f"user@{VOID}", shape, messages)
                found[name].append((messages / took, (processes.cpu_s(node.pid) - used) / messages * 1e6))
    with_books, without = (found[name] for name in NAMES)
    return Books(
        rates=(max(rate for rate, _ in with_books), max(rate for rate, _ in without)),
        cpu_us=(min(cpu for _, cpu in with_books), min(cpu for _, cpu in without)),
    )


@click.command()
@click.option("--messages", default=3000, show_default=True, help="In a measurement.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--connections", default=20, show_default=True)
@click.option("--reuse", is_flag=True, help="Many messages a connection.")
def main(messages: int, rounds: int, connections: int, reuse: bool) -> None:
    """Measure what log and counters cost."""
    console = Console(highlight=False, soft_wrap=True)
    for batch in (1, 10):
        best = min(alone_us(5000, batch) for _ in range(3))
        console.print(f"records of {batch} messages a write: {best:.1f} us of CPU a message (4 records)")
    why = postfix_tools.missing_for_load()
    if why:
        raise click.ClickException(why)
    shape = Shape(octets=1024, connections=connections, reuse=reuse)
    with disk("recording", 2 << 30) as (path, where):
        books = measure_books(path, messages, rounds, shape)
    console.print(f"{shape}, {rounds} times {messages} messages into the bitbucket, on {where}")
    for name, rate, cpu in zip(NAMES, books.rates, books.cpu_us, strict=True):
        console.print(f"  {name}: {rate:.0f} messages/s accepted, {cpu:.0f} us of CPU a message")
    console.print(f"  the books are {books.of_rate:.1%} of the throughput and {books.of_cpu:.1%} of the CPU time")


if __name__ == "__main__":
    main()
