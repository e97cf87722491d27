"""
The end of attempts of one channel: from what was said to a record that is durable, tried until it is.

Recipients that an attempt, or an operator, has taken out stay out (in the C{flying} of their copy) until their record
is durable: nothing of them is tried meanwhile. Whatever goes wrong here ends in a record or in a later try, for a
recipient that stayed out would never be tried again, and keep the daemon from stopping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.interfaces import IRecorded
from qmailpy.queue.journal import JournalBroken
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.verdicts import Settlement, Verdicts, others_out
from qmailpy.values import Disposition, Job

WITHHELD_S = 60.0  # how long failures wait for the rest of their message to be told of together
AGAIN_S = 1.0  # how soon a record that found no room is tried again

Told = Callable[[OSError | None], None]
"""Called once a change is durable, or with why it is not and will not be."""


class Settling:
    """
    What has ended in one channel and is not recorded yet.

    @ivar open: attempts, and other claims, whose record is not durable yet; who takes recipients out adds one.
    """

    _log = Logger()

    def __init__(self, *, shard: Shard, verdicts: Verdicts, clock: IReactorTime, ended: Callable[[], None]) -> None:
        """@param ended: called whenever C{open} has become less."""
        self.verdicts = verdicts
        self.open = 0
        self._shard = shard
        self._clock = clock
        self._ended = ended

    def attempt(
        self, message: Message, copy: Copy, job: Job, dispositions: Sequence[Disposition], channel: object
    ) -> None:
        """An attempt is over. @param channel: whose it was, which may want to hear of the record (L{IRecorded})."""
        self.open += 1
        heard = _recorded(channel, copy, job) if IRecorded.providedBy(channel) else None
        Deferred.fromCoroutine(self._attempted(message, copy, job, dispositions, heard)).addErrback(
            lambda failure: self._log.failure("bug while settling message {id}", failure, id=job.id)
        )

    async def _attempted(
        self, message: Message, copy: Copy, job: Job, dispositions: Sequence[Disposition], heard: Told | None
    ) -> None:
        try:
            settlement = await self.verdicts.settle(message, copy, job, dispositions)
        except Exception:
            self._log.failure("bug while settling message {id}: it is tried again", id=message.id)
            settlement = self.verdicts.put_off(message, {copy.channel: job.numbers})
        self._settled(message, settlement, None, heard)

    async def by_hand(
        self, message: Message, copy: Copy, job: Job, dispositions: Sequence[Disposition], told: Told
    ) -> None:
        """What an operator wants of recipients that were taken out; nothing of it waits. Raises what goes wrong."""
        self._settled(message, await self.verdicts.settle(message, copy, job, dispositions, at_once=True), told)

    def _settled(self, message: Message, settlement: Settlement, told: Told | None, heard: Told | None = None) -> None:
        if message.withheld:
            self._clock.callLater(WITHHELD_S, self._release, message)
        self.commit(message, settlement, told, heard)

    def _release(self, message: Message) -> None:
        """Failures have waited long enough for the rest of their message."""
        if message.withheld:
            self.open += 1
            Deferred.fromCoroutine(self.verdicts.release(message)).addCallback(
                lambda settlement: self.commit(message, settlement, None)
            ).addErrback(lambda failure: self._log.failure("bug while settling message {id}", failure, id=message.id))

    def commit(self, message: Message, settlement: Settlement, told: Told | None, heard: Told | None = None) -> None:
        """
        Make it durable; without C{told} keep at it until it is.

        @param heard: told of the end of it, however often it had to be tried.
        """

        def done(problem: OSError | None) -> None:
            if isinstance(problem, JournalBroken):  # nothing more is tried in this life; but it may end
                self.open -= 1
                self._ended()
            elif problem is not None and told is None:  # not even room for a mark
                if settlement.courtesies:
                    self._log.error("no room for an answer to message {id}: it is left out", id=message.id)
                self._clock.callLater(AGAIN_S, self.commit, message, settlement.bare(), told, heard)
                return
            else:
                self.unclaim(message, settlement.over)
            if heard is not None:
                heard(problem)
            if told is not None:
                told(problem)

        if not settlement.ops:
            done(None)
            return
        try:
            self._shard.commit(settlement.ops, done)
        except ValueError:  # it cannot be written down, and nothing was
            if told is not None:
                raise
            if settlement.courtesies:  # an answer to what was delivered must not have it delivered again
                self._log.failure("an answer to message {id} is left out", id=message.id)
                self.commit(message, settlement.bare(), told, heard)
                return
            self._log.failure("what became of message {id} cannot be written down: it is tried again", id=message.id)
            self._shard.commit(self.verdicts.put_off(message, settlement.over).ops, done)

    def unclaim(self, message: Message, over: Mapping[str, Sequence[int]]) -> None:
        """Attempts, or whatever else recipients were taken out for, are over."""
        for channel, numbers in over.items():
            copy = message.copies.get(channel)
            if copy is not None:
                copy.flying.difference_update(numbers)
                self._shard.on_wait(message, copy)
        if message.withheld and not others_out(message):
            self._release(message)
        self._shard.evict(message)
        self.open -= 1
        self._ended()


def _recorded(way: Any, copy: Copy, job: Job) -> Told:
    """Tells a channel that wants to know (L{IRecorded})."""

    def told(problem: OSError | None) -> None:
        if problem is None:
            way.recorded(job, not any(number in copy.pending for number in job.numbers))

    return told
