"""
Do the books balance? The counters against the fold of the transaction log since the last clear.

Each lane is compared by itself: the lines of the lane behind its last clear, up to the line its counters stand for, are
folded and must give the counters, item by item; and for every channel Received = Delivered + Stored. Works beside a
running daemon: lines newer than the counters read are left out. One pass over what was packed away, mail.log,
yesterday and current, from where the oldest clear was if that can be told.

Where C{keep_days} has taken the beginning, what the log has is compared with: no item may be counted less than that.

What options leave out of the log cannot be compared and is named: without C{process} nothing, without C{filename} only
recipients, without C{queue_time} no queue times, without C{connections} no associations.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from attrs import define, field, frozen

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import Files
from qmailpy.records.archive import thd_batches, thd_packed
from qmailpy.records.fields import Unreadable
from qmailpy.records.logfile import file_number, log_files
from qmailpy.records.reading import lines
from qmailpy.records.text import LineFormat, fragment
from qmailpy.stats.counters import LaneState
from qmailpy.stats.fold import apply, balanced
from qmailpy.stats.items import (
    FIRST_COUNT,
    FIRST_TIME_MS,
    IN_ASSOCIATIONS,
    ITEMS,
    LOWEST,
    OUT_ASSOCIATIONS,
    QUEUE_COUNT,
    QUEUE_TIME_MS,
    STORED,
    Table,
    zeros,
)

_TIMES = (QUEUE_TIME_MS, QUEUE_COUNT, FIRST_TIME_MS, FIRST_COUNT)
_GROWING = tuple(index for index in range(LOWEST) if not STORED <= index < STORED + 3)
_SHOWN = 200
"""Differences that are listed; more are counted."""


@frozen(kw_only=True)
class Verdict:
    """What a verification found."""

    equal: bool
    differences: tuple[str, ...]  # one line each; at most _SHOWN and a last one that counts the others
    notes: tuple[str, ...]  # what could not be compared, and what was odd in the log
    records: int  # lines that were folded
    unreadable: int  # lines that are no records (torn ones among them)
    whole: bool = True  # the log reaches back to the last clear, or nothing has been counted since that it lacks


@define
class _Lane:
    """A lane while the log is read."""

    state: LaneState
    last: int
    table: Table
    gaps: list[str] = field(factory=list)
    missing: int = 0
    begins: int = 0  # the first line that the log has, when it does not reach back to the clear
    since: str = "of no time"  # when that was written


def thd_verify(files: Files, directory: str, options: LogConfig, lanes: list[LaneState]) -> Verdict:
    """
    Compare. Blocks, for as long as the log is.

    @param directory: HOME/log.
    @param options: those the log was written with.
    @param lanes: as read just now.
    @raise OSError: the log cannot be read.
    """
    if not options.process:
        return Verdict(
            equal=False,
            differences=("the log has no process field (option process): its lines cannot be told apart by lane",),
            notes=(),
            records=0,
            unreadable=0,
        )
    books = {lane.name: _open(lane) for lane in lanes}
    records = unreadable = 0
    form = LineFormat(options)
    for line in _lines(files, directory, lanes):
        try:
            record = form.record(line)
        except Unreadable:
            unreadable += 1
            continue
        book = books.get(record.lane)
        if book is None or not book.last < record.sequence <= book.state.position.sequence:
            continue
        if record.sequence != book.last + 1:
            _note_gap(book, record.sequence - 1)
            if book.begins == record.sequence:
                book.since = time.strftime("of %Y-%m-%d", time.localtime(record.time))
        book.last = record.sequence
        apply(book.table, record)
        records += 1
    differences: list[str] = []
    whole = True
    notes = _left_out(options)
    if unreadable:
        notes.append(f"{unreadable} lines of the log are no records (torn by a crash, or written with other options)")
    for book in books.values():
        if book.last < book.state.position.sequence:
            _note_gap(book, book.state.position.sequence)
        lane_differences = _compare(book, _skipped(options))
        if lane_differences and options.keep_days and book.begins and len(book.gaps) == 1 and _fits(book):
            whole = False
            notes.append(
                f"lane {book.state.name}: of the lines since the last clear the log has those from {book.begins} on, "
                f"{book.since}; older ones are kept for {options.keep_days} days ([log] keep_days). No item is counted "
                "less than these tell; more cannot be compared: clear the counters to begin anew"
            )
        else:
            differences += lane_differences
            (differences if lane_differences else notes).extend(book.gaps)
        if not book.state.settled:
            notes.append(f"lane {book.state.name}: its owner died in the middle of a change; start the daemon once")
    if len(differences) > _SHOWN:
        differences[_SHOWN:] = [f"and {len(differences) - _SHOWN} more"]
    return Verdict(
        equal=not differences,
        differences=tuple(differences),
        notes=tuple(notes),
        records=records,
        unreadable=unreadable,
        whole=whole,
    )


def _open(lane: LaneState) -> _Lane:
    """The lane's books at its last clear: what was counted then, the smallest Stored being that of then."""
    table = {channel: list(row) for channel, row in lane.baseline.table.items()}
    return _Lane(state=lane, last=lane.baseline.position.sequence, table=table)


