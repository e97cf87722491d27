"""
Getting to know the mail that has left the journal, after a start, while business goes on.

Walks chan/ in slices from a thread: each copy gets its entry in a due list, 56 octets of memory, and 8 more for its
next delay notice. Then it removes what a crash has left over of messages that were never acknowledged. Only numbers
below the watermark are looked at: everything above it was born after the start and is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from qmailpy.queue.shard import Shard

SLICE = 500

Times = tuple[float, int, float]


class Listing:
    """One walk over the directories of a shard."""

    _log = Logger()

    def __init__(
        self, shard: Shard, watermark: int, known: Collection[int], found: Callable[[str, int, Times], None]
    ) -> None:
        """
        @param known: numbers that recovery has taken up, or knows to be finished.
        @param found: called with channel, number, and what C{Shelf.thd_times} tells.
        """
        self._shard = shard
        self._watermark = watermark
        self._known = known
        self._found = found
        self.messages = 0  # copies listed so far
        self.removed = 0
        self.complete = False
        self._done: set[tuple[str, str]] = set()  # channels and sub-directories

    def run(self) -> Deferred[None]:
        """
        Fires when everything is listed; fails with OSError when a directory cannot be read. Run again it goes on with
        what is left.
        """
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        layout, in_thread = self._shard.layout, self._shard.in_thread
        trouble: OSError | None = None
        for channel in sorted(await in_thread(self._shard.files.listdir, f"{layout.root}/chan")):
            for split in layout.splits:
                if (channel, split) not in self._done:
                    try:
                        await self._list(channel, split)
                    except OSError as problem:  # the others are listed all the same
                        trouble = problem
                        continue
                    self._done.add((channel, split))
        self._report()
        if trouble is not None:
            raise trouble
        for kind in ("info", "mess"):
            await self._sweep(kind)
        self._report()
        self.complete = True
        self._known = frozenset()

    async def _list(self, channel: str, split: str) -> None:
        """One sub-directory, all of it or nothing."""
        in_thread = self._shard.in_thread
        numbers = await in_thread(self._shard.shelf.thd_numbers, "chan", channel, [split])
        for at in range(0, len(numbers), SLICE):
            for number, times in await in_thread(self._thd_slice, numbers[at : at + SLICE], channel):
                # Also one that is in memory by now: it was brought there for another copy, or by an operator, and has
                # no entry yet. One entry too many does no harm.
                self._found(channel, number, times)
                self.messages += 1
            self._shard.tell_of_aside()

    def _thd_slice(self, numbers: list[int], channel: str) -> list[tuple[int, Times]]:
        entries = []
        for number in numbers:
            if number < self._watermark and number not in self._known:
                try:
                    times = self._shard.shelf.thd_times(channel, number)
                except OSError:
                    times = (0.0, 0, 0.0)  # whoever wants to try it finds out, again and again
                if times is not None:
                    entries.append((number, times))
        return entries

    async def _sweep(self, kind: str) -> None:
        """Remove files of messages that nothing else tells of."""
        in_thread = self._shard.in_thread
        walk = self._shard.shelf.thd_scan(kind, "")
        while True:
            numbers, ended = await in_thread(self._thd_leftovers, walk, kind)
            # Between the look and the removal nothing below the watermark that is not in memory can come to life.
            orphans = [number for number in numbers if number not in self._shard.state.messages]
            if orphans:
                self.removed += await in_thread(self._thd_remove, orphans, kind)
            if ended:
                return

    def _thd_leftovers(self, walk: Iterator[int], kind: str) -> tuple[list[int], bool]:
        numbers = list(islice(walk, SLICE))
        return [
            number
            for number in numbers
            if number < self._watermark and number not in self._known and self._shard.shelf.thd_orphan(kind, number)
        ], len(numbers) < SLICE

    def _thd_remove(self, numbers: list[int], kind: str) -> int:
        removed = 0
        for number in numbers:
            if self._shard.shelf.thd_orphan(kind, number):
                self._shard.shelf.thd_remove(number)
                removed += 1
        return removed

    def _report(self) -> None:
        if self.messages or self.removed:
            self._log.info(
                "queue shard {root}: {messages} waiting message copies listed, {removed} leftovers removed",
                root=self._shard.layout.root,
                messages=self.messages,
                removed=self.removed,
            )
        self._shard.tell_of_aside()
