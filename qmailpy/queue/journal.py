"""
The journal of a shard: segments, records, and how they are read after a crash (docs/queue.md s.3).

All of it blocks: after the start it is used by the commit thread alone. A segment is a file of fixed size, filled with
zeros once, so that fdatasync has no metadata to write. It begins with a header; records follow without gaps:

    header, 64 octets: magic "qpyjrnl", NUL; version (2), 0 (2), mark (4), generation (8), first sequence (8),
                       salt (8), checksum of the foregoing (4), zeros
    record:            mark (4), length of payload (4), generation (8), sequence (8), checksum (4), payload

Numbers are little endian. The mark and the salt are random for each generation; the checksum of a record is CRC-32 over
salt, length, generation, sequence and payload. So neither what an earlier generation left in a recycled file nor what a
message may contain can pass for a record.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

from attrs import Factory, define, frozen

from qmailpy.disk.files import Files
from qmailpy.queue.codec import Checkpoint, decode_ops, is_checkpoint

MAGIC = b"qpyjrnl\0"
VERSION = 1
HEADER_OCTETS = 64
_HEADER = struct.Struct("<8sHH4sQQQ")
_RECORD = struct.Struct("<4sIQQI")
_SEED = struct.Struct("<QIQQ")
_ZEROS = bytes(1 << 16)
_FILL = 1024 * 1024


@frozen
class Position:
    """Where a record is: its segment's generation, and its number among all records the shard ever wrote."""

    generation: int
    sequence: int


class JournalBroken(OSError):
    """A write or sync failed after octets had gone out: what is on the disk is not known. Final."""


@define
class Segment:
    """A segment file with a generation."""

    name: str
    generation: int
    mark: bytes
    salt: int
    first: int  # sequence of its first record
    size: int
    used: int  # octets up to the end of its last record
    last: int  # sequence of its last record, first - 1 when there is none
    gaps: list[tuple[int, int]] = Factory(list)  # first and last sequence of records missing amid the others


