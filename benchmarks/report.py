"""
The figures as tables: in a terminal, and as docs/performance.md.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence

from attrs import Factory, define, frozen
from rich.console import Console
from rich.table import Table

from benchmarks.idle import Idle
from benchmarks.matrix import DOUBTFULLY, MAILDIR, SLOWLY, Result
from benchmarks.measure import Run
from benchmarks.node import ABREAST
from benchmarks.places import run
from benchmarks.postfix_tools import SECURE
from benchmarks.recording import Books
from benchmarks.waiting import Waiting

OURS = "qmailpy"
THEIRS = "Postfix"
LARGE = 1_000_000
ENDS = {SLOWLY: "relayed to a slow sink", DOUBTFULLY: "relayed to a sink that says 451 to every tenth"}

NOTES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "performance_notes.md")


INTRODUCTION = """\
Written by `{command}`; run it to have your own figures. Ratios are what counts: both servers took turns on the same
machine and file system. Each figure is a median; 1/s is messages a second.
"""

CONDITIONS = """\
- accepted: from the first connection to the last 250, while mail is also being delivered; to Maildir: until the last
  message is in `new/`; relayed: until smtp-sink has the last one. CPU: user and system time of all processes of the
  server.
- Postfix in an instance of its own, without chroot: up to 200 processes of a kind, `in_flow_delay = 0`, no limits for
  clients, no lookups in the DNS; virtual(8) into the Maildir, up to 50 deliveries at once, and smtp(8) to the sink, as
  many. It logs to syslog, which costs it nothing where no syslog runs.
- STARTTLS: each connection with a full handshake, TLS 1.3 and the certificate of `qmailpy init` (P-256) for both; the
  load is of our own making, since smtp-source has no TLS, and its processes take a good part of the machine. AUTH:
  PLAIN, of a user whose login is remembered; Postfix asks Dovecot, whose CPU time is not counted.
- the slow sink says everything 500 ms late; the other one answers each tenth recipient 451, and both servers try
  again after a second. Up to {abreast} deliveries at once, both. Till the last message is there.
- qmailpy as `qmailpy init` makes it, one worker, with its transaction log, counters and own log.
"""


@frozen(kw_only=True)
class Row:
    """One figure of both servers."""

    load: str
    figure: str
    ours: float
    theirs: float
    target: float  # of the ratio; of our figure itself when C{theirs} counts for nothing
    unit: str
    absolute: bool = False  # the target is for our figure, and is a maximum
    failed: str = ""

    @property
    def ratio(self) -> float:
        """How many times theirs; 0 when there is nothing to compare with."""
        return self.ours / self.theirs if self.theirs else 0.0

    @property
    def verdict(self) -> str:
        """In words; "" without a target."""
        if self.failed:
            return "failed"
        if not self.target or not (self.absolute or self.theirs):
            return ""
        reached = self.ours <= self.target if self.absolute else self.ratio >= self.target
        return "reached" if reached else "not reached"

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of L{HEADS}."""
        digits = 2 if self.unit == "ms" else 0
        target = (
            "" if not self.target else f"<= {self.target:g} {self.unit}" if self.absolute else f">= {self.target:g}x"
        )
        return (
            self.load,
            f"{self.figure} ({self.unit})",
            f"{self.theirs:.{digits}f}" if self.theirs else "-",
            f"{self.ours:.{digits}f}" if self.ours else "-",
            f"{self.ratio:.2f}" if self.ratio else "-",
            target,
            self.verdict,
        )


HEADS = ("load", "figure", THEIRS, OURS, "ratio", "target", "")


