"""
Group commit: whatever arrives while one sync runs is the next batch.

The reactor submits payloads; one thread writes and syncs a batch at a time; the answers come back through an eventfd,
one wake-up a batch. No timer: waiting for more to arrive only costs throughput (docs/performance.md).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from errno import EIO
from functools import partial
from time import perf_counter
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.queue.journal import Journal, JournalBroken, Position
from qmailpy.stats.histogram import Histogram

LAZY_S = 0.01
"""
How long a mark may wait for a batch to ride in. Nobody waits for a mark, while each sync made for one alone keeps the
next messages waiting for their 250.
"""

BATCH = 1000
"""Most records in a batch, so that the first of them does not wait for a sync of many megabytes."""

RECORDS_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SECONDS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Answer = Callable[[Position | OSError], None]
"""Called in the reactor thread, in the order of submission: where the record is, or why there is none."""


class ICommitReactor(IReactorFDSet, IReactorTime):
    """What a committer asks of the reactor."""


class ICommitter(Protocol):
    """What the shard needs of a committer."""

    backlog: int  # octets submitted and not yet answered

    def submit(self, payload: bytes, answer: Answer, essential: bool = False) -> None:
        """Make a record durable, then answer."""

    def call(self, work: Callable[[Journal], object], answer: Callable[[object], None]) -> None:
        """Run something on the journal between two batches; answers with what it returned, or an OSError."""


Item = tuple[bytes, Answer, bool]


class _Batches:
    """What the thread and a stepwise committer share: one batch through the journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.broken: JournalBroken | None = None
        self.records = Histogram(RECORDS_BOUNDS)  # in a batch
        self.took_s = Histogram(SECONDS_BOUNDS)  # to write and sync one

    def run(self, batch: list[Item]) -> list[Position | OSError]:
        if self.broken is None:
            began = perf_counter()
            try:
                results = self.journal.write([(payload, essential) for payload, _, essential in batch])
                self.took_s.add(perf_counter() - began)
                self.records.add(len(batch))
                return results
            except Exception as problem:  # also a bug: what is on the disk is not known
                self.broken = _broken(problem)
        return [self.broken] * len(batch)

    def call(self, work: Callable[[Journal], object]) -> object:
        """What some work on the journal returns, or an OSError."""
        try:
            return work(self.journal)
        except OSError as problem:
            if isinstance(problem, JournalBroken):
                self.broken = problem
            return problem
        except Exception as problem:
            self.broken = _broken(problem)
            return self.broken


def _broken(problem: Exception) -> JournalBroken:
    if isinstance(problem, JournalBroken):
        return problem
    broken = JournalBroken(EIO, f"journal: {problem!r}")
    broken.__cause__ = problem
    return broken


