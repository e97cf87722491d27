"""
The numbers of a channel's copies in one shard, in order, however many there are: 8 octets each.

A walk is taken from the directories and from memory, and a listing reads it page by page. Of a large queue the oldest
copies are taken first (L{Walk.take}: a third of the work), for a listing begins with them and often ends there; all of
them when it goes on (L{Walk.complete}). Every copy that is in the queue from the beginning of the walk to the end of
the listing is in it:

  - what has files when the directories are read is found there, and what is in memory at the end of the reading there;
  - what was in memory and leaves it for its files after that, or moves between chan/ and hold/ meanwhile, is evicted
    from memory first, and the shard tells of it (L{Walk.evicted}).

What a number stands for is looked up when it is shown; those that have gone show nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from qmailpy.queue.ids import is_id, numbers_of, to_id, to_number
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Message

SPLITS = 4
"""Sub-directories read in one go of a thread."""

BUCKET = 50_000
"""Numbers sorted in one go: longer ones would keep the interpreter from everybody else for too long."""

FIRST = 4096
"""Copies that are taken first, about so many: messages spread evenly over the sub-directories, by their birth."""

EVICTED = 100_000
"""Numbers that a walk takes in after its beginning; with more it is taken anew."""


class Walk:
    """One walk; see the module's text."""

    def __init__(self, shard: Shard, channel: str, held: bool | None) -> None:
        """
        @param held: only the copies whose files say that they are held, or are not; those in memory are all taken.
        """
        self.channel = channel
        self._shard = shard
        self._kinds = ("chan", "hold") if held is None else ("hold",) if held else ("chan",)
        self._numbers = array("Q")
        self._above = -1  # known are the numbers above it
        self._bound: int | None = 0  # and below this one; C{None}: all
        self._evicted: set[int] = set()

    async def take(self, above: int = -1) -> None:
        """
        Read the directories for the lowest numbers above C{above}: about L{FIRST} of them, or all when there are few.

        @raise OSError: they cannot be read.
        """
        shard = self._shard
        kind, *others = self._kinds
        groups = self._groups()
        floor = to_id(above, shard.layout.code) if above >= 0 else ""
        bound, names = await shard.in_thread(self._thd_bound, kind, groups[0], floor, FIRST // len(groups))
        if not bound:
            await self.complete()
            return
        for each, at in ((kind, 1), *((one, 0) for one in others)):
            for splits in groups[at:]:
                names += await shard.in_thread(self._thd_between, each, splits, floor, bound)
        end = to_number(bound)
        numbers = {number for number in numbers_of(names) if above < number < end}
        numbers.update(number for number in self._in_memory() if above < number < end)
        self._numbers = array("Q", sorted(numbers))
        self._above, self._bound = above, end

    async def complete(self) -> None:
        """
        Read the directories for all numbers.

        @raise OSError: they cannot be read; what was known is known.
        """
        shard = self._shard
        runs: list[array[int]] = []
        for kind in self._kinds:
            for splits in self._groups():
                runs.append(array("Q", await shard.in_thread(shard.shelf.thd_numbers, kind, self.channel, splits)))
        runs.append(array("Q", sorted(self._in_memory())))
        self._numbers = await shard.in_thread(_thd_merged, runs)
        self._above, self._bound = -1, None

    def _groups(self) -> list[tuple[str, ...]]:
        splits = self._shard.layout.splits
        return [splits[at : at + SPLITS] for at in range(0, len(splits), SPLITS)]

    def _in_memory(self) -> list[int]:
        return [number for number, one in self._shard.state.messages.items() if self.channel in one.copies]

    def _thd_bound(self, kind: str, splits: Sequence[str], floor: str, most: int) -> tuple[str, list[str]]:
        """
        Where to stop, by what some of the sub-directories have.

        @param most: names of these that are taken.
        @return: the first name that is not taken, and these; "": all should be.
        """
        names = sorted(name for name in self._shard.shelf.thd_names(kind, self.channel, splits) if name > floor)
        for bound in names[most : 4 * most]:
            if is_id(bound) and len(names) > 4 * most:
                return bound, names[:most]
        return "", []

    def _thd_between(self, kind: str, splits: Sequence[str], floor: str, bound: str) -> list[str]:
        """The names of some sub-directories above C{floor} and below C{bound}, in no order."""
        names = self._shard.shelf.thd_names(kind, self.channel, splits)
        return [name for name in names if floor < name < bound] if floor else [name for name in names if name < bound]

    def knows(self, number: int, most: int) -> bool:
        """Whether L{after} can tell; else the walk has to be completed."""
        if self._bound is None:
            return True
        if number < self._above:
            return False
        return len(self._numbers) - bisect_right(self._numbers, number) >= most

    def evicted(self, message: Message) -> None:
        """A message of the shard has left memory; called from the making of the walk on."""
        if self.channel in message.copies:
            self._evicted.add(message.number)

    @property
    def overfull(self) -> bool:
        """Whether it should be taken anew."""
        return len(self._evicted) > EVICTED

    def after(self, number: int, most: int) -> list[int]:
        """The next numbers above C{number}, ascending, at most C{most}, when it L{knows} them."""
        at = bisect_right(self._numbers, number)
        found = self._numbers[at : at + most].tolist()
        if self._evicted:
            found = sorted({*found, *(one for one in self._evicted if one > number)})[:most]
        return found


def _thd_merged(runs: list[array[int]]) -> array[int]:
    """The numbers of sorted runs in order, each once."""
    total = sum(map(len, runs))
    step = 500
    sample = sorted(number for run in runs for number in run[::step])
    count = max(1, total // BUCKET)
    bounds = [sample[at * len(sample) // count] for at in range(1, count)]
    places = [[0, *(bisect_left(run, bound) for bound in bounds), len(run)] for run in runs]
    merged: array[int] = array("Q")
    for at in range(count):
        bucket: list[int] = []
        for run, place in zip(runs, places, strict=True):
            bucket.extend(run[place[at] : place[at + 1]])
        bucket.sort()
        merged.extend(dict.fromkeys(bucket))  # the same number is in one bucket only
    return merged
