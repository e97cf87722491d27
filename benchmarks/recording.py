"""
What the books cost, that is transaction log and counters: C{python -m benchmarks.recording}.

Two figures. The CPU time of records alone: made, formatted, written and counted, as the recorder does it, a batch a
turn of the reactor. And what they are in the whole: the daemon takes messages into the bitbucket, with its recorder and
with one that does nothing, in turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack

import click
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
    with disk("recording", 2 << 30) as (path, where), ExitStack() as stack:
        nodes = []
        for name, module in zip(NAMES, ("", "benchmarks.bookless"), strict=True):
            node = Node(os.path.join(path, module or "home"), relay=1, workers=0)
            node.make(["user"])
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
    console.print(f"{shape}, {rounds} times {messages} messages into the bitbucket, on {where}")
    middle = {
        name: tuple(statistics.median(column) for column in zip(*runs, strict=True)) for name, runs in found.items()
    }
    for name, (rate, cpu) in middle.items():
        console.print(f"  {name}: {rate:.0f} messages/s accepted, {cpu:.0f} us of CPU a message")
    share = [1 - middle["with books"][0] / middle["without"][0], 1 - middle["without"][1] / middle["with books"][1]]
    console.print(f"  the books are {share[0]:.1%} of the throughput and {share[1]:.1%} of the CPU time")


if __name__ == "__main__":
    main()
