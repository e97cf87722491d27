"""
Where the time goes: C{python -m benchmarks.profile [--load accept|maildir|relay] [--connections N] ...}.

The daemon in one process (workers = 0) under a load from smtp-source; prints the functions with most time of their own,
in microseconds a message.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import click
from rich.console import Console
from rich.table import Table

from benchmarks import measure, postfix_tools, processes
from benchmarks.node import VOID, Node
from benchmarks.places import disk
from benchmarks.postfix_tools import PLAIN, SECURE, SUBMISSION, Shape, sink


@click.command()
@click.option(
    "--load", type=click.Choice(["accept", "maildir", "relay"]), default="maildir", help="accept: into the bitbucket."
)
@click.option("--connections", default=20, show_default=True)
@click.option("--messages", default=4000, show_default=True)
@click.option("--octets", default=1024, show_default=True)
@click.option("--way", type=click.Choice(["plain", "tls", "submission"]), default="plain", help="How it is sent.")
@click.option("--reuse", is_flag=True, help="Many messages a connection.")
@click.option("--samples", is_flag=True, help="Sample instead of counting calls: true shares.")
@click.option("--top", default=40, show_default=True, help="How many functions.")
@click.option("--total", is_flag=True, help="Order by time with all that is called from there.")
def main(
    load: str, connections: int, messages: int, octets: int, way: str, reuse: bool, samples: bool, top: int, total: bool
) -> None:
    """Profile the daemon under load."""
    why = postfix_tools.missing_for_load()
    if why:
        raise click.ClickException(why)
    ways = {"plain": PLAIN, "tls": SECURE, "submission": SUBMISSION}
    shape = Shape(octets=octets, connections=connections, reuse=reuse, way=ways[way])
    with disk("profile", 2 << 30) as (path, where), sink() as target:
        node = Node(os.path.join(path, "home"), relay=target.port, workers=0)
        node.make(["user"])
        output = os.path.join(path, "profile.json")
        how = "samples" if samples else "calls"
        node.wrapper = (sys.executable, "-m", "benchmarks.profiled", how, output)
        node.start()
        try:

            def go(count: int) -> tuple[float, float]:
                if load == "accept":
                    used = processes.cpu_s(node.pid)
                    taken = postfix_tools.send(node, f"user@{VOID}", shape, count)
                    return count / taken, (processes.cpu_s(node.pid) - used) / count * 1000
                if load == "relay":
                    run = measure.to_sink(node, target, shape, count)
                else:
                    run = measure.to_maildir(node, "user", shape, count)
                return run.arrived, run.cpu_ms

            go(max(messages // 4, 20))
            plain = go(messages)
            os.kill(node.pid, signal.SIGUSR1)
            profiled = go(messages)
            os.kill(node.pid, signal.SIGUSR2)
            deadline = time.monotonic() + 30.0
            while not os.path.exists(output) and time.monotonic() < deadline:
                time.sleep(0.05)
            with open(output) as source:
                found = json.load(source)
        finally:
            node.stop()
    _print(load, shape, where, messages, plain, profiled, found, top, total, samples)


def _print(
    load: str,
    shape: Shape,
    where: str,
    messages: int,
    plain: tuple[float, float],
    profiled: tuple[float, float],
    found: dict[str, list[list[float]]],
    top: int,
    total: bool,
    samples: bool,
) -> None:
    console = Console(width=max(Console().width, 120), soft_wrap=True)
    console.print(f"{load}, {shape}, {messages} messages, on {where}", highlight=False)
    for how, (rate, cpu) in (("without profiler", plain), ("with", profiled)):
        console.print(f"  {how}: {rate:.0f} messages/s, {cpu:.3f} ms CPU a message", highlight=False)
    rows = sorted(found["rows"], key=lambda row: row[2 if total else 1], reverse=True)
    everything = sum(row[1] for row in found["rows"]) or 1.0
    # A sample stands for its share of the CPU time, whatever the kernel's clock made of the interval.
    unit = profiled[1] * 1000 / everything if samples else 1e6 / messages
    table = Table(box=None)
    table.add_column("function", no_wrap=True)
    for head in ("own us/msg", "own %", "with callees us/msg", "" if samples else "calls/msg"):
        table.add_column(head, justify="right")
    for name, own, all_of_it, calls in rows[:top]:
        table.add_row(
            str(name),
            f"{own * unit:.1f}",
            f"{own / everything * 100:.1f}",
            f"{all_of_it * unit:.1f}",
            "" if samples else f"{calls / messages:.2f}",
        )
    console.print(table)
    for line, seconds in found.get("lines", [])[: top // 2]:
        console.print(f"  {seconds * unit:8.1f} us/msg  {line}", highlight=False)


if __name__ == "__main__":
    main()
