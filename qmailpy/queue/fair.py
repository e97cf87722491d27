"""
The ready list of one channel: which unit of work goes next.

A unit is some recipients of one message for one destination. What is kept:

 1. No more units are out than the channel's concurrency, nor to one destination than that destination's.
 2. Urgent goes before normal before non-urgent mail, yet of thirteen turns the lower levels get five when they have
    something (L{WEIGHTS}). That holds for the channel and again within each destination, so a destination that never
    runs out of urgent mail still gets its non-urgent mail.
 3. Neither many messages to one destination nor one message to many destinations delays other mail by more than a few
    turns; nor does a destination that has reached its limit.
 4. What is added is handed out exactly once, unless it is removed before.

How 3 is done: destinations take turns in the order of a virtual time (start-time fair queueing). Each level of priority
has one: the key of the lane served last. A lane is what waits for a destination at a level. A message gives each unit
it adds a I{ticket}, one step after its own ticket before, or after the present; so a message to 50,000 destinations has
tickets 1 to 50,000, and a newcomer is never behind more than its first few. A lane that was served comes again one step
later at the earliest, so ten thousand messages to one destination are a row of turns too, and a newcomer to another
destination is never behind more than one of them. A lane's key is the later of the two: that step and the lowest ticket
in it. Which of its messages uses the turn is decided by plain rotation: the lowest ticket brings the lane forward, and
goes on doing so until its own unit has gone. (To serve the lowest ticket's unit itself was tried: then a list whose
destination had been slow for a while held it against every newcomer until it had caught up.)

Every operation takes O(log lanes) time, amortised (L{FairQueue.remove_message}: times the lanes of the message). A heap
entry that no longer counts is dropped when it surfaces, or all of them once they are the majority.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

from attrs import define, field, frozen

from qmailpy.values import Priority

P = TypeVar("P")

WEIGHTS: Final = (8, 4, 1)
"""Turns of urgent, normal and non-urgent mail when all of them wait."""

LIMITS: Final = 10000
"""Destinations whose concurrency is remembered to be other than the channel's."""

_LEVELS: Final = (0, 1, 2)
_NEW, _WAITING, _BUSY, _OVER = range(4)
_SLACK: Final = 64  # stale entries that are not worth a clean-up


@define(eq=False)
class Unit(Generic[P]):
    """One piece of work; compared by identity. Only the queue changes it, and only its state."""

    number: int  # the message
    destination: str  # next-hop domain or host; "" where there is no such thing
    priority: Priority  # the same in all units of a message
    payload: P
    _state: int = field(default=_NEW, init=False, repr=False)

    @property
    def waiting(self) -> bool:
        """Whether it was added and not yet handed out or removed."""
        return self._state == _WAITING


@frozen(kw_only=True)
class DestinationLoad:
    """What one destination has, for display and for feedback."""

    name: str
    waiting: int  # units
    busy: int  # units
    limit: int  # units at once; 0 = none


class _Lane(Generic[P]):
    """What waits for one destination at one level."""

    __slots__ = ("destination", "earliest", "entry", "level", "messages", "tickets", "waiting")

    def __init__(self, destination: _Destination[P], level: int) -> None:
        self.destination = destination
        self.level = level
        self.waiting = 0  # units
        self.messages: OrderedDict[int, deque[Unit[P]]] = OrderedDict()  # in the order of rotation; no empty ones
        self.tickets: list[tuple[int, int, Unit[P]]] = []  # heap; those of units that have gone are dropped in time
        self.earliest = 0  # virtual time before which the lane may not come again
        self.entry: tuple[int, int, _Lane[P]] | None = None  # the one that counts in the level's heap

    def key(self) -> int:
        """The virtual time of its next turn; for a lane with something waiting."""
        tickets = self.tickets
        while not tickets[0][2].waiting:
            heappop(tickets)
        return max(self.earliest, tickets[0][0])


class _Destination(Generic[P]):
    """A destination with something waiting or out."""

    __slots__ = ("busy", "credit", "lanes", "limit", "name", "waiting")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.busy = 0
        self.waiting = 0
        self.lanes: list[_Lane[P] | None] = [None, None, None]
        self.credit: list[int] | None = None  # turns left of each level; made when two levels compete

    def full(self) -> bool:
        """Whether it has as much as it may have."""
        return 0 < self.limit <= self.busy


class _Message(Generic[P]):
    """A message with something waiting."""

    __slots__ = ("lanes", "ticket")

    def __init__(self) -> None:
        self.ticket = 0  # the last one it handed out
        self.lanes: dict[_Lane[P], None] = {}  # where it waits


