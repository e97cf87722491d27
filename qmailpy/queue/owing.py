"""
Deliveries of before a power cut that cannot be repeated: mailboxes over quota, read only, gone to the dogs.

A delivery that is owed keeps its journal segment, and with it, in the end, all new mail. So after some tries it is mail
that waits again, like any other: a new message for those recipients alone, made in one record with the L{Requeued} that
says so of the old one. Recovery does not repeat that any more; the segment can go. From then on the channel defers it
with the mailbox's own reply, in its own times, and returns it when its lifetime is over.

In the books the old message stays delivered, and the new one comes from the channel itself (its source system names the
old one), as what a channel hands on does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from qmailpy.interfaces import IDurableDelivery, IEvents
from qmailpy.queue.codec import Enqueued, Op, Requeued
from qmailpy.queue.ids import to_number
from qmailpy.queue.notices import quieter
from qmailpy.values import Content, Envelope, Job

TRIES = 12
"""So often, 5 s apart, a delivery is repeated in vain before it is mail that waits: a minute."""

Make = Callable[[Envelope, Content], "Deferred[Enqueued]"]
Commit = Callable[[Sequence[Op], Callable[[OSError | None], None]], None]


class Owing:
    """What is owed in one shard. All of it runs in the reactor thread."""

    _log = Logger()

    def __init__(
        self,
        *,
        durable: Mapping[str, IDurableDelivery],
        make: Make,
        commit: Commit,
        events: IEvents,
        seconds: Callable[[], float],
    ) -> None:
        """
        @param durable: channels whose deliveries the journal covers, by name.
        @param make: the op that enqueues a message of our own making.
        @param commit: as L{qmailpy.queue.shard.Shard.commit}.
        @param seconds: wall clock.
        """
        self._durable = durable
        self._make = make
        self._commit = commit
        self._events = events
        self._seconds = seconds
        self._tries = 0

    def enough(self, ids: Iterable[str]) -> bool:
        """
        Another try has failed: whether it was the last one.

        @param ids: of the shard's messages whose deliveries the journal covers.
        """
        if not any(ability.owed(ids) for ability in self._durable.values()):
            return False
        self._tries += 1
        return self._tries >= TRIES

    async def requeue(self, ids: Iterable[str]) -> None:
        """
        Have all that is owed be mail that waits. Nobody may be repeating deliveries meanwhile.

        @param ids: as for L{enough}.
        @raise OSError: some of it is owed still; to be tried again.
        """
        for ability in list(self._durable.values()):
            for job in ability.owed(ids):
                fresh = await self._make(self._envelope(job), job.content)
                await self._committed([fresh, Requeued(to_number(job.id), job.channel, job.numbers)])
                ability.let_go(job)
                addresses = ", ".join([one.address for one in job.recipients[:5]])
                self._log.error(
                    "{channel}: message {id}, delivered before the power failed, could not be written again for "
                    "{addresses}: it is queued again",
                    channel=job.channel,
                    id=job.id,
                    addresses=addresses,
                )
                self._events.happened("delivery.requeued", id=job.id, channel=job.channel, address=addresses)

    def _envelope(self, job: Job) -> Envelope:
        return evolve(
            job.envelope,
            recipients=quieter(job.recipients),  # of its delivery its sender has been told
            source=job.channel,
            arrival=self._seconds(),  # it has its whole lifetime
            source_system=job.id,
            user="",
            hold_until=0.0,
        )

    async def _committed(self, ops: Sequence[Op]) -> None:
        told: Deferred[None] = Deferred()

        def done(problem: OSError | None) -> None:
            if problem is None:
                told.callback(None)
            else:
                told.errback(problem)

        self._commit(ops, done)
        await told
