"""
Messages whose files could not be understood and were moved to corrupt/: they are in nobody's hands. A D line takes each
recipient that is known to be left out of the books, as far as the other files of the message tell (L{Aside}).

What they do not tell only the log can, and where recovery finds the damage the journal knows more: that stays counted
until an operator has done what can be done, and the command (C{qm clean -corrupt}) has looked it up: a D line for each
recipient that had none. The files go on to corrupt/settled/ then. Nothing is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from attrs import frozen

from qmailpy.disk.files import Files
from qmailpy.queue.entries import Leaving
from qmailpy.queue.ids import LENGTH, to_number
from qmailpy.queue.layout import Layout
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.removed import TAKEN_OUT

SETTLED = "settled"

_FINAL = frozenset({Action.DEQUEUED, Action.FAILED, Action.SILENCED})


@frozen
class Aside:
    """A message that has just been set aside."""

    id: str
    why: str
    leavings: tuple[Leaving, ...]  # the recipients that are known to be left, all of a copy or none
    whole: bool  # those are all of them


def thd_aside(files: Files, layout: Layout) -> list[str]:
    """The ids of the messages in corrupt/, sorted. Blocks. @raise OSError: it cannot be read."""
    found = set()
    for name in files.listdir(layout.corrupt):
        queue_id = name[:LENGTH]
        try:
            to_number(queue_id)
        except ValueError:
            continue
        if name[LENGTH : LENGTH + 1] == ".":
            found.add(queue_id)
    return sorted(found)


def thd_put_away(files: Files, layout: Layout, queue_id: str) -> None:
    """Move the files of a message that has been settled. Blocks."""
    target = f"{layout.corrupt}/{SETTLED}"
    if not files.exists(target):
        files.mkdir(target)
    for name in files.listdir(layout.corrupt):
        if name.startswith(f"{queue_id}."):
            files.rename(f"{layout.corrupt}/{name}", f"{target}/{name}")
    files.sync_directory(target)
    files.sync_directory(layout.corrupt)


def left_of(queue_id: str, records: Iterable[LogRecord]) -> list[Leaving]:
    """The recipients of a message that have come and not gone, by its lines in the log."""
    gone: Counter[tuple[str, str, str]] = Counter()
    came: list[LogRecord] = []
    for record in records:
        if record.file is None or record.file.id != queue_id:
            continue
        if record.action is Action.ENQUEUED:
            came.append(record)
        elif record.action in _FINAL:
            gone[record.source, record.original_to, record.current_to] += 1
    found = []
    for record in came:
        key = (record.destination, record.original_to, record.current_to)
        if gone[key]:
            gone[key] -= 1
            continue
        found.append(
            Leaving(
                channel=record.destination,
                recipient=record.current_to,
                original=record.original_to,
                sender=record.sender,
                size_octets=record.size_octets,
                message_id=record.message_id,
                envelope_id=record.envelope_id,
                arrival=record.time,
            )
        )
    return found


def leaving_lines(queue_id: str, leavings: Sequence[Leaving], now: float, text: str = TAKEN_OUT) -> list[LogRecord]:
    """The lines that take them out of the books, a channel after the other. @param text: their diagnostic."""
    lines: list[LogRecord] = []
    before = ""
    left = Counter(one.channel for one in leavings)
    for one in sorted(leavings, key=lambda each: each.channel):
        left[one.channel] -= 1
        lines.append(
            LogRecord(
                action=Action.DEQUEUED,
                time=now,
                source=one.channel,
                size_octets=one.size_octets,
                sender=one.sender,
                original_to=one.original,
                current_to=one.recipient,
                file=QueueFile(
                    channel=one.channel,
                    id=queue_id,
                    attempts=0,
                    remaining=left[one.channel],
                    continued=one.channel == before,
                ),
                envelope_id=one.envelope_id,
                message_id=one.message_id,
                diagnostic=text,
                queue_time=max(0.0, now - one.arrival),
            )
        )
        before = one.channel
    return lines