class _Level(Generic[P]):
    """One level of priority: its lanes in the order of their keys, and its virtual time."""

    __slots__ = ("heap", "live", "now", "tie")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, _Lane[P]]] = []
        self.now = 0
        self.tie = 0  # first come, first served among equal keys; also keeps lanes out of comparisons
        self.live = 0  # entries that count

    def place(self, lane: _Lane[P]) -> None:
        """Give the lane an entry for its present key; a former one no longer counts."""
        if lane.entry is None:
            self.live += 1
        self.tie += 1
        entry = (lane.key(), self.tie, lane)
        lane.entry = entry
        heappush(self.heap, entry)
        if len(self.heap) > 2 * self.live + _SLACK:
            self.heap = [one for one in self.heap if one[2].entry is one]
            heapify(self.heap)

    def forget(self, lane: _Lane[P]) -> None:
        """The lane's entry, if any, no longer counts."""
        if lane.entry is not None:
            lane.entry = None
            self.live -= 1

    def first(self) -> _Lane[P] | None:
        """The lane whose turn it is; those of full destinations are put aside until L{FairQueue} places them again."""
        heap = self.heap
        while heap:
            entry = heap[0]
            lane = entry[2]
            if lane.entry is entry:
                if not lane.destination.full():
                    return lane
                self.forget(lane)
            heappop(heap)
        return None


