"""
The index of the transaction log: which lines are about a message, an address, a subject (C{qmailpy trace}).

An SQLite file of its own, HOME/log/index.sqlite, that holds the lines of the last days once more, so that a story can
be told when its log has long been packed away. It is made from the log and nothing else, by the daemon's indexer
(L{qmailpy.app.indexer}) and by whoever asks; mail knows nothing of it. Lost or damaged, it is made again.

    meta(name, value)            version; number and offset of the file that was read last; of mail.log likewise; the
                                 packed file that needs no further look; those that were damaged
    mail(n, id, time, message_id, parent)   a message in the queue; id '' and a row a line for what was refused
    line(mail, text)             its lines, in the order of the log
    address(address, mail)       sender and recipients in small letters
    subject(mail, text)          in small letters; looked through from the newest to the oldest, which is fast enough
                                 and finds any piece of any script (docs/decisions/trace-index.md)

C{parent} is the queue id a message comes from: notices and mail that was handed on carry it in their E line, in the
place of the source system. Older ones without it are joined by their Message-ID.

Reading goes on where it ended: each piece of the log and the place reached are one transaction. Where that place is no
more (rolled twice since), mail.log is read from the size it had, and lines that are there already are left out: see
L{qmailpy.records.place}.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from attrs import frozen

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import Files
from qmailpy.errors import QmailpyError
from qmailpy.records.archive import Source, thd_batches, thd_sources
from qmailpy.records.fields import Unreadable
from qmailpy.records.logfile import CUMULATIVE
from qmailpy.records.place import thd_place
from qmailpy.records.record import Action, LogRecord, parent_of
from qmailpy.records.text import CONNECTION, MONTH_OF, LineFormat, fragment

INDEX = "index.sqlite"
"""Its name below HOME/log."""

VERSION = 2
DAY_S = 86400.0
WORDS = 20
"""Words of a subject that are looked for."""

_RECENT = 20_000  # messages whose number is kept at hand while indexing
_FORGOTTEN = 5_000  # messages that are forgotten at once
_ROTTEN = frozenset({1, 11, 26})  # SQLITE_ERROR (a table that is not there), SQLITE_CORRUPT, SQLITE_NOTADB
_UNTRACED = CONNECTION | {Action.BAD_COMMAND}
_WRITTEN_S = 60.0  # what looks damaged may still be written by whoever packs it
_DAMAGED = "damaged "  # names in meta begin so, the file's comes behind it
_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE mail(n INTEGER PRIMARY KEY, id TEXT NOT NULL, time REAL NOT NULL, message_id TEXT NOT NULL,
                  parent TEXT NOT NULL);
CREATE INDEX mail_id ON mail(id) WHERE id != '';
CREATE INDEX mail_message_id ON mail(message_id) WHERE message_id != '';
CREATE INDEX mail_parent ON mail(parent) WHERE parent != '';
CREATE TABLE line(mail INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX line_mail ON line(mail);
CREATE TABLE address(address TEXT NOT NULL, mail INTEGER NOT NULL, PRIMARY KEY(address, mail)) WITHOUT ROWID;
CREATE TABLE subject(mail INTEGER PRIMARY KEY, text TEXT NOT NULL);
"""


def reach_days(options: LogConfig) -> int:
    """How many days back it reaches: no further than the log, where that is removed by its age by whole days."""
    kept = options.keep_days + 1 if options.compress and options.keep_days else options.index_days
    return min(options.index_days, kept)


class IndexBroken(QmailpyError):
    """The index cannot be used: it is to be made again."""


@frozen(kw_only=True)
class Indexed:
    """A message the index knows."""

    number: int
    id: str  # queue id; empty for mail that was refused
    time: float  # of its first line, seconds since the epoch
    message_id: str
    parent: str  # queue id of the message it comes from


def _told(error: sqlite3.DatabaseError) -> Exception:
    """A full disk, or one that fails, is no reason to throw the index away."""
    if getattr(error, "sqlite_errorcode", 1) & 0xFF in _ROTTEN:
        return IndexBroken(str(error))
    return OSError(errno.EIO, f"{INDEX}: {error}")


