"""
A shard of the queue as a service: intake, one runner a channel, listing of old mail, upkeep, drain.

Start: open the shard (queue.opening), take up what recovery has in memory, and list the rest in the background. Stop:
refuse new mail, let what is out end, settle everything into files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.disk.files import Space
from qmailpy.errors import QmailpyError, Temporary
from qmailpy.interfaces import IChannel, IDurableDelivery, IEnqueue, IFlow, IIntake, InThread
from qmailpy.queue.committer import ICommitReactor, ICommitter, ThreadCommitter
from qmailpy.queue.ids import IdSource, to_id
from qmailpy.queue.intake import FULL, STOPPING, TROUBLE, Budget, Intake
from qmailpy.queue.journal import Journal
from qmailpy.queue.listing import Listing, Times
from qmailpy.queue.opening import Opened, ShardBusy, Surroundings, thd_open
from qmailpy.queue.runner import Runner
from qmailpy.queue.shard import Shard
from qmailpy.queue.state import Copy, Message
from qmailpy.rounds import Rounds
from qmailpy.routing.selection import Selection

MEMORY = 64 * 1024 * 1024  # octets of small messages on their way in, a shard
BACKLOG = 32 * 1024 * 1024  # octets on their way into the journal; beyond it new mail is told to come back
UPKEEP_S = 1.0
LIST_AGAIN_S = 5.0  # how soon a listing that failed begins anew
BUSY_S = 0.2  # how often a shard that is locked is tried again, and how many times
BUSY_TRIES = 50


class IQueueReactor(ICommitReactor, IReactorThreads):
    """What a shard asks of the reactor."""


class NotOpen(QmailpyError):
    """The queue cannot be looked at now."""


@implementer(IEnqueue)
class QueueShard:
    """One shard, recovered and open for business; the service around it starts and stops it."""

    _log = Logger()

    def __init__(self, opened: Opened, around: Surroundings) -> None:
        """
        @param opened: from L{thd_open}. Starts the committer.
        """
        self.name = name = opened.name
        self.config = config = around.config
        self._around = around
        files = around.files
        self.layout = layout = opened.layout
        self.shelf = shelf = opened.shelf
        self._lock = opened.lock
        journal, durable = opened.journal, opened.durable
        self.recovered = recovered = opened.recovered
        around.recorder.write(recovered.missing)
        around.recorder.flush()
        ids = IdSource(around.seconds, name, recovered.highest, around.chance)
        self.watermark = ids.next_number()  # all that was there before has smaller numbers, all that comes larger
        self._journal = journal
        self.committer = around.committer(journal)
        self.shard = Shard(
            files=files,
            layout=layout,
            state=recovered.state,
            shelf=shelf,
            committer=self.committer,
            recorder=around.recorder,
            ids=ids,
            in_thread=around.in_thread,
            later=around.clock.callLater,
            durable=durable,
            segments=config.queue.segments,
            generations=[*recovered.generations, journal.generation],
            events=around.events,
            seconds=around.seconds,
            books=recovered.books,
        )
        self.shard.selection = Selection(config) or None
        self.shard.on_arrival = self._arrived
        self.shard.on_wait = lambda message, copy: self.runner(copy.channel).wait(message, copy)
        self.runners: dict[str, Runner] = {}
        for channel in config.channels.values():
            self._runner(channel, around.channels.get(channel.name), around.stopped(channel.name))
        self._budget = Budget(MEMORY)
        self._ids = ids
        self.short: str = ""  # what there is too little of on the disk
        self.stopping = False
        for warning in recovered.warnings:
            self._log.error("queue shard {name}: {text}", name=name, text=warning)
        if recovered.messages or recovered.missing:
            self._log.info(
                "queue shard {name}: the journal told of {messages} messages, {lines} log lines were made up for",
                name=name,
                messages=recovered.messages,
                lines=len(recovered.missing),
            )

    def _runner(self, channel: ChannelConfig, way: IChannel | None, stopped: bool = False) -> Runner:
        around = self._around
        runner = self.runners[channel.name] = Runner(
            shard=self.shard,
            channel=way,
            config=channel,
            queue=self.config.queue,
            notices=around.notices,
            clock=around.clock,
            seconds=around.seconds,
            chance=around.chance,
            stopped=stopped,
            events=around.events,
        )
        return runner

    def runner(self, name: str) -> Runner:
        """The runner of a channel; one that waits for the channel to come back when it is not configured."""
        found = self.runners.get(name)
        if found is None:
            self._log.error("mail is queued for channel {name}, which is not configured: it waits", name=name)
            found = self._runner(ChannelConfig(name=name, kind="none"), None)
        return found

    # --- taking up -------------------------------------------------------------------------------------------

    def take_up(self) -> Deferred[None]:
        """Begin to deliver: what recovery found at once, the rest as it is listed. Fires when all is known."""
        state = self.shard.state
        for message in list(state.messages.values()):
            for copy in list(message.copies.values()):
                self.runner(copy.channel).take_up(message, copy)
            self.shard.evict(message)
        self.shard.segments.retire()
        self.shard.segments.keep_books()
        return Deferred.fromCoroutine(self._list())

    async def _list(self) -> None:
        """List old mail, again and again while the disk or a want of descriptors does not let us."""
        said = ""
        self.listing = Listing(self.shard, self.watermark, self.recovered.known, self._listed)
        while not self.stopping:
            try:
                await self.listing.run()
                return
            except OSError as problem:
                if str(problem) != said:
                    said = str(problem)
                    self._log.error("queue shard {name} cannot be listed yet: {why}", name=self.name, why=said)
            await deferLater(self._around.clock, LIST_AGAIN_S)

    def _listed(self, channel: str, number: int, times: Times) -> None:
        self.runner(channel).listed(number, *times)

    def _arrived(self, message: Message) -> None:
        copies = message.copies
        if len(copies) == 1:
            for copy in copies.values():
                self._arrive(message, copy)
                return
        for copy in list(copies.values()):
            self._arrive(message, copy)

    def _arrive(self, message: Message, copy: Copy) -> None:
        runner = self.runners.get(copy.channel)
        if runner is None:
            runner = self.runner(copy.channel)
        runner.arrive(message, copy)

    # --- IEnqueue --------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        return to_id(self._ids.next_number(), self._ids.code)

    def begin(self, queue_id: str, flow: IFlow | None = None, size_hint: int = 0) -> IIntake:
        if self.short:
            raise Temporary(FULL, f"too little {self.short} on the queue's file system")
        if self.stopping:
            raise Temporary(STOPPING)
        if self.shard.broken is not None:
            raise Temporary(TROUBLE, str(self.shard.broken))
        if self.shard.backlog > BACKLOG:
            raise Temporary(TROUBLE, "the journal cannot keep up")
        spill = self.config.queue.spill_octets
        return Intake(
            queue_id=queue_id,
            files=self._around.files,
            path=self.layout.mess_of(queue_id),
            spill_octets=spill,
            budget=self._budget,
            flow=flow,
            in_thread=self._around.in_thread,
            enqueue=self.shard.enqueue,
            large=size_hint > spill,
        )

    def lacking(self, config: Config) -> tuple[str, ...]:
        """The channels of a configuration that nothing is made for yet."""
        return tuple(
            [name for name in config.channels if name not in self.runners or self.runners[name].channel is None]
        )

    def reconfigure(
        self, config: Config, channels: Mapping[str, IChannel], stopped: Callable[[str], bool] = lambda name: False
    ) -> Mapping[str, Deferred[None]]:
        """
        Go on with another configuration.

        @param channels: those that were made anew for it, by name; the directories of new ones are there.
        @param stopped: whether an operator has stopped a channel, asked of those that were not there.
        @return: by channel that was there: fires when the former one has nothing out any more.
        """
        self.config = config
        self.shard.selection = Selection(config) or None
        for name, way in channels.items():
            if IDurableDelivery.providedBy(way):
                self.shard.cover(name, cast(IDurableDelivery, way))
        ended: dict[str, Deferred[None]] = {}
        for name, channel in config.channels.items():
            runner = self.runners.get(name)
            if runner is None:
                if name in channels:
                    self._runner(channel, channels[name], stopped(name))
                continue
            waits = runner.channel is None
            ended[name] = runner.reconfigure(channels.get(name), channel, config.queue)
            if waits and not channel.stopped and not stopped(name):
                runner.start()
        return ended

    # --- upkeep ----------------------------------------------------------------------------------------------

    def space(self) -> Space:
        """What the queue's file system has left. Blocks."""
        return self._around.files.space(self.layout.root)

    def look_at_space(self, space: Space) -> None:
        """Refuse new mail while the reserve is touched; say so once, and once when it is over."""
        queue = self.config.queue
        # A quarter more before mail is taken again, so that it does not flutter.
        factor = 1.25 if self.short else 1.0
        short = ""
        if space.octets < queue.reserve_octets * factor:
            short = "space"
        elif space.inodes < queue.reserve_inodes * factor:
            short = "inodes"
        if short and not self.short:
            self._log.error(
                "queue shard {name}: {octets} octets and {inodes} inodes are left, less than the reserve: "
                "new mail is refused with 452, what is queued goes on",
                name=self.name,
                octets=space.octets,
                inodes=space.inodes,
            )
        elif self.short and not short:
            self._log.info("queue shard {name}: there is space again, new mail is taken", name=self.name)
        self.short = short

    # --- the end ---------------------------------------------------------------------------------------------

    def drain(self) -> Deferred[Any]:
        """Refuse new mail, let what is out end and be recorded."""
        self.stopping = True
        return DeferredList([runner.drain() for runner in self.runners.values()], consumeErrors=True)

    def settle(self) -> Deferred[None]:
        """Everything into files; fires when it is there, or when a disk does not let us."""
        self.shard.segments.roll()
        waiting: Deferred[None] = Deferred()
        self.committer.call(lambda journal: None, lambda _: waiting.callback(None))  # behind the roll
        return waiting.addCallback(lambda _: self.shard.segments.settled())

    def close(self) -> None:
        """Let go of journal and lock; after the committer has stopped."""
        self._around.recorder.flush()
        self._journal.close()
        self._around.files.close(self._lock)


