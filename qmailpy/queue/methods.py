"""
L{QueueOperations} as control methods: the JSON of L{qmailpy.cli.queueview}, whose text describes each of them.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from qmailpy.control.client import Json
from qmailpy.errors import QmailpyError
from qmailpy.queue.entries import Leaving, QueueFilter, Target, from_json, to_json
from qmailpy.queue.view import QueueOperations

EDGES = 64
"""Columns of a table of ages, at most."""


class IMethods(Protocol):
    """What a process answers on its control socket."""

    def add(self, name: str, method: Callable[..., Awaitable[Json]]) -> None:
        """Answer C{name} with C{method} from now on."""


class QueueMethods:
    """Answers from the queue."""

    def __init__(self, queue: QueueOperations) -> None:
        self._queue = queue

    def register(self, control: IMethods) -> None:
        """Add all of them."""
        control.add("queue.list", self._list)
        control.add("queue.read", self._read)
        control.add("queue.history", self._history)
        control.add("queue.hold", self._hold)
        control.add("queue.release", self._release)
        control.add("queue.delete", self._delete)
        control.add("queue.return", self._return)
        control.add("queue.summary", self._summary)
        control.add("queue.jobs", self._jobs)
        control.add("queue.stop_channel", self._stop)
        control.add("queue.start_channel", self._start)
        control.add("queue.run", self._run)
        control.add("queue.flush", self._flush)
        control.add("queue.try", self._try)
        control.add("queue.aside", self._aside)
        control.add("queue.settle", self._settle)
        control.add("queue.why", self._why)
        control.add("queue.ages", self._ages)

    async def _list(self, filters: Json, cursor: str | None, limit: int) -> Json:
        wanted = _understood(QueueFilter, filters)
        if not isinstance(limit, int) or not isinstance(cursor, str | None):
            raise QmailpyError("queue.list: limit is a number, cursor a string or null")
        looked: list[int] = []
        with _trouble():
            entries, after = await self._queue.page(wanted, cursor, limit, looked.append)
        return {"entries": [to_json(entry) for entry in entries], "cursor": after, "looked": sum(looked)}

    async def _read(self, id: str, offset: int, octets: int) -> Json:  # noqa: A002 - as it travels
        if not isinstance(offset, int) or not isinstance(octets, int):
            raise QmailpyError("queue.read: offset and octets are numbers")
        with _trouble():
            piece = await self._queue.read(str(id), offset, octets)
        if piece is None:
            return {"found": False, "envelope": None, "content": "", "next": None}
        return {
            "found": True,
            "envelope": to_json(piece.envelope) if piece.envelope is not None else None,
            "content": base64.b64encode(piece.content).decode(),
            "next": piece.next,
        }

    async def _history(self, id: str) -> Json:  # noqa: A002
        with _trouble():
            events = await self._queue.history(str(id))
        return {"found": events is not None, "events": [to_json(event) for event in events or ()]}

    async def _hold(self, targets: Json, reason: str) -> Json:
        return _results(await self._queue.hold(_targets(targets), str(reason)))

    async def _release(self, targets: Json) -> Json:
        return _results(await self._queue.release(_targets(targets)))

    async def _delete(self, targets: Json) -> Json:
        return _results(await self._queue.delete(_targets(targets)))

    async def _return(self, targets: Json, reason: str) -> Json:
        return _results(await self._queue.return_(_targets(targets), str(reason)))

    async def _summary(self) -> Json:
        with _trouble():
            return {"channels": [to_json(one) for one in await self._queue.summary()]}

    async def _jobs(self) -> Json:
        return {"jobs": [to_json(one) for one in self._queue.jobs()]}

    async def _stop(self, channel: str) -> Json:
        with _trouble():
            known, changed = await self._queue.stop(str(channel))
        return {"known": known, "changed": changed}

    async def _start(self, channel: str) -> Json:
        with _trouble():
            known, changed = await self._queue.start(str(channel))
        return {"known": known, "changed": changed}

    async def _run(self, channel: str, forgive: bool = False) -> Json:
        known, waiting = await self._queue.run(str(channel), bool(forgive))
        return {"known": known, "waiting": waiting}

    async def _try(self, targets: Json) -> Json:
        return _results(await self._queue.try_now(_targets(targets)))

    async def _aside(self) -> Json:
        with _trouble():
            return {"ids": [*await self._queue.aside()]}

    async def _settle(self, id: str, leavings: Json) -> Json:  # noqa: A002
        try:
            found = [from_json(Leaving, one) for one in leavings] if isinstance(leavings, list) else []
        except ValueError as problem:
            raise QmailpyError(str(problem)) from problem
        with _trouble():
            return to_json(await self._queue.settle(str(id), found))

    async def _why(self, id: str) -> Json:  # noqa: A002
        with _trouble():
            found = await self._queue.standing(str(id))
        return {"standing": to_json(found) if found is not None else None}

    async def _ages(self, filters: Json, cursor: str | None, edges: Json, senders: bool) -> Json:
        wanted = _understood(QueueFilter, filters)
        if not isinstance(edges, list) or len(edges) > EDGES or not isinstance(cursor, str | None):
            raise QmailpyError("queue.ages: edges is a list of seconds, cursor a string or null")
        ages = [float(edge) for edge in edges if isinstance(edge, int | float)]
        looked: list[int] = []
        with _trouble():
            rows, after = await self._queue.ages(wanted, cursor, sorted(ages), bool(senders), looked.append)
        return {"rows": [to_json(row) for row in rows], "cursor": after, "looked": sum(looked)}

    async def _flush(self, destination: str) -> Json:
        with _trouble():
            return {"waiting": await self._queue.flush(str(destination))}


class _trouble:
    """Turns trouble with the disk into one line for whoever asked."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, OSError):
            raise QmailpyError(f"the queue cannot be read: {problem}") from problem


def _understood(kind: type[QueueFilter], value: Json) -> QueueFilter:
    try:
        found: QueueFilter = from_json(kind, value)
    except ValueError as problem:
        raise QmailpyError(str(problem)) from problem
    return found


def _targets(value: Json) -> list[Target]:
    found = []
    for pair in value if isinstance(value, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise QmailpyError("targets are a list of [id, channel]")
        queue_id, channel = pair
        if not isinstance(queue_id, str) or not isinstance(channel, str):
            raise QmailpyError("targets are a list of [id, channel]")
        found.append(Target(queue_id, channel))
    return found


def _results(results: Sequence[object]) -> Json:
    return {"results": [to_json(result) for result in results]}
