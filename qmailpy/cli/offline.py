"""
The queue of a home whose daemon does not run, as L{QueueView}.

Each call locks the shards, does its work and lets go of them, so that a prompt that stands open does not keep the
daemon from starting. Calls that look leave everything as it is. Calls that change go the daemon's own way: recovery,
journal, records, files; the books are kept. Nothing is delivered.
"""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from qmailpy.channels.local import LocalChannel
from qmailpy.channels.parts import Parts
from qmailpy.channels.process import Notices
from qmailpy.cli.output import print_error
from qmailpy.cli.queueview import CONTENT_OCTETS, PAGE, Looked, QueuedMessage, ignored
from qmailpy.cli.store import as_keeper, store_of
from qmailpy.config.schema import Config
from qmailpy.control.client import NotRunningError
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.disk.files import Files, RealFiles
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError, QmailpyError
from qmailpy.interfaces import IChannel
from qmailpy.local.inline import InlineThreads
from qmailpy.queue.aside import thd_aside
from qmailpy.queue.committer import StepCommitter
from qmailpy.queue.entries import (
    ActionResult,
    ChannelSummary,
    HistoryEvent,
    Leaving,
    MessageStanding,
    QueueEntry,
    QueueFilter,
    QueueJob,
    ShapeRow,
    Target,
)
from qmailpy.queue.ids import shard_code, shard_of
from qmailpy.queue.journal import Journal
from qmailpy.queue.layout import Layout, check_channel
from qmailpy.queue.offline import at_once, finished, shard_names, thd_look
from qmailpy.queue.reading import Part, QueueReading
from qmailpy.queue.service import QueueShard, ShardBusy, Surroundings, thd_open
from qmailpy.queue.standing import stopped
from qmailpy.queue.switches import Switches
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder

T = TypeVar("T")

_NOTHING_TRIED = "the daemon is not running: nothing can be tried now"
_BUSY = "the daemon is just starting or stopping, or another command is at work; try again"


