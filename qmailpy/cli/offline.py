"""
The queue of a home whose daemon does not run, as L{QueueView}.

Each call locks the shards, does its work and lets go of them, so that a prompt that stands open does not keep the
daemon from starting. Calls that look leave everything as it is. Calls that change go the daemon's own way: recovery,
journal, records, files; the books are kept. Nothing is delivered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.task import Clock

from qmailpy.cli.output import print_error
from qmailpy.cli.queueview import CONTENT_OCTETS, FIRST_PAGE, PAGE, Looked, QueuedMessage, ignored
from qmailpy.config.schema import Config
from qmailpy.control.client import NotRunningError
from qmailpy.disk.files import Files, RealFiles
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError, QmailpyError
from qmailpy.queue.aside import thd_aside
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
from qmailpy.queue.layout import Layout, check_channel
from qmailpy.queue.offline import clock_of_now, finished, shard_names, thd_look
from qmailpy.queue.opening import ShardBusy
from qmailpy.queue.reading import QueueReading
from qmailpy.queue.standing import stopped
from qmailpy.queue.summing import Part
from qmailpy.queue.switches import Switches

if TYPE_CHECKING:
    from qmailpy.cli.opened import OpenShards

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
                    limit = FIRST_PAGE if cursor is None else PAGE
                    page, cursor = finished(queue.page(wanted, cursor, limit, looked), clock)
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
        clock = clock_of_now()
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
                    for warning in warnings:
                        print_error(warning)
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
        from qmailpy.cli.opened import OpenShards  # all that delivers mail: looking does not wait for it

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


def _shard(target: Target) -> str:
    try:
        return shard_of(target.id)
    except ValueError:
        return ""
