"""
HOME/run/counters: the layout of the mapped file, and reading it.

    header (64 octets): magic, version, lanes, channels a lane, items a channel, size, time made, CRC-32 of these
    lane (256 octets):  name, generation, position of the values (line sequence, log file, offset),
                        baseline (time, line sequence, log file, offset, flags)
    its channels, each: name (64 octets), values, baseline values: signed 8-octet integers in the order of items.ITEMS

All numbers are little-endian. A lane has one owner, the process that holds the queue shard of that name, and nobody
else writes it, so that there are no locks; readers add the lanes up. The owner makes the generation odd, changes what
it has to, and makes it even again; a reader that met a change reads again. Values only ever grow from the lane's first
day on: a clear copies them to the baseline, which readers subtract, so no count can be lost to a race.

The file is a convenience: whoever cannot have it goes on without. A mapped file that is truncated kills the process
that touches what is no longer there (SIGBUS), so sizes are checked before every use; what remains is the moment between
that check and the store.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from contextlib import suppress

from attrs import frozen

from qmailpy.errors import QmailpyError
from qmailpy.stats.items import ITEMS, LOWEST, STORED, Row, Table, zeros

LANES = 64
CHANNELS = 64
NAME_OCTETS = 64

_MAGIC = b"QPYCOUNT"
_VERSION = 1
_HEADER = struct.Struct("<8sIIIIQd")
_CRC = struct.Struct("<I")
HEADER_OCTETS = 64
LANE_OCTETS = 256
GENERATION = 64  # offsets in a lane
POSITION = 72
BASELINE = 96
U64 = struct.Struct("<Q")
POSITION_FORM = struct.Struct("<QQQ")
BASELINE_FORM = struct.Struct("<dQQQQ")
ROW_FORM = struct.Struct(f"<{len(ITEMS)}q")
CHANNEL_OCTETS = NAME_OCTETS + 2 * ROW_FORM.size
KEEP_STORED = 1  # flag of a baseline: Stored is shown as it is

_READ_TRIES = 200


class CountersError(QmailpyError):
    """The counters file is not there or not usable; the text says which and why."""


@frozen
class Position:
    """How far in the log some values are: C{sequence} of the lane's last line counted, and where the log ended then."""

    sequence: int = 0
    file: int = 0
    offset: int = 0


@frozen(kw_only=True)
class Baseline:
    """What a lane's values were when it was last cleared."""

    time: float = 0.0  # 0: never cleared
    position: Position = Position()
    keep_stored: bool = False
    table: Table


@frozen(kw_only=True)
class LaneState:
    """One lane as a reader finds it."""

    name: str
    position: Position
    baseline: Baseline
    table: Table  # values since the lane's first day
    settled: bool  # false: its owner died in the middle of a change


@frozen(kw_only=True)
class Sizes:
    """How much a file has room for, and when it was made."""

    lanes: int = LANES
    channels: int = CHANNELS
    made: float = 0.0

    @property
    def lane_octets(self) -> int:
        """Of a lane with its channels."""
        return LANE_OCTETS + self.channels * CHANNEL_OCTETS

    @property
    def octets(self) -> int:
        """Of the whole file."""
        return HEADER_OCTETS + self.lanes * self.lane_octets

    def lane_at(self, index: int) -> int:
        """Offset of a lane."""
        return HEADER_OCTETS + index * self.lane_octets

    def header(self) -> bytes:
        """The file's first octets."""
        head = _HEADER.pack(_MAGIC, _VERSION, self.lanes, self.channels, len(ITEMS), self.octets, self.made)
        return (head + _CRC.pack(zlib.crc32(head))).ljust(HEADER_OCTETS, b"\0")


def _sizes(octets: bytes) -> Sizes:
    if len(octets) < HEADER_OCTETS:
        raise CountersError("the counters file is too short")
    magic, version, lanes, channels, items, size, made = _HEADER.unpack_from(octets)
    if magic != _MAGIC or _CRC.unpack_from(octets, _HEADER.size)[0] != zlib.crc32(octets[: _HEADER.size]):
        raise CountersError("the counters file is damaged")
    if version != _VERSION or items != len(ITEMS):
        raise CountersError("the counters file is of another version")
    sizes = Sizes(lanes=lanes, channels=channels, made=made)
    if sizes.octets != size:
        raise CountersError("the counters file is damaged")
    return sizes