def _note_gap(book: _Lane, last: int) -> None:
    first = book.last + 1
    book.missing += last - book.last
    name = book.state.name
    if len(book.gaps) >= 20:
        return
    if book.last == book.state.baseline.position.sequence:
        book.begins = last + 1
        book.gaps.append(
            f"lane {name}: the log does not reach back to the last clear: it begins behind line {last}, "
            f"lines from {first} on are needed"
        )
    elif last == book.state.position.sequence:
        book.gaps.append(f"lane {name}: the log ends at line {first - 1}, the counters stand for line {last}")
    else:
        book.gaps.append(f"lane {name}: the log lacks the lines {first} to {last}")


def _compare(book: _Lane, skipped: frozenset[int]) -> list[str]:
    name = book.state.name
    found = []
    for channel in sorted(set(book.table) | set(book.state.table)):
        counted = book.state.table.get(channel)
        if counted is None:
            found.append(f"lane {name}: channel {channel} is in the log and has no counters")
            continue
        folded = book.table.get(channel) or zeros()
        start = book.state.baseline.table.get(channel) or zeros()
        for index, item in enumerate(ITEMS):
            if index in skipped or counted[index] == folded[index]:
                continue
            before = start[index] if index < LOWEST else start[STORED + index - LOWEST]
            found.append(
                f"lane {name}: {channel} {item}: counted {counted[index] - before}, in the log {folded[index] - before}"
            )
        if not balanced(counted):
            found.append(f"lane {name}: {channel}: Received is not Delivered + Stored")
    return found


def _fits(book: _Lane) -> bool:
    """Whether lines that are not there any more can be the reason of every difference."""
    counted = book.state.table
    for channel, folded in book.table.items():
        row = counted.get(channel)
        if row is None or any(row[index] < folded[index] for index in _GROWING):
            return False
    return all(map(balanced, counted.values()))


def _skipped(options: LogConfig) -> frozenset[int]:
    """Items that cannot be told from a log with these options."""
    skipped: set[int] = set()
    if not options.filename:
        skipped |= {index for index, item in enumerate(ITEMS) if item.endswith(("_messages", "_blocks"))}
    if not options.filename or not options.queue_time:
        skipped |= set(_TIMES)
    if not options.connections:
        skipped |= {IN_ASSOCIATIONS, OUT_ASSOCIATIONS}
    return frozenset(skipped)


def _left_out(options: LogConfig) -> list[str]:
    found = []
    if not options.filename:
        found.append("messages, blocks and queue times are not compared: the log has no file field (option filename)")
    elif not options.queue_time:
        found.append("queue times are not compared: they are not in the log (option queue_time)")
    if not options.connections:
        found.append("associations are not compared: they are not in the log (option connections)")
    return found


def _lines(files: Files, directory: str, lanes: list[LaneState]) -> Iterator[bytes]:
    """The log from the oldest clear on, or from its beginning."""
    with log_files(files, directory) as handles:
        start, offset = _start(files, handles, lanes)
        if start == offset == 0:
            # They may reach back beyond mail.log: what was packed away, too.
            for batch in thd_batches(thd_packed(directory)):
                yield from map(fragment, batch)
        for handle in handles[start:]:
            yield from lines(files, handle, offset)
            offset = 0


def _start(files: Files, handles: list[int], lanes: list[LaneState]) -> tuple[int, int]:
    """The file (an index) and the offset of the oldest clear, if the log's files of now tell it."""
    numbers = [file_number(files, handle) for handle in handles]
    found: list[tuple[int, int]] = []
    for lane in lanes:
        position = lane.baseline.position
        if not position.file or position.file not in numbers:
            return 0, 0
        found.append((numbers.index(position.file), position.offset))
    return min(found, default=(0, 0))
