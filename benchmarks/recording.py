"""
What the books cost, that is transaction log and counters: C{python -m benchmarks.recording}.

Two figures. The CPU time of records alone: made, formatted, written and counted, as the recorder does it, a batch a
turn of the reactor. And what they are in the whole: the daemon takes messages into the bitbucket, as it is and without
making, formatting, writing and counting any record, in turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
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
class Share:
    """Of the books in something: the mean of what the starts said, and how sure it is."""

    part: float  # 0.03 = 3 %
    error: float  # standard error of the mean

    def __str__(self) -> str:
        return f"{self.part:.1%} (+- {self.error:.1%})"


@frozen(kw_only=True)
class Books:
    """What they cost in the whole, with them and without."""

    rates: tuple[float, float]  # messages accepted a second, the median of all rounds
    cpu_us: tuple[float, float]  # of CPU, a message, likewise
    of_rate: Share
    of_cpu: Share


def _share(parts: Sequence[float]) -> Share:
    """Without the tenth that is lowest and the tenth that is highest: what else the machine did just then."""
    cut = len(parts) // 10
    kept = sorted(parts)[cut : len(parts) - cut]
    return Share(part=statistics.mean(kept), error=statistics.stdev(kept) / len(kept) ** 0.5)


_Pair = tuple[list[float], list[float]]


def measure_books(
    path: str, messages: int, starts: int, rounds: int, shape: Shape, *, connections: bool = True
) -> Books:
    """
    Both daemons, in turns: a pair of short measurements each round, so that what the machine does besides meets both.

    A daemon is some hundredths faster or slower than the same one started again (where its memory lies, how its tables
    are hashed), and stays so: hence as many starts as there can be, whose means are what the error is told from.

    @param path: a directory for their homes.
    @param starts: of both daemons, two at least.
    @param rounds: after each start.
    @param connections: with lines of connections, two more for each; the ancestor has none unless it is told to.
    @raise OSError: one does not start, or does not take all.
    """
    rates: _Pair = ([], [])
    cpu_us: _Pair = ([], [])
    for start in range(starts):
        where = os.path.join(path, str(start))
        os.mkdir(where)
        rate, cpu = _measure_once(where, messages, rounds, shape, connections)
        for which in (0, 1):
            rates[which].append(statistics.median(rate[which]))
            cpu_us[which].append(statistics.median(cpu[which]))
        shutil.rmtree(where)
    return Books(
        rates=(statistics.median(rates[0]), statistics.median(rates[1])),
        cpu_us=(statistics.median(cpu_us[0]), statistics.median(cpu_us[1])),
        of_rate=_share([1 - booked / bare for booked, bare in zip(*rates, strict=True)]),
        of_cpu=_share([1 - bare / booked for booked, bare in zip(*cpu_us, strict=True)]),
    )


def _measure_once(path: str, messages: int, rounds: int, shape: Shape, connections: bool) -> tuple[_Pair, _Pair]:
    """Both daemons started once: messages a second, and microseconds of CPU a message, with and without, by rounds."""
    with ExitStack() as stack:
        nodes = []
        for module in ("", "benchmarks.bookless"):
            node = Node(os.path.join(path, module or "benchmarks.booked"), relay=1)
            told = "true" if connections and not module else "false"
            node.make(["user"], queue=f"[log]\nindex_s = 0.0\nconnections = {told}\n")  # reading it is another matter
            node.wrapper = (sys.executable, "-m", module) if module else ()
            stack.callback(node.stop)
            node.start()
            postfix_tools.send(node, f"user@{VOID}", shape, 2 * messages)
            nodes.append(node)
        rates: _Pair = ([], [])
        cpu_us: _Pair = ([], [])
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                node = nodes[which]
                used = processes.running_s(node.pid)
                took = postfix_tools.send(node, f"user@{VOID}", shape, messages)
                rates[which].append(messages / took)
                cpu_us[which].append((processes.running_s(node.pid) - used) / messages * 1e6)
    return rates, cpu_us


@click.command()
@click.option("--messages", default=1000, show_default=True, help="In a measurement.")
@click.option("--starts", default=12, show_default=True, type=click.IntRange(min=2), help="Of both daemons.")
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(min=1), help="Measurements after each.")
@click.option("--connections", default=20, show_default=True)
@click.option("--reuse", is_flag=True, help="Many messages a connection.")
@click.option("--lines-of-connections/--no-lines-of-connections", "lines", default=True, show_default=True)
def main(messages: int, starts: int, rounds: int, connections: int, reuse: bool, lines: bool) -> None:
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
        books = measure_books(path, messages, starts, rounds, shape, connections=lines)
    console.print(f"{shape}, {starts} starts, {rounds} times {messages} messages each into the bitbucket, on {where}")
    for name, rate, cpu in zip(NAMES, books.rates, books.cpu_us, strict=True):
        console.print(f"  {name}: {rate:.0f} messages/s accepted, {cpu:.0f} us of CPU a message")
    console.print(f"  the books are {books.of_rate} of the throughput and {books.of_cpu} of the CPU time")


if __name__ == "__main__":
    main()
