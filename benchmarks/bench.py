"""
C{make bench}: qmailpy beside Debian's Postfix, on one machine, one file system and in one run.

Then what qmailpy's books and conversions cost. With C{--quick} about three minutes, without about seventeen. Writes
docs/performance.md (not with C{--only}).
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

import click
from rich.console import Console

from benchmarks import postfix_tools, report
from benchmarks.conversion import TABLES, measure_conversion
from benchmarks.idle import measure_idle
from benchmarks.matrix import DOUBTFULLY, RELAY, SLOWLY, USER, Cell, Comparison, cells
from benchmarks.node import ROOT, Node
from benchmarks.places import disk
from benchmarks.postfix import Postfix, missing_for_postfix
from benchmarks.postfix_tools import Shape
from benchmarks.recording import measure_books
from benchmarks.report import Report
from benchmarks.waiting import measure_waiting

IMAGE = 5 << 30
INODES = 1_000_000
EXTREMES = "extremes"
BOOKS = "books"
CONVERSIONS = "conversions"
SHAPE = Shape(octets=1024, connections=20, reuse=False)
"""What is accepted while the books are measured."""

PAIR = {"certificate": "cert", "key": "key"}
"""Postfix has the certificate that `qmailpy init` has made."""

TARGET = os.path.join(ROOT, "docs", "performance.md")


@click.command()
@click.option("--quick", is_flag=True, help="Fewer loads and rounds, smaller numbers: about three minutes.")
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help='Only loads whose name has TEXT, as in "Maildir: 1 KiB, 20", or "extremes", "books", "conversions".',
)
@click.option("--rounds", default=0, help="Measurements of each load.")
@click.option("--seconds", default=0.0, help="About how long each shall take.")
@click.option("--output", default=TARGET, show_default=True, help="The file to write.")
@click.option("--no-loop", is_flag=True, help="Measure on the disk for temporary files.")
@click.option("--no-postfix", is_flag=True, help="qmailpy alone.")
@click.option("--extremes/--no-extremes", default=True, help="Also the large queue and the idle connections.")
def main(
    quick: bool,
    only: tuple[str, ...],
    rounds: int,
    seconds: float,
    output: str,
    no_loop: bool,
    no_postfix: bool,
    extremes: bool,
) -> None:
    """Measure qmailpy beside Postfix."""
    why = postfix_tools.missing_for_load()
    if why:
        raise click.ClickException(why)
    console = Console(width=max(Console().width, 140))

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    chosen = [one for one in cells(quick and not only) if not only or any(text in str(one) for text in only)]
    command = "make bench" + (" ARGS=--quick" if quick else "")
    with disk("bench", IMAGE, INODES, loop=not no_loop) as (path, where):
        found = Report(where=where, command=command, sync=report.sync_cost(path))
        missing = missing_for_postfix() or ("as asked" if no_postfix else "")
        found.versions = report.versions(not missing)
        if missing:
            found.notes.append(f"{report.THEIRS}: {missing}")
        say(f"on {found.where}; {found.sync}; {found.versions}")
        _compare(
            found,
            path,
            chosen,
            not missing,
            rounds or (1 if quick else 3),
            seconds or (1.0 if quick else 2.0),
            console,
        )
        if extremes and (not only or EXTREMES in only):
            _extremes(found, path, 20_000 if quick else 200_000, 1000 if quick else 5000, console)
        if not only or BOOKS in only:
            _books(found, path, 1000, 3 if quick else 12, console)
        if not only or CONVERSIONS in only:
            _conversions(found, path, 200 if quick else 1000, console)
        found.show(console)
        if not only:
            with open(output, "w") as target:
                target.write(found.markdown())
            say(f"written to {output}")
    sys.exit(1 if any(result.failed.get(report.OURS) for result in found.results) else 0)


def _compare(
    found: Report, path: str, chosen: list[Cell], postfix: bool, rounds: int, seconds: float, console: Console
) -> None:
    with ExitStack() as stack:
        sinks = {
            RELAY: stack.enter_context(postfix_tools.sink()),
            SLOWLY: stack.enter_context(postfix_tools.sink("--delay", str(postfix_tools.SLOW_S))),
            DOUBTFULLY: stack.enter_context(postfix_tools.sink("--later", str(postfix_tools.LATER))),
        }
        relay, slow, doubting = (sinks[kind].port for kind in (RELAY, SLOWLY, DOUBTFULLY))
        node = Node(os.path.join(path, "home"), relay=relay, slow=slow, doubting=doubting)
        node.make([USER])
        servers: list[Node | Postfix] = [node]
        if postfix:
            pair = {name: os.path.join(path, "home", "tls", f"{file}.pem") for name, file in PAIR.items()}
            other = Postfix(os.path.join(path, "postfix"), relay=relay, slow=slow, doubting=doubting, **pair)
            other.make([USER])
            servers.append(other)
        for server in servers:
            stack.callback(server.stop)
            server.start()

        def say(text: str) -> None:
            console.print(text, highlight=False, markup=False)

        comparison = Comparison(servers, sinks, path, rounds=rounds, seconds=seconds, say=say)
        for number, cell in enumerate(chosen, 1):
            result = comparison.cell(cell)
            found.results.append(result)
            rates = ", ".join(
                f"{server.name} {result.median(server.name, lambda run: run.accepted):.0f}/s accepted"
                f" {result.median(server.name, lambda run: run.arrived):.0f}/s arrived"
                f" {result.median(server.name, lambda run: run.cpu_ms):.2f} ms"
                for server in servers
            )
            say(f"{number}/{len(chosen)} {cell}: {rates}")


def _extremes(found: Report, path: str, messages: int, connections: int, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    with postfix_tools.sink() as sink:
        node = Node(os.path.join(path, "large"), relay=sink.port)
        node.make([USER])
        try:
            node.start()
            found.idle = measure_idle(node, connections)
            say(found.idle.describe())
        except OSError as problem:
            found.notes.append(f"idle connections: {problem}")
        finally:
            node.stop()
        try:
            found.waiting = measure_waiting(node, sink, messages, say)
            say(found.waiting.describe())
        except OSError as problem:
            found.notes.append(f"waiting messages: {problem}")


def _books(found: Report, path: str, messages: int, starts: int, console: Console) -> None:
    try:
        found.books = measure_books(path, messages, starts, 6, SHAPE)
    except OSError as problem:
        found.notes.append(f"log and counters: {problem}")
    else:
        console.print(f"log and counters: {found.books.of_rate} of the throughput, {found.books.of_cpu} of CPU")


def _conversions(found: Report, path: str, messages: int, console: Console) -> None:
    for number, (name, table) in enumerate(TABLES.items()):
        try:
            run = measure_conversion(os.path.join(path, f"conversion{number}"), table, messages)
        except OSError as problem:
            found.notes.append(f"conversions, {name}: {problem}")
        else:
            found.conversions[name] = run
            console.print(f"{name}: {run.arrived:.0f}/s delivered, {run.cpu_ms:.2f} ms", highlight=False)


if __name__ == "__main__":
    main()