class Mapped:
    """The file, mapped. C{close} it."""

    def __init__(self, path: str, *, write: bool = False) -> None:
        """
        @raise CountersError: it is there and no counters file (of ours).
        @raise OSError: it cannot be had; C{FileNotFoundError} when there is none.
        """
        self.handle = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            found = os.fstat(self.handle)
            self.inode = found.st_ino
            self.sizes = _sizes(os.pread(self.handle, HEADER_OCTETS, 0))
            if found.st_size < self.sizes.octets:
                raise CountersError("the counters file is too short")
            access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
            self.map = mmap.mmap(self.handle, self.sizes.octets, access=access)
        except BaseException:
            os.close(self.handle)
            raise

    def whole(self) -> bool:
        """Whether the file is still as long as the mapping: to be asked before touching it."""
        return os.fstat(self.handle).st_size >= self.sizes.octets

    def close(self) -> None:
        """Let go of it."""
        with suppress(BufferError):
            self.map.close()
        os.close(self.handle)


def name_octets(name: str) -> bytes:
    """
    A lane's or channel's name as the file has it.

    @raise ValueError: it does not fit.
    """
    octets = name.encode()
    if not octets or len(octets) > NAME_OCTETS or b"\0" in octets:
        raise ValueError(f"no name for a counter: {name!r:.80}")
    return octets.ljust(NAME_OCTETS, b"\0")


def name_at(area: mmap.mmap | bytes, at: int) -> str:
    """The name at an offset; "" where the place is free."""
    return bytes(area[at : at + NAME_OCTETS]).rstrip(b"\0").decode("utf-8", "replace")


