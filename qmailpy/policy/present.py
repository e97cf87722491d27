"""
Who is here at once, counted over all mail workers of a home.

Each worker counts its own in memory. What may matter to the others it writes into its lane of C{HOME/run/present},
which they only read: slots of 32 octets with a keyed hash of whom it is about, the time the worker was started, the
count, a CRC-32. What a worker left that is gone does not count: it begins its lane anew with another time.

So that the usual client costs nothing, a worker neither tells nor looks while it has no more than a small share of the
limit (a quarter of it, divided among the workers); by as much, together a quarter, a limit may be exceeded. Limits of
less than four times the workers are exact, but for two that look at the same moment.

What fails and how: without the file, or without room in it, a worker counts for itself.
"""

from __future__ import annotations

import os
import struct
import zlib
from hashlib import blake2b

from twisted.logger import Logger

from qmailpy.disk.shared_file import SharedFile
from qmailpy.policy.limits import Present

FILE_NAME = "present"

SLOTS = 16384
BUCKET = 8
SLOT = 32
HEAD = 64
LANE = HEAD + SLOTS * SLOT

_FORM = struct.Struct("<16sQI")
_BEGUN = struct.Struct("<Q")
_CRC = struct.Struct("<I")


class SharedPresent:
    """As L{Present}, with a limit. Several of a worker may share a lane when their names are unlike each other."""

    _log = Logger()

    def __init__(self, path: str, lane: int, lanes: int, key: bytes, begun: int) -> None:
        """
        Called when a worker starts: opens the file where there is one.

        @param path: of the file; it is made when a count first matters.
        @param lane: this worker's, from 0.
        @param lanes: how many workers there are.
        @param key: up to 64 octets, the same in all workers of a home.
        @param begun: when this worker was started, as no other time it was: nanoseconds since the epoch.
        """
        self._path = path
        self._lane = lane
        self._lanes = max(lanes, lane + 1)
        self._key = key
        self._own = Present()
        self._told: set[str] = set()  # names that are in our lane
        self._area: SharedFile | None = None
        self._failed = False
        self._begun = begun
        if self._lanes > 1 and os.path.exists(path):
            self._open()  # so that what was left in our lane does not count any more

    def __len__(self) -> int:
        return len(self._own)

    def add(self, key: str, most: int = 0) -> int:
        """
        One more; how many there are now, as far as they may matter.

        @param most: the limit; 0 = none.
        """
        own = self._own.add(key)
        if not most or self._lanes == 1 or own <= most // (4 * self._lanes):
            return own
        area = self._open()
        if area is None:
            return own
        digest, at = self._place(key)
        self._tell(area, key, digest, at, own)
        return own + self._others(area, digest, at)

    def remove(self, key: str) -> None:
        """One less."""
        left = self._own.remove(key)
        if key in self._told and self._area is not None:
            digest, at = self._place(key)
            self._tell(self._area, key, digest, at, left)

    # Within

    def _open(self) -> SharedFile | None:
        if self._area is None and not self._failed:
            try:
                area = SharedFile(self._path, self._lanes * LANE)
            except OSError as error:
                self._failed = True
                self._log.error("connections at once are counted by each worker for itself: {error}", error=str(error))
                return None
            area.write(self._lane * LANE, _BEGUN.pack(self._begun))
            self._area = area
        return self._area

    def _place(self, key: str) -> tuple[bytes, int]:
        digest = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16, key=self._key).digest()
        return digest, HEAD + int.from_bytes(digest[:4], "little") % (SLOTS // BUCKET) * BUCKET * SLOT

    def _others(self, area: SharedFile, digest: bytes, at: int) -> int:
        total = 0
        for lane in range(self._lanes):
            if lane != self._lane:
                base = lane * LANE
                (begun,) = _BEGUN.unpack(area.read(base, _BEGUN.size))
                octets = area.read(base + at, BUCKET * SLOT)
                start = octets.find(digest)
                if start >= 0 and start % SLOT == 0:
                    total += _count(octets[start : start + SLOT], begun)
        return total

    def _tell(self, area: SharedFile, key: str, digest: bytes, at: int, count: int) -> None:
        """Write our count; where all places are taken by others it is left out."""
        at += self._lane * LANE
        octets = area.read(at, BUCKET * SLOT)
        start = octets.find(digest)
        if start < 0 or start % SLOT:
            free = (one for one in range(0, BUCKET * SLOT, SLOT) if not _count(octets[one : one + SLOT], self._begun))
            start = next(free, -1)
            if start < 0:
                return
        packed = _FORM.pack(digest, self._begun, count)
        # One piece: what another worker reads is as good as always the old slot or the new one.
        area.write(at + start, packed + _CRC.pack(zlib.crc32(packed)))
        if count:
            self._told.add(key)
        else:
            self._told.discard(key)


def _count(slot: bytes, begun: int) -> int:
    """What a slot says, if it is whole and from the worker that is there now."""
    if zlib.crc32(slot[: _FORM.size]) != _CRC.unpack_from(slot, _FORM.size)[0]:
        return 0
    _, when, count = _FORM.unpack_from(slot)
    return int(count) if when == begun else 0
