"""C{history}: what the log tells of a message, then how it stands in the queue."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from attrs import evolve

from qmailpy.cli.indexed import lines_of
from qmailpy.cli.qm_session import warn
from qmailpy.errors import QmailpyError
from qmailpy.queue.entries import HistoryEvent
from qmailpy.records.record import Action, LogRecord
from qmailpy.records.removed import DELETED

LINES = 1000
"""Events of a message that are shown, the last ones."""

NEAR_S = 1.0
"""Lines of the same event are no further apart."""

STANDING = frozenset({"waiting", "held"})
"""Events that tell how it stands."""

_NAMES = {
    Action.ENQUEUED: "enqueued",
    Action.DEQUEUED: "delivered",
    Action.DEFERRED: "deferred",
    Action.PARTLY: "deferred",
    Action.FAILED: "failed",
    Action.SILENCED: "failed",
    Action.WARNED: "delayed",
}


@contextmanager
def past(home: str) -> Iterator[Callable[[str], list[HistoryEvent]]]:
    """
    What gives the events of a message by its id, as the log tells them.

    A log that cannot be looked at is told of, and tells nothing: the queue remembers some of it.
    """
    try:
        opened = lines_of(home)
        lines = opened.__enter__()
    except (QmailpyError, OSError, sqlite3.Error) as problem:
        warn(f"only what the queue remembers; the log cannot be read: {problem}")
        yield lambda queue_id: []
        return
    try:
        yield lambda queue_id: events(lines(queue_id))
    finally:
        opened.__exit__(None, None, None)


def events(records: Iterable[LogRecord]) -> list[HistoryEvent]:
    """The events that lines of one message stand for; those of recipients with the same outcome are one."""
    found: list[HistoryEvent] = []
    for record in records:
        event = _event(record)
        if event is None:
            continue
        before = found[-1] if found else None
        same = before is not None and event == evolve(before, time=event.time, recipients=1)
        if before is not None and same and event.time - before.time < NEAR_S:
            found[-1] = evolve(before, recipients=before.recipients + 1)
        else:
            found.append(event)
    return found[-LINES:]


def _event(record: LogRecord) -> HistoryEvent | None:
    name = _NAMES.get(record.action)
    if name is None:
        return None
    text = record.diagnostic
    if record.action is Action.ENQUEUED:
        system = f", from {record.source_system}" if record.source_system else ""
        text = f"to {record.destination}{system}"
    elif text == DELETED:
        name = "deleted"
    return HistoryEvent(time=record.time, channel=record.source, event=name, recipients=1, text=text)


def whole(told: Sequence[HistoryEvent], remembered: Sequence[HistoryEvent] | None) -> list[HistoryEvent] | None:
    """
    Both together: the log's events and how it stands; without the first, whatever the queue remembers.

    @param remembered: C{None} when it is not in the queue.
    @return: C{None} when nobody knows of it.
    """
    if not told:
        return None if remembered is None else list(remembered)
    return [*told, *(event for event in remembered or () if event.event in STANDING)]