def create(path: str, sizes: Sizes, *, replace: bool = False) -> None:
    """
    Make an empty counters file.

    @param replace: whatever is there now makes way; otherwise an existing file stays.
    @raise OSError: it could not be made.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # With all of its blocks: to touch a hole of a mapped file when the disk is full is the end of the process.
        os.posix_fallocate(handle, 0, sizes.octets)
        os.pwrite(handle, sizes.header(), 0)
        if replace:
            os.rename(temporary, path)
        else:
            with suppress(FileExistsError):  # another process was first
                os.link(temporary, path)
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def read_lane(octets: bytes, channels: int) -> LaneState:
    """A lane from its octets."""
    generation = U64.unpack_from(octets, GENERATION)[0]
    when, sequence, file, offset, flags = BASELINE_FORM.unpack_from(octets, BASELINE)
    table: Table = {}
    cleared: Table = {}
    for index in range(channels):
        at = LANE_OCTETS + index * CHANNEL_OCTETS
        name = name_at(octets, at)
        if not name:
            break
        table[name] = list(ROW_FORM.unpack_from(octets, at + NAME_OCTETS))
        cleared[name] = list(ROW_FORM.unpack_from(octets, at + NAME_OCTETS + ROW_FORM.size))
    return LaneState(
        name=name_at(octets, 0),
        position=Position(*POSITION_FORM.unpack_from(octets, POSITION)),
        baseline=Baseline(
            time=when,
            position=Position(sequence, file, offset),
            keep_stored=bool(flags & KEEP_STORED),
            table=cleared,
        ),
        table=table,
        settled=generation % 2 == 0,
    )


def _none(path: str, error: OSError) -> CountersError:
    if isinstance(error, FileNotFoundError):
        return CountersError(
            "there are no counters: a running daemon makes them when it next counts something, and so does "
            "qmailpy qm counters create"
        )
    return CountersError(f"no counters: {path}: {error.strerror}")


def thd_read(path: str) -> tuple[Sizes, list[LaneState]]:
    """
    All lanes of a counters file, each as of one moment. Blocks (for milliseconds at most).

    @raise CountersError: there is none, or it cannot be used.
    """
    try:
        mapped = Mapped(path)
    except OSError as error:
        raise _none(path, error) from error
    try:
        lanes = []
        for index in range(mapped.sizes.lanes):
            at = mapped.sizes.lane_at(index)
            lane = _thd_lane(mapped, at)
            if lane is None:
                break
            lanes.append(lane)
        return mapped.sizes, lanes
    finally:
        mapped.close()


def _thd_lane(mapped: Mapped, at: int) -> LaneState | None:
    octets = b""
    for _ in range(_READ_TRIES):
        if not mapped.whole():
            raise CountersError("the counters file has been truncated")
        octets = mapped.map[at : at + mapped.sizes.lane_octets]
        generation = octets[GENERATION : GENERATION + 8]
        if not name_at(octets, 0):
            return None
        if generation[0] % 2 == 0 and mapped.map[at + GENERATION : at + GENERATION + 8] == generation:
            break
        time.sleep(0.0005)
    return read_lane(octets, mapped.sizes.channels)


def thd_clear(path: str, keep_stored: bool, now: float) -> None:
    """
    Clear all lanes of a home where nothing runs: the values of now become the baseline. Blocks.

    @param keep_stored: Stored goes on showing what is in the queue, instead of zero.
    @raise CountersError: there is no usable file, or a lane was left in the middle of a change.
    """
    try:
        mapped = Mapped(path, write=True)
    except OSError as error:
        raise _none(path, error) from error
    try:
        for index in range(mapped.sizes.lanes):
            at = mapped.sizes.lane_at(index)
            lane = read_lane(mapped.map[at : at + mapped.sizes.lane_octets], mapped.sizes.channels)
            if not lane.name:
                break
            if not lane.settled:
                raise CountersError(f"the counters of lane {lane.name} were left in the middle of a change; start once")
            store_baseline(mapped, at, Baseline(time=now, position=lane.position, keep_stored=keep_stored, table={}))
            for place, row in enumerate(lane.table.values()):
                row[LOWEST : LOWEST + 3] = row[STORED : STORED + 3]
                store_row(mapped, at, place, row)
                store_row(mapped, at, place, row, baseline=True)
        mapped.map.flush()
    finally:
        mapped.close()


def store_baseline(mapped: Mapped, lane_at: int, baseline: Baseline) -> None:
    """Write a lane's baseline, but for its rows."""
    position = baseline.position
    octets = BASELINE_FORM.pack(
        baseline.time, position.sequence, position.file, position.offset, KEEP_STORED if baseline.keep_stored else 0
    )
    at = lane_at + BASELINE
    mapped.map[at : at + len(octets)] = octets


def store_row(mapped: Mapped, lane_at: int, place: int, row: Row, *, baseline: bool = False) -> None:
    """
    Write the row of a channel.

    As one slice: C{pack_into} would put zeros there first, for others to see.
    """
    at = lane_at + LANE_OCTETS + place * CHANNEL_OCTETS + NAME_OCTETS + (ROW_FORM.size if baseline else 0)
    mapped.map[at : at + ROW_FORM.size] = ROW_FORM.pack(*row)


def shown(lane: LaneState) -> Table:
    """
    A lane's values since its last clear, as people see them.

    Stored may be negative; its lowest value (never above zero) taken off gives the true number (mission C6).
    """
    base = lane.baseline
    result: Table = {}
    for channel, row in lane.table.items():
        start = base.table.get(channel) or zeros()
        now = [value - before for value, before in zip(row, start, strict=True)]
        for unit in range(3):
            stored = 0 if base.keep_stored else start[STORED + unit]
            now[STORED + unit] = row[STORED + unit] - stored
            now[LOWEST + unit] = min(0, row[LOWEST + unit] - stored)
        result[channel] = now
    return result


def total(lanes: list[LaneState]) -> Table:
    """What L{shown} tells of all lanes, added up."""
    result: Table = {}
    for lane in lanes:
        for channel, row in shown(lane).items():
            sum_row = result.setdefault(channel, zeros())
            for index, value in enumerate(row):
                sum_row[index] += value
    return result
