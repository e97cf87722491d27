"""
Maildirs for whoever fetches mail from them with POP3: opened by one session at a time, listed once, read in pieces.

A mailbox is held by a lock on C{qmailpy-pop3.lock} in it (flock: it ends with the process, however that ends, so that
none can be left behind) and, among the sessions of this process, by a table. The stale rule: a session whose client has
been silent for C{stale_s} gives way to a new login of the same mailbox. Clients that lose their connection come back at
once, and RFC 1939 s.3 has their old session live for ten minutes more.

Messages stay what and where they are until C{update}. One that another tool has moved or flagged is found again by its
name; one that was removed is reported as gone. Small messages that are asked for in order are read some at a time, for
a journey into a thread costs more than to read one: L{AHEAD_MOST_OCTETS} a session at most, C{ahead_octets} in all.
Nothing else of a message is kept in memory but the piece that is being sent.

No file of another program is changed but for the flag S (seen) of messages that were retrieved whole.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.disk.files import Files
from qmailpy.errors import MailboxInUse
from qmailpy.interfaces import IHolder, IMaildrop, IMailStore, IMessagePieces, InThread
from qmailpy.local.listing import Listing, base_of, thd_list, thd_names
from qmailpy.local.maildir import mailbox_path
from qmailpy.local.quota import Limit, Tally, domain_tally, named_size
from qmailpy.values import Mailbox
from qmailpy.wire.pop3_message import END, Outgoing, encode

LOCK = "qmailpy-pop3.lock"
STALE_S = 120.0
SMALL_OCTETS = 65536
"""Messages up to this size are read at once."""

AHEAD_OCTETS = 65536
"""So much at most of the messages that follow is read with one, at first."""

AHEAD_MOST_OCTETS = 262144
"""And so much for who goes on: twice as much each time. A quarter of the journeys for clients that fetch everything."""

_PIECE_OCTETS = 262144


@implementer(IMailStore)
class MailStore:
    """L{IMailStore} over HOME/mail."""

    def __init__(
        self,
        files: Files,
        root: str,
        in_thread: InThread,
        *,
        reading: InThread | None = None,
        stale_s: float = STALE_S,
        ahead_octets: int = 16 * 1024 * 1024,
    ) -> None:
        """
        @param root: HOME/mail.
        @param in_thread: for work that may take long: listing, removing, large messages.
        @param reading: for reading small messages; C{None} = the same.
        @param stale_s: how long a holder's client must have been silent for another session to take its place.
        @param ahead_octets: memory for messages read ahead, all sessions together.
        """
        self._files = files
        self._root = root
        self._in_thread = in_thread
        self.reading = reading or in_thread
        self._stale_s = stale_s
        self._held: dict[str, Maildrop] = {}
        self._waiting: list[Deferred[None]] = []
        self.ahead_left = ahead_octets

    def __len__(self) -> int:
        """Mailboxes that are held."""
        return len(self._held)

    async def open(self, mailbox: Mailbox, holder: IHolder) -> IMaildrop:
        path = mailbox_path(self._root, mailbox.path)
        held = self._held.get(path)
        if held is not None and held.holder.silent_s() >= self._stale_s:
            held.holder.evict()
            await held.release()
        if path in self._held:
            raise MailboxInUse(path)
        drop = self._held[path] = Maildrop(self, self._files, path, self._in_thread, holder)
        try:
            await drop.open()
        except BlockingIOError:
            self.forget(path)
            raise MailboxInUse(path) from None
        except BaseException:
            self.forget(path)
            raise
        return drop

    def domain_of(self, path: str) -> str:
        """The directory of the domain that a mailbox is in."""
        return f"{self._root}/{path[len(self._root) + 1 :].partition('/')[0]}"

    def forget(self, path: str) -> None:
        """A mailbox is free again."""
        del self._held[path]
        if not self._held:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                one.callback(None)

    def idle(self) -> Deferred[None]:
        """Fires when no mailbox is held: all were released, and what was under way with them is done."""
        done: Deferred[None] = Deferred()
        if self._held:
            self._waiting.append(done)
        else:
            done.callback(None)
        return done


@implementer(IMaildrop)
class Maildrop:
    """L{IMaildrop} over one Maildir."""

    _log = Logger()

    def __init__(self, store: MailStore, files: Files, path: str, in_thread: InThread, holder: IHolder) -> None:
        self._store = store
        self._files = files
        self._path = path
        self._in_thread = in_thread
        self.holder = holder
        self._lock: int | None = None
        self._listing: Listing | None = None
        self._ahead: dict[int, bytes] = {}
        self._ahead_octets = 0
        self._room = AHEAD_OCTETS  # for what is read ahead the next time
        self._next = 0  # the message that is asked for when they are asked for in order
        self._busy = False
        self._leaving = False
        self._free = False
        self._waiting: list[Deferred[None]] = []

    async def open(self) -> None:
        """
        Lock and list it.

        @raise BlockingIOError: another process has it.
        """
        self._lock, self._listing = await self.do(self._thd_open)

    def _thd_open(self) -> tuple[int | None, Listing]:
        try:
            lock = self._files.lock(f"{self._path}/{LOCK}")
        except (FileNotFoundError, NotADirectoryError):
            return None, thd_list(self._files, self._path)  # no mail has come so far: there is nothing to lock
        try:
            return lock, thd_list(self._files, self._path)
        except BaseException:
            self._files.close(lock)
            raise

    @property
    def _messages(self) -> Listing:
        assert self._listing is not None  # open() comes first
        return self._listing

    @property
    def sizes(self) -> Sequence[int]:
        return self._messages.sizes

    def uid(self, index: int) -> str:
        return self._messages.uid(index)

    # --- reading ---------------------------------------------------------------------------------------------

    def at_hand(self, index: int) -> bytes | None:
        octets = self._ahead.pop(index, None)
        if octets is not None:
            self._account(-len(octets))
            self._next = index + 1
        return octets

    async def fetch(self, index: int, lines: int | None) -> IMessagePieces:
        if lines is not None or self.sizes[index] > SMALL_OCTETS:
            pieces = _Pieces(self, self._files, index, lines)
            await pieces.begin()
            return pieces
        in_order = index == self._next
        self._next = index + 1
        self.drop_ahead()
        room = min(self._room, self._store.ahead_left) if in_order else 0
        self._room = min(2 * self._room, AHEAD_MOST_OCTETS) if in_order else AHEAD_OCTETS
        wanted = self._following(index, room)
        found: list[bytes | None] = await self.do(self._thd_read, wanted, thread=self._store.reading)
        first = found[0]
        if first is None:  # larger than its name says
            pieces = _Pieces(self, self._files, index, lines)
            await pieces.begin()
            return pieces
        if not self._leaving:
            for number, octets in zip(wanted[1:], found[1:], strict=False):
                if octets is not None:
                    self._ahead[number] = octets
                    self._account(len(octets))
        return _Whole(first)

    def _following(self, index: int, room: int) -> list[int]:
        """The message, and those behind it that are read with it."""
        wanted = [index]
        for number in range(index + 1, len(self.sizes)):
            size = self.sizes[number]
            # Dot-stuffing makes a message half again as large at worst.
            if size > SMALL_OCTETS or size * 3 // 2 > room:
                break
            room -= size * 3 // 2
            wanted.append(number)
        return wanted

    def _thd_read(self, wanted: Sequence[int]) -> list[bytes | None]:
        """Read small messages whole, the first of them for certain; C{None} for one that is not small."""
        found: list[bytes | None] = []
        for number in wanted:
            try:
                handle = self.thd_open_message(number)
            except OSError:
                if found:
                    break  # it will be asked for, or it will not
                raise
            try:
                stored = self._files.pread(handle, SMALL_OCTETS + 1, 0)
            finally:
                self._files.close(handle)
            found.append(encode(stored) if len(stored) <= SMALL_OCTETS else None)
        return found

    def thd_open_message(self, index: int) -> int:
        """
        Open the file of a message, wherever it is by now.

        @raise FileNotFoundError: nowhere.
        """
        path = self._messages.paths[index]
        if path:
            try:
                return self._files.open_for_reading(f"{self._path}/{path}")
            except FileNotFoundError:
                self._thd_find()
                path = self._messages.paths[index]
        if not path:
            raise FileNotFoundError(errno.ENOENT, "the message is gone", self._path)
        return self._files.open_for_reading(f"{self._path}/{path}")

    def _thd_find(self) -> None:
        """Somebody has moved messages: look where all of them are. What is gone has no path any more."""
        found = thd_names(self._files, self._path)
        paths = self._messages.paths
        for index, path in enumerate(paths):
            if path:
                paths[index] = found.get(base_of(path), "")

    def drop_ahead(self) -> None:
        """Forget what was read ahead."""
        self._ahead.clear()
        self._account(-self._ahead_octets)

    def _account(self, octets: int) -> None:
        self._ahead_octets += octets
        self._store.ahead_left -= octets

    # --- the end ---------------------------------------------------------------------------------------------

    async def update(self, deleted: Sequence[int], seen: Sequence[int]) -> int:
        if not deleted and not seen:
            return 0
        failed, why = await self.do(self._thd_update, deleted, seen)
        if failed:
            self._log.warn("{path}: {failed} messages not removed: {why}", path=self._path, failed=failed, why=why)
        return int(failed)

    def _thd_update(self, deleted: Sequence[int], seen: Sequence[int]) -> tuple[int, str]:
        failed, why = 0, ""
        folders = set()
        sizes: list[int] = []
        for index in deleted:
            folders.add(self._messages.paths[index][:3])
            try:
                if self._thd_remove(index):
                    sizes.append(named_size(self._messages.paths[index]))
            except OSError as error:
                failed, why = failed + 1, str(error)
        for index in seen:
            self._thd_flag(index)
        if sizes:
            self._thd_note(sizes)
        # Only then may the client forget them: after a power cut none of them is there again.
        for folder in folders - {""}:
            try:
                self._files.sync_directory(f"{self._path}/{folder}")
            except OSError as error:
                return len(deleted), str(error)
        return failed, why

    def _thd_note(self, sizes: Sequence[int]) -> None:
        """What was removed makes room, in the mailbox and in its domain."""
        for tally in (
            Tally(self._files, self._path, Limit(), time.time),
            domain_tally(self._files, self._store.domain_of(self._path), Limit(), time.time),
        ):
            if all(sizes):
                tally.thd_add(-sum(sizes), -len(sizes))
            else:
                tally.thd_forget()

    def _thd_remove(self, index: int) -> bool:
        """Remove a message; whether it was there."""
        path = self._messages.paths[index]
        if not path:
            return False  # gone already
        try:
            self._files.unlink(f"{self._path}/{path}")
        except FileNotFoundError:
            self._thd_find()
            path = self._messages.paths[index]
            if not path:
                return False
            self._files.unlink(f"{self._path}/{path}")
        return True

    def _thd_flag(self, index: int) -> None:
        """Note that a message was seen, in its name as Maildir has it; no matter when that cannot be done."""
        path = self._messages.paths[index]
        folder, name = path[:4], path[4:]
        base, _, info = name.partition(":")
        if not path or (info and not info.startswith("2,")) or "S" in info:
            return
        flags = "".join(sorted({*info[2:], "S"}))
        try:
            self._files.rename(f"{self._path}/{folder}{name}", f"{self._path}/cur/{base}:2,{flags}")
        except OSError:
            return

    def release(self) -> Deferred[None]:
        if not self._leaving:
            self._leaving = True
            self.drop_ahead()
            if not self._busy:
                self._let_go()
        if self._free:
            return succeed(None)
        mine: Deferred[None] = Deferred()
        self._waiting.append(mine)
        return mine

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is None:
            self._gone(None)
        else:
            self.later(self._files.close, lock).addBoth(self._gone)

    def _gone(self, _: object) -> None:
        self._free = True
        self._store.forget(self._path)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    # --- threads ---------------------------------------------------------------------------------------------

    def later(self, thd_function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Carry out something in a thread, whatever else is going on."""
        return self._in_thread(thd_function, *arguments)

    async def do(self, thd_function: Callable[..., Any], *arguments: Any, thread: InThread | None = None) -> Any:
        """
        Carry out something in a thread; a release waits for it.

        @param thread: which; C{None} = those for work that may take long.
        @raise FileNotFoundError: the mailbox was released.
        """
        if self._leaving:
            raise FileNotFoundError(errno.ENOENT, "the mailbox was given up", self._path)
        self._busy = True
        try:
            return await (thread or self._in_thread)(thd_function, *arguments)
        finally:
            self._job_over()

    def _job_over(self) -> None:
        self._busy = False
        if self._leaving:
            self._let_go()