class Journal:
    """Appends records durably; gives them back after a crash."""

    def __init__(
        self,
        files: Files,
        directory: str,
        corrupt: str,
        segment_octets: int,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """
        @param directory: SHARD/journal, which exists and is durable.
        @param corrupt: SHARD/corrupt, likewise.
        @param segment_octets: size of segments made from now on.
        """
        self._files = files
        self._directory = directory
        self._corrupt = corrupt
        self._segment_octets = segment_octets
        self._entropy = entropy
        self._free: list[tuple[str, int]] = []  # (name, size) of segments to write next
        self._handle = -1
        self._active: Segment | None = None
        self._generation = 0  # highest ever seen
        self._next_name = 0
        self.closed: list[Segment] = []  # full or from before the start, oldest first; not yet recycled
        self.sequence = 0  # of the last record written or found
        self.warnings: list[str] = []  # what recovery found wrong, a line each

    @property
    def largest(self) -> int:
        """Octets of the largest payload a record can have."""
        return self._segment_octets - HEADER_OCTETS - _RECORD.size

    # --- after a crash ---------------------------------------------------------------------------------------

    def recover(self) -> Checkpoint | None:
        """
        Read all segments: afterwards L{closed} holds the live ones and L{records} reads them.

        May be repeated. Changes nothing on the disk but for segments that cannot be understood, which are moved to
        corrupt/ whole.

        @return: the newest checkpoint.
        @raise OSError: the disk cannot be read; nothing was decided.
        """
        self.closed, self._free, self.warnings = [], [], []
        newest: Checkpoint | None = None
        for name in sorted(self._files.listdir(self._directory)):
            path = f"{self._directory}/{name}"
            if not name.isdigit():
                self._set_aside(name, "is no segment")
                continue
            self._next_name = max(self._next_name, int(name) + 1)
            octets = self._files.read(path)
            segment = self._read_header(name, octets)
            if segment is None:
                if _blank(octets):
                    self._free.append((name, len(octets)))  # made, never used
                else:
                    self._set_aside(name, "has a header that cannot be read")
                continue
            self._generation = max(self._generation, segment.generation)
            for sequence, start, end in self._scan(segment, octets):
                if sequence != segment.last + 1:
                    segment.gaps.append((segment.last + 1, sequence - 1))
                segment.last, segment.used = sequence, end
                if octets[start : start + 1] == b"\x06" and is_checkpoint(octets[start:end]):
                    for op in decode_ops(octets[start:end]):
                        if isinstance(op, Checkpoint) and (newest is None or op.sequence >= newest.sequence):
                            newest = op
            self.closed.append(segment)
        self.closed.sort(key=lambda segment: segment.generation)
        low = newest.low if newest is not None else 0
        for segment in self.closed:
            if segment.generation < low:
                self._free.append((segment.name, segment.size))
        self.closed = [segment for segment in self.closed if segment.generation >= low]
        self._check_gaps(low)
        # Also what is retired counts: sequences are never used twice.
        found = [segment.last for segment in self.closed]
        self.sequence = max([*found, newest.sequence if newest is not None else 0, 0])
        return newest

    def records(self) -> Iterator[tuple[Position, bytes]]:
        """The records of the live segments in order; after L{recover} and before L{start}."""
        for segment in self.closed:
            octets = self._files.read(f"{self._directory}/{segment.name}")
            for sequence, start, end in self._scan(segment, octets):
                yield Position(segment.generation, sequence), octets[start:end]

    def _read_header(self, name: str, octets: bytes) -> Segment | None:
        if len(octets) < HEADER_OCTETS:
            return None
        magic, version, _, mark, generation, first, salt = _HEADER.unpack_from(octets)
        (checksum,) = struct.unpack_from("<I", octets, _HEADER.size)
        if magic != MAGIC or checksum != zlib.crc32(octets[: _HEADER.size]) or version != VERSION:
            return None
        return Segment(name, generation, mark, salt, first, len(octets), HEADER_OCTETS, first - 1)

    def _scan(self, segment: Segment, octets: bytes) -> Iterator[tuple[int, int, int]]:
        """
        (sequence, start, end) of each record's payload.

        A record that does not hold ends the segment, unless more records follow it: then the last batch was torn, or
        the disk has damaged what it had stored, and what follows is taken all the same: we wrote it and it is whole.
        """
        at, last, size = HEADER_OCTETS, segment.first - 1, len(octets)
        seek = at
        while at + _RECORD.size <= size:
            mark, length, generation, sequence, checksum = _RECORD.unpack_from(octets, at)
            start, end = at + _RECORD.size, at + _RECORD.size + length
            if (
                mark == segment.mark
                and generation == segment.generation
                and sequence > last
                and end <= size
                and checksum == _checksum(segment.salt, length, generation, sequence, octets[start:end])
            ):
                yield sequence, start, end
                at, last, seek = end, sequence, end
                continue
            seek = octets.find(segment.mark, max(seek, at) + 1)
            if seek < 0:
                return
            at = seek

    def _check_gaps(self, low: int) -> None:
        expected_generation, expected = None, None
        for segment in self.closed:
            if expected_generation is not None and segment.generation != expected_generation:
                self.warnings.append(
                    f"journal: generations {expected_generation} to {segment.generation - 1} are missing before "
                    f"{segment.name}"
                )
            elif expected is not None and segment.first != expected:
                self.warnings.append(
                    f"journal: records {expected} to {segment.first - 1} before segment {segment.name} are missing"
                )
            self.warnings += [
                f"journal: records {first} to {last} in segment {segment.name} cannot be read: they were being written "
                "when the power failed, or the disk has damaged them"
                for first, last in segment.gaps
            ]
            expected_generation, expected = segment.generation + 1, segment.last + 1
        if low and self.closed and self.closed[0].generation != low:
            self.warnings.append(f"journal: generations {low} to {self.closed[0].generation - 1} are missing")

    def _set_aside(self, name: str, why: str) -> None:
        target = f"{self._corrupt}/journal-{name}"
        number = 0
        while self._files.exists(target):
            number += 1
            target = f"{self._corrupt}/journal-{name}.{number}"
        self._files.rename(f"{self._directory}/{name}", target)
        self._files.sync_directory(self._corrupt)
        self._files.sync_directory(self._directory)
        self.warnings.append(f"journal: {name} {why}; moved whole to {target}")

    # --- at work ---------------------------------------------------------------------------------------------

    def start(self, spare: int = 2) -> None:
        """
        Begin a new segment, whatever room the old ones have left.

        @param spare: free segments to have ready.
        @raise OSError: no space for it; nothing was begun.
        """
        while len(self._free) < spare + 1:
            try:
                self._allocate()
            except OSError:
                if not self._free:
                    raise
                break  # a full disk: what is queued can still go
        self._replace_short()
        self._roll()

    def _replace_short(self) -> None:
        """
        Segments that a crash left half made, or of a time when they were to be smaller, would be full with a record
        each, again and again.
        """
        for short in [one for one in self._free if one[1] < self._segment_octets]:
            try:
                self._allocate()
                self._files.unlink(f"{self._directory}/{short[0]}")
            except OSError:
                return  # better than none
            self._free.remove(short)

    @property
    def generation(self) -> int:
        """The active segment's."""
        assert self._active is not None
        return self._active.generation

    @property
    def blank(self) -> bool:
        """Whether the active segment holds no record."""
        return self._active is None or self._active.used == HEADER_OCTETS

    def roll(self) -> None:
        """Close the active segment, though not full, and begin another."""
        if not self.blank:
            self._roll()

    def write(self, items: Sequence[tuple[bytes, bool]]) -> list[Position | OSError]:
        """
        Append records and make them durable with one sync (two when they go over the end of a segment).

        @param items: (payload, essential): records that are not essential fail first when space is short.
        @return: for each, where it is, or why it is not (nothing of it was written).
        @raise JournalBroken: it is not known what is on the disk; nothing in C{items} may be acknowledged.
        """
        assert self._active is not None
        results: list[Position | OSError] = []
        segment = self._active
        pieces: list[bytes] = []
        length = 0
        starving: OSError | None = None
        for payload, essential in items:
            size = _RECORD.size + len(payload)
            if segment.used + length + size > segment.size:
                if size > self.largest + _RECORD.size:
                    results.append(OSError(27, "larger than a journal segment"))
                    continue
                if starving is None and len(self._free) < 2:
                    try:
                        self._allocate()
                    except OSError as problem:
                        starving = problem
                if starving is not None and (not essential or not self._free):
                    results.append(starving)
                    continue
                self._put(segment, pieces, length)
                pieces, length = [], 0
                try:
                    self._roll()
                except JournalBroken:
                    raise
                except OSError as problem:  # no descriptor for it, say: nothing has been begun, and it may pass
                    starving = problem
                    results.append(starving)
                    continue
                segment = self._active
            self.sequence += 1
            checksum = _checksum(segment.salt, len(payload), segment.generation, self.sequence, payload)
            pieces.append(_RECORD.pack(segment.mark, len(payload), segment.generation, self.sequence, checksum))
            pieces.append(payload)
            length += size
            results.append(Position(segment.generation, self.sequence))
        self._put(segment, pieces, length)
        return results

    def recycle(self, generation: int) -> None:
        """
        The oldest closed segment may be written over.

        @param generation: its generation: a durable checkpoint must have C{low} above it.
        """
        segment = self.closed.pop(0)
        assert segment.generation == generation, (segment.generation, generation)
        self._free.append((segment.name, segment.size))

    def close(self) -> None:
        """Let go of the active segment."""
        if self._handle >= 0:
            self._files.close(self._handle)
            self._handle = -1

    def _put(self, segment: Segment, pieces: list[bytes], length: int) -> None:
        if not pieces:
            return
        try:
            self._files.pwrite(self._handle, b"".join(pieces), segment.used)
            self._files.fdatasync(self._handle)
        except OSError as problem:
            raise JournalBroken(problem.errno, f"journal segment {segment.name}: {problem.strerror}") from problem
        segment.used += length
        segment.last = self.sequence

    def _allocate(self) -> None:
        name = f"{self._next_name:08d}"
        path = f"{self._directory}/{name}"
        handle = self._files.open(path, create=True, exclusive=True)
        try:
            try:
                for at in range(0, self._segment_octets, _FILL):
                    self._files.pwrite(handle, bytes(min(_FILL, self._segment_octets - at)), at)
                self._files.fsync(handle)  # the space is ours now, and fdatasync will have no metadata to write
            finally:
                self._files.close(handle)
            self._files.sync_directory(self._directory)
        except OSError:
            self._files.unlink(path)
            raise
        self._next_name += 1
        self._free.append((name, self._segment_octets))

    def _roll(self) -> None:
        if not self._free:
            self._allocate()
        name, size = self._free[0]
        handle = self._files.open(f"{self._directory}/{name}")
        self._free.pop(0)
        mark, salt = self._entropy(4), int.from_bytes(self._entropy(8), "little")
        generation = self._generation + 1
        head = _HEADER.pack(MAGIC, VERSION, 0, mark, generation, self.sequence + 1, salt)
        head += struct.pack("<I", zlib.crc32(head))
        try:
            # Durable with the first record: until then there is nothing to find behind it.
            self._files.pwrite(handle, head.ljust(HEADER_OCTETS, b"\0"), 0)
        except OSError as problem:
            self._files.close(handle)
            raise JournalBroken(problem.errno, f"journal segment {name}: {problem.strerror}") from problem
        self._generation = generation
        if self._active is not None:
            self.closed.append(self._active)
        self.close()
        self._handle = handle
        first = self.sequence + 1
        self._active = Segment(name, generation, mark, salt, first, size, HEADER_OCTETS, first - 1)


def _blank(octets: bytes) -> bool:
    """Whether there are zeros alone, as in a segment that was never used; much faster than strip()."""
    whole = len(octets) // len(_ZEROS) * len(_ZEROS)
    return octets[whole:].strip(b"\0") == b"" and all(
        octets.startswith(_ZEROS, at) for at in range(0, whole, len(_ZEROS))
    )


def _checksum(salt: int, length: int, generation: int, sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_SEED.pack(salt, length, generation, sequence)))
