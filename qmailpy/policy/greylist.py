"""
Greylisting (RFC 6647): the first attempt of a stranger is put off, and who tries again as RFC 5321 s.4.5.4.1 wants is
let in.

What is remembered is a triplet: the client's network, the sender, the recipient. A network that has come back often
enough is let in at once. C{HOME/run/greylist.sqlite}, shared by the workers and there after a restart; an entry is some
60 octets. A database in trouble lets everybody in.

All of it blocks and is for a thread; calls from several threads wait for each other.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from threading import Lock

from twisted.logger import Logger

from qmailpy.config.schema import GreylistConfig

FILE_NAME = "greylist.sqlite"
PRUNE_S = 3600.0
_PRUNE_ASKED = 20000  # questions after which it is pruned, whatever the time
_BUSY_S = 2.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS triplet (
    key BLOB PRIMARY KEY, -- of network, sender and recipient
    first REAL NOT NULL, -- when it was put off for the first time
    last REAL NOT NULL,
    passed INTEGER NOT NULL -- how often it was let in
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS triplet_last ON triplet (last);
CREATE TABLE IF NOT EXISTS network (
    name TEXT PRIMARY KEY,
    last REAL NOT NULL,
    passed INTEGER NOT NULL -- triplets of it that were let in
) WITHOUT ROWID;
"""


class Greylist:
    """The memory of greylisting."""

    _log = Logger()

    def __init__(self, path: str, config: GreylistConfig) -> None:
        """@param path: of the database; it is opened at the first question."""
        self.config = config
        self._path = path
        self._lock = Lock()
        self._database: sqlite3.Connection | None = None
        self._pruned = 0.0
        self._asked = 0
        self._failing = False

    def thd_wait_s(self, network: str, sender: str, recipient: str, now: float) -> float:
        """
        How long a recipient is to be put off; 0: it is let in.

        @param network: the client's.
        @param now: seconds since the epoch.
        """
        with self._lock:
            try:
                wait_s = self._thd_ask(network, sender, recipient, now)
                self._failing = False
            except (sqlite3.Error, OSError) as error:
                if not self._failing:
                    self._failing = True
                    self._log.error("greylisting is off: {path}: {error}", path=self._path, error=str(error))
                self._thd_close()
                return 0.0
        return wait_s

    def thd_close(self) -> None:
        """Let go of the database; the next question opens it again."""
        with self._lock:
            self._thd_close()

    def _thd_close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _thd_open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            # What a power cut takes is asked for again; a process that dies loses nothing.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _thd_ask(self, network: str, sender: str, recipient: str, now: float) -> float:
        if self._database is None:
            self._database = self._thd_open()
        database, config = self._database, self.config
        words = "\0".join((network, sender.lower(), recipient.lower()))
        key = hashlib.blake2b(words.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        with closing(database.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                wait_s = self._thd_decide(cursor, config, network, key, now)
                self._thd_prune(cursor, now)
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")
        return wait_s

    def _thd_decide(
        self, cursor: sqlite3.Cursor, config: GreylistConfig, network: str, key: bytes, now: float
    ) -> float:
        known = cursor.execute("SELECT last, passed FROM network WHERE name = ?", (network,)).fetchone()
        good = known is not None and now - known[0] < config.lifetime_s and 0 < config.good_after <= known[1]
        if good:
            cursor.execute("UPDATE network SET last = ? WHERE name = ?", (now, network))
            return 0.0
        found = cursor.execute("SELECT first, last, passed FROM triplet WHERE key = ?", (key,)).fetchone()
        if found is not None:
            first, last, passed = found
            if passed and now - last < config.lifetime_s:
                cursor.execute("UPDATE triplet SET last = ?, passed = passed + 1 WHERE key = ?", (now, key))
                return 0.0
            if not passed and 0 <= now - first < config.retry_s:
                left_s = float(first + config.delay_s - now)
                if left_s > 0:
                    return left_s
                cursor.execute("UPDATE triplet SET last = ?, passed = 1 WHERE key = ?", (now, key))
                cursor.execute(
                    "INSERT INTO network VALUES (?, ?, 1)"
                    " ON CONFLICT (name) DO UPDATE SET last = excluded.last, passed = passed + 1",
                    (network, now),
                )
                return 0.0
        cursor.execute("INSERT OR REPLACE INTO triplet VALUES (?, ?, ?, 0)", (key, now, now))
        return config.delay_s

    def _thd_prune(self, cursor: sqlite3.Cursor, now: float) -> None:
        """Forget what is over, and the oldest of what is too much."""
        self._asked += 1
        if 0 <= now - self._pruned < PRUNE_S and self._asked < _PRUNE_ASKED:
            return
        self._pruned, self._asked = now, 0
        config = self.config
        cursor.execute("DELETE FROM triplet WHERE last < ?", (now - config.lifetime_s,))
        cursor.execute("DELETE FROM triplet WHERE passed = 0 AND last < ?", (now - config.retry_s,))
        cursor.execute("DELETE FROM network WHERE last < ?", (now - config.lifetime_s,))
        for table, key in (("triplet", "key"), ("network", "name")):
            (count,) = cursor.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - of our own
            if count > config.entries:
                cursor.execute(
                    f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} ORDER BY last LIMIT ?)",  # noqa: S608
                    (count - config.entries,),
                )
