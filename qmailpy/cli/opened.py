"""
Shards of a stopped home that are open for changes.

Apart from L{qmailpy.cli.offline}, for it needs all that delivers mail: a listing does not wait for that to be loaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred

from qmailpy.channels.local import LocalChannel
from qmailpy.channels.parts import Parts
from qmailpy.channels.process import Notices
from qmailpy.cli.output import print_error
from qmailpy.cli.store import as_keeper, store_of
from qmailpy.config.schema import Config
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.disk.files import Files
from qmailpy.interfaces import IChannel
from qmailpy.local.inline import InlineThreads
from qmailpy.queue.committer import StepCommitter
from qmailpy.queue.journal import Journal
from qmailpy.queue.offline import at_once, clock_of_now, finished
from qmailpy.queue.opening import Surroundings, thd_open
from qmailpy.queue.service import QueueShard
from qmailpy.queue.switches import Switches
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder

T = TypeVar("T")


class OpenShards:
    """
    Shards that are open for changes, and what they need around them; everything else must have let go of them.

    @ivar shards: by name.
    @ivar queue: the operations on them.
    """

    def __init__(self, config: Config, files: Files, switches: Switches, alone: bool) -> None:
        """@param alone: nobody else can write the log meanwhile."""
        self._config = config
        self._files = files
        self._alone = alone
        self._clock = clock_of_now()
        self._committers: list[StepCommitter] = []
        self._recorders: list[Recorder] = []
        self.shards: dict[str, QueueShard] = {}
        self._store = store_of(config)
        self.queue = QueueOperations(lambda: parts_of(self.shards), config, time.time, switches, at_once)

    def done(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a change, once it is durable."""
        return finished(work, self._clock, self._committers)

    def step(self) -> None:
        """Do what waits to be done: for whoever has handed the shards new mail."""
        waiting: Deferred[None] = Deferred()
        for committer in self._committers[-1:]:
            committer.call(lambda journal: None, lambda _: waiting.callback(None))
        finished(waiting, self._clock, self._committers)

    def open(self, name: str) -> None:
        """
        Lock and recover a shard.

        @raise ShardBusy: somebody has it.
        @raise OSError: it cannot be read or written.
        """
        config, files, clock = self._config, self._files, self._clock
        recorder = Recorder(
            clock,
            files,
            config.path("log"),
            Lane(config.path("run", "counters"), name, time.time),
            name,
            config.log,
            node=config.server.hostname,
            process=os.getpid(),
            alone=self._alone,
        )
        self._recorders.append(recorder)
        parts = Parts(
            reactor=cast(Any, clock),
            files=files,
            directory=EmbeddedDirectory(self._store, as_keeper(config.home)),
            router=cast(Any, None),  # for deliveries only, and there are none
            resolver=cast(Any, None),
            recorder=recorder,
            config=config,
        )
        # Deliveries that the journal covers have to be there and durable before it forgets them.
        local: dict[str, IChannel] = {
            channel.name: LocalChannel(config, channel, parts, InlineThreads())
            for channel in config.channels.values()
            if channel.kind == "local"
        }
        around = Surroundings(
            config=config,
            files=files,
            recorder=recorder,
            channels=local,
            notices=Notices(config),
            clock=clock,
            seconds=time.time,
            chance=Random(),  # noqa: S311 - spreads ids
            in_thread=at_once,
            committer=self._committer,
            replay=True,
            stopped=lambda channel: True,
        )
        opened = thd_open(name, around)
        for warning in opened.recovered.warnings:
            print_error(warning)
        self.shards[name] = QueueShard(opened, around)

    def _committer(self, journal: Journal) -> StepCommitter:
        committer = StepCommitter(journal)
        self._committers.append(committer)
        return committer

    def close(self) -> None:
        """Settle what can be settled (all of it is in the journal anyway) and let go."""
        try:
            for shard in self.shards.values():
                for _ in range(2):  # the second for what the checkpoint of the first left touched
                    finished(shard.settle(), self._clock, self._committers)
        finally:
            for shard in self.shards.values():
                shard.close()
            for recorder in self._recorders:
                recorder.close()
            self._store.thd_close()
