"""
The mail store: Maildir++ below HOME/mail, as any other tool reads it.

A message is written to C{tmp/} and renamed into C{new/}; its name is made of the queue id and the recipient's number,
so that a delivery can be found again::

    HOME/mail/DOMAIN/USER/Maildir/new/{arrival}.Q{id}R{number}.{host},S={size},W={size with CRLF}

The file holds C{Return-Path}, C{Delivered-To} and the message, with LF line ends; C{S} is its size, C{W} its size with
CRLF line ends, for whoever lists mailboxes (it is left out when the last line has no end: programs disagree then).
Nothing is synced when a delivery returns: the queue's journal still covers it. L{Store.thd_sync} makes deliveries
durable in groups, and after an unclean stop L{Store.thd_replay} finds each one whole, or writes it (again). Replay ends
before anything else reads or moves mail.

What fails is an C{OSError} for that one mailbox; L{trouble} says what its sender or the next attempt gets.

HOME/mail is one file system. All of it blocks and is for worker threads; one thread delivers at a time, another may
sync.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

from attrs import evolve, frozen

from qmailpy.disk.files import Files
from qmailpy.disk.pieces import thd_write
from qmailpy.disk.placing import Placement, Placer
from qmailpy.disk.whole import WholeSync
from qmailpy.local.folders import thd_folder
from qmailpy.values import Content, ContentInFile, Reply
from qmailpy.wire.mime7 import LIMIT, Unconvertible, convert
from qmailpy.wire.stored import Stored

FEW = 8
"""
So many files are synced one by one, more with one syncfs.

Measured on ext4 with a journal (2 cores, virtual disk): 1 file 0.9 ms against 1.2 ms for a syncfs, 8 files 3.4 against
1.2, 64 files 26 against 3.0. Syncfs is sooner the better of the two on an idle disk (from 3 files); but it also waits
for whatever others have written, which on a busy one may be much, while 8 files cost a few ms at most.
"""

_SHUT = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE})
"""What keeps a mailbox from being opened, by whatever hand since the delivery, and does not say that a sync failed."""

_CHUNK = 65536
_CARRIED = 262_144  # octets of a message in memory that go to the placer; of one in a file, the name does
_TMP = "tmp"

_KNOWN_MAX = 100_000
"""Mailboxes remembered as existing; at about 150 octets each."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.\-]")
_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]+")


@frozen(kw_only=True)
class Delivery:
    """One message for one mailbox. What its file is named and holds follows from this alone, at every attempt."""

    id: str  # queue id
    number: int  # the recipient's, in the envelope
    arrival: float
    sender: str  # "" is the null sender
    address: str  # for Delivered-To
    mailbox: str  # C{Mailbox.path}: "domain/user/Maildir"
    content: Content
    binary: bool = False  # its octets may be no lines (RFC 3030): parts that are none are stored in base64
    tag: str = ""  # subaddress: into the folder of that name, when there is one
    at_once: bool = False  # durable on return: the journal will not say how it is to be delivered again


@frozen
class Delivered:
    """Where a delivery ended up."""

    path: str  # of the file, below C{new/} (or C{cur/} when replayed)
    mailbox: str
    crc: int  # CRC-32 of what the file holds
    fresh: bool  # the mailbox's directories may not be durable yet


def sanitised_host(hostname: str) -> str:
    """The host part of a Maildir name: octets that mean something to readers are written in octal (cr.yp.to)."""
    return _UNSAFE.sub(lambda found: "".join(f"\\{octet:03o}" for octet in found[0].encode()), hostname)[:100]


def mailbox_path(root: str, mailbox: str) -> str:
    """
    Where a mailbox is.

    @param root: HOME/mail.
    @param mailbox: C{Mailbox.path}.
    @raise OSError: the path is none. It comes from the directory, which others may write: it never leads out of the
        store.
    """
    parts = mailbox.split("/")
    if "\0" in mailbox or any(part in {"", ".", ".."} for part in parts):
        raise OSError(errno.EINVAL, "not a mailbox path", mailbox)
    return f"{root}/{mailbox}"


def trouble(error: OSError) -> Reply:
    """What a mailbox that cannot be written means: always temporary, for an operator can mend it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG}:
        return Reply(452, "4.3.1", "Insufficient storage to deliver the message now")
    return Reply(451, "4.2.0", "The mailbox cannot be written now")


def thd_octets(delivery: Delivery) -> Iterator[bytes]:
    """What the delivery's file holds, in pieces, from the content (which is read here when it is on disk)."""
    return Stored(_front(delivery)).text(_thd_message(delivery))


