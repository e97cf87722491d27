"""
The numbers of a channel's copies in one shard, in order, however many there are: 8 octets each.

A walk is taken once, from the directories and from memory, and a listing reads it page by page. Every copy that is in
the queue from the beginning of the walk to the end of the listing is in it:

  - what has files when the directories are read is found there, and what is in memory at the end of the reading there;
  - what was in memory and leaves it for its files after that, or moves between chan/ and hold/ meanwhile, is evicted
    from memory first, and the shard tells of it (L{Walk.evicted}).

What a number stands for is looked up when it is shown; those that have gone show nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Message

SPLITS = 4
"""Sub-directories read in one go of a thread."""

BUCKET = 50_000
"""Numbers sorted in one go: longer ones would keep the interpreter from everybody else for too long."""

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
        self._evicted: set[int] = set()

    async def take(self) -> None:
        """
        Read the directories.

        @raise OSError: they cannot be read.
        """
        shard = self._shard
        runs: list[array[int]] = []
        for kind in self._kinds:
            for at in range(0, len(shard.layout.splits), SPLITS):
                splits = shard.layout.splits[at : at + SPLITS]
                runs.append(array("Q", await shard.in_thread(shard.shelf.thd_numbers, kind, self.channel, splits)))
        messages = shard.state.messages
        runs.append(array("Q", sorted(number for number, one in messages.items() if self.channel in one.copies)))
        self._numbers = await shard.in_thread(_thd_merged, runs)

    def evicted(self, message: Message) -> None:
        """A message of the shard has left memory; called from the making of the walk on."""
        if self.channel in message.copies:
            self._evicted.add(message.number)

    @property
    def overfull(self) -> bool:
        """Whether it should be taken anew."""
        return len(self._evicted) > EVICTED

    def after(self, number: int, most: int) -> list[int]:
        """The next numbers above C{number}, ascending, at most C{most}."""
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