@define(eq=False)
class Report:
    """All that was measured."""

    where: str  # the file system, in words
    command: str  # to repeat it
    results: list[Result] = Factory(list)
    notes: list[str] = Factory(list)  # what could not be measured and why
    waiting: Waiting | None = None
    idle: Idle | None = None
    books: Books | None = None
    conversions: dict[str, Run] = Factory(dict)  # by what was done
    sync: str = ""
    versions: str = ""

    def rows(self) -> list[Row]:
        """The comparison."""
        rows = []
        for result in self.results:
            shape = result.cell.shape
            large = shape.octets >= LARGE
            failed = result.failed.get(OURS, "")
            to_maildir = result.cell.kind == MAILDIR
            figures = [("accepted", (lambda run: run.accepted), 3.0)] if to_maildir else []
            figures.append(
                ("accepted to Maildir", (lambda run: run.arrived), 4.0)
                if to_maildir
                else (ENDS.get(result.cell.kind, "relayed end to end"), (lambda run: run.arrived), 3.0)
            )
            if result.cell.kind in ENDS:
                figures = [(name, value, 0.0) for name, value, _ in figures]
            elif shape.way == SECURE:
                figures = [(name, value, 2.0) for name, value, _ in figures]
            elif shape.way:
                figures = [(name, value, 0.0) for name, value, _ in figures]
            for figure, value, target in figures:
                rows.append(
                    Row(
                        load=str(shape),
                        figure=figure,
                        ours=result.median(OURS, value),
                        theirs=result.median(THEIRS, value),
                        target=1.0 if large else target,
                        unit="1/s",
                        failed=failed,
                    )
                )
            rows.append(
                Row(
                    load=str(shape),
                    figure=f"CPU a message, {'to Maildir' if to_maildir else 'relayed'}",
                    ours=result.median(OURS, lambda run: run.cpu_ms),
                    theirs=result.median(THEIRS, lambda run: run.cpu_ms),
                    target=1.0 if shape.octets == 1024 and not shape.way else 0.0,
                    unit="ms",
                    absolute=True,
                    failed=failed,
                )
            )
        return rows

    def lines(self) -> list[tuple[str, str, str, str]]:
        """The figures without a comparison: (what, figure, target, verdict)."""
        lines = []
        if self.waiting is not None:
            waiting = self.waiting
            what = f"{waiting.messages:,} waiting messages"
            lines += [
                (f"{what}: start to first greeting", f"{waiting.greeting_s:.2f} s", "", ""),
                (
                    f"{what}: start to first delivery",
                    f"{waiting.first_s:.2f} s",
                    "< 5 s",
                    _reached(waiting.first_s < 5),
                ),
                (f"{what}: start to all of them known", f"{waiting.listed_s:.1f} s", "", ""),
                (
                    f"{what}: memory of the worker, each",
                    f"{waiting.octets_each:.0f} octets",
                    "<= 300 octets",
                    _reached(waiting.octets_each <= 300),
                ),
            ]
        if self.idle is not None:
            idle = self.idle
            what = f"{idle.connections:,} idle connections"
            lines += [
                (
                    f"{what}: memory of the worker",
                    f"{idle.worker / 1e6:.0f} MB",
                    "<= 150 MB",
                    _reached(idle.worker <= 150e6),
                ),
                (f"{what}: memory of all processes of the daemon", f"{idle.daemon / 1e6:.0f} MB", "", ""),
                (f"{what}: until a new one is greeted", f"{idle.answers_s * 1000:.0f} ms", "", ""),
            ]
        if self.books is not None:
            books = self.books
            rate, without = books.rates
            lines += [
                (
                    "log and counters: their share of what is accepted",
                    f"{books.of_rate} ({rate:.0f}/s, without them {without:.0f}/s)",
                    "<= 3 %",
                    _reached(books.of_rate.part <= 0.03),
                ),
                (
                    "log and counters: their share of the CPU time, accepted and delivered",
                    f"{books.of_cpu} of {books.cpu_us[0]:.0f} us",
                    "",
                    "",
                ),
            ]
        for name, one in self.conversions.items():
            rates = f"{one.accepted:.0f}/s accepted, {one.arrived:.0f}/s delivered, {one.cpu_ms:.2f} ms of CPU each"
            lines.append((f"{one.messages:,} messages of 10 KiB, {name}", rates, "", ""))
        return lines

    def show(self, console: Console) -> None:
        """In the terminal."""
        for heads, body in ((HEADS, [row.cells() for row in self.rows()]), (("", "", "target", ""), self.lines())):
            if body:
                console.print(_table(heads, body))
        for note in self.notes:
            console.print(note, highlight=False)

    def markdown(self) -> str:
        """docs/performance.md."""
        parts = [
            "# How fast it is\n",
            INTRODUCTION.format(command=self.command),
            f"- {time.strftime('%Y-%m-%d')}, {machine()}",
            f"- on {self.where}; {self.sync}",
            f"- {self.versions}",
            CONDITIONS.format(abreast=ABREAST),
        ]
        if self.results:
            parts += [_markdown(HEADS, [row.cells() for row in self.rows()]), ""]
        lines = self.lines()
        if lines:
            parts += [_markdown(("qmailpy alone", "figure", "target", ""), lines), ""]
        if self.notes:
            parts += ["Not measured:\n", *(f"- {note}" for note in self.notes), ""]
        if os.path.exists(NOTES):
            with open(NOTES) as source:
                parts.append(source.read().strip() + "\n")
        return "\n".join(parts).rstrip() + "\n"


def machine() -> str:
    """This machine in a few words."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo") as source:
            names = [line.partition(":")[2].strip() for line in source if line.startswith("model name")]
        model = f"{len(names)} x {names[0]}" if names else model
    except OSError:
        model = f"{os.cpu_count()} x {model}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {memory:.0f} GB, Linux {platform.release()}, Python {platform.python_version()}"


def versions(postfix: bool) -> str:
    """Of what is measured."""
    from importlib.metadata import version

    ours = f"qmailpy {version('qmailpy')} on Twisted {version('twisted')}"
    return f"{ours}, Postfix {run('postconf', '-h', 'mail_version').strip()}" if postfix else ours


def sync_cost(path: str) -> str:
    """What the disk takes for the two things mail servers wait for, in words."""
    name = os.path.join(path, "probe")
    handle = os.open(name, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(handle, bytes(1 << 20), 0)
        os.fsync(handle)
        begun = time.monotonic()
        for at in range(0, 200 * 4096, 4096):
            os.pwrite(handle, bytes(4096), at)
            os.fdatasync(handle)
        overwrite = (time.monotonic() - begun) / 200
    finally:
        os.close(handle)
        os.unlink(name)
    begun = time.monotonic()
    for number in range(100):
        handle = os.open(f"{name}{number}", os.O_WRONLY | os.O_CREAT)
        os.write(handle, bytes(1500))
        os.fsync(handle)
        os.close(handle)
    create = (time.monotonic() - begun) / 100
    for number in range(100):
        os.unlink(f"{name}{number}")
    return f"an fdatasync there takes {overwrite * 1000:.2f} ms, a new file with its fsync {create * 1000:.2f} ms"


def _reached(yes: bool) -> str:
    return "reached" if yes else "not reached"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None)
    for head in heads:
        right = head in (THEIRS, OURS, "ratio")
        table.add_column(head, justify="right" if right else "left", no_wrap=True)
    for row in body:
        table.add_row(*row)
    return table


def _markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rules = ["---:" if head in (THEIRS, OURS, "ratio") else "---" for head in heads]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rules, *body))
