"""
The queue of a running daemon, as L{QueueView}: its workers are asked by the methods that L{qmailpy.cli.queueview}
describes. An answer that makes no sense is an error with the method's name, never a wrong listing.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from qmailpy.cli.queueview import BATCH, CONTENT_OCTETS, FIRST_PAGE, PAGE, Looked, QueuedMessage, QueueView, ignored
from qmailpy.config.load import load
from qmailpy.control.client import TIMEOUT_S, Json, call, running
from qmailpy.errors import CommandError
from qmailpy.queue.entries import (
    UNKNOWN,
    ActionResult,
    ChannelSummary,
    HistoryEvent,
    Leaving,
    MessageEnvelope,
    MessageStanding,
    QueueEntry,
    QueueFilter,
    QueueJob,
    ShapeRow,
    Target,
    by_channel,
    from_json,
    to_json,
)

T = TypeVar("T")

Ask = Callable[[str, str, dict[str, Json]], Json]
"""(process, method, arguments) -> result; raises C{CommandError}."""


class LiveQueueView:
    """The queue of a running daemon: its workers are asked one after the other, and their answers joined."""

    source = "the running queue"

    def __init__(self, ask: Ask, workers: Sequence[str]) -> None:
        """@param workers: the processes that have a part of the queue; at least one."""
        self._ask = ask
        self._workers = tuple(workers)

    def entries(self, wanted: QueueFilter, looked: Looked = ignored) -> Iterator[QueueEntry]:
        return heapq.merge(
            *(self._entries_of(worker, wanted, looked) for worker in self._workers),
            key=lambda entry: (entry.channel, entry.id),
        )

    def _entries_of(self, worker: str, wanted: QueueFilter, looked: Looked) -> Iterator[QueueEntry]:
        arguments: dict[str, Json] = {"filters": to_json(wanted), "limit": FIRST_PAGE}
        for answer in self._pages(worker, "queue.list", arguments, looked):
            arguments["limit"] = PAGE
            yield from _values(QueueEntry, answer.get("entries"))

    def ages(
        self, wanted: QueueFilter, edges: Sequence[float], senders: bool, looked: Looked = ignored
    ) -> Iterator[ShapeRow]:
        arguments: dict[str, Json] = {"filters": to_json(wanted), "edges": [*edges], "senders": senders}
        for worker in self._workers:
            for answer in self._pages(worker, "queue.ages", arguments, looked):
                yield from _values(ShapeRow, answer.get("rows"))

    def _pages(self, worker: str, method: str, arguments: dict[str, Json], looked: Looked) -> Iterator[dict[str, Json]]:
        """The answers of a method that goes on from a cursor."""
        cursor: Json = None
        while True:
            answer = self._call(worker, method, {**arguments, "cursor": cursor})
            count = answer.get("looked")
            looked(count if isinstance(count, int) else 0)
            yield answer
            before, cursor = cursor, answer.get("cursor")
            if cursor is None:
                return
            if not isinstance(cursor, str) or cursor == before:
                raise _nonsense(method, "a cursor that leads nowhere")

    def standing(self, queue_id: str) -> MessageStanding | None:
        for worker in self._workers:
            found = self._call(worker, "queue.why", {"id": queue_id}).get("standing")
            if found is not None:
                return _value(MessageStanding, found)
        return None

    def read(self, queue_id: str) -> QueuedMessage | None:
        for worker in self._workers:
            arguments: dict[str, Json] = {"id": queue_id, "offset": 0, "octets": 0}
            answer = self._call(worker, "queue.read", arguments)
            if answer.get("found"):
                envelope = _value(MessageEnvelope, answer.get("envelope"))
                return QueuedMessage(envelope, self._content_of(worker, queue_id))
        return None

    def _content_of(self, worker: str, queue_id: str) -> Iterator[bytes]:
        offset: Json = 0
        while isinstance(offset, int):
            arguments: dict[str, Json] = {"id": queue_id, "offset": offset, "octets": CONTENT_OCTETS}
            answer = self._call(worker, "queue.read", arguments)
            if not answer.get("found"):
                raise CommandError(f"message {queue_id} left the queue while it was read")
            try:
                yield base64.b64decode(str(answer.get("content", "")), validate=True)
            except binascii.Error as error:
                raise _nonsense("queue.read", str(error)) from None
            before, offset = offset, answer.get("next")
            if isinstance(offset, int) and offset <= before:
                raise _nonsense("queue.read", "an offset that goes back")

    def history(self, queue_id: str) -> Sequence[HistoryEvent] | None:
        for worker in self._workers:
            answer = self._call(worker, "queue.history", {"id": queue_id})
            if answer.get("found"):
                return _values(HistoryEvent, answer.get("events"))
        return None

    def hold(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        return self._act("queue.hold", targets, {"reason": reason})

    def release(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("queue.release", targets, {})

    def delete(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("queue.delete", targets, {})

    def return_(self, targets: Sequence[Target], reason: str) -> Sequence[ActionResult]:
        return self._act("queue.return", targets, {"reason": reason})

    def aside(self) -> Sequence[str]:
        found: set[str] = set()
        for worker in self._workers:
            ids = self._call(worker, "queue.aside", {}).get("ids")
            found.update(map(str, ids) if isinstance(ids, list) else ())
        return sorted(found)

    def settle(self, queue_id: str, leavings: Sequence[Leaving]) -> ActionResult:
        arguments: dict[str, Json] = {"id": queue_id, "leavings": [to_json(one) for one in leavings]}
        result = ActionResult(id=queue_id, channel="", outcome=UNKNOWN)
        for worker in self._workers:
            result = _value(ActionResult, self._call(worker, "queue.settle", arguments))
            if result.outcome != UNKNOWN:
                break
        return result

    def try_now(self, targets: Sequence[Target]) -> Sequence[ActionResult]:
        return self._act("queue.try", targets, {})

    def flush(self, destination: str) -> int:
        return sum(
            _number("queue.flush", self._call(worker, "queue.flush", {"destination": destination}).get("waiting"))
            for worker in self._workers
        )

    def _act(self, method: str, targets: Sequence[Target], more: dict[str, Json]) -> Sequence[ActionResult]:
        """Each worker does what is its own; a target is unknown when all of them say so."""
        found: list[ActionResult] = []
        left = list(targets)
        for worker in self._workers:
            unknown: list[Target] = []
            for at in range(0, len(left), BATCH):
                batch = left[at : at + BATCH]
                pairs: list[Json] = [[target.id, target.channel] for target in batch]
                answer = self._call(worker, method, {"targets": pairs, **more})
                results = _values(ActionResult, answer.get("results"))
                found += (result for result in results if result.outcome != UNKNOWN)
                missed = {(result.id, result.channel) for result in results if result.outcome == UNKNOWN}
                # Our own targets go on to the next worker, so that no answer can widen what is asked of it.
                unknown += (target for target in batch if (target.id, target.channel) in missed)
            left = unknown
        found += (
            ActionResult(id=target.id, channel=target.channel, outcome=UNKNOWN, text="not in the queue")
            for target in left
        )
        return found

    def summary(self, looked: Looked = ignored) -> Sequence[ChannelSummary]:
        return by_channel(
            one
            for worker in self._workers
            for one in _values(ChannelSummary, self._call(worker, "queue.summary", {}).get("channels"))
        )

    def stop(self, channel: str) -> bool:
        return self._switch("queue.stop_channel", channel)

    def start(self, channel: str) -> bool:
        return self._switch("queue.start_channel", channel)

    def run(self, channel: str, forgive: bool = False) -> int:
        arguments: dict[str, Json] = {"channel": channel, "forgive": forgive}
        answers = [self._call(worker, "queue.run", arguments) for worker in self._workers]
        if not any(answer.get("known") for answer in answers):
            raise CommandError(f"there is no channel {channel}")
        counts = [answer.get("waiting") for answer in answers]
        return sum(count for count in counts if isinstance(count, int))

    def jobs(self) -> Sequence[QueueJob]:
        found: list[QueueJob] = []
        for worker in self._workers:
            found += _values(QueueJob, self._call(worker, "queue.jobs", {}).get("jobs"))
        return sorted(found, key=lambda job: (job.channel, job.host, job.id))

    def _switch(self, method: str, channel: str) -> bool:
        answers = [self._call(worker, method, {"channel": channel}) for worker in self._workers]
        if not any(answer.get("known") for answer in answers):
            raise CommandError(f"there is no channel {channel}")
        return any(answer.get("changed") for answer in answers)

    def _call(self, worker: str, method: str, arguments: dict[str, Json]) -> dict[str, Json]:
        answer = self._ask(worker, method, arguments)
        if not isinstance(answer, dict):
            raise _nonsense(method, "no object")
        return answer


def _number(method: str, value: Json) -> int:
    if not isinstance(value, int):
        raise _nonsense(method, "no number")
    return value


def _nonsense(method: str, what: str) -> CommandError:
    return CommandError(f"{method}: an answer that makes no sense ({what})")


def _value(kind: type[T], value: Json) -> T:
    try:
        found: T = from_json(kind, value)
    except ValueError as error:
        raise _nonsense(kind.__name__, str(error)) from None
    return found


def _values(kind: type[T], value: Json) -> list[T]:
    if not isinstance(value, list):
        raise _nonsense(kind.__name__, "no list")
    return [_value(kind, one) for one in value]


def live_view(home: str) -> LiveQueueView | None:
    """The view of the daemon that runs on C{home}; C{None} when no worker answers."""
    workers = [endpoint.name for endpoint in running(home) if endpoint.role == "mta"]
    if not workers:
        return None

    def ask(worker: str, method: str, arguments: dict[str, Json]) -> Json:
        return call(home, worker, method, timeout_s=TIMEOUT_S, **arguments)

    return LiveQueueView(ask, workers)


def open_view(home: str) -> QueueView:
    """
    The queue of C{home}: its daemon's, or its files where none runs.

    @raise CommandError: it cannot be seen.
    @raise ConfigError: the home's configuration cannot be read.
    """
    view = live_view(home)
    if view is not None:
        return view
    from qmailpy.cli.offline import OfflineQueueView  # the queue itself and all it needs: not for a running daemon

    return OfflineQueueView(load(home))