class LogIndex:
    """
    The index, open. Not for several threads at once; several processes may have it open.

    A context manager: closed at the end.

    @ivar busy: another process is bringing it up to date. @ivar behind: for whoever could not do so, and says so.
    @ivar added: lines that were new when it was opened. @ivar damaged: a line about each file of the log that could not
        be read to its end then.
    """

    busy = False
    behind = False
    added = 0

    def __init__(self, path: str) -> None:
        """
        Open it, making it.

        @raise IndexBroken: it is damaged, or of another version.
        @raise OSError: it may not be opened.
        """
        self.damaged: list[str] = []
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self._database = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise _told(error) from error
        except IndexBroken:
            self._database.close()
            raise

    def _open(self) -> None:
        run = self._database.execute
        # Nothing here is worth a sync: what a power cut takes is read again from the log, or all of it is.
        run("PRAGMA synchronous = OFF")
        run("PRAGMA journal_mode = TRUNCATE")
        run("PRAGMA cache_size = -32768")
        run("PRAGMA cell_size_check = ON")  # damage is found where it is, and not believed
        if not run("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            run("BEGIN IMMEDIATE")
            if not run("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in _SCHEMA.split(";"):
                    run(statement)
                self._note("version", VERSION)
            run("COMMIT")
        if self._noted("version") != VERSION:
            raise IndexBroken("it is of another version")

    def __enter__(self) -> LogIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        self._database.close()

    # --- filling -------------------------------------------------------------------------------------------------

    def thd_update(
        self,
        files: Files,
        directory: str,
        options: LogConfig,
        now: float,
        progress: Callable[[int], None] = lambda records: None,
        pause: Callable[[], None] = lambda: None,
    ) -> int:
        """
        Read what the log has more than the index, and forget what is older than L{reach_days}. Blocks.

        @param directory: HOME/log.
        @param options: those the log was written with.
        @param progress: called with the number of lines so far, about twice a second.
        @param pause: called between pieces of work, with nothing locked; what it raises ends the reading, which goes on
            from there next time.
        @return: how many lines were added.
        @raise IndexBroken: see there.
        @raise OSError: the log cannot be read, or there is no room for the index.
        """
        try:
            return self._update(files, directory, options, now, progress, pause)
        except sqlite3.DatabaseError as error:
            if self._database.in_transaction:
                self._database.rollback()
            raise _told(error) from error

    def _update(
        self,
        files: Files,
        directory: str,
        options: LogConfig,
        now: float,
        progress: Callable[[int], None],
        pause: Callable[[], None],
    ) -> int:
        oldest = now - reach_days(options) * DAY_S
        place = thd_place(files, thd_sources(directory), self._noted, oldest)
        offset = place.offset
        filling = _Filling(self._database, LineFormat(options), oldest, place.careful)
        told = time.monotonic()
        damages = 0
        for source, number in zip(place.sources, place.numbers, strict=True):
            for batch, end in _from(source, offset, self.damaged.append):
                self._database.execute("BEGIN IMMEDIATE")
                filling.add(batch)
                if number:  # a file too young to have one holds no line yet
                    self._note("file", number)
                    self._note("offset", end)
                if source.path.endswith(CUMULATIVE):
                    self._note("cumulative", end)
                    self._note("cumulative_file", number)
                self._database.execute("COMMIT")
                pause()
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    progress(filling.added)
            offset = 0
            if len(self.damaged) > damages:
                if abs(now - source.modified) < _WRITTEN_S:
                    self.damaged[-1] += "; it may not be whole yet"
                    break  # next time it is, or is old enough to be passed over
                damages = len(self.damaged)
                self._note(f"{_DAMAGED}{os.path.basename(source.path)}", round(now))
            if source.packed and number:
                self._note("file", number)
                self._note("done", number)
        self._forget(oldest, pause)
        return filling.added

    def _forget(self, oldest: float, pause: Callable[[], None]) -> None:
        """
        Once a day's worth of it can go: the addresses are all looked at for it.

        Piece by piece, so that nobody waits long; addresses of mail that is gone are not seen any more.
        """
        run = self._database.execute
        first = run("SELECT time FROM mail ORDER BY n LIMIT 1").fetchone()
        if first is None or first[0] >= oldest - DAY_S:
            return
        (start, keep) = run(
            "SELECT (SELECT min(n) FROM mail), coalesce(min(n), (SELECT max(n) + 1 FROM mail)) "
            "FROM mail WHERE time >= ?",
            (oldest,),
        ).fetchone()
        run("DELETE FROM address WHERE mail < ?", (keep,))
        for end in range(start + _FORGOTTEN, keep + _FORGOTTEN, _FORGOTTEN):
            pause()
            run("BEGIN IMMEDIATE")
            for table, column in (("line", "mail"), ("subject", "mail"), ("mail", "n")):
                run(f"DELETE FROM {table} WHERE {column} < ?", (min(end, keep),))  # noqa: S608 - ours
            run("COMMIT")

    def _noted(self, name: str) -> int:
        found = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(found[0]) if found else 0

    def _note(self, name: str, value: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, value))

    # --- asking --------------------------------------------------------------------------------------------------

    def by_id(self, queue_id: str) -> list[Indexed]:
        """The message with a queue id."""
        return self._mails("id = ? AND id != ''", queue_id)

    def by_message_id(self, message_id: str, limit: int = 1000) -> list[Indexed]:
        """Messages with a Message-ID, with its angle brackets; the oldest first."""
        return self._mails("message_id = ? AND message_id != '' ORDER BY n LIMIT ?", message_id, limit)

    def by_parent(self, queue_id: str, limit: int = 1000) -> list[Indexed]:
        """Messages that come from a message."""
        return self._mails("parent = ? AND parent != '' ORDER BY n LIMIT ?", queue_id, limit)

    def by_address(self, address: str, limit: int, since: float = 0.0, until: float = math.inf) -> list[Indexed]:
        """
        The newest messages from or to an address, the newest first.

        @param since: seconds since the epoch; those that came then or later. @param until: before then.
        """
        return self._mails(
            "n IN (SELECT mail FROM address CROSS JOIN mail ON n = mail WHERE address = ? AND time >= ? AND time < ? "
            "ORDER BY mail DESC LIMIT ?) ORDER BY n DESC",
            address.lower(),
            since,
            until,
            limit,
        )

    def by_subject(self, text: str, limit: int, since: float = 0.0, until: float = math.inf) -> list[Indexed]:
        """The newest messages whose subject has all these words, or pieces of words, the newest first."""
        words = text.casefold().split()[:WORDS]
        if not words:
            return []
        has = " AND ".join(["instr(subject.text, ?)"] * len(words))
        return self._mails(
            f"n IN (SELECT subject.mail FROM subject CROSS JOIN mail ON n = subject.mail WHERE {has} "  # noqa: S608 - ours
            "AND time >= ? AND time < ? ORDER BY subject.mail DESC LIMIT ?) ORDER BY n DESC",
            *words,
            since,
            until,
            limit,
        )

    def lines(self, mail: Indexed) -> list[str]:
        """The lines about a message, in the order of the log, each once."""
        rows = self._rows("SELECT text FROM line WHERE mail = ? ORDER BY rowid", mail.number)
        return list(dict.fromkeys(text for (text,) in rows))

    def oldest(self) -> float | None:
        """When the first message came that it knows of, in seconds since the epoch."""
        found = self._rows("SELECT time FROM mail ORDER BY n LIMIT 1")
        return float(found[0][0]) if found else None

    def _mails(self, condition: str, *values: str | float) -> list[Indexed]:
        query = f"SELECT n, id, time, message_id, parent FROM mail WHERE {condition}"  # noqa: S608 - ours
        return [Indexed(number=n, id=i, time=t, message_id=m, parent=p) for n, i, t, m, p in self._rows(query, *values)]

    def missing(self) -> list[str]:
        """Names of the log's files that could not be read to their end when their turn came."""
        rows = self._rows("SELECT name FROM meta WHERE name LIKE ?", f"{_DAMAGED}%")
        return [name.removeprefix(_DAMAGED) for (name,) in rows]

    def _rows(self, query: str, *values: str | float) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _told(error) from error


class _Filling:
    """Puts lines into the tables."""

    def __init__(self, database: sqlite3.Connection, form: LineFormat, oldest: float, careful: bool) -> None:
        self.added = 0
        self._run = database.execute
        self._form = form
        self._oldest = oldest
        self._careful = careful
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._days: dict[bytes, bool] = {}

    def add(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if not line or not self._recent(line):
                continue
            whole = fragment(line)
            try:
                record = self._form.record(whole)
            except Unreadable:
                continue
            if record.time >= self._oldest and record.action not in _UNTRACED:
                self._put(record, whole.decode())

    def _recent(self, line: bytes) -> bool:
        """Whether the day of a line is worth a look."""
        day = line[:11]
        found = self._days.get(day)
        if found is None:
            try:
                fields = (int(day[7:]), MONTH_OF[day[3:6].decode()], int(day[:2]), 23, 59, 59, 0, 0, -1)
                found = time.mktime(fields) >= self._oldest
            except (ValueError, KeyError, OverflowError):
                return True  # a piece before it
            if len(self._days) < 10_000:
                self._days[day] = found
        return found

    def _put(self, record: LogRecord, text: str) -> None:
        run = self._run
        queue_id = record.file.id if record.file is not None and record.action is not Action.REJECTED else ""
        number = self._number(queue_id)
        fresh = number is None
        if number is None:
            made = run(
                "INSERT INTO mail(id, time, message_id, parent) VALUES(?, ?, ?, ?)",
                (queue_id, record.time, record.message_id, parent_of(record)),
            )
            number = int(made.lastrowid or 0)
            if record.subject:
                run("INSERT INTO subject VALUES(?, ?)", (number, record.subject.casefold()))
            if queue_id:
                self._keep(queue_id, number)
        elif self._careful and run("SELECT 1 FROM line WHERE mail = ? AND text = ?", (number, text)).fetchone():
            return
        run("INSERT INTO line VALUES(?, ?)", (number, text))
        self.added += 1
        if fresh or record.action is Action.ENQUEUED:
            for address in {record.sender.lower(), record.original_to.lower(), record.current_to.lower()}:
                if address:
                    run("INSERT OR IGNORE INTO address VALUES(?, ?)", (address, number))

    def _number(self, queue_id: str) -> int | None:
        if not queue_id:
            return None
        number = self._numbers.get(queue_id)
        if number is None:
            found = self._run("SELECT n FROM mail WHERE id = ? AND id != ''", (queue_id,)).fetchone()
            if found is None:
                return None
            number = int(found[0])
            self._keep(queue_id, number)
        return number

    def _keep(self, queue_id: str, number: int) -> None:
        self._numbers[queue_id] = number
        if len(self._numbers) > _RECENT:
            self._numbers.popitem(last=False)


def _from(source: Source, offset: int, damaged: Callable[[str], None]) -> Iterator[tuple[list[bytes], int]]:
    """The whole lines of a file behind C{offset}, in pieces, each with the offset where it ends."""
    at = offset
    for batch in thd_batches([source], offset, damaged):
        at += sum(map(len, batch)) + len(batch)
        if batch:
            yield batch, at


def thd_index(
    files: Files,
    directory: str,
    options: LogConfig,
    now: float,
    *,
    rebuild: bool = False,
    progress: Callable[[int], None] = lambda records: None,
    pause: Callable[[], None] = lambda: None,
    wait_s: float = 0.0,
) -> LogIndex:
    """
    The index, up to date; one that is broken is made anew. For commands and for a thread.

    While another process brings it up to date it is given as it is (C{busy}).

    @param rebuild: make it anew anyhow.
    @param pause: see L{LogIndex.thd_update}.
    @param wait_s: how long to wait for another process, which mostly has little to read.
    @raise BlockingIOError: it is to be made anew, and another process is at it.
    @raise OSError: the log cannot be read, or the index not be written.
    """
    path = f"{directory}/{INDEX}"
    try:
        lock = _locked(files, f"{path}_lock", wait_s)
    except BlockingIOError:
        if rebuild:
            raise
        index = LogIndex(path)
        index.busy = True
        return index
    try:
        if rebuild:
            _remove(path)
        for final in (False, True):
            try:
                index = LogIndex(path)
                try:
                    index.added = index.thd_update(files, directory, options, now, progress, pause)
                except BaseException:
                    index.close()
                    raise
                return index
            except IndexBroken:
                if final:
                    raise
                _remove(path)
        raise AssertionError("not reached")
    finally:
        files.close(lock)


def _locked(files: Files, path: str, wait_s: float) -> int:
    end = time.monotonic() + wait_s
    while True:
        try:
            return files.lock(path)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.02)


def _remove(path: str) -> None:
    for name in (path, f"{path}-journal"):
        if os.path.lexists(name):
            os.unlink(name)
