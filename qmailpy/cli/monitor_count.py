"""
Whose mail waits: what C{qmailpy monitor} shows by destination of all that is not held, due now or later.

Most of that only the files of the queue tell, and reading them all takes time. So they are counted in a thread of the
monitor's own, by the daemon's C{queue.ages}, which works in slices: behind each slice there is a rest as long as the
slice took. The figures are remembered, and shown with their age, for L{AGAIN_S} or L{TIMES} times what they took.
Nothing is counted while nothing waits for later.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from attrs import frozen

from qmailpy.errors import CommandError
from qmailpy.queue.entries import QueueFilter, ShapeRow

AGAIN_S = 15.0
TIMES = 10
EDGES = (3600.0, 86400.0)
"""Ages in seconds that have columns of their own."""

NAMES = 100_000
"""Destinations that are told apart; the others are L{OTHERS}."""

OTHERS = "(others)"
SHOWN = 1000
"""Of them, those with the most, that are remembered."""

Ages = Callable[[QueueFilter, Sequence[float], Callable[[int], None]], Iterator[ShapeRow]]
"""The queue's rows: wanted, edges, and what is told of each slice. Nothing where there is no daemon."""


@frozen(kw_only=True)
class Counted:
    """What waits, as it was then."""

    time: float  # when the count was over, seconds since the epoch
    took: float  # seconds
    rows: Sequence[tuple[str, tuple[int, ...]]]  # destination; recipients by age, up to each edge and beyond
    names: int  # destinations there are
    total: int  # recipients


class Counting:
    """The thread, from the first L{wanted} to L{stop}."""

    def __init__(
        self,
        ages: Ages,
        wall: Callable[[], float] = time.time,
        seconds: Callable[[], float] = time.monotonic,
        rest: Callable[[float], bool] | None = None,
    ) -> None:
        """@param rest: waits so long; true when all is to end. For tests."""
        self._ages = ages
        self._wall = wall
        self._seconds = seconds
        self._ended = threading.Event()
        self._asked = threading.Event()
        self._done = threading.Event()
        self._rest = rest or self._ended.wait
        self._due = -math.inf
        self._thread: threading.Thread | None = None
        self.counted: Counted | None = None

    def wanted(self, patience_s: float = 0.0) -> None:
        """Somebody would like to see it: count, unless that was done a moment ago; and wait for it so long."""
        self._want()
        if patience_s:
            self._done.wait(patience_s)

    def _want(self) -> None:
        if self._seconds() < self._due or self._ended.is_set():
            return
        self._asked.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="counting", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it; what is under way ends by itself."""
        self._ended.set()
        self._asked.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._asked.wait()
            self._asked.clear()
            if not self._ended.is_set() and self._seconds() >= self._due:
                self.thd_count()
                self._done.set()

    def thd_count(self) -> None:
        """Count once. What cannot be had leaves the figures as they were."""
        began = at = self._seconds()

        def looked(copies: int) -> None:
            nonlocal at
            if self._rest(max(0.0, self._seconds() - at)):
                raise CommandError("it is to end")
            at = self._seconds()

        sums: dict[str, list[int]] = {}
        with suppress(CommandError):
            for row in self._ages(QueueFilter(held=False), EDGES, looked):
                name = row.name if row.name in sums or len(sums) < NAMES else OTHERS
                counts = sums.setdefault(name, [0] * (len(EDGES) + 1))
                for column, count in enumerate(row.counts[: len(counts)]):
                    counts[column] += count
            self.counted = _counted(sums, self._wall(), self._seconds() - began)
        self._due = self._seconds() + max(AGAIN_S, TIMES * (self._seconds() - began))


def _counted(sums: Mapping[str, Sequence[int]], now: float, took: float) -> Counted:
    rows = sorted(sums.items(), key=lambda item: (-sum(item[1]), item[0]))
    return Counted(
        time=now,
        took=took,
        rows=[(name, tuple(counts)) for name, counts in rows[:SHOWN]],
        names=len(rows),
        total=sum(map(sum, sums.values())),
    )