def _front(delivery: Delivery) -> bytes:
    """The fields in front of the message."""
    sender = _field_value(delivery.sender)
    return b"Return-Path: <%s>\nDelivered-To: %s\n" % (sender, _field_value(delivery.address))


def _thd_message(delivery: Delivery) -> Iterator[bytes]:
    return _thd_lines(delivery.content) if delivery.binary else delivery.content.chunks(_CHUNK)


def _thd_lines(content: Content) -> Iterator[bytes]:
    """
    A message that came as BINARYMIME, as lines: a Maildir, and POP3, have nothing else, and would spoil the parts that
    are none. One that cannot be made so is stored as it is.
    """
    try:
        if content.size <= LIMIT:
            return iter((convert(content.read(), binary=True),))
    except Unconvertible:
        pass
    return content.chunks(_CHUNK)


def _source(delivery: Delivery) -> str:
    """The file of a message that may be converted as it is; "" = it is in none."""
    content = delivery.content
    if content.in_memory or delivery.binary or not isinstance(content, ContentInFile):
        return ""
    return content.path


class Store:
    """The Maildirs of this node."""

    def __init__(self, files: Files, root: str, hostname: str, placer: Placer | None = None) -> None:
        """
        @param root: HOME/mail; made with the first delivery when it is not there.
        @param placer: makes the files of large messages, and when there are several at once; C{None} = all are made
            here, one after the other.
        """
        self._files = files
        self._placer = placer
        self._root = root
        self._host = sanitised_host(hostname)
        self._whole = WholeSync(files, root)
        self._known: dict[str, bool] = {}  # mailbox: whether its directories are durable

    def thd_deliver(self, delivery: Delivery) -> Delivered:
        """
        Write the message; it is in C{new/} on return, not durable.

        Doing it again replaces the file with the same.

        @raise OSError: it is not delivered; L{trouble} says what that means.
        """
        try:
            return self._thd_deliver(delivery)
        except FileNotFoundError:
            if delivery.mailbox not in self._known:
                raise
        del self._known[delivery.mailbox]  # somebody has removed the directory
        return self._thd_deliver(delivery)

    def _thd_deliver(self, delivery: Delivery) -> Delivered:
        fresh = self._thd_mailbox(delivery.mailbox)
        temporary = self._temporary(delivery)
        stored = Stored(_front(delivery))
        crc = self._thd_write(temporary, stored.text(_thd_message(delivery)))
        path = self._new(delivery) + stored.sizes
        self._thd_place(temporary, path)
        return Delivered(path, delivery.mailbox, crc, fresh)

    def thd_deliver_all(self, deliveries: Sequence[Delivery]) -> list[list[Delivered] | Exception]:
        """
        As L{thd_deliver}, for several: by the placer, but for a small one alone.

        @return: for each, where it is or why it could not be made.
        """
        made: dict[int, list[Delivered] | Exception] = {}
        if self._placer is not None and (len(deliveries) > 1 or any(map(_source, deliveries))):
            self._thd_place_all(self._placer, deliveries, made)
        for at, delivery in enumerate(deliveries):
            if at not in made:
                try:
                    made[at] = [self.thd_deliver(delivery)]
                except Exception as problem:
                    made[at] = problem
        return [made[at] for at in range(len(deliveries))]

    def _thd_place_all(
        self, placer: Placer, deliveries: Sequence[Delivery], made: dict[int, list[Delivered] | Exception]
    ) -> None:
        """Make those that can be handed on, and note what became of them. A file that is not made is not noted."""
        files: list[Placement] = []
        ready: list[tuple[int, bool]] = []
        for at, delivery in enumerate(deliveries):
            content, source = delivery.content, _source(delivery)
            if not source and (not content.in_memory or content.size > _CARRIED):
                continue
            try:
                fresh = self._thd_mailbox(delivery.mailbox)
                files.append(self._placement(delivery, source))
                ready.append((at, fresh))
            except Exception as problem:
                made[at] = problem
        try:
            results = placer.thd_place(files) if files else []
        except OSError:  # what it has done of them is not known
            for at, _ in ready:
                try:
                    made[at] = self.thd_replay(deliveries[at])
                except Exception as problem:
                    made[at] = problem
            return
        for (at, fresh), placed in zip(ready, results, strict=True):
            if not isinstance(placed, OSError):
                made[at] = [Delivered(placed.path, deliveries[at].mailbox, placed.crc, fresh)]

    def _placement(self, delivery: Delivery, source: str) -> Placement:
        return Placement(
            temporary=self._temporary(delivery),
            base=self._new(delivery),
            front=_front(delivery),
            octets=b"" if source else b"".join(_thd_message(delivery)),
            source=source,
            size=delivery.content.size,
        )

    def thd_close(self) -> None:
        """No more deliveries follow."""
        if self._placer is not None:
            self._placer.thd_close()

    def thd_into_folder(self, delivery: Delivery) -> Delivery:
        """
        The same delivery, into the folder of its subaddress.

        @raise OSError: the mailbox is none.
        """
        folder = thd_folder(self._files, self._where(delivery.mailbox), delivery.tag)
        return evolve(delivery, mailbox=f"{delivery.mailbox}/{folder}") if folder else delivery

    def thd_in_folder(self, delivery: Delivery, folder: str) -> Delivery:
        """
        The same delivery, into this folder, or the mailbox when the folder is not there any more.

        @param folder: a directory of the mailbox; "" = the mailbox itself.
        @raise OSError: the mailbox is none.
        """
        if not folder or not self._files.exists(f"{self._where(delivery.mailbox)}/{folder}/cur"):
            return delivery
        return evolve(delivery, mailbox=f"{delivery.mailbox}/{folder}")

    def thd_has(self, delivery: Delivery) -> bool:
        """Whether the message is in the mailbox already, whole or not. @raise OSError: it cannot be found out."""
        where, base = self._where(delivery.mailbox), self._base(delivery) + ","
        return any(name.startswith(base) for part in ("new", "cur") for name in self._files.scan(f"{where}/{part}"))

    def thd_replay(self, delivery: Delivery, *, doubtful: bool = False) -> list[Delivered]:
        """
        See to it that the message is in the mailbox, whole: found in C{new/} or C{cur/} under any flags, or written.

        A file of that name that is not whole is replaced where it is. What others have read and removed since comes
        back: better twice than never.

        @param doubtful: what is there may be readable and yet never reach the disk (after a failed fsync): it is
            written anew whatever it looks like.
        @return: what to hand to L{thd_sync}; more than one when a cut left it both in C{new/} and in C{cur/}.
        @raise OSError: as in L{thd_deliver}.
        """
        self._thd_mailbox(delivery.mailbox)
        crc = 0
        stored = Stored(_front(delivery))
        for octets in stored.text(_thd_message(delivery)):
            crc = crc32(octets, crc)
        temporary = self._temporary(delivery)
        new = self._new(delivery) + stored.sizes
        if not doubtful and self._thd_whole(new, delivery, stored.octets):
            # Under a second name in cur/, which a cut may leave, it would be the same file.
            found = [new]
        else:
            found = self._thd_in_cur(delivery.mailbox, new.rpartition("/")[2])
            if not found or self._files.exists(new):
                found.append(new)
            for path in found:
                if doubtful or not self._thd_whole(path, delivery, stored.octets):
                    self._thd_write(temporary, thd_octets(delivery))
                    self._thd_place(temporary, path)
        if self._files.exists(temporary):  # a second name left by a torn rename, or a torn file
            self._files.unlink(temporary)
        return [Delivered(path, delivery.mailbox, crc, True) for path in found]

    def thd_rewrite(self, delivered: Delivered) -> None:
        """
        Write a delivery anew from its own file, after a failed sync: what Linux has marked clean then can be read for
        some time, but is never written to the disk by a later sync.

        @raise OSError: it cannot be read as it was written any more, or not be written.
        """
        where, name = self._where(delivered.mailbox), delivered.path.rpartition("/")[2]
        base = name.partition(":")[0]
        paths = [delivered.path] if self._files.exists(delivered.path) else self._thd_in_cur(delivered.mailbox, base)
        for path in paths:  # none: a reader has removed it
            octets = self._files.read(path)
            if crc32(octets) != delivered.crc:
                raise OSError(errno.EIO, "the delivery is damaged", path)
            temporary = f"{where}/{_TMP}/{base.partition(',')[0]}"
            self._thd_write(temporary, [octets])
            self._thd_place(temporary, path)

    def thd_sync(self, delivered: Iterable[Delivered]) -> None:
        """
        Make these deliveries durable, with the directories that hold them.

        @raise SyncLost: nothing that was delivered since the last sync may be.
        @raise OSError: some may not be, and a later sync would not help: L{thd_rewrite} them first, or L{thd_replay}
            them with C{doubtful}.
        """
        group = list(delivered)
        if not group:
            return
        if len(group) > FEW:
            self._whole.thd_sync()
        else:
            try:
                self._thd_sync_few(group)
            except OSError as problem:
                if problem.errno not in _SHUT:
                    raise
                self._whole.thd_sync()
        for one in group:
            if one.fresh and one.mailbox in self._known:
                self._known[one.mailbox] = True

    def _thd_sync_few(self, group: Sequence[Delivered]) -> None:
        directories: set[str] = set()
        for one in group:
            directories |= self._thd_sync_file(one)
            if one.fresh:
                directories |= self._chain(one.mailbox)
        for directory in sorted(directories):
            if not self._files.exists(directory):
                raise NotADirectoryError(
                    errno.ENOTDIR, "the mailbox has been removed, or moved with its mail", directory
                )
            self._files.sync_directory(directory)

    def thd_sync_all(self) -> None:
        """Make durable whatever anybody has written below HOME/mail. @raise OSError: it may not be."""
        if self._files.exists(self._root):
            self._whole.thd_sync()

    def _where(self, mailbox: str) -> str:
        return mailbox_path(self._root, mailbox)

    def _base(self, delivery: Delivery) -> str:
        return f"{int(delivery.arrival)}.Q{delivery.id}R{delivery.number}.{self._host}"

    def _temporary(self, delivery: Delivery) -> str:
        return f"{self._where(delivery.mailbox)}/{_TMP}/{self._base(delivery)}"

    def _new(self, delivery: Delivery) -> str:
        """Without its sizes."""
        return f"{self._where(delivery.mailbox)}/new/{self._base(delivery)}"

    def _thd_mailbox(self, mailbox: str) -> bool:
        """Make the mailbox when it is not there; whether its directories may not be durable."""
        durable = self._known.get(mailbox)
        if durable is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            for name in (_TMP, "new", "cur"):
                self._files.mkdir(f"{self._where(mailbox)}/{name}")
            self._whole.thd_begin()
            self._known[mailbox] = durable = False
        return not durable

    def _chain(self, mailbox: str) -> set[str]:
        """The directories whose names lead to the mailbox's three; HOME itself holds the first."""
        chain = {self._root.rpartition("/")[0] or "/", self._root}
        at = self._root
        for part in mailbox.split("/"):
            at = f"{at}/{part}"
            chain.add(at)
        return chain

    def _thd_write(self, path: str, pieces: Iterable[bytes]) -> int:
        """Write a temporary file; its CRC-32."""
        try:
            try:
                return thd_write(self._files, path, pieces)
            except FileExistsError:
                # Left by an attempt that was cut short. Never written over: a torn rename may have left it as a second
                # name of the very file that is in new/.
                self._files.unlink(path)
                return thd_write(self._files, path, pieces)  # none of them has been taken yet
        except OSError:
            self._thd_remove(path)
            raise

    def _thd_place(self, temporary: str, path: str) -> None:
        try:
            self._files.rename(temporary, path)
        except OSError:
            self._thd_remove(temporary)
            raise

    def _thd_remove(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except OSError:
            return  # it is in tmp/, where nobody looks and the next attempt writes over it

    def _thd_whole(self, path: str, delivery: Delivery, size: int) -> bool:
        handle = self._thd_open(path)
        if handle is None:
            return False
        try:
            if self._files.size(handle) != size:
                return False
            at = 0
            for octets in thd_octets(delivery):
                if self._files.pread(handle, len(octets), at) != octets:
                    return False
                at += len(octets)
            return True
        finally:
            self._files.close(handle)

    def _thd_in_cur(self, mailbox: str, name: str) -> list[str]:
        """Paths in C{cur/} that are C{name} with any flags."""
        where = f"{self._where(mailbox)}/cur"
        return [f"{where}/{entry}" for entry in self._files.scan(where) if entry.partition(":")[0] == name]

    def _thd_sync_file(self, one: Delivered) -> set[str]:
        """Sync the file, which a reader may have moved to C{cur/} or removed by now; the directories to sync."""
        directory, _, name = one.path.rpartition("/")
        directories = {directory}
        handle = self._thd_open(one.path)
        if handle is None:
            for path in self._thd_in_cur(one.mailbox, name.partition(":")[0]):
                directories.add(path.rpartition("/")[0])
                handle = self._thd_open(path)
        if handle is not None:
            try:
                self._files.fsync(handle)
            finally:
                self._files.close(handle)
        return directories

    def _thd_open(self, path: str) -> int | None:
        try:
            return self._files.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _field_value(address: str) -> bytes:
    """An address as a header holds it: UTF-8 (RFC 6532), and never the end of the line."""
    return _CONTROLS.sub(b" ", address.encode("utf-8", "replace"))