class QueueService(Service):
    """The shards of a process: the first takes new mail, the others (adopted ones) are worked off."""

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: IQueueReactor,
        shards: Mapping[str, Callable[[InThread, Callable[[Journal], ICommitter]], Surroundings]],
    ) -> None:
        """
        @param shards: name: makes the surroundings around what this service provides.
        """
        self._reactor = reactor
        self._make = shards
        self._pool = ThreadPool(minthreads=2, maxthreads=8, name="queue")
        self._committers: list[ThreadCommitter] = []
        self._upkeep: Rounds | None = None
        self._since_roll = 0.0
        self.shards: dict[str, QueueShard] = {}
        self.in_thread = cast(InThread, partial(deferToThreadPool, self._reactor, self._pool))
        self.on_broken: Callable[[OSError], None] = lambda problem: None
        self.ready: Deferred[None] = Deferred()
        """From startService on: fires when all shards are recovered, fails with why one is not."""

    @property
    def committers(self) -> Sequence[ThreadCommitter]:
        """Of all shards."""
        return self._committers

    def open_shards(self) -> Mapping[str, QueueShard]:
        """
        The shards, for whoever looks at the queue from outside.

        @raise NotOpen: they are still being recovered, or could not be.
        """
        if self._upkeep is None:
            raise NotOpen("the queue is being taken up; try again in a moment")
        return self.shards

    @property
    def first(self) -> QueueShard:
        """The shard that takes new mail."""
        return next(iter(self.shards.values()))

    def _committer(self, journal: Journal) -> ICommitter:
        committer = ThreadCommitter(self._reactor, journal)
        committer.start()
        self._committers.append(committer)
        return committer

    def startService(self) -> None:
        super().startService()
        self._pool.start()
        self.ready = Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        in_thread = self.in_thread
        for name, make in self._make.items():
            around = make(in_thread, self._committer)
            shard = QueueShard(await self._opened(name, around), around)
            shard.shard.on_broken = self._broken
            self.shards[name] = shard
        for shard in self.shards.values():
            shard.take_up().addErrback(lambda failure: self._log.failure("bug while listing the queue", failure))
        self._upkeep = Rounds(self._reactor, "the upkeep of the queue", self._look_after)
        self._upkeep.start(UPKEEP_S, now=False)

    async def _opened(self, name: str, around: Surroundings) -> Opened:
        """Open a shard; a command that works on the files of a stopped home keeps it for moments only."""
        for _ in range(BUSY_TRIES):
            try:
                opened: Opened = await self.in_thread(thd_open, name, around)
            except ShardBusy:
                await deferLater(self._reactor, BUSY_S)
            else:
                return opened
        last: Opened = await self.in_thread(thd_open, name, around)
        return last

    def _broken(self, problem: OSError) -> None:
        self.on_broken(problem)

    async def _look_after(self) -> None:
        config = self.first.config
        self._since_roll += UPKEEP_S
        if self._since_roll >= config.queue.roll_s:
            self._since_roll = 0.0
            for shard in self.shards.values():
                shard.shard.segments.roll()
        for shard in self.shards.values():
            shard.shard.segments.keep_books()
            self.in_thread(shard.space).addCallbacks(shard.look_at_space, self._no_space)

    def _no_space(self, failure: Failure) -> None:
        self._log.error("cannot tell how much space the queue has: {problem}", problem=failure.value)

    async def _stop(self) -> None:
        if self._upkeep is not None:
            self._upkeep.stop()
        shards = list(self.shards.values())
        await DeferredList([shard.drain() for shard in shards], consumeErrors=True)
        for shard in shards:
            if shard.shard.broken is None:
                await shard.settle()
                await shard.settle()  # what the checkpoint of the first left touched
        for committer in self._committers:
            committer.stop()
        for shard in shards:
            shard.close()
        self._pool.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())