@implementer(IReadDescriptor)
class ThreadCommitter:
    """
    L{ICommitter} with a thread of its own.

    @ivar records: how many there are in a batch.
    @ivar took_s: how long it takes to write and sync one.
    """

    _log = Logger()

    def __init__(self, reactor: ICommitReactor, journal: Journal) -> None:
        self._reactor = reactor
        self._batches = _Batches(journal)
        self._work = threading.Semaphore(0)
        self._asleep = False
        self._pending: deque[Item] = deque()
        self._submitted = 0  # items somebody waits for; only the reactor's thread counts these,
        self._taken = 0  # and only the other one those it took up
        self._rush = False  # what is pending has waited long enough
        self._lazy: IDelayedCall | None = None
        self._soon: IDelayedCall | None = None
        self._calls: deque[tuple[Callable[[Journal], object], Callable[[object], None]]] = deque()
        self._answers: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.records = self._batches.records
        self.took_s = self._batches.took_s
        self.backlog = 0
        self._thread = threading.Thread(target=self.thd_run, name="journal", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._reactor.addReader(self)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread; answers not given by then are never given. Blocks briefly."""
        self._stopping = True
        for call in (self._lazy, self._soon):
            if call is not None:
                call.cancel()
        self._lazy = self._soon = None
        self._work.release()
        self._thread.join()
        self._reactor.removeReader(self)
        self.doRead()
        os.close(self._event)

    def submit(self, payload: bytes, answer: Answer, essential: bool = False) -> None:
        self.backlog += len(payload)
        self._pending.append((payload, answer, essential))
        if not essential:
            self._submitted += 1
            if self._asleep and self._soon is None:
                self._soon = self._reactor.callLater(0, self._turn_over)
        elif self._lazy is None:
            self._lazy = self._reactor.callLater(LAZY_S, self._hurry)

    def _turn_over(self) -> None:
        """
        All that this turn of the reactor has brought is one batch: the thread, woken by the first of it, would take
        that alone, and each batch costs some switches between threads.
        """
        self._soon = None
        self._wake()

    def _hurry(self) -> None:
        self._lazy = None
        self._rush = True
        self._wake()

    def call(self, work: Callable[[Journal], object], answer: Callable[[object], None]) -> None:
        self._calls.append((work, answer))
        self._rush = True  # it comes behind what was submitted
        self._wake()

    def _wake(self) -> None:
        if self._asleep:  # only then is a system call worth it; the thread looks again after it has said so
            self._asleep = False
            self._work.release()

    def thd_run(self) -> None:
        """The thread."""
        while True:
            if self._ripe():
                self._rush = False
                batch: list[Item] = []
                while self._pending and len(batch) < BATCH:
                    batch.append(self._pending.popleft())
                if self._pending and len(batch) == BATCH:
                    self._rush = True  # nobody would come for the rest
                self._taken += sum(not essential for _, _, essential in batch)
                self._answers.append(partial(self._settle, batch, self._batches.run(batch)))
                os.eventfd_write(self._event, 1)
                continue
            if self._calls:
                work, answer = self._calls.popleft()
                self._answers.append(partial(answer, self._batches.call(work)))
                os.eventfd_write(self._event, 1)
                continue
            self._asleep = True
            if self._calls or self._ripe():
                self._asleep = False
                continue
            if self._stopping:
                return
            self._work.acquire()

    def _ripe(self) -> bool:
        """Whether what is pending is to be written now. What is being submitted this moment wakes us if need be."""
        return bool(self._pending) and (self._submitted > self._taken or self._rush or self._stopping)

    def _settle(self, batch: list[Item], results: list[Position | OSError]) -> None:
        for (payload, answer, _), result in zip(batch, results, strict=True):
            self.backlog -= len(payload)
            try:
                answer(result)
            except Exception:
                self._log.failure("bug in the answer to a journal record")

    # IReadDescriptor

    def fileno(self) -> int:
        return self._event

    def doRead(self) -> None:
        """Give the answers that have come in."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        while self._answers:
            self._answers.popleft()()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of us."""

    def logPrefix(self) -> str:
        return "journal"


class StepCommitter:
    """L{ICommitter} that does its work when it is told to, in the caller's thread: for commands and tests."""

    def __init__(self, journal: Journal) -> None:
        self._batches = _Batches(journal)
        self._pending: list[Item] = []
        self._calls: deque[tuple[Callable[[Journal], object], Callable[[object], None]]] = deque()
        self.backlog = 0

    def submit(self, payload: bytes, answer: Answer, essential: bool = False) -> None:
        self.backlog += len(payload)
        self._pending.append((payload, answer, essential))

    def call(self, work: Callable[[Journal], object], answer: Callable[[object], None]) -> None:
        self._calls.append((work, answer))

    def step(self) -> bool:
        """Commit one batch, or run one call; false when there was nothing to do."""
        if self._pending:
            batch, self._pending = self._pending, []
            results = self._batches.run(batch)
            for (payload, answer, _), result in zip(batch, results, strict=True):
                self.backlog -= len(payload)
                answer(result)
            return True
        if self._calls:
            work, answer_call = self._calls.popleft()
            answer_call(self._batches.call(work))
            return True
        return False

    def run(self) -> None:
        """Step until nothing is left."""
        while self.step():
            pass
