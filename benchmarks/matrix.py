"""
The comparison: every load on both servers, turn and turn about, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product

from attrs import Factory, define, frozen

from benchmarks import measure
from benchmarks.measure import Run, Server, middle
from benchmarks.node import DOUBTING, REMOTE, SLOW
from benchmarks.places import run as run_command
from benchmarks.postfix_tools import SECURE, SUBMISSION, Shape, Sink

MAILDIR = "Maildir"
RELAY = "relay"
SLOWLY = "slow sink"
DOUBTFULLY = "doubting sink"
DOMAINS = {RELAY: REMOTE, SLOWLY: SLOW, DOUBTFULLY: DOUBTING}
"""Of the mail for each of the sinks."""

USER = "user"

SIZES = (1024, 10240, 1_000_000)
CONNECTIONS = (1, 20, 100)

OCTETS_MAX = 250_000_000  # of one run: it has to fit on the disk, with what is written on the way
MESSAGES_MAX = 10_000
DOUBTED = 3000  # messages for the doubting sink: enough that the waits between attempts are not all there is
FIRST = 200  # messages of the first run, which only tells how many the others need


@frozen
class Cell:
    """A load on its way to Maildirs or through the relay."""

    kind: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.kind}: {self.shape}"


@define(eq=False)
class Result:
    """What both servers did with it."""

    cell: Cell
    runs: dict[str, list[Run]] = Factory(dict)  # by server
    failed: dict[str, str] = Factory(dict)  # by server: why a run did not end

    def median(self, server: str, value: Callable[[Run], float]) -> float:
        """0 when there is none."""
        return middle(self.runs.get(server, []), value)


def cells(quick: bool) -> list[Cell]:
    """What is measured, all or a short choice."""
    if quick:
        small = [Shape(octets=1024, connections=20, reuse=reuse) for reuse in (False, True)]
        shapes = [
            *small,
            Shape(octets=1024, connections=1, reuse=False),
            Shape(octets=1024, connections=100, reuse=False),
        ]
        shapes.append(Shape(octets=1_000_000, connections=20, reuse=False))
    else:
        shapes = [
            Shape(octets=octets, connections=connections, reuse=reuse)
            for octets, connections, reuse in product(SIZES, CONNECTIONS, (False, True))
        ]
    plain = [Cell(kind, shape) for kind in (MAILDIR, RELAY) for shape in shapes]
    several = Shape(octets=1024, connections=20, reuse=True)
    protected = [
        Cell(MAILDIR, Shape(octets=1024, connections=connections, reuse=reuse, way=way))
        for way, connections, reuse in product((SECURE, SUBMISSION), (20,) if quick else (1, 20), (False, True))
    ]
    return [*plain, *protected, Cell(SLOWLY, several), Cell(DOUBTFULLY, several)]


def count_for(shape: Shape, rate: float, seconds: float) -> int:
    """How many messages take about so long; each connection gets some."""
    least = max(10, 2 * shape.connections)
    return max(least, min(int(rate * seconds), MESSAGES_MAX, OCTETS_MAX // shape.octets))


class Comparison:
    """Runs cells on servers that have been started."""

    def __init__(
        self,
        servers: Iterable[Server],
        sinks: Mapping[str, Sink],
        disk: str,
        *,
        rounds: int,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        """
        @param sinks: by the kind of a cell.
        @param disk: a path on what they write to; it is synced before each run.
        @param seconds: about how long each run shall take.
        @param say: told what is going on.
        """
        self._servers = list(servers)
        self._sinks = sinks
        self._disk = disk
        self._rounds = rounds
        self._seconds = seconds
        self._say = say

    def cell(self, cell: Cell) -> Result:
        """All runs of one load: one to find the number of messages, then the rounds."""
        result = Result(cell)
        counts: dict[str, int] = {}
        for number in range(self._rounds + 1):
            order = self._servers if number % 2 == 0 else self._servers[::-1]
            for server in order:
                if server.name in result.failed:
                    continue
                count = counts.get(server.name) or count_for(cell.shape, FIRST, 1.0)
                if number and cell.kind == DOUBTFULLY:
                    count = DOUBTED
                try:
                    done = self._run(server, cell, count)
                except OSError as problem:
                    result.failed[server.name] = str(problem)
                    self._say(f"{cell}: {server.name}: {problem}")
                    continue
                if number:
                    result.runs.setdefault(server.name, []).append(done)
                else:
                    counts[server.name] = count_for(cell.shape, done.arrived, self._seconds)
        return result

    def _run(self, server: Server, cell: Cell, count: int) -> Run:
        run_command("sync", "-f", self._disk)
        if cell.kind == MAILDIR:
            return measure.to_maildir(server, USER, cell.shape, count)
        return measure.to_sink(server, self._sinks[cell.kind], cell.shape, count, DOMAINS[cell.kind])
