"""
Delay notices by age: a sender hears of mail that waits, whether or not anything is tried meanwhile. The channel may be
stopped, its destination slow, its turn far away.

A copy gets an entry when it comes to wait, never on its way out at a first attempt; what is ready for long gets one,
too (L{SCAN_S}). An entry is a number in a L{CoarseList}, 8 octets. When it is ripe its message is loaded and the ages
looked at: told of, entered again, or let go of. C{Copy.watched} says that a copy has an entry, or needs none.

Where an attempt is due as well it comes first, and the notice with it (queue.verdicts), or soon after (L{GRACE_S}): it
may well succeed. So it is after a start, for what became overdue while nothing ran (L{QUIET_S}).

Notice and W are one record, as beside an attempt: after a crash there are both or neither. C{Copy.telling} keeps the
two ways apart, and the message in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from errno import EIO
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from qmailpy.queue.deadline import next_warning
from qmailpy.queue.due import CoarseList, DueList
from qmailpy.queue.fair import FairQueue, Unit
from qmailpy.queue.ids import born
from qmailpy.queue.journal import JournalBroken
from qmailpy.queue.retry import SPREAD_S
from qmailpy.queue.settling import Settling
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.verdicts import UNTOLD_S, Settlement
from qmailpy.queue.wakeup import Wakeup

GRACE_S: Final = 30.0
"""How long a notice waits for an attempt that is due at the same time."""

QUIET_S: Final = SPREAD_S + GRACE_S
"""How long after a start it is tried first what has been overdue since before."""

PATIENCE_S: Final = QUIET_S + 10 * GRACE_S
"""How long after its age, or a start, a notice may wait for others of its copy to be recorded."""

SCAN_S: Final = 15.0
"""How often mail that is ready and has no entry gets one."""

AGAIN_S: Final = 60.0
"""When to look again at what cannot be read, or has no room in the journal."""

BATCH: Final = 50
"""Messages that are looked at at once; those of the next batch when these are over."""

_SLICE: Final = 5000


class Watch:
    """The delay notices of one channel in one shard that no attempt brings."""

    _log = Logger()

    def __init__(
        self,
        *,
        name: str,
        shard: Shard,
        settling: Settling,
        fair: FairQueue[tuple[int, ...]],
        out: Mapping[Unit[tuple[int, ...]], object],
        due: DueList,
        clock: IReactorTime,
        seconds: Callable[[], float],
        stopped: Callable[[], bool],
    ) -> None:
        """
        @param out: by what is being tried.
        @param stopped: whether nothing of the channel is tried.
        """
        self._name = name
        self._shard = shard
        self._settling = settling
        self._fair = fair
        self._out = out
        self._due = due
        self._clock = clock
        self._seconds = seconds
        self._stopped = stopped
        self._list = CoarseList()
        self._began = seconds()
        self._wakeup = Wakeup(clock, seconds, self._ring)
        self._scan: IDelayedCall | None = None
        self._working = False
        self._ended = False
        self._ages = self._warn_s()

    def __len__(self) -> int:
        """Entries, of mail that has gone meanwhile too."""
        return len(self._list)

    # --- entries ---------------------------------------------------------------------------------------------

    def push(self, message: Message, copy: Copy) -> None:
        """A copy waits that has no entry."""
        copy.watched = True
        when = next_warning(message.envelope, self._ages, copy.warned)
        if when is not None:
            self._enter(when, message.number)

    def listed(self, number: int, warned: int, patience: float) -> None:
        """
        A copy waits of which the files tell this much; not later than its next notice it is looked at.

        @param warned: C{Copy.warned}.
        @param patience: C{Copy.patience}.
        """
        birth, now = born(number), self._seconds()
        # Among the ages that were passed may have been the sender's own: the position in ours is a lower bound only.
        times = [birth + age for at, age in enumerate(self._ages) if at >= warned or birth + age > now][:1]
        if patience > now or (patience and not warned):
            times.append(patience)
        if times:
            self._enter(min(times), number)

    def ready(self) -> None:
        """There is mail that is ready and does not go out at once."""
        if self._scan is None and not self._ended:
            self._scan = self._clock.callLater(SCAN_S, self._look_at_ready)

    def _look_at_ready(self) -> None:
        self._scan = None
        messages = self._shard.state.messages
        for number in self._fair.numbers():
            message = messages.get(number)
            copy = message.copies.get(self._name) if message is not None else None
            if message is not None and copy is not None and not copy.watched:
                self.push(message, copy)
        if len(self._fair):
            self.ready()

    def started(self) -> None:
        """The channel goes on: what is overdue is tried first."""
        self._began = self._seconds()

    def clock_set(self) -> None:
        """The time of day is another."""
        self._arm()

    def reconfigured(self, others: Sequence[array[int]]) -> None:
        """
        Perhaps at other ages from now on: then everything is looked at again.

        @param others: numbers that wait outside of the due list.
        """
        ages = self._warn_s()
        if ages == self._ages:
            return
        self._ages = ages
        self._list = CoarseList()
        numbers = self._due.numbers()
        for some in (*others, array("Q", self._fair.numbers())):
            numbers.extend(some)
        for message in self._shard.state.messages.values():
            copy = message.copies.get(self._name)
            if copy is not None and copy.held is not None:
                copy.watched = False
        self._list_some(numbers)

    def _list_some(self, numbers: array[int]) -> None:
        """A slice a turn."""
        for number in numbers[-_SLICE:]:
            self.listed(number, 0, 0.0)
        del numbers[-_SLICE:]
        if numbers and not self._ended:
            self._clock.callLater(0, self._list_some, numbers)

    def end(self) -> None:
        """Begin nothing more."""
        self._ended = True
        self._wakeup.cancel()
        if self._scan is not None:
            self._scan.cancel()
            self._scan = None

    def _warn_s(self) -> tuple[float, ...]:
        return tuple(sorted(self._settling.verdicts.queue.warn_s))

    def _enter(self, when: float, number: int) -> None:
        now = self._seconds()
        if when < self._began:
            when = self._began + QUIET_S
        self._list.push(max(when, now), number, now)
        self._arm()

    def _arm(self) -> None:
        earliest = self._list.earliest()
        if earliest is not None and not self._working and not self._ended:
            self._wakeup.at(earliest)

    # --- what is ripe ----------------------------------------------------------------------------------------

    def _ring(self) -> None:
        numbers = self._list.pop_due(self._seconds(), BATCH)
        if not numbers:
            self._arm()
            return
        self._working = True

        def over(_: object) -> None:
            self._working = False
            self._arm()

        Deferred.fromCoroutine(self._look_at(numbers)).addErrback(
            lambda failure: self._log.failure("bug while looking for mail that is late", failure)
        ).addBoth(over)

    async def _look_at(self, numbers: list[int]) -> None:
        try:
            found = await self._shard.load(numbers)
        except OSError:  # one of them may be the trouble; the others need not wait for it
            found = []
            for number in numbers:
                try:
                    found += await self._shard.load([number])
                except OSError:
                    self._enter(self._seconds() + AGAIN_S, number)
        work = []
        for message in found:  # all of them begin in this turn: none has left memory yet
            copy = message.copies.get(self._name)
            if copy is not None and self._shard.state.messages.get(message.number) is message:
                if self._is_time(message, copy):
                    work.append(Deferred.fromCoroutine(self._tell(message, copy)))
                else:
                    self._shard.evict(message)
            elif copy is None:
                self._shard.evict(message)
        for good, problem in await DeferredList(work, consumeErrors=True):
            if not good:
                self._log.failure("bug while telling of mail that is late", problem)

    def _is_time(self, message: Message, copy: Copy) -> bool:
        """Whether a notice is due and nothing is to be waited for; if not, the copy has its next entry."""
        now = self._seconds()
        copy.watched = copy.held is None  # who releases it lets it wait anew
        when = next_warning(message.envelope, self._ages, copy.warned)
        if when is None or copy.held is not None or self._ended:
            return False
        earliest = when
        if when < self._began:
            earliest = self._began + QUIET_S
        elif not self._stopped() and self._tried_now(copy, now):
            earliest = when + GRACE_S
        if earliest <= now and (
            copy.telling > copy.warned or not self._left(message, copy) or self._unsettled(message, copy, when)
        ):
            earliest = now + GRACE_S  # their attempt, or what is being made, sees to it
        if earliest > now:
            self._enter(earliest, message.number)
            return False
        return True

    def _tried_now(self, copy: Copy, now: float) -> bool:
        """Whether something of a copy is on its way, or about to be."""
        return bool(copy.flying) or copy.next_attempt() <= now + 1.0

    def _left(self, message: Message, copy: Copy) -> int:
        """How many recipients of a copy are not out, and do not wait for the record of their attempt."""
        ready = sum(len(unit.payload) for unit in self._fair.waiting_of(message.number)) if copy.flying else 0
        return len(copy.pending) - len(copy.flying) + ready

    def _unsettled(self, message: Message, copy: Copy, when: float) -> bool:
        """
        Whether something of a copy has ended, or was taken by an operator, and is not recorded: a notice would say of
        it what is not true any more. Not for ever: of a large list something is at any time.

        @param when: since when a notice is due.
        """
        if not copy.flying or self._seconds() - max(when, self._began) > PATIENCE_S:
            return False
        known = {number for unit in self._fair.waiting_of(message.number) for number in unit.payload}
        known.update(number for unit in self._out if unit.number == message.number for number in unit.payload)
        known.update(each.result.recipient for each in message.withheld)
        return not copy.flying <= known

    async def _tell(self, message: Message, copy: Copy) -> None:
        settling = self._settling
        when = next_warning(message.envelope, self._ages, copy.warned) or 0.0
        settling.open += 1
        problem: OSError | None = OSError(EIO, "")
        wait = UNTOLD_S
        ops = await settling.verdicts.overdue(message, copy, stopped=self._stopped())
        if ops and (not self._left(message, copy) or self._unsettled(message, copy, when)):
            # All of it went out meanwhile, or some of it ended. What is recorded of that comes before our record, which
            # would be of nothing, or of what is not so.
            ops, wait = [], GRACE_S
        committed: Deferred[OSError | None] = Deferred()
        try:
            settling.commit(message, Settlement(ops, {}), committed.callback)
        except ValueError:
            self._log.failure("the delay notice of message {id} cannot be written down", id=message.id)
            settling.unclaim(message, {})
        else:
            problem = await committed
            wait = wait if not ops else AGAIN_S
        if problem is not None or not ops:
            copy.telling = 0
        if not isinstance(problem, JournalBroken) and message.copies.get(self._name) is copy:
            if problem is None and ops:
                self.push(message, copy)
            else:
                self._enter(self._seconds() + wait, message.number)
        self._shard.evict(message)
