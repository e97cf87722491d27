"""
The counters as a fold over the records of the transaction log: the one place where it says what counts.

Used live (L{qmailpy.stats.recorder}), in recovery and by C{qm counters verify} alike, so that all three agree. Rules,
for the channel named (messages / recipients / blocks; a message and its blocks count at the line that begins an event,
C{not continued}, or at the one that closes the copy, C{remaining == 0}):

  - E: destination Received and Stored, source Submitted; each +1 recipient, and at the first line +1 message, +blocks.
  - D: source Delivered +1 and Stored -1 recipient; the closing line: Delivered +1 message, +blocks, Stored the reverse,
    queue time and count, and for a copy that no attempt had failed for: first-time messages, queue first time, count.
  - R, K: source Failed; and the copy leaves as with D, but without queue times.
  - Q, Z: source Attempted. J: source Rejected. O: source In or Out Assocs. All others: nothing.

So Received = Delivered + Stored, always, in all three units. A copy without file field counts as closed by each line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from qmailpy.records.record import Action
from qmailpy.records.text import milliseconds
from qmailpy.stats.items import (
    ATTEMPTED,
    DELIVERED,
    FAILED,
    FIRST_COUNT,
    FIRST_MESSAGES,
    FIRST_TIME_MS,
    IN_ASSOCIATIONS,
    LOWEST,
    OUT_ASSOCIATIONS,
    QUEUE_COUNT,
    QUEUE_TIME_MS,
    RECEIVED,
    REJECTED,
    STORED,
    SUBMITTED,
    Row,
    Table,
    zeros,
)
from qmailpy.values import BLOCK, blocks

# Where apply counts: plain names and no calls, not even min(), for it runs four times a message.
_RECIPIENTS, _BLOCKS = 1, 2  # behind the messages of an event
_RECEIVED_RECIPIENTS, _RECEIVED_BLOCKS = RECEIVED + _RECIPIENTS, RECEIVED + _BLOCKS
_STORED_RECIPIENTS, _STORED_BLOCKS = STORED + _RECIPIENTS, STORED + _BLOCKS
_DELIVERED_RECIPIENTS, _DELIVERED_BLOCKS = DELIVERED + _RECIPIENTS, DELIVERED + _BLOCKS
_SUBMITTED_RECIPIENTS, _SUBMITTED_BLOCKS = SUBMITTED + _RECIPIENTS, SUBMITTED + _BLOCKS
_LOWEST_RECIPIENTS, _LOWEST_BLOCKS = LOWEST + _RECIPIENTS, LOWEST + _BLOCKS
_ENQUEUED, _DEQUEUED, _OPENED, _CLOSED = Action.ENQUEUED, Action.DEQUEUED, Action.OPENED, Action.CLOSED


class File(Protocol):
    """What counts of a file field."""

    @property
    def attempts(self) -> int: ...

    @property
    def remaining(self) -> int: ...

    @property
    def continued(self) -> bool: ...


class Counted(Protocol):
    """What counts of a record: of a L{LogRecord}, or of a line that is read for it alone (L{qmailpy.stats.behind})."""

    @property
    def action(self) -> Action: ...

    @property
    def source(self) -> str: ...

    @property
    def destination(self) -> str: ...

    @property
    def direction(self) -> str: ...

    @property
    def size_octets(self) -> int: ...

    @property
    def file(self) -> File | None: ...

    @property
    def queue_time(self) -> float | None: ...


_EVENT = {
    Action.DEFERRED: ATTEMPTED,
    Action.PARTLY: ATTEMPTED,
    Action.REJECTED: REJECTED,
    Action.FAILED: FAILED,
    Action.SILENCED: FAILED,
}


def fold(table: Table, records: Iterable[Counted]) -> None:
    """Count records, in their order: change the rows of their channels in C{table}, adding those that are new."""
    for record in records:
        action = record.action
        if action is _ENQUEUED:
            _enqueued(table, record)
        elif action is _DEQUEUED:
            _leave(table.get(record.source) or _new(table, record.source), record, True)
        elif action is _OPENED:
            row = table.get(record.source) or _new(table, record.source)
            row[IN_ASSOCIATIONS if record.direction == "+" else OUT_ASSOCIATIONS] += 1
        elif action is not _CLOSED:
            event = _EVENT.get(action)
            if event is not None:
                _happened(table.get(record.source) or _new(table, record.source), event, record)


def apply(table: Table, record: Counted) -> None:
    """Count one record."""
    fold(table, (record,))


def _new(table: Table, channel: str) -> Row:
    row = table[channel] = zeros()
    return row


def _happened(row: Row, event: int, record: Counted) -> None:
    row[event + _RECIPIENTS] += 1
    file = record.file
    if file is None or not file.continued:
        row[event] += 1
        row[event + _BLOCKS] += blocks(record.size_octets)
    if event is FAILED:
        _leave(row, record, False)


def _enqueued(table: Table, record: Counted) -> None:
    source, destination, file = record.source, record.destination, record.file
    first = file is None or not file.continued
    size = -(-record.size_octets // BLOCK) if first else 0
    row = table.get(source) or _new(table, source)
    row[_SUBMITTED_RECIPIENTS] += 1
    if first:
        row[SUBMITTED] += 1
        row[_SUBMITTED_BLOCKS] += size
    if not destination:
        return
    row = table.get(destination) or _new(table, destination)
    row[_RECEIVED_RECIPIENTS] += 1
    row[_STORED_RECIPIENTS] += 1
    if first:
        row[RECEIVED] += 1
        row[_RECEIVED_BLOCKS] += size
        row[STORED] += 1
        row[_STORED_BLOCKS] += size


def _leave(row: Row, record: Counted, delivered: bool) -> None:
    """A recipient leaves the queue, and the copy with its last one."""
    file = record.file
    row[_DELIVERED_RECIPIENTS] += 1
    row[_STORED_RECIPIENTS] = stored = row[_STORED_RECIPIENTS] - 1
    if stored < row[_LOWEST_RECIPIENTS]:  # noqa: PLR1730
        row[_LOWEST_RECIPIENTS] = stored
    if file is not None and file.remaining:
        return
    size = -(-record.size_octets // BLOCK)
    row[DELIVERED] += 1
    row[_DELIVERED_BLOCKS] += size
    row[STORED] = stored = row[STORED] - 1
    if stored < row[LOWEST]:  # noqa: PLR1730
        row[LOWEST] = stored
    row[_STORED_BLOCKS] = stored = row[_STORED_BLOCKS] - size
    if stored < row[_LOWEST_BLOCKS]:  # noqa: PLR1730
        row[_LOWEST_BLOCKS] = stored
    if not delivered:
        return
    first_attempt = file is None or file.attempts == 0
    if first_attempt:
        row[FIRST_MESSAGES] += 1
    spent = milliseconds(record.queue_time)
    if spent is None:
        return
    row[QUEUE_TIME_MS] += spent
    row[QUEUE_COUNT] += 1
    if first_attempt:
        row[FIRST_TIME_MS] += spent
        row[FIRST_COUNT] += 1


def restart_lowest(table: Table) -> None:
    """The smallest Stored is that of now: what a clear does (mission C6)."""
    for row in table.values():
        row[LOWEST : LOWEST + 3] = row[STORED : STORED + 3]


def balanced(row: Row) -> bool:
    """Whether Received = Delivered + Stored, in all three units."""
    return all(row[RECEIVED + unit] == row[DELIVERED + unit] + row[STORED + unit] for unit in range(3))
