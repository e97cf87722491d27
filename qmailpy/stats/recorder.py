"""
The one writer of a lane: records become lines of the log and counts in the mapped file.

Records of one reactor turn go out together, with one write(2). A record is counted when its line has been written, so
that at any moment the counters are the fold of the lane's lines in the log up to C{checkpoint().sequence}, also while
lines wait because the disk is full. (With option C{connections} off, O records are counted without a line.)

Recovery (L{Recorder.thd_recover}) needs no order between log and counters: it takes the values of the last checkpoint
that the queue made durable and adds the lane's lines behind it. Lines are numbered per lane, so reading too much does
no harm. What a power cut took from the log is not counted; the queue writes those lines again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import Files
from qmailpy.interfaces import BooksCheckpoint, IRecorder
from qmailpy.records.lines import Lines
from qmailpy.records.logfile import LogFile
from qmailpy.records.record import LogRecord
from qmailpy.records.text import CONNECTION, LineFormat, process_field
from qmailpy.stats.activity import Activity
from qmailpy.stats.behind import LinesBehind
from qmailpy.stats.counters import Position
from qmailpy.stats.fold import apply, fold, restart_lowest
from qmailpy.stats.items import ITEMS, LOWEST, STORED, Row, Table
from qmailpy.stats.lanes import Lane

RETRY_S = 1.0
"""How long after a failed write it is tried again, when nothing new is written meanwhile."""

RECOVERED = 1_000_000
"""Records that L{Recorder.thd_recover} returns at most, the last ones: far more than a queue can lack lines for."""


@implementer(IRecorder)
class Recorder:
    """See the module's text. C{write}, C{flush}, C{checkpoint} and C{clear} are for the reactor's thread."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        files: Files,
        directory: str,
        lane: Lane,
        name: str,
        options: LogConfig,
        *,
        node: str = "",
        process: int = 0,
        alone: bool = False,
        apart_s: float = 0.0,
    ) -> None:
        """
        @param directory: HOME/log.
        @param name: of the lane: the shard's.
        @param process: our process id, for the process field.
        @param alone: while C{thd_recover} runs no other process writes the log, so that a torn line may be cut off.
        @param apart_s: writes follow each other at least so far apart: under load a write has the lines of many
            messages. The first after a pause waits for the end of the reactor's turn only.
        """
        self.lane = name
        self._reactor = reactor
        self._files = files
        self._directory = directory
        self._map = lane
        self._file = LogFile(files, directory)
        self._format = LineFormat(options, node)
        self._options = options
        self._process = process_field(process, name)
        self._lines = Lines(self._format, self._process)
        self._alone = alone
        self._buffer: list[LogRecord] = []
        self._call: IDelayedCall | None = None
        self._apart_s = apart_s
        self._next = 0.0  # not to be written to before, on the reactor's clock
        self._waiting: list[LogRecord] = []  # have a number and a place in the file's pending lines, are not counted
        self._numbered = 0  # last line number given out
        self._written = 0  # last line in the log, and counted
        self._table: Table = {}
        self._lost = 0
        self.activity = Activity()

    @property
    def table(self) -> Table:
        """The lane's values since its first day, up to the last flush; not to be changed."""
        return self._table

    @property
    def lost(self) -> int:
        """Records that could neither be written nor kept, since the log could last be written."""
        return self._lost

    @property
    def sequence(self) -> int:
        """See L{IRecorder}."""
        return self._written

    @property
    def waiting(self) -> bool:
        """Whether lines wait because the log cannot be written."""
        return self._file.pending

    @property
    def behind(self) -> bool:
        """See L{IRecorder}."""
        return bool(self._waiting or self._buffer)

    def write(self, records: Iterable[LogRecord]) -> None:
        """See L{IRecorder.write}."""
        self._buffer += records
        if self._call is None:
            wait = self._next - self._reactor.seconds() if self._apart_s else 0.0
            self._call = self._reactor.callLater(min(max(wait, 0.0), self._apart_s), self._turn)

    def _turn(self) -> None:
        self._call = None
        if self._apart_s:
            self._next = self._reactor.seconds() + self._apart_s
        self.flush()

    def flush(self) -> None:
        """See L{IRecorder.flush}."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._buffer:
            self._number()
        elif self._waiting:
            self._wrote(self._file.append(b""), [], 0)
        if self._waiting:
            self._call = self._reactor.callLater(RETRY_S, self._turn)

    def _number(self) -> None:
        """Write the buffer."""
        records, self._buffer = self._buffer, []
        unlogged: list[LogRecord] = []
        if not self._options.connections:
            unlogged = [record for record in records if record.action in CONNECTION]
            records = [record for record in records if record.action not in CONNECTION]
        octets, written = self._lines.make(records, self._numbered)
        self._wrote(not octets or self._file.append(octets), written, self._numbered + len(written))
        if unlogged:
            self._count(unlogged)

    def _wrote(self, kept: bool, written: Sequence[LogRecord], number: int) -> None:
        if not kept:
            if not self._lost:
                self.log.error("the transaction log could not be written for too long: records are being lost")
            self._lost += len(written)
        elif written:
            self._numbered = number
            self._waiting += written
        if self._file.pending:
            return
        if self._lost:
            self.log.error("{count} records have been lost to a log that could not be written", count=self._lost)
            self._lost = 0
        if self._waiting:
            records, self._waiting = self._waiting, []
            self._written = self._numbered
            self._count(records)

    def _count(self, records: Sequence[LogRecord]) -> None:
        table = self._table
        fold(table, records)
        changed = {record.source for record in records}
        changed.update([record.destination for record in records if record.destination])
        self._map.store(table, changed, self._position())
        self.activity.count(records)

    def _position(self) -> Position:
        at = self._file.position()
        return Position(self._written, at.file, at.offset)

    def clear(self, keep_stored: bool) -> None:
        """
        Begin to count anew, for readers (C{qm counters clear}). Durable after L{thd_sync}.

        @param keep_stored: Stored shows what is in the queue now, instead of zero.
        """
        self.flush()
        restart_lowest(self._table)
        self._map.clear(self._table, self._position(), keep_stored)

    def reopen(self) -> None:
        """The log has been rolled: write to the new file from now on. (It would be noticed with the next write too.)"""
        self.flush()
        self._file.reopen()

    def checkpoint(self) -> BooksCheckpoint:
        """See L{IRecorder.checkpoint}. Lines that still wait for the disk are not part of it."""
        self.flush()
        at = self._position()
        counters = {channel: tuple(row) for channel, row in self._table.items()}
        return BooksCheckpoint(at.file, at.offset, at.sequence, counters)

    def stored(self, channel: str) -> tuple[int, int, int]:
        """See L{IRecorder.stored}."""
        row = self._table.get(channel)
        return (0, 0, 0) if row is None else (row[STORED], row[STORED + 1], row[STORED + 2])

    def thd_sync(self) -> None:
        """
        See L{IRecorder.thd_sync}; a clear is durable too then.

        @raise OSError: the log is not durable: no checkpoint may be relied on.
        """
        self._file.thd_sync()
        self._map.thd_flush()

    def close(self) -> None:
        """The end, after the last record: what can still be written is."""
        self.flush()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._file.close()
        self._map.close()

    def thd_recover(self, base: BooksCheckpoint | None, ids: Container[str] | None = None) -> Sequence[LogRecord]:
        """
        See L{IRecorder.thd_recover}.

        @raise OSError: the log cannot be read: without it the books cannot be trusted.
        """
        # A log that cannot be written now is the next write's trouble: mail goes on.
        with suppress(OSError):
            self._file.repair(self._alone)
        self._map.open()
        baseline = self._map.baseline
        cleared_at = baseline.position.sequence if baseline is not None and baseline.time else -1
        table: Table = {}
        last = 0
        if base is not None:
            last = base.sequence
            table = {channel: _row(values) for channel, values in base.counters.items()}
        found: deque[LogRecord] = deque(maxlen=RECOVERED)
        pending_clear = cleared_at >= last
        behind = LinesBehind(self._files, self._directory, self.lane, self._options, self._format)
        for sequence, counted, queue_id, line in behind.facts(base):
            if sequence <= last:
                continue
            if pending_clear and sequence > cleared_at:
                restart_lowest(table)
                pending_clear = False
            last = sequence
            apply(table, counted)
            if ids is None or queue_id.decode() in ids:
                record = behind.record(line)
                if record is not None:
                    found.append(record)
        if pending_clear:
            restart_lowest(table)
        if cleared_at < 0:
            # No clear is known, so the counts are those since the first day, when nothing was stored: a smallest value
            # in the checkpoint is of a clear that went with the counters file, removed while nothing ran.
            for row in table.values():
                row[LOWEST : LOWEST + 3] = [min(0, value) for value in row[LOWEST : LOWEST + 3]]
        self._table = table
        self._numbered = self._written = last
        if cleared_at > last:
            # The log lost lines that were counted before the clear. Their events, if they happened, come again: take
            # the clear to have been now.
            keep = baseline is not None and baseline.keep_stored
            self._map.clear(table, self._position(), keep)
        self._map.store_all(table, self._position())
        return list(found)


def _row(values: Sequence[int]) -> Row:
    """A checkpoint's values as a row: one of an earlier version has fewer items."""
    return [*values[: len(ITEMS)], *[0] * (len(ITEMS) - len(values))]
