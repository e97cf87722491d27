"""
The lines of a lane behind a checkpoint, read for what the books need of them: some 4 us a line, where a whole record
takes 20. Mail waits while they are read.

The usual line is told by a pattern and cut at its blanks. Whatever is odd about one (an escape, a long channel name, a
field too few) is for the whole parser, L{LineFormat.record}, which also refuses what is no record; so both agree, line
by line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import Files
from qmailpy.interfaces import BooksCheckpoint
from qmailpy.records.fields import Unreadable
from qmailpy.records.logfile import file_number, log_files
from qmailpy.records.reading import last_lines, lines
from qmailpy.records.record import Action, LogRecord
from qmailpy.records.text import LineFormat, process_field
from qmailpy.stats.fold import Counted
from qmailpy.values import BLOCK

_COLUMN = 12
_COLUMNS = 2 * _COLUMN + 2
_KEPT = 1000
"""Pairs of columns remembered; a home has some dozens."""

_STAMP = rb"[0-9]{2}-[A-Z][a-z][a-z]-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{2} "
_NOT_COUNTED = {action.value.encode(): action for action in (Action.CLOSED, Action.REFUSED, Action.UNREACHED)}
_NOT_COUNTED |= {action.value.encode(): action for action in (Action.AUTHENTICATED, Action.BAD_COMMAND, Action.ABORTED)}
_WITH_FILE = {
    action.value.encode(): action
    for action in Action
    if action is not Action.OPENED and action.value.encode() not in _NOT_COUNTED
}


class Fact:
    """What counts of one line (L{Counted}), and whose it is. One object, filled again with each line."""

    __slots__ = (
        "action",
        "attempts",
        "continued",
        "destination",
        "direction",
        "file",
        "id",
        "queue_time",
        "remaining",
        "size_octets",
        "source",
    )

    def __init__(self) -> None:
        self.action = Action.CLOSED
        self.source = self.destination = self.direction = ""
        self.size_octets = self.attempts = self.remaining = 0
        self.continued = False
        self.file: Fact | None = None  # itself: it has what a file field tells
        self.queue_time: float | None = None
        self.id = b""  # of the message; empty: none


class LinesBehind:
    """The log of a home, read from a checkpoint of one lane on. Not for several threads at once."""

    def __init__(self, files: Files, directory: str, lane: str, options: LogConfig, form: LineFormat) -> None:
        """
        @param directory: HOME/log.
        @param lane: the shard's name.
        @param form: with the same options.
        """
        self._files = files
        self._directory = directory
        self._lane = lane
        self._form = form
        self._fact = Fact()
        self._columns: dict[bytes, tuple[str, str]] = {}
        self._file_at = 5 + options.notary if options.filename else 0
        self._timed = options.queue_time
        node = rb"[^ ]+ " if options.node else b""
        own = re.escape(process_field(0, lane)[1:].encode())  # its lane between two dots
        # Without option "process" no line is known to be ours.
        self._own = re.compile(_STAMP + node + rb"[0-9a-f]+" + own + rb"([0-9]+) ").match if options.process else _none

    def facts(self, base: BooksCheckpoint | None) -> Iterator[tuple[int, Counted, bytes, bytes]]:
        """
        The lane's lines from some line on that is not behind the base's last one: number, what counts, id of the
        message, the line. What counts holds until the next one is asked for. Blocks.

        @raise OSError: the log cannot be read.
        """
        own, fact = self._own, self._fact
        for line in self._lines(base):
            found = own(line)
            if found is None:
                continue
            try:
                self._read(line, found.end())
            except (ValueError, IndexError):
                try:
                    record = self._form.record(line)
                except Unreadable:
                    continue
                if record.lane == self._lane:
                    yield record.sequence, record, record.file.id.encode() if record.file is not None else b"", line
                continue
            yield int(found[1]), fact, fact.id, line

    def record(self, line: bytes) -> LogRecord | None:
        """The whole record of such a line; C{None}: the pattern takes for a line what the parser does not."""
        try:
            return self._form.record(line)
        except Unreadable:
            return None

    def _read(self, line: bytes, at: int) -> None:
        """
        Fill the fact.

        @param at: where the columns begin.
        @raise ValueError, IndexError: it is not a usual line.
        """
        if b"\\" in line or not str(line, "utf-8").isprintable():
            raise ValueError
        fact = self._fact
        end = at + _COLUMNS
        columns = line[at:end]
        pair = self._columns.get(columns)
        if pair is None:
            pair = self._pair(columns)
        letter = line[end : end + 1]
        fact.id = b""
        if letter in _WITH_FILE:
            fact.action = _WITH_FILE[letter]
            fact.source, fact.destination = pair
            file_at = self._file_at
            words = line[end:].split(b" ", file_at + 1 if file_at else 5)
            if words[3][:7] != b"rfc822;":
                raise ValueError
            fact.size_octets = int(words[1]) * BLOCK
            fact.file = None
            if file_at and words[file_at]:
                self._place(words[file_at])
            fact.queue_time = None
            if letter == b"D" and self._timed:
                spent = line[line.rindex(b" ") + 1 :]
                if spent != b"-":
                    if spent[-4:-3] != b".":
                        raise ValueError
                    fact.queue_time = (int(spent[:-4]) * 1000 + int(spent[-3:])) / 1000
        elif letter == b"O":
            fact.action = Action.OPENED
            fact.source, fact.direction = pair
        else:
            fact.action = _NOT_COUNTED.get(letter) or _refused()

    def _pair(self, columns: bytes) -> tuple[str, str]:
        """Source and destination, as their columns have them."""
        if columns[_COLUMN :: _COLUMN + 1] != b"  ":
            raise ValueError  # one is too long for its column, so the other is elsewhere
        source, destination = columns[:_COLUMN].rstrip(b" "), columns[_COLUMN + 1 :].rstrip(b" ")
        if not source or b" " in source or b" " in destination:
            raise ValueError
        pair = source.decode("ascii"), destination.decode("ascii")
        if len(self._columns) < _KEPT:
            self._columns[columns] = pair
        return pair

    def _place(self, word: bytes) -> None:
        """The file field: C{CHANNEL/NN/ZZID.RR+}."""
        fact = self._fact
        name = word[word.rindex(b"/") + 1 :]
        stem, _, left = name.rpartition(b".")
        fact.continued = left[-1:] == b"+"
        fact.remaining = int(left[:-1] if fact.continued else left)
        if len(stem) != 17 or not stem[:2].isupper():  # a third digit of the attempts is for the parser
            raise ValueError
        fact.attempts = 0 if stem[:2] == b"ZZ" else 1  # the books tell none from some
        fact.id = stem[2:]
        fact.file = fact

    # --- where to begin --------------------------------------------------------------------------------------

    def _lines(self, base: BooksCheckpoint | None) -> Iterator[bytes]:
        with log_files(self._files, self._directory) as handles:
            start, offset = self._start(handles, base)
            for handle in handles[start:]:
                yield from lines(self._files, handle, offset)
                offset = 0

    def _start(self, handles: list[int], base: BooksCheckpoint | None) -> tuple[int, int]:
        """The file (an index) and the offset to read from: backwards from the end to a line the base has counted."""
        if base is None:
            return 0, 0
        for index in range(len(handles) - 1, -1, -1):
            handle = handles[index]
            size = self._files.size(handle)
            if base.file and base.file == file_number(self._files, handle) and base.offset <= size:
                return index, base.offset  # everything before it is counted
            for at, line in last_lines(self._files, handle, size):
                found = self._own(line)
                if found is not None and int(found[1]) <= base.sequence:
                    return index, at
        return 0, 0


def _none(line: bytes) -> re.Match[bytes] | None:
    return None


def _refused() -> Action:
    raise ValueError
