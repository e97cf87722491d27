"""
The embedded directory's entries on disk: an SQLite file, C{HOME/directory/directory.sqlite}.

Several processes use it at once: the directory server (or the one process of C{workers = 0}) and the commands. SQLite's
write-ahead log with C{synchronous=FULL} makes each transaction durable when it returns and leaves all or nothing of
it after a crash; there is no other state. One connection a thread. Everything here blocks: names are C{thd_*}.

Tables (user_version 2): C{entries} holds an entry a row (tree key, parent's tree key, name, attributes as JSON);
C{addresses} every mail and mailAlternateAddress once, which makes them unique and a recipient one lookup away;
C{keys} the other indexed values; C{logins} when and how the holder of an entry last logged in, apart from the entries
because it changes often and nobody's cache minds. Version 1 had no C{logins}: it is added when such a file is opened.

Fails with L{StoreError}; its C{kind} says in what way.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from attrs import evolve

from qmailpy.directory import filters, names, schema
from qmailpy.directory.names import SEPARATOR, Name
from qmailpy.directory.operations import Login, Scope, StoreError, Trouble
from qmailpy.directory.schema import Attributes, Entry

FILE = "directory.sqlite"

_VERSION = 2
_BUSY_S = 10.0
_TABLES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    tree TEXT NOT NULL UNIQUE,
    parent TEXT NOT NULL,
    name TEXT NOT NULL,
    attributes TEXT NOT NULL
) STRICT;
CREATE INDEX entries_parent ON entries (parent, tree);
CREATE TABLE addresses (
    address TEXT PRIMARY KEY,
    attribute TEXT NOT NULL,
    entry INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX addresses_entry ON addresses (entry);
CREATE TABLE keys (
    attribute TEXT NOT NULL,
    value TEXT NOT NULL,
    entry INTEGER NOT NULL,
    PRIMARY KEY (attribute, value, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_entry ON keys (entry);
"""
_LOGINS = """
CREATE TABLE logins (
    entry INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    service TEXT NOT NULL,
    address TEXT NOT NULL
) STRICT;
PRAGMA user_version = 2;
"""


