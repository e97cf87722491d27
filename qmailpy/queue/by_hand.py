"""
What an operator decides about a message's recipients in one channel: they are taken out of the schedule, and end in a
record as if an attempt had been made. What is being tried at the moment is left alone: it may be delivered already.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.queue.codec import Attempted, Op, Outcome, Result
from qmailpy.queue.fair import FairQueue
from qmailpy.queue.settling import Settling, Told
from qmailpy.queue.state import Copy, Message
from qmailpy.queue.verdicts import TEXT, Settlement
from qmailpy.values import Disposition, Job, Reply, Verdict


class ByHand:
    """The decisions of operators in one channel of one shard."""

    _log = Logger()

    def __init__(
        self,
        *,
        fair: FairQueue[tuple[int, ...]],
        settling: Settling,
        seconds: Callable[[], float],
        job: Callable[[Message, Copy, tuple[int, ...]], Job],
        wait: Callable[[Message, Copy], None],
    ) -> None:
        """
        @param seconds: wall clock.
        @param job: an attempt for some recipients of a copy, by their numbers.
        @param wait: sees to it that what is left of a copy is tried again.
        """
        self._fair = fair
        self._settling = settling
        self._seconds = seconds
        self._job = job
        self._wait = wait

    def trying(self, message: Message, copy: Copy) -> bool:
        """Whether recipients of a copy are out, or their attempt has ended and is not recorded yet."""
        if not copy.flying:
            return False
        return len(copy.flying) > sum(len(unit.payload) for unit in self._fair.waiting_of(message.number))

    def take_back(self, message: Message, copy: Copy) -> None:
        """Nothing of a copy is ready any more; what is out stays out. The caller sees to it that the rest waits."""
        for unit in self._fair.remove_message(message.number):
            copy.flying.difference_update(unit.payload)

    def remove(self, message: Message, copy: Copy, text: str, told: Told) -> bool:
        """
        Take what is left of a copy out of the queue without a word to its sender.

        @param text: the diagnostic of the records.
        @return: false when some of it is being tried: nothing is changed, and C{told} not called.
        """
        numbers = self._claim(message, copy)
        if not numbers:
            return False
        results = tuple(Result(number, Outcome.REMOVED, text=text[:TEXT]) for number in numbers)
        ops: list[Op] = [Attempted(message.number, copy.channel, self._seconds(), results)]
        try:
            self._settling.commit(message, Settlement(ops, {copy.channel: list(numbers)}), told)
        except ValueError:  # the text cannot be written down
            self._settling.unclaim(message, {copy.channel: numbers})
            raise
        return True

    def give_back(self, message: Message, copy: Copy, reply: Reply, told: Told) -> bool:
        """
        Have what is left of a copy fail with this reply; the notice is enqueued in the same commit. When there can be
        no notice nothing fails, and C{told} hears so.

        @return: as of L{remove}.
        """
        numbers = self._claim(message, copy)
        if not numbers:
            return False
        job = self._job(message, copy, numbers)
        said = [Disposition(verdict=Verdict.FAILED, reply=reply)] * len(numbers)

        def failed(failure: Failure) -> None:
            self._log.failure("cannot return message {id}", failure, id=message.id)
            self._settling.unclaim(message, {copy.channel: numbers})
            told(OSError(EIO, "its content cannot be read, or there is a bug; the daemon's log has it"))

        def answered(problem: OSError | None) -> None:
            if problem is None and any(number in copy.pending for number in numbers):
                problem = OSError(EIO, "no notice can be made, so it stays in the queue; the daemon's log has why")
            told(problem)

        Deferred.fromCoroutine(self._settling.by_hand(message, copy, job, said, answered)).addErrback(failed)
        return True

    def _claim(self, message: Message, copy: Copy) -> tuple[int, ...]:
        """All that is left of a copy, as if it were out; nothing when some of it is."""
        self.take_back(message, copy)
        if copy.flying:
            self._wait(message, copy)
            return ()
        numbers = tuple(copy.pending)
        copy.flying.update(numbers)
        self._settling.open += 1
        return numbers
