"""
The owner's side of a lane in HOME/run/counters (layout: L{qmailpy.stats.counters}).

Nothing here raises and nothing waits: without the file, or without room in it, the counts stay in the recorder's
memory and the file is looked for again at most each second. DIAGNOSTICS: one line in the daemon's log when the counters
cannot be kept in the file, one when they can again.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterable

from twisted.logger import Logger

from qmailpy.stats.counters import (
    CHANNEL_OCTETS,
    GENERATION,
    LANE_OCTETS,
    NAME_OCTETS,
    POSITION,
    POSITION_FORM,
    U64,
    Baseline,
    CountersError,
    Mapped,
    Position,
    Sizes,
    create,
    name_at,
    name_octets,
    read_lane,
    store_baseline,
    store_row,
)
from qmailpy.stats.items import Table, zeros

RETRY_S = 1.0
"""The file is looked for, and looked at, so often at most."""


class Lane:
    """One lane, while this process owns the shard of its name. For one thread, but for C{thd_flush}."""

    log = Logger()

    def __init__(self, path: str, name: str, seconds: Callable[[], float], sizes: Sizes | None = None) -> None:
        """
        @param path: HOME/run/counters; its directory exists.
        @param name: the shard's.
        @param seconds: a clock.
        @param sizes: of a file that has to be made.
        """
        self._path = path
        self._name = name
        self._seconds = seconds
        self._new = sizes or Sizes()
        self._mapped: Mapped | None = None
        self._at = 0
        self._places: dict[str, int] = {}
        self._full = False
        self._checked = -RETRY_S * 2
        self._trouble = False
        self._flush = False  # a clear that is not durable yet
        self.baseline: Baseline | None = None

    def open(self) -> None:
        """Take the lane up, to learn its baseline; before the first C{store}."""
        self._guarded(lambda: self._attach({}))

    def close(self) -> None:
        """Let go of the file."""
        self._detach()

    def store(self, table: Table, changed: Iterable[str], position: Position) -> None:
        """
        Bring the lane up to date.

        @param table: all values.
        @param changed: channels whose rows changed since the last call.
        @param position: what of the log the values stand for.
        """
        self._guarded(lambda: self._store(table, changed, position))

    def clear(self, table: Table, position: Position, keep_stored: bool) -> None:
        """
        From now on readers see the values since now. Durable after C{thd_flush}.

        @param keep_stored: all but Stored.
        """
        rows = {channel: list(row) for channel, row in table.items()}
        self.baseline = Baseline(time=self._seconds(), position=position, keep_stored=keep_stored, table=rows)
        self._flush = True

        def write() -> None:
            if self._ready(table):
                self._write_all(table, position)

        self._guarded(write)

    def thd_flush(self) -> None:
        """Make the last clear durable. Blocks."""
        mapped = self._mapped
        if not self._flush or mapped is None:
            return
        try:
            if mapped.whole():
                mapped.map.flush()
            self._flush = False
        except (OSError, ValueError):  # it has just been given up
            return

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, CountersError, ValueError, struct.error) as error:
            self._detach()
            if not self._trouble:
                self._trouble = True
                self.log.warn("the counters file is not kept: {reason}", reason=_reason(error))

    def _store(self, table: Table, changed: Iterable[str], position: Position) -> None:
        attached = self._mapped
        if not self._ready(table):
            return
        mapped = self._mapped
        assert mapped is not None
        if mapped is not attached:
            self._write_all(table, position)
            return
        at = self._at
        area = mapped.map
        generation = U64.unpack_from(area, at + GENERATION)[0] | 1
        area[at + GENERATION : at + GENERATION + 8] = U64.pack(generation)
        for channel in changed:
            row = table.get(channel)
            if row is None:
                continue
            place = self._places.get(channel)
            if place is None:
                place = self._claim_channel(channel)
                if place < 0:
                    continue
            store_row(mapped, at, place, row)
        area[at + POSITION : at + POSITION + 24] = POSITION_FORM.pack(position.sequence, position.file, position.offset)
        area[at + GENERATION : at + GENERATION + 8] = U64.pack(generation + 1)

    def _ready(self, table: Table) -> bool:
        """Whether the file may be touched now; attaches to it when it is time to try."""
        now = self._seconds()
        mapped = self._mapped
        if now - self._checked >= RETRY_S or now < self._checked:
            self._checked = now
            if mapped is not None and not self._genuine(mapped):
                self._detach()
                mapped = None
            if mapped is None:
                self._attach(table)
                mapped = self._mapped
        if mapped is None:
            return False
        if not mapped.whole():  # it would be the end of the process
            self._checked = -RETRY_S * 2
            raise CountersError("the counters file has been truncated")
        return True

    def _genuine(self, mapped: Mapped) -> bool:
        """Whether the path still leads to the mapped file, and the file is still ours."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            return False
        return (
            inode == mapped.inode
            and mapped.whole()
            and mapped.map[: len(mapped.sizes.header())] == mapped.sizes.header()
            and name_at(mapped.map, self._at) == self._name
        )

    def _attach(self, table: Table) -> None:
        try:
            mapped = Mapped(self._path, write=True)
        except FileNotFoundError:
            create(self._path, self._sizes(table))
            mapped = Mapped(self._path, write=True)
        except CountersError:  # not one of ours, or damaged: it holds nothing that we lack
            create(self._path, self._sizes(table), replace=True)
            mapped = Mapped(self._path, write=True)
        try:
            fcntl.flock(mapped.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # against another claim of the same lane
            self._at = self._claim_lane(mapped)
            fcntl.flock(mapped.handle, fcntl.LOCK_UN)
        except BaseException:
            mapped.close()
            raise
        octets = mapped.map[self._at : self._at + mapped.sizes.lane_octets]
        found = read_lane(octets, mapped.sizes.channels)
        self._places = {channel: place for place, channel in enumerate(found.table)}
        self._full = False
        if self.baseline is None:
            self.baseline = found.baseline
        self._mapped = mapped
        if self._trouble:
            self._trouble = False
            self.log.info("the counters file is kept again")

    def _sizes(self, table: Table) -> Sizes:
        new = self._new
        return Sizes(lanes=new.lanes, channels=max(new.channels, len(table)), made=self._seconds())

    def _claim_lane(self, mapped: Mapped) -> int:
        for index in range(mapped.sizes.lanes):
            at = mapped.sizes.lane_at(index)
            name = name_at(mapped.map, at)
            if name == self._name:
                return at
            if not name:
                mapped.map[at : at + NAME_OCTETS] = name_octets(self._name)
                return at
        raise CountersError("the counters file has no room for another lane")

    def _claim_channel(self, channel: str) -> int:
        """A free place for a channel, or -1."""
        mapped = self._mapped
        assert mapped is not None
        place = len(self._places)
        try:
            name = name_octets(channel)
        except ValueError:
            place = mapped.sizes.channels
        if place >= mapped.sizes.channels:
            if not self._full:
                self._full = True
                self.log.warn("the counters file has no room for channel {channel}", channel=channel[:80])
            return -1
        at = self._at + LANE_OCTETS + place * CHANNEL_OCTETS
        mapped.map[at + NAME_OCTETS : at + CHANNEL_OCTETS] = bytes(CHANNEL_OCTETS - NAME_OCTETS)
        mapped.map[at : at + NAME_OCTETS] = name
        self._places[channel] = place
        return place

    def _write_all(self, table: Table, position: Position) -> None:
        mapped = self._mapped
        assert mapped is not None
        at = self._at
        area = mapped.map
        generation = U64.unpack_from(area, at + GENERATION)[0] | 1
        area[at + GENERATION : at + GENERATION + 8] = U64.pack(generation)
        for channel in table:
            if channel not in self._places:
                self._claim_channel(channel)
        baseline = self.baseline or Baseline(table={})
        for channel, place in self._places.items():
            store_row(mapped, at, place, table.get(channel) or zeros())
            store_row(mapped, at, place, baseline.table.get(channel) or zeros(), baseline=True)
        store_baseline(mapped, at, baseline)
        area[at + POSITION : at + POSITION + 24] = POSITION_FORM.pack(position.sequence, position.file, position.offset)
        area[at + GENERATION : at + GENERATION + 8] = U64.pack(generation + 1)

    def store_all(self, table: Table, position: Position) -> None:
        """As C{store}, for everything: after a recovery."""

        def write() -> None:
            if self._ready(table):
                self._write_all(table, position)

        self._guarded(write)

    def _detach(self) -> None:
        mapped, self._mapped = self._mapped, None
        self._places = {}
        if mapped is not None:
            mapped.close()


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
