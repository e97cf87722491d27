"""
Shards without a daemon: for commands on a stopped home. No reactor, no threads, no attempts.

A shard is locked as the daemon would lock it. To look at it (L{thd_look}) its journal is read and nothing is written;
to change it, it is opened like any other (L{qmailpy.queue.opening.thd_open}) with committers that work when L{finished}
lets them, and settled afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from random import Random
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.config.schema import Config
from qmailpy.disk.files import Files
from qmailpy.errors import QmailpyError
from qmailpy.interfaces import BooksCheckpoint, IRecorder
from qmailpy.queue.committer import StepCommitter
from qmailpy.queue.ids import IdSource, shard_code
from qmailpy.queue.journal import Journal
from qmailpy.queue.layout import Layout
from qmailpy.queue.opening import ShardBusy
from qmailpy.queue.recovery import Recovery
from qmailpy.queue.runner import Runner
from qmailpy.queue.shard import Shard
from qmailpy.queue.shelf import Shelf
from qmailpy.queue.summing import Part
from qmailpy.records.record import LogRecord

T = TypeVar("T")


def shard_names(files: Files, queue: str) -> list[str]:
    """
    The shards there are, by number.

    @param queue: HOME/queue.
    """
    found = []
    for name in files.listdir(queue):
        try:
            shard_code(name)
        except ValueError:
            continue
        if files.exists(f"{queue}/{name}/journal"):
            found.append(name)
    return sorted(found, key=int)


def at_once(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """As C{in_thread}, in this thread."""
    try:
        return succeed(function(*arguments))
    except Exception:
        return fail(Failure())


def finished(work: Coroutine[Any, Any, T] | Deferred[T], clock: Clock, committers: Iterable[StepCommitter] = ()) -> T:
    """
    Do what has to be done until C{work} has its result.

    @param clock: what the shards call later; only what is due is called.
    @raise QmailpyError: it waits for something that does not come.
    """
    running = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
    results: list[Any] = []
    running.addBoth(results.append)
    steppers = list(committers)
    while not results:
        busy = any(committer.step() for committer in steppers)
        due = any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls())
        if not busy and not due:
            raise QmailpyError("the queue could not be changed now; what was done is in its journal")
        clock.advance(0)
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return cast(T, results[0])


@implementer(IRecorder)
class NoRecorder:
    """Takes up no lane and writes nothing: for looking only."""

    lane = ""
    behind = False
    sequence = 0

    def write(self, records: Iterable[LogRecord]) -> None:
        """Lines that a crash has swallowed are for the next who takes up the shard."""

    def flush(self) -> None:
        """Nothing waits."""

    def checkpoint(self) -> BooksCheckpoint:
        return BooksCheckpoint(0, 0, 0, {})

    def stored(self, channel: str) -> tuple[int, int, int]:
        return 0, 0, 0

    def thd_sync(self) -> None:
        """Nothing was written."""

    def thd_recover(self, base: BooksCheckpoint | None, ids: Container[str] | None = None) -> Sequence[LogRecord]:
        return ()


def clock_of_now() -> Clock:
    """A clock that stands at the present time."""
    clock = Clock()
    clock.advance(time.time())
    return clock


def thd_look(name: str, config: Config, files: Files, clock: Clock) -> tuple[Part, int, Sequence[str]]:
    """
    Lock a shard and read what is in it; its files stay as they are, but for those that cannot be understood.

    @return: the shard, to be looked at only; the lock, to be closed; what is wrong with it, a line each.
    @raise ShardBusy: a process has it.
    @raise OSError: it cannot be read.
    """
    layout = Layout(config.path("queue", name), shard_code(name))
    try:
        lock = files.lock(layout.lock)
    except BlockingIOError:
        raise ShardBusy(f"queue shard {name} is in use by another process") from None
    try:
        shelf = Shelf(files, layout, config.queue.spill_octets)
        journal = Journal(files, layout.journal, layout.corrupt, config.queue.segment_octets)
        recorder = NoRecorder()
        recovered = Recovery(
            files=files, layout=layout, journal=journal, shelf=shelf, recorder=recorder, durable={}, replay=False
        ).thd_run()
    except BaseException:
        files.close(lock)
        raise
    shard = Shard(
        files=files,
        layout=layout,
        state=recovered.state,
        shelf=shelf,
        committer=StepCommitter(journal),  # never told to step
        recorder=recorder,
        ids=IdSource(clock.seconds, name, recovered.highest, Random(0)),  # noqa: S311 - makes no ids
        in_thread=at_once,
        later=clock.callLater,
        durable={},
        segments=config.queue.segments,
        generations=[*recovered.generations, 0],
    )
    return Part(name=name, shard=shard, recorder=None, runners={}, runner=_none), lock, recovered.warnings


def _none(channel: str) -> Runner:
    raise QmailpyError(f"nothing is scheduled for channel {channel}")