class Store:
    """The entries. One object serves all threads of a process."""

    def __init__(self, path: str) -> None:
        """@param path: of the SQLite file; L{create} made it."""
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def thd_close(self) -> None:
        """Close every thread's connection; no call may be under way."""
        with self._lock:
            for connection in self._connections:
                with suppress(sqlite3.Error):
                    connection.close()
            self._connections.clear()
        self._local = threading.local()

    def thd_get(self, name: Name) -> Entry | None:
        """The entry of that name."""
        rows = self._read("SELECT name, attributes FROM entries WHERE tree = ?", (name.key,))
        return _entry(rows[0]) if rows else None

    def thd_by_address(self, address: str) -> Entry | None:
        """The entry with that mail or mailAlternateAddress (as L{directory.address.key} gives it)."""
        rows = self._read(
            "SELECT e.name, e.attributes FROM addresses a JOIN entries e ON e.id = a.entry WHERE a.address = ?",
            (_storable(address),),
        )
        return _entry(rows[0]) if rows else None

    def thd_by_key(self, attribute: str, value: str) -> list[Entry]:
        """At most 100 entries with that value of an indexed attribute."""
        rows = self._read(
            "SELECT e.name, e.attributes FROM keys k JOIN entries e ON e.id = k.entry"
            " WHERE k.attribute = ? AND k.value = ? LIMIT 100",
            (attribute, _storable(value)),
        )
        return [_entry(row) for row in rows]

    def thd_search(
        self, base: Name, scope: Scope, what: filters.Filter, after: str = "", limit: int = 200
    ) -> tuple[list[Entry], str]:
        """
        A batch of a search, in the order of the tree.

        @param after: "" at first, then what the batch before returned.
        @param limit: rows looked at, so that a batch takes bounded time however few match.
        @return: the matching entries of the batch, and where to go on ("" = done).
        """
        sql, values = self._plan(base, scope, what)
        rows = self._read(f"{sql} ORDER BY tree LIMIT ?", (*values, after, limit))
        found = [entry for entry in map(_entry, rows) if filters.matches(what, entry)]
        return found, rows[-1][2] if len(rows) == limit else ""

    def _plan(self, base: Name, scope: Scope, what: filters.Filter) -> tuple[str, tuple[str, ...]]:
        """SELECT ... WHERE for the scope, through an index when the filter allows it."""
        key = base.key
        select = "SELECT e.name, e.attributes, e.tree AS tree FROM entries e WHERE"
        where, values = {
            Scope.BASE: ("TREE = ?", (key,)),
            Scope.ONE: ("PARENT = ?", (key,)),
            Scope.SUBTREE: ("(TREE = ? OR (TREE > ? AND TREE < ?))", (key, *_below(key))),
        }[scope]
        where += " AND TREE > ?"
        pairs = filters.keys(what) if scope is not Scope.BASE else None
        if pairs is None or len(pairs) > 100:
            return f"{select} {where.replace('TREE', 'e.tree').replace('PARENT', 'e.parent')}", values
        ids: list[str] = []
        used: list[str] = []
        for attribute, value in pairs:
            if attribute in schema.ADDRESS_ATTRIBUTES:
                ids.append("SELECT entry FROM addresses WHERE address = ?")
                used.append(_storable(value))
            else:
                ids.append("SELECT entry FROM keys WHERE attribute = ? AND value = ?")
                used += (attribute, _storable(value))
        inner = " UNION ".join(ids) or "SELECT 0 WHERE 0"
        # The + keeps SQLite from walking the tree's index instead of ours.
        where = where.replace("TREE", "+e.tree").replace("PARENT", "+e.parent")
        return f"{select} e.id IN ({inner}) AND {where}", (*used, *values)

    def thd_add(self, *entries: Entry) -> None:
        """
        Add entries, parents first, all or none. A parent must be there, except for the first entry, the base.

        @raise StoreError: EXISTS, NO_SUCH (the parent), INVALID, CONFLICT, UNAVAILABLE.
        """
        ready = [self._checked(entry) for entry in entries]
        with self._write() as database:
            for entry in ready:
                _insert(database, entry)

    def thd_add_each(self, entries: Sequence[Entry]) -> list[StoreError | None]:
        """
        Add entries, those that can be: for each why not. What was added is durable on return.

        @raise StoreError: UNAVAILABLE; then none was.
        """
        result: list[StoreError | None] = []
        with self._write() as database:
            for entry in entries:
                try:
                    ready = self._checked(entry)
                    database.execute("SAVEPOINT one")
                    try:
                        _insert(database, ready)
                    except StoreError:
                        database.execute("ROLLBACK TO one")
                        raise
                    finally:
                        database.execute("RELEASE one")
                except StoreError as problem:
                    result.append(problem)
                else:
                    result.append(None)
        return result

    def thd_modify(self, name: Name, change: Callable[[Entry], Entry]) -> Entry:
        """
        Replace an entry by what C{change} makes of it, in one transaction.

        @param change: may raise L{StoreError} or L{schema.Invalid}; called with the write lock held, so quick.
        @raise StoreError: NO_SUCH, INVALID, CONFLICT, NO_VALUE, UNAVAILABLE.
        """
        with self._write() as database:
            row = _row(database, name)
            if row is None:
                raise StoreError(Trouble.NO_SUCH, f"there is no entry {name}")
            entry = self._checked(evolve(change(_entry(row[1:])), name=_entry(row[1:]).name))
            database.execute("UPDATE entries SET attributes = ? WHERE id = ?", (_packed(entry.attributes), row[0]))
            _index(database, row[0], entry)
            return entry

    def thd_rename(self, name: Name, new: Name, keep: bool) -> None:
        """
        Give a leaf another name, perhaps elsewhere in the tree (RFC 4511 s.4.9).

        @param keep: the values of the old RDN stay as attributes.
        @raise StoreError: NO_SUCH, EXISTS, NOT_LEAF, INVALID, CONFLICT, UNAVAILABLE.
        """
        with self._write() as database:
            row = _row(database, name)
            if row is None or not _row(database, new.parent):
                raise StoreError(Trouble.NO_SUCH)
            if new.key != name.key and _row(database, new):
                raise StoreError(Trouble.EXISTS, f"{new} is there already")
            if _children(database, name):
                raise StoreError(Trouble.NOT_LEAF)
            attributes = dict(_entry(row[1:]).attributes)
            if not keep:
                for kind, value in name.rdns[0]:
                    attribute = kind.lower()
                    gone = schema.value_key(attribute, value)
                    attributes[attribute] = tuple(
                        one for one in attributes.get(attribute, ()) if schema.value_key(attribute, one) != gone
                    )
            entry = self._checked(Entry(new, attributes))
            database.execute(
                "UPDATE entries SET tree = ?, parent = ?, name = ?, attributes = ? WHERE id = ?",
                (new.key, new.parent.key, str(new), _packed(entry.attributes), row[0]),
            )
            _index(database, row[0], entry)

    def thd_delete(self, name: Name, *, subtree: bool = False) -> int:
        """
        Delete an entry, with C{subtree} all below it too.

        @return: how many went.
        @raise StoreError: NO_SUCH, NOT_LEAF, UNAVAILABLE.
        """
        with self._write() as database:
            if not _row(database, name):
                raise StoreError(Trouble.NO_SUCH, f"there is no entry {name}")
            if _children(database, name) and not subtree:
                raise StoreError(Trouble.NOT_LEAF)
            where, values = "tree = ? OR (tree > ? AND tree < ?)", (name.key, *_below(name.key))
            for table in ("addresses", "keys", "logins"):
                database.execute(f"DELETE FROM {table} WHERE entry IN (SELECT id FROM entries WHERE {where})", values)  # noqa: S608
            return database.execute(f"DELETE FROM entries WHERE {where}", values).rowcount  # noqa: S608

    def thd_note_login(self, name: Name, login: Login) -> None:
        """
        Keep that the holder of an entry has logged in.

        @raise StoreError: NO_SUCH, UNAVAILABLE.
        """
        with self._write() as database:
            row = _row(database, name)
            if row is None:
                raise StoreError(Trouble.NO_SUCH, f"there is no entry {name}")
            database.execute(
                "INSERT OR REPLACE INTO logins VALUES (?, ?, ?, ?)",
                (row[0], int(login.time), _storable(login.service), _storable(login.address)),
            )

    def thd_logins(self, names_: Sequence[Name]) -> dict[str, Login]:
        """The last logins of the holders of some entries, by tree key; who never did is missing."""
        found: dict[str, Login] = {}
        for at in range(0, len(names_), 200):
            some = [name.key for name in names_[at : at + 200]]
            # Names as one value: their number is not the statement's.
            sql = (
                "SELECT e.tree, l.time, l.service, l.address FROM json_each(?) j JOIN entries e ON e.tree = j.value"
                " JOIN logins l ON l.entry = e.id"
            )
            rows = self._read(sql, (json.dumps(some),))
            found.update({row[0]: Login(float(row[1]), row[2], row[3]) for row in rows})
        return found

    def _checked(self, entry: Entry) -> Entry:
        try:
            return schema.checked(entry)
        except schema.Invalid as problem:
            raise StoreError(Trouble.INVALID, str(problem)) from None

    def _connection(self) -> sqlite3.Connection:
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            return existing
        if not os.path.exists(self._path):
            raise StoreError(Trouble.UNAVAILABLE, f"there is no directory at {self._path}")
        opened = _open(self._path)
        version = opened.execute("PRAGMA user_version").fetchone()[0]
        if version == 1:
            version = _upgrade(opened)
        if version != _VERSION:
            opened.close()
            raise StoreError(Trouble.UNAVAILABLE, f"{self._path} has format {version}, this program knows {_VERSION}")
        with self._lock:
            self._connections.append(opened)
        self._local.connection = opened
        return opened

    def _read(self, sql: str, values: Sequence[object]) -> list[tuple[str, ...]]:
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as problem:
            raise self._unavailable(problem) from None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as problem:
            raise self._unavailable(problem) from None

    def _unavailable(self, problem: sqlite3.Error) -> StoreError:
        return StoreError(Trouble.UNAVAILABLE, f"{self._path}: {problem}")


