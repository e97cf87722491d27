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

from qmailpy.records.record import Action, LogRecord
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
from qmailpy.values import blocks

_EVENT = {
    Action.DEFERRED: ATTEMPTED,
    Action.PARTLY: ATTEMPTED,
    Action.REJECTED: REJECTED,
    Action.FAILED: FAILED,
    Action.SILENCED: FAILED,
}


def apply(table: Table, record: LogRecord) -> None:
    """Count one record: change the rows of its channels in C{table}, adding those that are new."""
    action = record.action
    file = record.file
    first = file is None or not file.continued
    if action is Action.ENQUEUED:
        size = blocks(record.size_octets)
        _add(_row(table, record.source), SUBMITTED, first, size)
        if record.destination:
            row = _row(table, record.destination)
            _add(row, RECEIVED, first, size)
            _add(row, STORED, first, size)
        return
    event = _EVENT.get(action)
    if event is not None:
        row = _row(table, record.source)
        _add(row, event, first, blocks(record.size_octets))
        if event is not FAILED:
            return
    elif action is Action.DEQUEUED:
        row = _row(table, record.source)
    else:
        if action is Action.OPENED:
            _row(table, record.source)[IN_ASSOCIATIONS if record.direction == "+" else OUT_ASSOCIATIONS] += 1
        return
    closing = file is None or file.remaining == 0
    _leave(row, closing, record)
    if closing and action is Action.DEQUEUED:
        _time(row, file is None or file.attempts == 0, milliseconds(record.queue_time))


def _row(table: Table, channel: str) -> Row:
    row = table.get(channel)
    if row is None:
        row = table[channel] = zeros()
    return row


def _add(row: Row, event: int, first: bool, size: int) -> None:
    row[event + 1] += 1
    if first:
        row[event] += 1
        row[event + 2] += size


def _leave(row: Row, closing: bool, record: LogRecord) -> None:
    row[DELIVERED + 1] += 1
    row[STORED + 1] -= 1
    row[LOWEST + 1] = min(row[LOWEST + 1], row[STORED + 1])
    if closing:
        size = blocks(record.size_octets)
        row[DELIVERED] += 1
        row[DELIVERED + 2] += size
        row[STORED] -= 1
        row[STORED + 2] -= size
        row[LOWEST] = min(row[LOWEST], row[STORED])
        row[LOWEST + 2] = min(row[LOWEST + 2], row[STORED + 2])


def _time(row: Row, first_attempt: bool, spent: int | None) -> None:
    if first_attempt:
        row[FIRST_MESSAGES] += 1
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
