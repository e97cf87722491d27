"""
Where the brake on guessing keeps what it counts: in memory, or in a file that all processes of a home look into.

The file is C{HOME/run/logins}. Each process has a lane of it, which it alone writes; what is counted against somebody
is the sum over all lanes. Nothing is locked, nobody waits for anybody. A lane is three areas, one a kind, of L{SLOTS}
slots of 64 octets: a keyed hash of the name (whose key no client knows, so that nobody chooses his neighbours), a
L{Mark}, a CRC-32. A name may be in any slot of its bucket of eight; where all are taken, the oldest makes room. So
memory is bounded whatever clients do: 1.5 MiB a lane.

What fails and how: a slot that is being written while another process looks is no slot for that moment (its CRC does
not fit). The file is as good as its last moments: it is never synced, and one that is gone is made anew. What a full
disk has no room for is kept in the memory of whoever counts it.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from hashlib import blake2b
from typing import Protocol

from attrs import frozen

from qmailpy.disk.shared_file import SharedFile

KINDS = ("client", "account", "good")
"""Counted against a client; against an account; an account that was used from a client with the right password."""

SLOTS = 8192
BUCKET = 8
SLOT = 64
_AREA = SLOTS * SLOT
LANE = len(KINDS) * _AREA
_FORM = struct.Struct("<16sdddd")
_CRC = struct.Struct("<I")


@frozen
class Mark:
    """What is known of one name; times are seconds of the same clock in all processes."""

    points: float = 0.0  # failures, fading since C{when}
    when: float = 0.0
    until: float = 0.0  # shut out until then
    cleared: float = 0.0  # what was counted before does not count any more


class Marks(Protocol):
    """One lane."""

    def get(self, kind: str, name: str) -> Mark | None:
        """What is known of a name."""

    def put(self, kind: str, name: str, mark: Mark) -> None:
        """Remember it."""


class MemoryMarks:
    """Of this process alone."""

    def __init__(self, entries: int) -> None:
        """@param entries: most names a kind; the oldest go first."""
        self._most = entries
        self._kept: dict[str, OrderedDict[str, Mark]] = {kind: OrderedDict() for kind in KINDS}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def get(self, kind: str, name: str) -> Mark | None:
        return self._kept[kind].get(name)

    def put(self, kind: str, name: str, mark: Mark) -> None:
        kept = self._kept[kind]
        kept.pop(name, None)
        kept[name] = mark
        while len(kept) > self._most:
            kept.popitem(last=False)

    def drop(self, kind: str, name: str) -> None:
        """Forget it."""
        self._kept[kind].pop(name, None)


class SharedMarks:
    """A lane of the file."""

    def __init__(self, area: SharedFile, lane: int, key: bytes) -> None:
        """
        @param area: the file; see L{thd_open}.
        @param lane: from 0.
        @param key: up to 64 octets, the same in all processes of a home.
        """
        self._area = area
        self._base = lane * LANE
        self._key = key
        self._spare: MemoryMarks | None = None  # what could not be written

    def get(self, kind: str, name: str) -> Mark | None:
        if self._spare is not None and (kept := self._spare.get(kind, name)) is not None:
            return kept
        digest, at = self._place(kind, name)
        octets = self._area.read(at, BUCKET * SLOT)
        for start in range(0, BUCKET * SLOT, SLOT):
            if octets.startswith(digest, start):
                return _mark(octets[start : start + SLOT])
        return None

    def put(self, kind: str, name: str, mark: Mark) -> None:
        digest, at = self._place(kind, name)
        octets = self._area.read(at, BUCKET * SLOT)
        best, oldest = 0, float("inf")
        for start in range(0, BUCKET * SLOT, SLOT):
            if octets.startswith(digest, start):
                best = start
                break
            found = _mark(octets[start : start + SLOT])
            age = 0.0 if found is None else max(found.when, found.until, found.cleared)
            if age < oldest:
                best, oldest = start, age
        packed = _FORM.pack(digest, mark.points, mark.when, mark.until, mark.cleared)
        # One piece: what another process reads is as good as always the old slot or the new one.
        written = self._area.write(at + best, (packed + _CRC.pack(zlib.crc32(packed))).ljust(SLOT, b"\0"))
        if written and self._spare is not None:
            self._spare.drop(kind, name)
        elif not written:
            if self._spare is None:
                self._spare = MemoryMarks(SLOTS)
            self._spare.put(kind, name, mark)

    def _place(self, kind: str, name: str) -> tuple[bytes, int]:
        octets = name.encode("utf-8", "surrogateescape")
        digest = blake2b(octets, digest_size=16, key=self._key, person=kind.encode()).digest()
        bucket = int.from_bytes(digest[:4], "little") % (SLOTS // BUCKET)
        return digest, self._base + KINDS.index(kind) * _AREA + bucket * BUCKET * SLOT


def _mark(slot: bytes) -> Mark | None:
    packed = slot[: _FORM.size]
    if zlib.crc32(packed) != _CRC.unpack_from(slot, _FORM.size)[0]:
        return None
    return Mark(*_FORM.unpack(packed)[1:])


def thd_open(path: str, lanes: int) -> SharedFile:
    """
    Open the file, made or made longer where needed.

    @param lanes: how many there are to be at least.
    @raise OSError: it cannot be had.
    """
    return SharedFile(path, lanes * LANE)
