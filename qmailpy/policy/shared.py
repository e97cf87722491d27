"""
Where limits keep what they count: a file that all mail workers of a home look into, so that they count together, and
that is there after a restart.

The file is C{HOME/run/limits}. Each worker has a lane of it, which it alone writes; what counts against somebody is the
sum over all lanes. Nothing is locked, nobody waits for anybody. A lane is three areas (clients and networks, users by
the hour, users by the day) of slots of 80 octets: a keyed hash of the limit's name and of whom it is about (whose key
no client knows, so that nobody chooses his neighbours), the newest step of the clock, the counts of that and the
L{STEPS} before, a CRC-32. A name may be in any slot of its bucket of eight; where all are taken, the one not seen for
longest makes room. So memory is bounded whatever clients do: 10 MiB a lane, on disk and in memory only as far as used.

What fails and how: a slot that is being written while another worker looks counts as none for that moment (its CRC does
not fit); two workers that look at the same moment may both let the last one in. The file is as good as its last
moments: it is never synced, and one that is gone is made anew. Where it cannot be had a worker counts by itself; so it
does for what a full disk has no room for.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b

from twisted.logger import Logger

from qmailpy.disk.shared_file import SharedFile
from qmailpy.policy.limits import STEPS, Counts, Window

FILE_NAME = "limits"

AREAS = {"user_sends_a_day": (98304, 32768), "user": (65536, 32768), "": (0, 65536)}
"""By the beginning of a limit's name: the first slot, and how many there are."""

BUCKET = 8
SLOT = 80
LANE = 131072 * SLOT
LANES = 257
"""No more are looked at, whatever the size of the file."""

_RING = STEPS + 1
_FORM = struct.Struct(f"<16sI{_RING}I")
_CRC = struct.Struct("<I")
_MOST = 2**32 - 1


class SharedCounts:
    """The file, as one worker sees it: L{windows<SharedWindow>} of it."""

    _log = Logger()

    def __init__(self, path: str, lane: int, lanes: int, key: bytes) -> None:
        """
        @param path: of the file; it is opened with the first window.
        @param lane: this worker's, from 0.
        @param lanes: how many workers there are.
        @param key: up to 64 octets, the same in all workers of a home and after a restart.
        """
        self._path = path
        self._lane = lane
        self._lanes = lanes
        self._key = key
        self._area: SharedFile | None = None
        self._failed = False

    def window(self, name: str, period_s: float) -> Counts:
        """
        Counts of a limit. Opens the file, which takes some microseconds, when it is the first.

        @param name: the limit's.
        """
        if self._area is None and not self._failed:
            try:
                # A home that had more workers keeps their counts.
                self._area = SharedFile(self._path, max(self._lanes, self._lane + 1) * LANE, LANES * LANE)
            except OSError as error:
                self._failed = True
                self._log.error("limits are counted by each worker for itself: {error}", error=str(error))
        if self._area is None:
            return Window(period_s)
        return SharedWindow(self._area, self._lane, self._key, name, period_s)


class SharedWindow:
    """Counts by key, of the last so many seconds, of all workers."""

    __slots__ = ("_area", "_bases", "_buckets", "_first", "_key", "_last", "_mine", "_name", "_spare", "_step_s")

    def __init__(self, area: SharedFile, lane: int, key: bytes, name: str, period_s: float) -> None:
        self._area = area
        self._mine = lane * LANE
        self._bases = range(0, area.size - LANE + 1, LANE)
        first, slots = next(place for beginning, place in AREAS.items() if name.startswith(beginning))
        self._first = first * SLOT
        self._buckets = slots // BUCKET
        self._key = key
        self._name = name.encode() + b"\0"
        self._step_s = period_s / STEPS
        self._spare: Window | None = None  # what could not be written, in the memory of this worker
        self._last: tuple[str, bytes, int] = ("", b"", 0)  # a key is asked for and counted in one go

    def __len__(self) -> int:
        """Of this process's memory it takes none, as long as the disk has room."""
        return 0 if self._spare is None else len(self._spare)

    def _place(self, key: str) -> tuple[bytes, int]:
        last = self._last
        if last[0] == key and last[1]:
            return last[1], last[2]
        octets = self._name + key.encode("utf-8", "surrogateescape")
        digest = blake2b(octets, digest_size=16, key=self._key).digest()
        at = self._first + int.from_bytes(digest[:4], "little") % self._buckets * BUCKET * SLOT
        self._last = (key, digest, at)
        return digest, at

    def get(self, key: str, now: float) -> int:
        """How many there were, as L{Window} has it."""
        digest, at = self._place(key)
        area, total = self._area, 0
        step = int(now / self._step_s)
        for base in self._bases:
            octets = area.read(base + at, BUCKET * SLOT)
            start = octets.find(digest)
            if start < 0 or start % SLOT:
                continue
            counts = _counts(octets[start : start + SLOT])
            if counts is None or counts[1] > step + STEPS:  # a clock that was set back
                continue
            newest = counts[1]
            for age in range(min(_RING, newest - (step - STEPS) + 1)):
                total += counts[2 + (newest - age) % _RING]
        return total if self._spare is None else total + self._spare.get(key, now)

    def add(self, key: str, now: float) -> None:
        """One more."""
        digest, at = self._place(key)
        at += self._mine
        step = int(now / self._step_s)
        octets = self._area.read(at, BUCKET * SLOT)
        start = octets.find(digest)
        found = _counts(octets[start : start + SLOT]) if start >= 0 and not start % SLOT else None
        if found is None:
            start = _room(octets)
        ring = [0] * _RING
        newest = step
        if found is not None and found[1] <= step + STEPS:
            newest = max(step, found[1])
            for age in range(_RING - (newest - found[1])):
                ring[(found[1] - age) % _RING] = found[2 + (found[1] - age) % _RING]
        ring[newest % _RING] = min(_MOST, ring[newest % _RING] + 1)
        packed = _FORM.pack(digest, newest, *ring)
        # One piece: what another worker reads is as good as always the old slot or the new one.
        if not self._area.write(at + start, (packed + _CRC.pack(zlib.crc32(packed))).ljust(SLOT, b"\0")):
            if self._spare is None:
                self._spare = Window(self._step_s * STEPS)
            self._spare.add(key, now)


def _counts(slot: bytes) -> tuple[int, ...] | None:
    """Digest, newest step and counts; C{None} when they are not whole."""
    if zlib.crc32(slot[: _FORM.size]) != _CRC.unpack_from(slot, _FORM.size)[0]:
        return None
    return _FORM.unpack_from(slot)


def _room(octets: bytes) -> int:
    """Where a new name goes in a bucket: a place that is free, else that of whom was not seen for longest."""
    best, oldest = 0, _MOST + 1
    for start in range(0, BUCKET * SLOT, SLOT):
        counts = _counts(octets[start : start + SLOT])
        if counts is None:
            return start
        if counts[1] < oldest:
            best, oldest = start, counts[1]
    return best
