"""
The qmail-style directories of a shard: writing, reading, listing, removing. All of it blocks.

What is written here becomes true only with the checkpoint that follows it (docs/queue.md s.5); until then the journal
has the word. So a file of a message that was in no file before may be written under its name at once; one that replaces
another is renamed over it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from qmailpy.disk.files import Files
from qmailpy.disk.pieces import CutShortError
from qmailpy.disk.whole import WholeSync
from qmailpy.queue.aside import Aside
from qmailpy.queue.codec import Damaged
from qmailpy.queue.content import FileContent
from qmailpy.queue.doubt import Doubt
from qmailpy.queue.entries import Leaving
from qmailpy.queue.ids import born, numbers_of, to_number
from qmailpy.queue.layout import Layout
from qmailpy.queue.papers import Info, decode_copy, decode_info, encode_copy, encode_info
from qmailpy.queue.state import Copy, Message
from qmailpy.values import Content, Envelope, MemoryContent

SYNCFS_FILES = 32
"""From so many files on one syncfs is cheaper than a sync of each (docs/performance.md)."""

_CHUNK = 1024 * 1024


@frozen
class Filing:
    """What one message needs done to its files: made in the reactor thread, carried out in another."""

    number: int
    content: bytes | None  # to be written to mess/; None: it is there
    info: bytes | None  # to be written
    new: bool  # nothing of it can be true yet, so that nothing need be replaced with care
    copies: tuple[tuple[str, bool, bytes], ...]  # (channel, held, file)
    gone: tuple[str, ...]  # channels whose copy is finished
    finished: bool  # nothing of it is left


def filing(message: Message) -> Filing:
    """
    What has to be done for the files of a message to say what its memory says.

    A copy's C{filed} is brought forward by the caller once it is done.
    """
    finished = not message.copies
    content = None
    if message.generation and not finished and message.content.in_memory:
        content = message.content.read()
    new = message.generation != 0
    return Filing(
        number=message.number,
        content=content,
        info=encode_info(message) if new and not finished else None,
        new=new,
        copies=tuple(
            (copy.channel, copy.held is not None, encode_copy(copy))
            for copy in message.copies.values()
            if new or copy.sequence > copy.filed
        ),
        gone=tuple(channel for channel in message.channels if channel not in message.copies),
        finished=finished,
    )


class Shelf:
    """The directories of one shard."""

    def __init__(self, files: Files, layout: Layout, memory_octets: int) -> None:
        """
        @param memory_octets: contents up to this size are read into memory.
        """
        self._files = files
        self._layout = layout
        self.memory_octets = memory_octets
        self.doubt = Doubt(files, layout.doubt)
        self._whole = WholeSync(files, layout.root)
        self.aside: list[Aside] = []  # what was set aside and nobody has been told of

    def thd_make(self, channels: tuple[str, ...]) -> None:
        """
        Make the directories, durably.

        What is there already may have been made in a life that ended before it was durable: hence one sync, always.
        """
        for path in self._layout.directories(channels):
            if not self._files.exists(path):
                self._files.mkdir(path)
        self._whole.thd_sync()

    def thd_file(self, filings: Sequence[Filing]) -> None:
        """
        Carry out filings and make them durable.

        @raise OSError: something is not done; all of it may be repeated.
        """
        files, layout = self._files, self._layout
        written: list[str] = []  # content to sync
        renames: list[tuple[str, str]] = []
        removals: list[str] = []
        for item in filings:
            if item.content is not None:
                self._put(layout.mess(item.number), item.content, written)
            if item.info is not None:
                self._put(layout.info(item.number), item.info, written)
            for channel, held, octets in item.copies:
                path = layout.chan(channel, item.number, held)
                where = path if item.new else path + ".tmp"
                try:
                    self._put(where, octets, written)
                except FileNotFoundError:  # a channel of a former configuration, or a hand has removed its directory
                    self.thd_make((channel,))
                    self._put(where, octets, written)
                if not item.new:
                    renames.append((where, path))
                removals.append(layout.chan(channel, item.number, not held))
            for channel in item.gone:
                removals += [layout.chan(channel, item.number), layout.chan(channel, item.number, True)]
            if item.finished:
                removals += [layout.info(item.number), layout.mess(item.number)]
        whole = len(written) + len(renames) >= SYNCFS_FILES
        if whole:
            self._whole.thd_sync()
        else:
            for path in written:
                handle = files.open(path)
                try:
                    files.fsync(handle)
                finally:
                    files.close(handle)
        for source, target in renames:
            files.rename(source, target)
        parents = {path.rpartition("/")[0] for path in written} | {path.rpartition("/")[0] for _, path in renames}
        # The new place of a copy is durable before the old one goes: held or not, it is never nowhere.
        self._sync_directories(parents, whole)
        gone = [path for path in removals if files.exists(path)]
        for path in gone:
            files.unlink(path)
        self._sync_directories({path.rpartition("/")[0] for path in gone}, len(gone) >= SYNCFS_FILES)

    def thd_store(self, number: int, content: Content) -> tuple[int, int]:
        """
        Give a message that is about to be enqueued its file below mess/, durable with its name.

        @return: its size, which may be less than the content tells, and its CRC-32.
        @raise OSError: it cannot be read or written; nothing is left of it.
        """
        files, path = self._files, self._layout.mess(number)
        crc = at = 0
        handle = files.open(path, create=True)
        try:
            try:
                files.truncate(handle, 0)
                for octets in content.chunks(_CHUNK):
                    files.pwrite(handle, octets, at)
                    crc, at = zlib.crc32(octets, crc), at + len(octets)
                files.fsync(handle)
            finally:
                files.close(handle)
            files.sync_directory(path.rpartition("/")[0])
        except OSError:
            files.unlink(path)
            raise
        return at, crc

    def _put(self, path: str, octets: bytes, written: list[str]) -> None:
        handle = self._files.open(path, create=True)
        try:
            self._files.truncate(handle, 0)
            self._files.pwrite(handle, octets, 0)
        finally:
            self._files.close(handle)
        written.append(path)

    def _sync_directories(self, paths: Iterable[str], whole: bool) -> None:
        names = sorted(paths)
        if whole:
            self._whole.thd_sync()
        else:
            for path in names:
                self._files.sync_directory(path)

    # --- reading ---------------------------------------------------------------------------------------------

    def thd_load(self, number: int) -> Message | None:
        """
        A message from its files; C{None} when it has none (any more). What cannot be understood is set aside whole.

        @raise OSError: the disk cannot be read.
        """
        layout = self._layout
        try:
            octets = self._files.read(layout.info(number))
        except FileNotFoundError:
            return None
        try:
            info = decode_info(octets)
            copies = {}
            for channel in info.channels:
                copy = self._load_copy(channel, number)
                if copy is not None and copy.pending:
                    copies[channel] = copy
            if not copies:
                return None
            content = self._load_content(number, info.size, info.crc)
        except Damaged as problem:
            self.thd_set_aside(number, str(problem))
            return None
        message = Message(number, self._id(number), info.envelope, content, info.size, info.crc, copies)
        message.filed = True
        message.channels = info.channels
        return message

    def thd_copy(self, channel: str, number: int, brief: bool = False) -> tuple[Info, Copy] | None:
        """
        One copy of a message as its files have it, without the content; C{None} when it has gone or is damaged.

        Changes nothing: what is damaged is set aside when somebody wants to work with it.

        @param brief: the recipients alone; of the envelope nothing but the time, as the number tells it.
        @raise OSError: the disk cannot be read.
        """
        try:
            copy = self._load_copy(channel, number)
            if copy is None or not copy.pending:
                return None
            if brief:
                return Info(Envelope(sender="", recipients=(), source="", arrival=born(number)), 0, 0, ()), copy
            return decode_info(self._files.read(self._layout.info(number))), copy
        except (FileNotFoundError, Damaged):
            return None

    def _load_copy(self, channel: str, number: int) -> Copy | None:
        found: list[Copy] = []
        for held in (False, True):
            try:
                octets = self._files.read(self._layout.chan(channel, number, held))
            except FileNotFoundError:
                continue
            found.append(decode_copy(octets, channel))
        # Both are there when a move was cut short: the later one is true.
        return max(found, key=lambda copy: copy.sequence) if found else None

    def _load_content(self, number: int, size: int, crc: int) -> Content:
        path = self._layout.mess(number)
        content = FileContent(self._files, path, size)
        if size > self.memory_octets:
            return content
        try:
            octets = content.read()
        except FileNotFoundError:  # nothing else is damaged: its envelope is there, and an attempt finds out about it
            return content
        except CutShortError as problem:
            raise Damaged("its content is cut short") from problem
        if zlib.crc32(octets) != crc:
            raise Damaged("the checksum of its content is wrong")
        return MemoryContent(octets)

    def thd_lost(self, number: int) -> bool:
        """
        Whether the content of a message is gone by whatever hand: its name is missing in a directory that is there, for
        a file system that is not mounted comes back. Where that cannot be found out it is not.
        """
        path = self._layout.mess(number)
        try:
            self._files.close(self._files.open(path))
        except FileNotFoundError:
            return self._files.exists(path.rpartition("/")[0])
        except OSError:
            return False
        return False

    def thd_scan(self, kind: str, channel: str) -> Iterator[int]:
        """
        The numbers that have a file of this kind, in no order.

        @param kind: "chan" or "hold" with a channel, "mess" or "info" with "".
        """
        top = "/".join(part for part in (self._layout.root, kind, channel) if part)
        for split in self._layout.splits:
            for name in self._files.scan(f"{top}/{split}"):
                try:
                    yield to_number(name)
                except ValueError:
                    continue  # NAME.tmp of a rewrite cut short; the next one uses it up

    def thd_numbers(self, kind: str, channel: str, splits: Sequence[str]) -> list[int]:
        """The same of some sub-directories, ascending: all of them at once, which is much faster."""
        return numbers_of(self.thd_names(kind, channel, splits))

    def thd_names(self, kind: str, channel: str, splits: Sequence[str]) -> list[str]:
        """What is in these sub-directories, in no order; nearly all of it ids."""
        names: list[str] = []
        for split in splits:
            names += self._files.listdir(f"{self._layout.root}/{kind}/{channel}/{split}")
        return names

    def thd_times(self, channel: str, number: int) -> tuple[float, int, float] | None:
        """
        Next attempt, delay notices and patience (C{Copy}) of a copy that is not held; C{None} when it has gone
        meanwhile or is damaged (set aside).
        """
        try:
            copy = decode_copy(self._files.read(self._layout.chan(channel, number)), channel)
        except FileNotFoundError:
            return None
        except Damaged as problem:
            self.thd_set_aside(number, str(problem))
            return None
        return (copy.next_attempt(), copy.warned, copy.patience) if copy.pending else None

    def thd_remove(self, number: int) -> None:
        """Unlink whatever files a message has. Not made durable: used on leftovers nobody would miss."""
        channels = {name for kind in ("chan", "hold") for name in self._files.listdir(f"{self._layout.root}/{kind}")}
        paths = [self._layout.chan(name, number, held) for name in sorted(channels) for held in (False, True)]
        for path in (*paths, self._layout.info(number), self._layout.mess(number)):
            if self._files.exists(path):
                self._files.unlink(path)

    def thd_orphan(self, kind: str, number: int) -> bool:
        """Whether a file below info/ or mess/ belongs to nothing: no copy for the one, no info for the other."""
        if kind == "mess":
            return not self._files.exists(self._layout.info(number))
        channels = {name for top in ("chan", "hold") for name in self._files.listdir(f"{self._layout.root}/{top}")}
        return not any(
            self._files.exists(self._layout.chan(name, number, held)) for name in channels for held in (False, True)
        )

    def thd_has_files(self, number: int, channels: tuple[str, ...]) -> bool:
        """Whether there is any file of a message besides its content, or may be: the disk does not tell."""
        layout = self._layout
        paths = [layout.info(number)]
        paths += [layout.chan(channel, number, held) for channel in channels for held in (False, True)]
        try:
            return any(self._files.exists(path) for path in paths)
        except OSError:
            return True

    def thd_set_aside(self, number: int, why: str) -> None:
        """Move all files of a message to corrupt/, where a person can look at them."""
        layout, files = self._layout, self._files
        queue_id = self._id(number)
        channels = {name for kind in ("chan", "hold") for name in files.listdir(f"{layout.root}/{kind}")}
        leavings, whole = self._leavings(number, channels)
        pieces = [("info", layout.info(number)), ("mess", layout.mess(number))]
        pieces += [
            (f"{kind}-{name}", layout.chan(name, number, kind == "hold"))
            for name in sorted(channels)
            for kind in ("chan", "hold")
        ]
        aside = Aside(queue_id, why, leavings, whole)
        left = set()
        try:
            for suffix, path in pieces:
                if files.exists(path):
                    files.rename(path, f"{layout.corrupt}/{queue_id}.{suffix}")
                    left.add(path.rpartition("/")[0])
            # Where they were, too: what comes back is set aside again, and would leave the books twice.
            for directory in (layout.corrupt, *sorted(left)):
                files.sync_directory(directory)
        except OSError:
            if left:  # nobody finds it any more, so nobody would be told of it later
                self.aside.append(aside)
            raise
        self.aside.append(aside)

    def _leavings(self, number: int, channels: Iterable[str]) -> tuple[tuple[Leaving, ...], bool]:
        """The recipients that are left of a message, and whether these are all, as far as its files tell."""
        files, layout = self._files, self._layout
        found: list[Leaving] = []
        whole = True
        try:
            try:
                info = decode_info(files.read(layout.info(number)))
                envelope, size = info.envelope, info.size
                channels = info.channels
            except (FileNotFoundError, Damaged):
                envelope = Envelope(sender="", recipients=(), source="", arrival=born(number))
                handle = files.open(layout.mess(number))
                size = files.size(handle)
                files.close(handle)
            for channel in sorted(channels):
                try:
                    copy = self._load_copy(channel, number)
                except Damaged:
                    whole = False
                    continue
                found += [
                    Leaving(
                        channel=channel,
                        recipient=item.recipient.address,
                        original=item.recipient.original,
                        sender=envelope.sender,
                        size_octets=size,
                        message_id=envelope.message_id,
                        envelope_id=envelope.envid,
                        arrival=envelope.arrival,
                    )
                    for item in (copy.pending.values() if copy is not None else ())
                ]
        except OSError:
            return (), False
        return tuple(found), whole

    def _id(self, number: int) -> str:
        return self._layout.mess(number).rpartition("/")[2]