class FairQueue(Generic[P]):
    """The ready list. L{add}, L{next} until it has nothing, L{done} for each unit that was handed out."""

    def __init__(self, *, concurrency: int, destination_concurrency: int = 0, waiting_limit: int = 0) -> None:
        """
        @param concurrency: units out at once; 0 = none, the channel is on hold.
        @param destination_concurrency: units out at once to one destination; 0 = no such limit (channels where the
            destination means nothing).
        @param waiting_limit: units of one destination that L{overflow} lets wait here; 0 = any number.
        """
        self.concurrency = concurrency
        self.destination_concurrency = destination_concurrency
        self.waiting_limit = waiting_limit
        self.busy = 0  # units that are out
        self._waiting = 0
        self._levels: tuple[_Level[P], ...] = tuple(_Level() for _ in _LEVELS)
        self._credit = list(WEIGHTS)
        self._destinations: dict[str, _Destination[P]] = {}  # those with something waiting or out
        self._messages: dict[int, _Message[P]] = {}  # those with something waiting
        self._limits: dict[str, int] = {}  # destinations whose limit was adjusted

    def __len__(self) -> int:
        """Units that wait."""
        return self._waiting

    def add(self, unit: Unit[P]) -> None:
        """
        Let a unit wait for its turn.

        @raise ValueError: it was added before.
        """
        if unit._state != _NEW:
            raise ValueError("a unit is added once")
        unit._state = _WAITING
        destination = self._destinations.get(unit.destination)
        if destination is None:
            name = unit.destination
            destination = _Destination(name, self._limits.get(name, self.destination_concurrency))
            self._destinations[name] = destination
        number, level_number = unit.number, int(unit.priority)
        level = self._levels[level_number]
        lane = destination.lanes[level_number]
        if lane is None:
            lane = destination.lanes[level_number] = _Lane(destination, level_number)
        message = self._messages.get(number)
        if message is None:
            message = self._messages[number] = _Message()
        ticket = message.ticket = max(level.now, message.ticket) + 1
        units = lane.messages.get(number)
        if units is None:
            lane.messages[number] = deque((unit,))
            message.lanes[lane] = None
        else:
            units.append(unit)
        level.tie += 1
        heappush(lane.tickets, (ticket, level.tie, unit))
        if len(lane.tickets) > 2 * lane.waiting + _SLACK:
            lane.tickets = [one for one in lane.tickets if one[2].waiting]
            heapify(lane.tickets)
        lane.waiting += 1
        destination.waiting += 1
        self._waiting += 1
        if lane.entry is None:
            if not destination.full():
                self._revive(lane)
        elif max(ticket, lane.earliest) < lane.entry[0]:
            level.place(lane)  # the newcomer brings the lane forward

    def next(self) -> Unit[P] | None:
        """
        The unit to start now, which counts as out until L{done}; C{None} when none may start.

        Called whenever a unit was added or done.
        """
        if self.busy >= self.concurrency or not self._waiting:
            return None
        turn = self._turn()
        if turn is None:
            return None
        destination = turn.destination
        level = self._levels[turn.level]
        assert turn.entry is not None
        level.now = turn.entry[0]
        turn.earliest = level.now + 1
        lane = self._lane_of(destination, turn)
        unit = self._take(lane)
        destination.busy += 1
        self.busy += 1
        level.forget(turn)
        if turn.waiting and not destination.full():
            level.place(turn)
        return unit

    def done(self, unit: Unit[P]) -> None:
        """
        Take back a unit whatever became of it; a further attempt is a new unit.

        @raise ValueError: it is not out.
        """
        if unit._state != _BUSY:
            raise ValueError("only a unit that is out can be done")
        unit._state = _OVER
        self.busy -= 1
        destination = self._destinations[unit.destination]
        was_full = destination.full()
        destination.busy -= 1
        if destination.waiting:
            if was_full and not destination.full():
                self._revive_all(destination)
        elif not destination.busy:
            self._drop(destination)

    def remove_message(self, number: int) -> list[Unit[P]]:
        """
        Take out what waits of a message; what is out stays out.

        @return: the units that will not be handed out, in no particular order.
        """
        message = self._messages.pop(number, None)
        if message is None:
            return []
        removed: list[Unit[P]] = []
        for lane in message.lanes:
            units = lane.messages.pop(number)
            removed += units
            for unit in units:
                unit._state = _OVER
            lane.waiting -= len(units)
            destination = lane.destination
            destination.waiting -= len(units)
            if not lane.waiting:
                lane.tickets.clear()
                self._levels[lane.level].forget(lane)
                if not destination.waiting and not destination.busy:
                    self._drop(destination)
        self._waiting -= len(removed)
        return removed

    def waiting_of(self, number: int) -> list[Unit[P]]:
        """What waits of a message, in no particular order."""
        message = self._messages.get(number)
        return [unit for lane in message.lanes for unit in lane.messages[number]] if message is not None else []

    def numbers(self) -> list[int]:
        """The messages with something waiting."""
        return list(self._messages)

    @property
    def messages(self) -> int:
        """Messages with something waiting."""
        return len(self._messages)

    def set_limit(self, destination: str, limit: int | None) -> None:
        """
        Adjust the concurrency of one destination; units beyond a lowered limit are not called back.

        @param limit: units at once, at least 1; C{None} = back to the channel's.
        """
        if limit is None:
            self._limits.pop(destination, None)
            limit = self.destination_concurrency
        else:
            if len(self._limits) >= LIMITS and destination not in self._limits:
                del self._limits[
                    next(iter(self._limits))
                ]  # adjusted longest ago; back to the channel's when it is empty
            limit = self._limits[destination] = max(limit, 1)
        found = self._destinations.get(destination)
        if found is not None:
            was_full = found.full()
            found.limit = limit
            if was_full and not found.full():
                self._revive_all(found)

    def overflow(self, destination: str) -> bool:
        """Whether so much of a destination waits that further units had better be left on disk for now."""
        if not self.waiting_limit:
            return False
        found = self._destinations.get(destination)
        return found is not None and found.waiting >= self.waiting_limit

    def destinations(self) -> Iterator[DestinationLoad]:
        """The destinations with something waiting or out; nothing may be changed while walking over them."""
        for found in self._destinations.values():
            yield DestinationLoad(name=found.name, waiting=found.waiting, busy=found.busy, limit=found.limit)

    def load(self, destination: str) -> DestinationLoad:
        """What one destination has, zeros when nothing."""
        found = self._destinations.get(destination)
        if found is None:
            limit = self._limits.get(destination, self.destination_concurrency)
            return DestinationLoad(name=destination, waiting=0, busy=0, limit=limit)
        return DestinationLoad(name=destination, waiting=found.waiting, busy=found.busy, limit=found.limit)

    def _drop(self, destination: _Destination[P]) -> None:
        """Nothing of it waits or is out. Most messages end so: what is left of one must not need the collector."""
        del self._destinations[destination.name]
        destination.lanes.clear()  # which know their destination

    def _turn(self) -> _Lane[P] | None:
        """The lane whose turn it is, by the levels' shares."""
        credit = self._credit
        spent: tuple[int, _Lane[P]] | None = None
        for level in _LEVELS:
            lane = self._levels[level].first()
            if lane is None:
                continue
            if credit[level]:
                credit[level] -= 1
                return lane
            if spent is None:
                spent = level, lane
        if spent is None:
            return None
        credit[:] = WEIGHTS
        credit[spent[0]] -= 1
        return spent[1]

    def _lane_of(self, destination: _Destination[P], turn: _Lane[P]) -> _Lane[P]:
        """
        Which lane of the destination uses the turn of C{turn}.

        It is another one when its share of the destination's turns is due: otherwise a destination at its limit would
        give every place that becomes free to its urgent mail.
        """
        waiting = [lane for lane in destination.lanes if lane is not None and lane.waiting]
        if len(waiting) == 1:
            return turn
        credit = destination.credit
        if credit is None or not any(credit[lane.level] for lane in waiting):
            credit = destination.credit = list(WEIGHTS)
        chosen = turn if credit[turn.level] else next(lane for lane in waiting if credit[lane.level])
        credit[chosen.level] -= 1
        return chosen

    def _take(self, lane: _Lane[P]) -> Unit[P]:
        """The next unit of a lane that has one: the messages of the lane take turns."""
        number, units = lane.messages.popitem(last=False)
        unit = units.popleft()
        unit._state = _BUSY
        if units:
            lane.messages[number] = units
        else:
            message = self._messages[number]
            del message.lanes[lane]
            if not message.lanes:
                del self._messages[number]
        lane.waiting -= 1
        lane.destination.waiting -= 1
        self._waiting -= 1
        if not lane.waiting:
            lane.tickets.clear()
            self._levels[lane.level].forget(lane)
        return unit

    def _revive(self, lane: _Lane[P]) -> None:
        """Place a lane that is not in its level's heap. It has no claim to turns that went by meanwhile."""
        level = self._levels[lane.level]
        lane.earliest = max(lane.earliest, level.now)
        level.place(lane)

    def _revive_all(self, destination: _Destination[P]) -> None:
        for lane in destination.lanes:
            if lane is not None and lane.waiting and lane.entry is None:
                self._revive(lane)
