"""
The thread that writes mail into mailboxes: one for a channel, so that the reactor never waits for a disk.

Whatever was submitted while it was busy is its next batch, and a batch is answered with one call into the reactor:
a C{callFromThread} for each delivery would cost more than the delivery itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import blockingCallFromThread
from twisted.python.failure import Failure

from qmailpy.local.maildir import Delivery
from qmailpy.values import Disposition

BATCH = 64
"""Jobs answered together at most: a few ms of work, so that the first does not wait for the last of a long queue."""

BATCH_OCTETS = 8 * 1024 * 1024
"""And no more than this, unless one job is larger, for the same reason."""

T = TypeVar("T")
Job = Sequence[Delivery]
Work = Callable[[Sequence[Job]], list[list[Disposition]]]
"""Carries out several jobs: a disposition for each delivery of each."""


class Writer(Protocol):
    """Where deliveries are carried out."""

    def submit(self, deliveries: Sequence[Delivery]) -> Deferred[list[Disposition]]:
        """
        Carry out one job.

        @return: fires in the reactor with a disposition for each delivery, in order; fails only for a bug.
        """

    def stop(self) -> Deferred[None]:
        """Finish what was submitted, then end; nothing may be submitted afterwards. Fires when it has ended."""


class Threads(Protocol):
    """Going to and fro between the reactor and the threads that block."""

    def writer(self, thd_work: Work, thd_end: Callable[[], None], name: str) -> Writer:
        """A writer that carries out jobs by C{thd_work}, and at its end C{thd_end}."""

    def thd_wait(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have the reactor carry out C{ask} and wait for its result; never called in the reactor's thread."""


class ReactorThreads:
    """L{Threads} of a running reactor."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor

    def writer(self, thd_work: Work, thd_end: Callable[[], None], name: str) -> Writer:
        return ThreadWriter(self._reactor, thd_work, thd_end, name)

    def thd_wait(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def begin() -> Deferred[T]:
            return Deferred.fromCoroutine(ask())

        return blockingCallFromThread(self._reactor, begin)  # type: ignore[arg-type]


class ThreadWriter:
    """
    L{Writer} with a thread of its own, begun at the first job.

    What waits is bounded by the channel's concurrency: the queue hands out no more jobs.
    """

    def __init__(self, reactor: IReactorFromThreads, thd_work: Work, thd_end: Callable[[], None], name: str) -> None:
        """
        @param thd_work: called in the thread with what waits, C{BATCH} jobs at most.
        @param thd_end: called in the thread when it ends.
        @param name: of the thread, for whoever looks at the process.
        """
        self._reactor = reactor
        self._thd_work = thd_work
        self._thd_end = thd_end
        self._name = name
        self._woken = threading.Condition()
        self._waiting: list[tuple[Job, Deferred[list[Disposition]]]] = []
        self._thread: threading.Thread | None = None
        self._stopped: Deferred[None] | None = None

    def submit(self, deliveries: Sequence[Delivery]) -> Deferred[list[Disposition]]:
        done: Deferred[list[Disposition]] = Deferred()
        with self._woken:
            if self._stopped is not None:
                raise RuntimeError("the writer has been stopped")
            self._waiting.append((deliveries, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._thd_run, name=self._name, daemon=True)
                self._thread.start()
            elif len(self._waiting) == 1:
                self._woken.notify()
        return done

    def stop(self) -> Deferred[None]:
        with self._woken:
            if self._stopped is None:
                self._stopped = Deferred()
                self._woken.notify()
                if self._thread is None:
                    self._stopped.callback(None)
            return self._stopped

    def _next(self) -> int:
        """How many of those that wait are the next batch."""
        octets = 0
        for count, (deliveries, _) in enumerate(self._waiting[:BATCH]):
            octets += sum([one.content.size for one in deliveries])
            if count and octets > BATCH_OCTETS:
                return count
        return BATCH

    def _thd_run(self) -> None:
        while True:
            with self._woken:
                while not self._waiting:
                    if self._stopped is not None:
                        break
                    self._woken.wait()
                batch = self._waiting[: self._next()]
                del self._waiting[: len(batch)]
            if not batch:
                break
            outcome: list[list[Disposition]] | Failure
            try:
                outcome = self._thd_work([deliveries for deliveries, _ in batch])
            except BaseException:  # whatever it is belongs to these jobs, and the thread goes on
                outcome = Failure()
            self._reactor.callFromThread(_answer, [done for _, done in batch], outcome)
        assert self._stopped is not None
        try:
            self._thd_end()
        finally:
            self._reactor.callFromThread(self._stopped.callback, None)


def _answer(jobs: Sequence[Deferred[list[Disposition]]], outcome: list[list[Disposition]] | Failure) -> None:
    if isinstance(outcome, Failure):
        for done in jobs:
            done.errback(outcome)
    else:
        for done, said in zip(jobs, outcome, strict=True):
            done.callback(said)