def _upgrade(database: sqlite3.Connection) -> int:
    """From version 1 to 2, unless another process was first: all of it or nothing. Returns the version now."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if database.execute("PRAGMA user_version").fetchone()[0] == 1:
            for statement in _LOGINS.split(";"):
                database.execute(statement)
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    found: int = database.execute("PRAGMA user_version").fetchone()[0]
    return found


def create(path: str) -> Store:
    """
    Make an empty store; its directory must exist.

    @raise StoreError: EXISTS when there is one, UNAVAILABLE when it cannot be made.
    """
    if os.path.exists(path):
        raise StoreError(Trouble.EXISTS, f"{path} is there already")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # SQLite's own mode would be 0644
        database = _open(path)
        try:
            database.executescript("BEGIN;" + _TABLES + _LOGINS + "COMMIT;")
        finally:
            database.close()
    except (sqlite3.Error, OSError) as problem:
        raise StoreError(Trouble.UNAVAILABLE, f"{path}: {problem}") from None
    return Store(path)


def _open(path: str) -> sqlite3.Connection:
    # Connections are used by the one thread that opened them; only thd_close comes from another.
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    return database


def _below(key: str) -> tuple[str, str]:
    """The open range of tree keys below C{key}."""
    return key + SEPARATOR, key + chr(ord(SEPARATOR) + 1)


def _row(database: sqlite3.Connection, name: Name) -> tuple[int, str, str] | None:
    found: tuple[int, str, str] | None = database.execute(
        "SELECT id, name, attributes FROM entries WHERE tree = ?", (name.key,)
    ).fetchone()
    return found


def _children(database: sqlite3.Connection, name: Name) -> bool:
    return database.execute("SELECT 1 FROM entries WHERE parent = ? LIMIT 1", (name.key,)).fetchone() is not None


def _insert(database: sqlite3.Connection, entry: Entry) -> None:
    parent = entry.name.parent
    if not _row(database, parent) and database.execute("SELECT 1 FROM entries LIMIT 1").fetchone():
        raise StoreError(Trouble.NO_SUCH, f"there is no entry {parent}")
    if _row(database, entry.name):
        raise StoreError(Trouble.EXISTS, f"{entry.name} is there already")
    cursor = database.execute(
        "INSERT INTO entries (tree, parent, name, attributes) VALUES (?, ?, ?, ?)",
        (entry.name.key, parent.key, str(entry.name), _packed(entry.attributes)),
    )
    _index(database, cursor.lastrowid or 0, entry)


def _index(database: sqlite3.Connection, number: int, entry: Entry) -> None:
    """Write the index rows of an entry anew."""
    database.execute("DELETE FROM addresses WHERE entry = ?", (number,))
    database.execute("DELETE FROM keys WHERE entry = ?", (number,))
    for attribute in schema.ADDRESS_ATTRIBUTES:
        for value in entry.values(attribute):
            address = schema.value_key(attribute, value)
            other = database.execute("SELECT entry FROM addresses WHERE address = ?", (address,)).fetchone()
            if other is None:
                database.execute("INSERT INTO addresses VALUES (?, ?, ?)", (address, attribute, number))
            elif other[0] != number:
                raise StoreError(Trouble.CONFLICT, f"{address} belongs to another entry")
    rows = {(name, schema.value_key(name, one), number) for name in schema.INDEXED for one in entry.values(name)}
    database.executemany("INSERT INTO keys VALUES (?, ?, ?)", rows)


def _entry(row: Sequence[str]) -> Entry:
    return Entry(names.parse(row[0]), {name: tuple(values) for name, values in json.loads(row[1]).items()})


def _packed(attributes: Attributes) -> str:
    return json.dumps(attributes, separators=(",", ":"))  # ASCII: surrogate escapes survive as \udcXX


def _storable(value: str) -> str:
    """SQLite takes no lone surrogates; an index never holds them, so anything that matches nothing will do."""
    return value.encode("utf-8", "replace").decode("utf-8")
