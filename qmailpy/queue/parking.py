"""
Mail for a destination that has too many ready ones already: nothing but numbers, 8 octets a message, until it has few.

A parked copy is due; it counts as waiting (C{Copy.waiting}) but has no entry in the due list, where it would be popped
and found in the way again and again while others wait behind it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from qmailpy.queue.fair import FairQueue

PARKED_S: Final = 15.0
"""
How often it is looked whether a destination has few again though no end of an attempt has shown it; how long a copy for
several destinations, which is not parked, waits for the one that has too many.
"""


class Parking:
    """
    The parked mail of one channel in one shard.

    @ivar by_host: destination: numbers of messages whose copy is for it alone, the longest parked first; none empty.
    """

    def __init__(
        self,
        *,
        fair: FairQueue[tuple[int, ...]],
        few: int,
        clock: IReactorTime,
        resting: Callable[[], bool],
        take_up: Callable[[list[int]], None],
        pump: Callable[[], None],
    ) -> None:
        """
        @param few: units of a destination that are left when parked ones come back, as many again.
        @param resting: whether nothing of the channel is tried now.
        @param take_up: makes messages ready that are due.
        @param pump: starts what may be started.
        """
        self.by_host: dict[str, array[int]] = {}
        self._fair = fair
        self._few = few
        self._clock = clock
        self._resting = resting
        self._take_up = take_up
        self._pump = pump
        self._timer: IDelayedCall | None = None
        self._ended = False

    def park(self, host: str, number: int) -> None:
        """A copy for a destination that has too many ready ones comes back when it has few."""
        self.by_host.setdefault(host, array("Q")).append(number)
        if self._timer is None and not self._ended:
            self._timer = self._clock.callLater(PARKED_S, self._look)

    def started(self) -> None:
        """The channel goes on."""
        if self.by_host and self._timer is None:
            self._look()

    def _look(self) -> None:
        """Should nobody be out for a destination whose end would bring them back: an operator took the others away."""
        self._timer = None
        if self._resting():
            return
        self.unpark_some()
        self._pump()
        if self.by_host and self._timer is None:
            self._timer = self._clock.callLater(PARKED_S, self._look)

    def unpark_some(self) -> None:
        """Bring back what may come back, of each destination."""
        for host in list(self.by_host):
            self.unpark(host)

    def unpark(self, host: str) -> None:
        """Bring back some of a destination's, if it has few ready ones."""
        parked = self.by_host.get(host)
        if parked is None or self._fair.load(host).waiting > self._few:
            return
        back, rest = parked[: self._few], parked[self._few :]
        if rest:
            self.by_host[host] = rest
        else:
            del self.by_host[host]
        self._take_up(back.tolist())

    def take_all(self) -> Iterable[array[int]]:
        """Take out all numbers: for a channel that is run now."""
        parked, self.by_host = self.by_host, {}
        return parked.values()

    def end(self) -> None:
        """Look no more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