class OfflineQueueView:
    """See the module's text. Everything blocks."""

    source = "the queue directory tree"

    def __init__(self, config: Config, files: Files | None = None) -> None:
        self._config = config
        self._files = files or RealFiles()
        self._queue = config.path("queue")
        self._switches = Switches(self._files, config.path("queue", "stopped"))

    # --- looking ---------------------------------------------------------------------------------------------

    def entries(self, wanted: QueueFilter, looked: Looked = ignored) -> Iterator[QueueEntry]:
        with self._looking() as (queue, clock):
            cursor: str | None = None
            while True:
                with self._rights():  # not while somebody else's code runs
                    page, cursor = finished(queue.page(wanted, cursor, PAGE, looked), clock)
                yield from page
                if cursor is None:
                    return

    def ages(
        self, wanted: QueueFilter, edges: Sequence[float], senders: bool, looked: Looked = ignored
    ) -> Iterator[ShapeRow]:
        with self._looking() as (queue, clock):
            cursor: str | None = None
            while True:
                with self._rights():
                    rows, cursor = finished(queue.ages(wanted, cursor, edges, senders, looked), clock)
                yield from rows
                if cursor is None:
                    return

    def standing(self, queue_id: str) -> MessageStanding | None:
        with self._looking() as (queue, clock), self._rights():
            found = finished(queue.standing(queue_id), clock)
            halted = self._stopped()
        if found is None:
            return None
        return evolve(
            found,
            standings=tuple(
                evolve(one, stopped=stopped(one.channel, None, self._config, one.channel in halted))
                for one in found.standings
            ),
        )

    def read(self, queue_id: str) -> QueuedMessage | None:
        with self._looking() as (queue, clock), self._rights():
            piece = finished(queue.read(queue_id, 0, 0), clock)
        if piece is None or piece.envelope is None:
            return None
        return QueuedMessage(piece.envelope, self._content(queue_id))

    def _content(self, queue_id: str) -> Iterator[bytes]:
        offset: int | None = 0
        with self._looking() as (queue, clock):
            while offset is not None:
                with self._rights():
                    piece = finished(queue.read(queue_id, offset, CONTENT_OCTETS), clock)
                if piece is None:
                    raise CommandError(f"message {queue_id} left the queue while it was read")
                yield piece.content
                offset = piece.next

    def history(self, queue_id: str) -> Sequence[HistoryEvent] | None:
        with self._looking() as (queue, clock), self._rights():
            return finished(queue.history(queue_id), clock)

    def summary(self, looked: Looked = ignored) -> Sequence[ChannelSummary]:
        with self._looking() as (queue, clock), self._rights():
            found = finished(queue.summary(looked), clock)
            halted = self._stopped()
        return [evolve(one, stopped=one.channel in halted or self._configured_stopped(one.channel)) for one in found]

    def _stopped(self) -> frozenset[str]:
        return self._switches.thd_stopped()

    def jobs(self) -> Sequence[QueueJob]:
        return ()

    @contextmanager
    def _looking(self) -> Iterator[tuple[QueueReading, Clock]]:
        clock = _clock()
        parts: list[Part] = []
        with ExitStack() as locks:
            with self._rights():
                for name in shard_names(self._files, self._queue):
                    try:
                        part, lock, warnings = thd_look(name, self._config, self._files, clock)
                    except ShardBusy as problem:
                        raise CommandError(f"{problem}: {_BUSY}") from problem
                    locks.callback(self._files.close, lock)
                    parts.append(part)
                    _warn(warnings)
            yield QueueReading(lambda: parts, self._config, time.time), clock

    # --- changing --------------------------------------------------------------------------------------------

    def hold(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        with self._changing(targets) as work:
            return work.done(work.queue.hold(targets, reason))

    def release(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        with self._changing(targets) as work:
            return work.done(work.queue.release(targets))

    def delete(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        with self._changing(targets) as work:
            return work.done(work.queue.delete(targets))

    def return_(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        with self._changing(targets) as work:
            return work.done(work.queue.return_(targets, reason))

    def aside(self) -> Sequence[str]:
        found: list[str] = []
        with self._rights():
            for name in shard_names(self._files, self._queue):
                found += thd_aside(self._files, Layout(f"{self._queue}/{name}", shard_code(name)))
        return sorted(found)

    def settle(self, queue_id: str, leavings: Sequence[Leaving]) -> ActionResult:
        with self._changing([Target(queue_id)]) as work:
            return work.done(work.queue.settle(queue_id, leavings))

    @contextmanager
    def _changing(self, targets: Sequence[Target]) -> Iterator[OpenShards]:
        """The shards that have these messages, opened; settled and closed in the end."""
        with self._rights():
            there = shard_names(self._files, self._queue)
            names = sorted({_shard(target) for target in targets} & set(there), key=int)
            work = OpenShards(self._config, self._files, self._switches, alone=len(there) == 1)
            try:
                for name in names:
                    work.open(name)
                yield work
            except ShardBusy as problem:
                raise CommandError(f"{problem}: {_BUSY}") from problem
            except CommandError:
                raise
            except QmailpyError as problem:
                raise CommandError(str(problem)) from problem
            finally:
                work.close()

    # --- channels --------------------------------------------------------------------------------------------

    def stop(self, channel: str) -> bool:
        return self._switch(channel, True) and not self._configured_stopped(channel)

    def start(self, channel: str) -> bool:
        return self._switch(channel, False)

    def run(self, channel: str, forgive: bool = False) -> int:
        raise NotRunningError(_NOTHING_TRIED)

    def flush(self, destination: str) -> int:
        raise NotRunningError(_NOTHING_TRIED)

    def try_now(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        raise NotRunningError(_NOTHING_TRIED)

    def _switch(self, channel: str, stopped: bool) -> bool:
        try:
            known = channel in self._config.channels or any(
                self._files.exists(f"{self._queue}/{name}/chan/{check_channel(channel)}")
                for name in shard_names(self._files, self._queue)
            )
        except ValueError:
            known = False
        if not known:
            raise CommandError(f"there is no channel {channel}")
        with self._rights():
            return self._switches.thd_switch(channel, stopped)

    def _configured_stopped(self, channel: str) -> bool:
        found = self._config.channels.get(channel)
        return found is not None and found.stopped

    @contextmanager
    def _rights(self) -> Iterator[None]:
        """As root: be the queue's owner, so that what is made belongs to whom the daemon runs as."""
        with acting_as(owner(self._queue)):
            yield


class OpenShards:
    """
    Shards that are open for changes, and what they need around them; everything else must have let go of them.

    @ivar shards: by name.
    @ivar queue: the operations on them.
    """

    def __init__(self, config: Config, files: Files, switches: Switches, alone: bool) -> None:
        """@param alone: nobody else can write the log meanwhile."""
        self._config = config
        self._files = files
        self._alone = alone
        self._clock = _clock()
        self._committers: list[StepCommitter] = []
        self._recorders: list[Recorder] = []
        self.shards: dict[str, QueueShard] = {}
        self._store = store_of(config)
        self.queue = QueueOperations(lambda: parts_of(self.shards), config, time.time, switches, at_once)

    def done(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a change, once it is durable."""
        return finished(work, self._clock, self._committers)

    def step(self) -> None:
        """Do what waits to be done: for whoever has handed the shards new mail."""
        waiting: Deferred[None] = Deferred()
        for committer in self._committers[-1:]:
            committer.call(lambda journal: None, lambda _: waiting.callback(None))
        finished(waiting, self._clock, self._committers)

    def open(self, name: str) -> None:
        """
        Lock and recover a shard.

        @raise ShardBusy: somebody has it.
        @raise OSError: it cannot be read or written.
        """
        config, files, clock = self._config, self._files, self._clock
        recorder = Recorder(
            clock,
            files,
            config.path("log"),
            Lane(config.path("run", "counters"), name, time.time),
            name,
            config.log,
            node=config.server.hostname,
            process=os.getpid(),
            alone=self._alone,
        )
        self._recorders.append(recorder)
        parts = Parts(
            reactor=cast(Any, clock),
            files=files,
            directory=EmbeddedDirectory(self._store, as_keeper(config.home)),
            router=cast(Any, None),  # for deliveries only, and there are none
            resolver=cast(Any, None),
            recorder=recorder,
            config=config,
        )
        # Deliveries that the journal covers have to be there and durable before it forgets them.
        local: dict[str, IChannel] = {
            channel.name: LocalChannel(config, channel, parts, InlineThreads())
            for channel in config.channels.values()
            if channel.kind == "local"
        }
        around = Surroundings(
            config=config,
            files=files,
            recorder=recorder,
            channels=local,
            notices=Notices(config),
            clock=clock,
            seconds=time.time,
            chance=Random(),  # noqa: S311 - spreads ids
            in_thread=at_once,
            committer=self._committer,
            replay=True,
            stopped=lambda channel: True,
        )
        opened = thd_open(name, around)
        _warn(opened.recovered.warnings)
        self.shards[name] = QueueShard(opened, around)

    def _committer(self, journal: Journal) -> StepCommitter:
        committer = StepCommitter(journal)
        self._committers.append(committer)
        return committer

    def close(self) -> None:
        """Settle what can be settled (all of it is in the journal anyway) and let go."""
        try:
            for shard in self.shards.values():
                for _ in range(2):  # the second for what the checkpoint of the first left touched
                    finished(shard.settle(), self._clock, self._committers)
        finally:
            for shard in self.shards.values():
                shard.close()
            for recorder in self._recorders:
                recorder.close()
            self._store.thd_close()


def _clock() -> Clock:
    clock = Clock()
    clock.advance(time.time())
    return clock


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print_error(warning)


def _shard(target: Target) -> str:
    try:
        return shard_of(target.id)
    except ValueError:
        return ""