@implementer(IMessagePieces)
class _Whole:
    """A small message, read already."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.more = True

    async def next(self) -> bytes:
        self.more = False
        return self._octets + END

    def close(self) -> None:
        """There is nothing to let go of."""


@implementer(IMessagePieces)
class _Pieces:
    """A message that is read while it is sent."""

    def __init__(self, drop: Maildrop, files: Files, index: int, lines: int | None) -> None:
        self._drop = drop
        self._files = files
        self._index = index
        self._outgoing = Outgoing(lines)
        self._octets = SMALL_OCTETS if lines is not None else _PIECE_OCTETS
        self._handle: int | None = None
        self._offset = 0
        self._first: bytes | None = None
        self.more = True

    async def begin(self) -> None:
        """Read the first piece. @raise OSError: it cannot be read."""
        self._first = await self._drop.do(self._thd_begin)

    async def next(self) -> bytes:
        first, self._first = self._first, None
        if first is not None:
            self.more = self._handle is not None
            return first
        octets: bytes = await self._drop.do(self._thd_next)
        self.more = self._handle is not None
        return octets

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._drop.later(self._files.close, handle)

    def _thd_begin(self) -> bytes:
        self._handle = self._drop.thd_open_message(self._index)
        return self._thd_next()

    def _thd_next(self) -> bytes:
        """The next piece; closes the file behind the last one, or when it cannot be read."""
        handle = self._handle
        assert handle is not None
        ended = True
        try:
            stored = self._files.pread(handle, self._octets, self._offset)
            self._offset += len(stored)
            octets = self._outgoing.feed(stored)
            ended = len(stored) < self._octets or self._outgoing.done
            return octets + self._outgoing.finish() if ended else octets
        finally:
            if ended:
                self._handle = None
                self._files.close(handle)
