"""
The mail of one channel that waits for its time, as numbers: when it is due it is made ready from memory, or read from
its files first, a few at a time and no more than there is room for.

What cannot be read waits a minute more, by itself: the others of its batch need not wait for it. What an operator has
hurried is taken before what is due.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.queue.due import DueList
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Message
from qmailpy.queue.wakeup import Wakeup

LOADING: Final = 100
"""Messages read from their files at once."""

TELL_S: Final = 5.0
"""Between lines of the log about mail that cannot be read."""

AGAIN_S: Final = 60.0
"""When it is read again."""


class Due(Protocol):
    """What is done with a message that is due."""

    def __call__(self, message: Message, now: float, hurried: bool) -> None:
        """@param hurried: whatever its schedule says."""


class Waiting:
    """
    What waits of one channel in one shard.

    @ivar due: the entries, each for its time.
    @ivar hurried: numbers that are due though their messages say later: run by hand.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        shard: Shard,
        clock: IReactorTime,
        seconds: Callable[[], float],
        room: Callable[[], int],
        resting: Callable[[], bool],
        take: Due,
        pump: Callable[[], None],
    ) -> None:
        """
        @param name: the channel's, for messages.
        @param clock: timers.
        @param seconds: wall clock.
        @param room: how many more may be ready.
        @param resting: whether nothing of the channel is tried now.
        @param take: makes ready what is due.
        @param pump: starts what is ready.
        """
        self.due = DueList()
        self.hurried: array[int] = array("Q")
        self._name = name
        self._shard = shard
        self._seconds = seconds
        self._room = room
        self._resting = resting
        self._take = take
        self._pump = pump
        self._wakeup = Wakeup(clock, seconds, self._ring)
        self._loading = 0
        self._unreadable = 0.0  # when it may be told again that mail cannot be read

    def push(self, when: float, number: int) -> None:
        """An entry for a message, which need not be in memory."""
        self.due.push(max(when, 0.0), number)
        self.arm()

    def hurry(self, numbers: Iterable[int]) -> None:
        """These messages are due at the next refill."""
        self.hurried.extend(numbers)

    def hurry_all(self) -> None:
        """All that has an entry is."""
        self.hurried.extend(self.due.take_all())

    def arm(self) -> None:
        """See to it that it is looked again when something is due; also when the time of day was set."""
        earliest = 0.0 if self.hurried else self.due.earliest()
        if earliest is not None and not self._resting():
            self._wakeup.at(earliest)

    def _ring(self) -> None:
        self.refill()
        self._pump()

    def refill(self) -> None:
        """Take what is due from the list, as far as there is room."""
        if self._resting():
            return
        room = min(self._room(), LOADING - self._loading)
        if room < LOADING // 2:
            return  # whoever makes room calls again
        now = self._seconds()
        hurried = [self.hurried.pop() for _ in range(min(room, len(self.hurried)))]
        self.take_up(hurried, now, hurried=True)
        self.take_up(self.due.pop_due(now, room - len(hurried)), now)
        self.arm()

    def take_up(self, numbers: list[int], now: float, hurried: bool = False) -> None:
        """Make these ready, who have no entry any more; those that are not in memory once they are."""
        to_load: list[int] = []
        for number in numbers:
            message = self._shard.state.messages.get(number)
            if message is None:
                to_load.append(number)
            else:
                self._take(message, now, hurried)
        if to_load:
            self._loading += len(to_load)
            self._shard.load(to_load).addBoth(self._loaded, to_load, hurried)

    def _loaded(self, result: list[Message] | Failure, numbers: list[int], hurried: bool) -> None:
        self._loading -= len(numbers)
        now = self._seconds()
        if isinstance(result, Failure):
            if len(numbers) > 1:  # one of them may be the trouble; the others need not wait for it
                self._loading += len(numbers)
                for number in numbers:
                    self._shard.load([number]).addBoth(self._loaded, [number], hurried)
                return
            if now >= self._unreadable:
                self._unreadable = now + TELL_S
                self._log.error(
                    "channel {name}: cannot read queued mail: {problem}", name=self._name, problem=result.value
                )
            self.push(now + AGAIN_S, numbers[0])
        else:
            for message in result:
                self._take(message, now, hurried)
        self.refill()
        self._pump()

    def end(self) -> None:
        """Ring no more."""
        self._wakeup.cancel()
