"""
One channel's side of the queue: which of its recipients are due, ready, on their way, and what became of them.

A recipient is at any time either waiting (its copy has an entry in the due list: queue.waiting; or is parked:
queue.parking), ready or out (its number is in the copy's C{flying}), held, or done. Every attempt ends in one commit
(queue.settling); only then may the recipient be tried again. What an operator does with recipients is queue.by_hand's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.config.schema import ChannelConfig, QueueConfig
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IChannel, IEvents, IForgiving, IShaped
from qmailpy.queue.by_hand import ByHand
from qmailpy.queue.deadline import TOO_LATE, kept, overdue
from qmailpy.queue.fair import FairQueue, Unit
from qmailpy.queue.ids import born
from qmailpy.queue.keywords import keywords_of, queue_of
from qmailpy.queue.parking import PARKED_S, Parking
from qmailpy.queue.retry import believed, resumed, schedule_of
from qmailpy.queue.settling import Settling
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.verdicts import BUG, INotices, Verdicts
from qmailpy.queue.waiting import Waiting
from qmailpy.queue.watching import Watch
from qmailpy.values import Disposition, Job, Priority, Verdict

READY = 2000  # units that may be ready at once; what is due beyond that stays on disk

UNRECORDED = 1000
"""
Attempts whose end is not on the disk yet; with so many no more are started. On a disk that is full to its last octet,
or stands still, they would pile up, and the death of the process would have them all come once more.
"""

BACK_S = 300.0
"""A clock that is set back by less lets mail wait that much longer."""


class Runner:
    """The scheduling of one channel in one shard."""

    _log = Logger()

    def __init__(
        self,
        *,
        shard: Shard,
        channel: IChannel | None,
        config: ChannelConfig,
        queue: QueueConfig,
        notices: INotices,
        clock: IReactorTime,
        seconds: Callable[[], float],
        chance: Random,
        stopped: bool = False,
        events: IEvents | None = None,
    ) -> None:
        """
        @param channel: C{None} for mail of a channel that is no longer configured: it waits.
        @param stopped: an operator has stopped the channel.
        @param clock: timers.
        @param seconds: wall clock.
        """
        self.name = config.name
        self.channel = channel
        self.stopped = stopped or config.stopped or channel is None
        self.fair: FairQueue[tuple[int, ...]] = FairQueue(
            concurrency=config.concurrency,
            destination_concurrency=config.destination_concurrency if config.kind == "smtp" else 0,
            waiting_limit=READY // 4,
        )
        self._waiting = Waiting(
            name=config.name,
            shard=shard,
            clock=clock,
            seconds=seconds,
            room=lambda: READY - len(self.fair),
            resting=self._resting,
            take=self._due,
            pump=self.pump,
        )
        self.due = self._waiting.due
        self.jobs: dict[Unit[tuple[int, ...]], Job] = {}  # out now
        self._parking = Parking(
            fair=self.fair,
            few=READY // 8,
            clock=clock,
            resting=self._resting,
            take_up=lambda numbers: self._waiting.take_up(numbers, seconds()),
            pump=self.pump,
        )
        self._shard = shard
        self._config = config
        self._relay = _relay(config)
        self._events: IEvents = events or NoEvents()
        verdicts = Verdicts(
            name=config.name,
            shard=shard,
            notices=notices,
            seconds=seconds,
            chance=chance,
            schedule=schedule_of(config, queue),
            queue=queue_of(config, queue),
            events=self._events,
        )
        self._settling = Settling(shard=shard, verdicts=verdicts, clock=clock, ended=self._recorded)
        self._watch = Watch(
            name=config.name,
            shard=shard,
            settling=self._settling,
            fair=self.fair,
            out=self.jobs,
            due=self.due,
            clock=clock,
            seconds=seconds,
            stopped=lambda: self.stopped,
        )
        self.by_hand = ByHand(fair=self.fair, settling=self._settling, seconds=seconds, job=self._job, wait=self.wait)
        self._keywords = keywords_of(config, shard.in_thread, self._events)
        self._seconds = seconds
        self._chance = chance
        self._former: list[tuple[set[Unit[tuple[int, ...]]], Deferred[None]]] = []
        self._pumping = False
        self._held_up = False  # by what waits to be recorded
        self._draining = False
        self._drained: list[Deferred[None]] = []

    # --- coming in -------------------------------------------------------------------------------------------

    def arrive(self, message: Message, copy: Copy) -> None:
        """A new message has a copy for this channel."""
        if self.stopped or self._draining or len(self.fair) >= READY:
            self.wait(message, copy)
            return
        self._launch(message, copy, self._seconds())
        self.pump()
        if len(self.fair):
            self._watch.ready()

    def take_up(self, message: Message, copy: Copy) -> None:
        """A message that was there when we started."""
        if copy.held is not None:
            return
        now = self._seconds()
        self._correct(message, copy, now)
        for item in copy.pending.values():
            if item.attempts:
                item.next_attempt = resumed(item.next_attempt, now, self._chance.random())
        self.wait(message, copy)

    def listed(self, number: int, when: float, warned: int, patience: float) -> None:
        """There is a message that is in its files alone. @param when: as C{Shelf.thd_times}, and the rest."""
        self._waiting.push(believed(when, born(number), self._seconds()), number)  # L{_due} knows when it came
        self._watch.listed(number, warned, patience)

    def _resting(self) -> bool:
        return self.stopped or self._draining

    def wait(self, message: Message, copy: Copy) -> None:
        """See to it that what is left of a copy has its entry in the due list, if it needs one."""
        if copy.held is not None or len(copy.flying) == len(copy.pending):
            return
        if not copy.watched:
            self._watch.push(message, copy)
        if not copy.waiting:
            copy.waiting = True
            self._waiting.push(copy.next_attempt(), message.number)

    def _due(self, message: Message, now: float, hurried: bool) -> None:
        """Something of a message is due, or was hurried."""
        copy = message.copies.get(self.name)
        if copy is not None:
            copy.waiting = False
            self._correct(message, copy, now)
            if hurried and (copy.flying or not kept(message.envelope, copy.next_attempt(), now)):
                for item in copy.pending.values():
                    item.next_attempt = min(item.next_attempt, now)
            self._launch(message, copy, now)
            self._shard.evict(message)

    def _correct(self, message: Message, copy: Copy, now: float) -> None:
        """Times of when the clock was ahead are not believed; that from which on a sender wants it to go is."""
        envelope = message.envelope
        if envelope.hold_until <= now:
            for item in copy.pending.values():
                item.next_attempt = believed(item.next_attempt, envelope.arrival, now)

    def _launch(self, message: Message, copy: Copy, now: float, ahead: bool = False) -> None:
        """
        Make ready what is due of a copy, and let the rest wait.

        @param ahead: before other mail, and however much waits for the destination.
        """
        if copy.held is not None:
            return
        pending, flying = copy.pending, copy.flying
        now += 0.001  # the due list keeps milliseconds
        priority = Priority.URGENT if ahead else message.envelope.priority
        if len(pending) == 1 and not flying:
            ((number, item),) = pending.items()
            if item.next_attempt <= now:
                host = self.place(item.recipient.host)
                if not ahead and self.fair.overflow(host):
                    self._park(message, copy, host)
                    return
                flying.add(number)
                self.fair.add(Unit(message.number, host, priority, (number,)))
                return
        else:
            by_host: dict[str, list[int]] = {}
            for number, item in pending.items():
                if item.next_attempt <= now and number not in flying:
                    by_host.setdefault(self.place(item.recipient.host), []).append(number)
            size = 1 if self._config.single else self._config.recipients_per_job
            for host, numbers in by_host.items():
                if not ahead and self.fair.overflow(host):
                    if len(by_host) == 1 and len(numbers) == len(pending):
                        self._park(message, copy, host)
                    elif not copy.waiting:
                        copy.waiting = True
                        self._waiting.push(now + PARKED_S, message.number)
                    continue
                flying.update(numbers)
                for at in range(0, len(numbers), size):
                    self.fair.add(Unit(message.number, host, priority, tuple(numbers[at : at + size])))
        self.wait(message, copy)

    def place(self, host: str) -> str:
        """
        What counts as one destination: for a conversion all that goes on to the same channel (routing.selection), for a
        relay all there is.
        """
        if self._relay:
            return self._relay
        return host.partition(" ")[0] if " " in host else host

    def _park(self, message: Message, copy: Copy, host: str) -> None:
        """A copy for a destination that has too many ready ones comes back when it has fewer."""
        if not copy.watched:
            self._watch.push(message, copy)
        if not copy.waiting:
            copy.waiting = True
            self._parking.park(host, message.number)

    # --- going out -------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Start whatever may be started; nothing when its end could not be recorded: it would all come once more."""
        if self.stopped or self._draining or self._pumping or self._shard.broken is not None:
            return
        self._pumping = True  # a channel that answers at once ends up here again: the loop below sees to it
        try:
            while not self.stopped and not self._behind() and (unit := self.fair.next()) is not None:
                self._start(unit)
        finally:
            self._pumping = False
        if self._parking.by_host and not self.fair.busy:  # nobody is out whose end would bring them back
            self._parking.unpark_some()
        waiting = self._waiting
        if (len(waiting.due) or waiting.hurried) and len(self.fair) < READY // 2:
            earliest = waiting.due.earliest()
            if waiting.hurried or (earliest is not None and earliest <= self._seconds()):
                waiting.refill()

    def _behind(self) -> bool:
        """Whether too much waits to be recorded; then there is another pump when there is less."""
        self._held_up = self._settling.open >= UNRECORDED
        return self._held_up

    def _recorded(self) -> None:
        """Less waits to be recorded."""
        if self._held_up and self._settling.open < UNRECORDED // 2:
            self._held_up = False
            self.pump()
        self._tell_drained()

    def _start(self, unit: Unit[tuple[int, ...]]) -> None:
        assert self.channel is not None
        message = self._shard.state.messages[unit.number]
        copy = message.copies[self.name]
        job = self.jobs[unit] = self._job(message, copy, unit.payload)
        if message.envelope.by_mode and overdue(message.envelope, self._seconds()):
            said = [Disposition(verdict=Verdict.FAILED, reply=TOO_LATE)] * len(job.recipients)
            self._ended(said, unit, message, copy, job)
            return
        if self._keywords is not None and job.attempt == 1 and not job.released:
            doing = self._keywords.dequeue(self.channel, job, len(copy.pending))
        else:
            doing = self.channel.dequeue(job)
        Deferred.fromCoroutine(doing).addBoth(self._ended, unit, message, copy, job)

    def _job(self, message: Message, copy: Copy, numbers: tuple[int, ...]) -> Job:
        items = [copy.pending[number] for number in numbers]
        return Job(
            id=message.id,
            channel=self.name,
            envelope=message.envelope,
            content=message.content,
            recipients=tuple([item.recipient for item in items]),
            numbers=numbers,
            attempt=1 + max([item.attempts for item in items]),
            released=copy.released,
        )

    def _ended(
        self,
        outcome: Sequence[Disposition] | Failure,
        unit: Unit[tuple[int, ...]],
        message: Message,
        copy: Copy,
        job: Job,
    ) -> None:
        del self.jobs[unit]
        if self._former:
            self._tell_former(unit)
        way: Any = self.channel
        if IShaped.providedBy(way):
            self.fair.set_limit(unit.destination, way.limit(unit.destination))
        self.fair.done(unit)
        if self._parking.by_host:
            self._parking.unpark(unit.destination)
        if not isinstance(outcome, Sequence) or len(outcome) != len(job.recipients):
            reason = outcome if isinstance(outcome, Failure) else Failure(ValueError("dispositions do not match"))
            self._log.failure("bug in channel {name}, message {id}", reason, name=self.name, id=job.id)
            outcome = [BUG] * len(job.recipients)
        self._settling.attempt(message, copy, job, outcome, way)
        self.pump()

    def reconfigure(self, channel: IChannel | None, config: ChannelConfig, queue: QueueConfig) -> Deferred[None]:
        """
        Go on with other settings; what is out ends under the old ones.

        @param channel: C{None} = the one there is goes on.
        @return: fires when nothing is out any more that was out at the call: the former channel may stop.
        """
        ended: Deferred[None] = Deferred()
        self._former.append((set(self.jobs), ended))
        self.channel = channel or self.channel
        self._config = config
        self._relay = _relay(config)
        self._keywords = keywords_of(config, self._shard.in_thread, self._events)
        verdicts = self._settling.verdicts
        verdicts.schedule, verdicts.queue = schedule_of(config, queue), queue_of(config, queue)
        self.fair.concurrency = config.concurrency
        self.fair.destination_concurrency = config.destination_concurrency if config.kind == "smtp" else 0
        self._watch.reconfigured([self._waiting.hurried, *self._parking.by_host.values()])
        self._waiting.refill()
        self.pump()
        self._tell_former(None)
        return ended

    def _tell_former(self, unit: Unit[tuple[int, ...]] | None) -> None:
        """A unit has ended: perhaps the last one of a former channel."""
        for waiting in list(self._former):
            units, ended = waiting
            if unit is not None:
                units.discard(unit)
            if not units:
                self._former.remove(waiting)
                ended.callback(None)

    # --- by hand ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the channel go on."""
        self.stopped = self.channel is None
        self._watch.started()
        self._parking.started()
        self._waiting.arm()
        self._waiting.refill()
        self.pump()

    def stop(self) -> None:
        """Nothing more of the channel is started; what is out ends as it will."""
        self.stopped = True

    def run_now(self) -> None:
        """Everything that waits is due, whatever its schedule says."""
        self._waiting.hurry_all()
        for parked in self._parking.take_all():
            self._waiting.hurry(parked)
        self._waiting.refill()
        self.pump()

    def clock_set(self, step: float) -> None:
        """
        The time of day is another by so many seconds. Earlier: what waits would do so for that much longer, be it a
        year, and is due now; what a sender wants held keeps its time.
        """
        self._watch.clock_set()
        if step <= -BACK_S:
            self.run_now()
        else:
            self._waiting.arm()

    def hurry(self, numbers: Sequence[int]) -> None:
        """These messages are due, whatever the schedule says; those that a sender wants held are not."""
        self._waiting.hurry(numbers)
        self._waiting.refill()
        self.pump()

    def forgive(self, host: str) -> None:
        """Forget what a host has done to us: it is tried as if it were the first time. "" = every host."""
        way: Any = self.channel
        if IForgiving.providedBy(way):
            way.forgive(host)
            if host:
                self.fair.set_limit(host, None)

    def expedite(self, message: Message, copy: Copy) -> None:
        """Try what is left of a copy at once, ahead of others; all of it must be due."""
        self.by_hand.take_back(message, copy)
        if message.envelope.hold_until > self._seconds():
            copy.waiting = False  # its entry is for then, and retries are sooner
        if self.stopped or self._draining or len(self.fair) >= READY:
            copy.waiting = True
            self._waiting.push(0.0, message.number)  # the first that is taken from the list
            if not copy.watched:
                self._watch.push(message, copy)
            return
        self._launch(message, copy, self._seconds(), ahead=True)
        self.pump()

    def drain(self) -> Deferred[None]:
        """Start nothing more; fires when nothing is out and everything is recorded."""
        self._draining = True
        self._watch.end()
        self._parking.end()
        self._waiting.end()
        waiting: Deferred[None] = Deferred()
        self._drained.append(waiting)
        self._tell_drained()
        return waiting

    def _tell_drained(self) -> None:
        if self._draining and not self.jobs and not self._settling.open:
            waiting, self._drained = self._drained, []
            for each in waiting:
                each.callback(None)


def _relay(config: ChannelConfig) -> str:
    """The one destination that all mail of a channel has; "" where it has several."""
    return "" if config.single_sys else config.relay.partition(",")[0]
