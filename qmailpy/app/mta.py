"""
A mail worker: the parts of qmailpy introduced to each other.

    sockets -> servers.smtp -> QueueShard (IEnqueue) -> channels -> remote/ and local/
    and behind them one directory, one router, one resolver; a recorder a shard.

Start: the queue is recovered first, connections are taken after it. Stop: connections end, then the queue drains and
settles, then channels and directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, TypeVar, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from qmailpy.app import figures, monitor, queue_figures
from qmailpy.app.alarm import Alarm
from qmailpy.app.context import ChildContext
from qmailpy.app.duties import Duties
from qmailpy.app.halted import Halted
from qmailpy.app.listeners import MailListeners
from qmailpy.app.lookups import Lookups
from qmailpy.app.published import Published
from qmailpy.app.steady import ClockWatch
from qmailpy.app.tracing import Tracing
from qmailpy.auth.certificates import thd_read_clients
from qmailpy.channels.marks import thd_marks_of_all, to_remake
from qmailpy.channels.parts import Parts
from qmailpy.channels.process import Notices
from qmailpy.channels.registry import factory, make_channels
from qmailpy.clocks import wall
from qmailpy.config.schema import Config, ListenerConfig
from qmailpy.control.client import Json, call, running
from qmailpy.directory.address import POSTMASTER
from qmailpy.disk.files import RealFiles
from qmailpy.errors import ConfigError, QmailpyError
from qmailpy.events import log as events
from qmailpy.events.log import EventLog, NoEvents
from qmailpy.interfaces import IChannel, InThread, IReconfigured, IRunsPrograms
from qmailpy.local.usage import Usage
from qmailpy.policy.gate import Gate
from qmailpy.policy.lists import Lists, thd_read_lists
from qmailpy.queue.committer import ICommitter
from qmailpy.queue.journal import Journal
from qmailpy.queue.methods import QueueMethods
from qmailpy.queue.opening import Surroundings
from qmailpy.queue.runner import Runner
from qmailpy.queue.service import QueueService
from qmailpy.queue.switches import Switches
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.remote.dns_wire import resolver, servers
from qmailpy.routing import srs_secret
from qmailpy.routing.router import Router
from qmailpy.servers.lastcheck import MailboxLimits
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.tls import Certificates
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder

T = TypeVar("T")

PROGRAMS = 0.75
"""So much of the time that a stop may take programs have, to end what they do: the rest is for recording it."""

LOG_APART_S = 0.05
"""The transaction log is written to so often at most: a write costs as much as the lines of a message."""


class MailWorker(Service):
    """The service of the C{mta} role."""

    _log = Logger()

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._reactor = context.reactor
        self._config = context.config
        self._files = RealFiles()
        self._alarm = Alarm(self._reactor, context.config)
        self._events = EventLog(
            context.config.path("log", events.FILE_NAME), context.name, time.time, told=self._alarm.told
        )
        self._switches = Switches(self._files, context.config.path("queue", "stopped"))
        self._ports: list[IListeningPort] = []
        self._channels: list[IChannel] = []
        self._recorders: dict[str, Recorder] = {}
        self._duties: Duties | None = None  # of the first worker
        self._clock_watch: ClockWatch | None = None
        self._notices: list[Notices] = []
        self._tracing = Tracing(context, context.config)
        context.hooks.reload.append(self._reload)
        context.hooks.reopen.append(self._reopen)

    # --- start -----------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        context, config = self._context, self._config
        self._lookups = Lookups(context, self._events)
        self._directory = self._lookups.directory
        self._srs_secret = srs_secret.thd_read(context.home)
        if config.forward.srs and not self._srs_secret:
            path = srs_secret.secret_path(context.home)
            self._log.warn("{path} cannot be read: forwarded mail keeps its senders", path=path)
        self._usage = Usage(self._files, config, self._in_thread, time.time, self._reactor.seconds)
        self._router = Router(config, self._directory, room=self._usage, srs_secret=self._srs_secret)
        self._resolver = resolver(self._reactor, config.dns)
        self._listeners = MailListeners(context)
        self._marks = thd_marks_of_all(config)  # before the channels read them, so that no change is overlooked
        self._published = Published(
            self._reactor, config, self._files, self._resolver, context.name, first=context.index == 0
        )
        self._published.startService()
        self._gate = Gate(
            self._reactor,
            config,
            self._access_lists(),
            self._resolver,
            self._events,
            self._in_thread,
            self._lookups.shared_counts(context.index),
            self._lookups.shared_present(context.index),
        )
        self.queue = QueueService(
            reactor=self._reactor,
            shards={name: partial(self._surroundings, name) for name in context.shards},
        )
        self.queue.on_broken = self._broken
        self._halted = Halted(self._reactor, self._switches, self.queue.in_thread, self._unhalted)
        context.control.add("policy.counts", self._policy_counts)
        context.control.add("figures", self._figures)
        context.control.add("counters.clear", self._clear_counters)
        context.control.add("log.flush", self._flush_log)
        self._operations = QueueOperations(
            lambda: parts_of(self.queue.open_shards()), config, time.time, self._switches, self.queue.in_thread
        )
        QueueMethods(self._operations).register(context.control)
        self.queue.startService()
        self.queue.ready.addCallbacks(self._open, self._cannot_open)

    def _access_lists(self) -> Lists:
        """
        What access rules compare with. A list that cannot be read is an empty one: mail is taken, and the log says so.

        Files are read at the start, before there is anybody who would have to wait.
        """
        try:
            return thd_read_lists(self._config)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("an access list is missing: {problem}", problem=problem)
            return thd_read_lists(self._config, strict=False)

    def _in_thread(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        return self.queue.in_thread(function, *args)

    def _surroundings(
        self, shard: str, in_thread: InThread, committer: Callable[[Journal], ICommitter]
    ) -> Surroundings:
        config, reactor = self._config, self._reactor
        first = shard == self._context.shards[0]
        recorder = Recorder(
            reactor,
            self._files,
            config.path("log"),
            Lane(config.path("run", "counters"), shard, wall(reactor)),
            shard,
            config.log,
            node=config.server.hostname,
            process=os.getpid(),
            alone=first and config.server.workers <= 1,
            apart_s=LOG_APART_S,
        )
        self._recorders[shard] = recorder
        channels = make_channels(self._parts(recorder, config))
        notices = Notices(config)
        self._notices.append(notices)
        self._channels += channels.values()
        return Surroundings(
            config=config,
            files=self._files,
            recorder=recorder,
            channels=channels,
            notices=notices,
            clock=reactor,
            seconds=time.time,
            chance=Random(),  # noqa: S311 - spreads retries
            in_thread=in_thread,
            committer=committer,
            replay=not self._same_session(shard),
            stopped=self._halted.thd_stopped(),
            events=self._events,
        )

    def _parts(self, recorder: Recorder, config: Config) -> Parts:
        return Parts(
            reactor=self._reactor,
            files=self._files,
            directory=self._directory,
            router=self._router,
            resolver=self._resolver,
            security=self._published.security(config),
            recorder=recorder,
            events=self._events,
            traces=self._tracing.traces,
            config=config,
            srs_secret=self._srs_secret,
            usage=self._usage,
        )

    def _same_session(self, shard: str) -> bool:
        """Whether this shard was last held under the supervisor that lives now: then only a process has died."""
        try:
            with open(self._config.path("run", f"session-{shard}")) as source:
                return source.read() == self._context.session
        except OSError:
            return False

    def _note_session(self) -> None:
        """Only now: had we died while repeating deliveries, the next process would have to do it again."""
        for shard in self._context.shards:
            path = self._config.path("run", f"session-{shard}")
            if self.queue.shards[shard].recovered.owed:  # whoever comes after us has to do it again
                with suppress(FileNotFoundError):
                    os.unlink(path)
                continue
            with open(path, "w") as target:
                target.write(self._context.session)

    def _open(self, _: object) -> None:
        config = self._config
        self._note_session()
        self._halted.watch()
        first = self._context.index == 0
        self._clock_watch = ClockWatch(self._reactor, self._events if first else NoEvents(), self._clock_set)
        self._clock_watch.start()
        self._listeners.open(config, self._smtp)
        if first:
            self._duties = Duties(
                self._context,
                config,
                files=self._files,
                events=self._events,
                queue=self.queue,
                router=self._router,
                resolver=self._resolver,
                published=self._published,
                reopen=self._reopen,
            )
            self._duties.start()
        self._ports += monitor.listen(self._context, config)
        self._context.ready()

    def _smtp(self, listener: ListenerConfig, certificates: Certificates | None) -> SmtpFactory:
        config = self._config
        return SmtpFactory(
            self._reactor,
            hostname=config.server.hostname,
            listener=listener,
            enqueue=self.queue.first,
            router=self._router,
            recorder=self._recorders[self._context.shards[0]],
            events=self._events,
            flush=self._flush,
            queue=config.queue,
            log=config.log,
            trust=config.trust,
            postmaster=config.server.postmaster or POSTMASTER,
            resolver=self._resolver,
            certificates=certificates,
            logins=self._lookups.logins,
            directory=self._directory,
            process=next((name for name, one in config.channels.items() if one.kind == "process"), "process"),
            last_checks=(MailboxLimits(self._directory, self._usage),),
            gate=self._gate,
            traces=self._tracing.traces,
        )

    def _cannot_open(self, failure: Any) -> None:
        if failure.check(OSError, QmailpyError):  # the disk's word, or another process has the shard: not a bug
            self._log.critical(
                "{name} cannot take up its queue, no mail is taken: {why}; trying again",
                name=self._context.name,
                why=str(failure.value),
            )
        else:
            self._log.failure("{name} cannot take up its queue", failure, name=self._context.name)
        self._reactor.callLater(0, self._give_up)

    def _broken(self, problem: OSError) -> None:
        """A shard's journal cannot be trusted: a new life reads it from the disk."""
        self._events.happened("journal.broken", worker=self._context.name, why=str(problem))
        self._reactor.callLater(1.0, self._give_up)

    def _give_up(self) -> None:
        if self._reactor.running:
            self._reactor.stop()

    def _unhalted(self) -> list[Runner]:
        """The runners that may go on when no operator has stopped them."""
        runners = [runner for shard in self.queue.shards.values() for runner in shard.runners.values()]
        return [
            one for one in runners if one.name in self._config.channels and not self._config.channels[one.name].stopped
        ]

    # --- while it runs ---------------------------------------------------------------------------------------

    async def _flush(self, destination: str) -> int:
        """Have all workers try the mail for a destination now; how many messages we have for it."""
        others = self.queue.in_thread(thd_flush_others, self._context.home, self._context.name, destination)
        others.addErrback(lambda failure: self._log.warn("the other workers: {why}", why=str(failure.value)))
        count = await self._operations.flush(destination)
        await others
        return count

    async def _figures(self) -> Json:
        return {
            **figures.of_servers(self._listeners.sites, self._lookups.logins),
            **queue_figures.of_queue(self.queue),
            **queue_figures.of_channels(self._channels),
            **queue_figures.of_log(self._recorders.values()),
        }

    async def _policy_counts(self) -> Json:
        return dict(self._gate.counts)

    async def _flush_log(self) -> Json:
        """What has happened is in the log and the counters now, and not some milliseconds later."""
        for recorder in self._recorders.values():
            recorder.flush()
        return None

    async def _clear_counters(self, keep_stored: bool = False) -> Json:
        for recorder in self._recorders.values():
            recorder.clear(keep_stored)
            await self.queue.in_thread(recorder.thd_sync)
        return None

    async def _reload(self, config: Config) -> None:
        """
        Take another configuration: a channel to other hosts is made anew when its settings have changed, and one that
        was not there is made.
        """
        lists = await self.queue.in_thread(thd_read_lists, config)
        clients = await self.queue.in_thread(thd_read_clients, config)
        marks = await self.queue.in_thread(thd_marks_of_all, config)
        named = await self.queue.in_thread(servers, config.dns)
        pairs = await self.queue.in_thread(self._listeners.thd_certificates, config)
        before = self._config
        changed = to_remake(config, before, marks, self._marks)
        # What may fail comes first: then nothing has changed.
        new = {shard: queue.lacking(config) for shard, queue in self.queue.shards.items()}
        stopped = await self._stopped() if any(new.values()) else None
        for shard, queue in self.queue.shards.items():
            if new[shard]:
                await self.queue.in_thread(queue.shelf.thd_make, new[shard])
        made = {
            shard: {
                name: factory(config.channels[name].kind)(config, config.channels[name], self._parts(recorder, config))
                for name in config.channels
                if name in new[shard] or (name in changed and name in self.queue.shards[shard].runners)
            }
            for shard, recorder in self._recorders.items()
        }
        self._resolver.use(named, config.dns.timeout_s, trusted=config.dns.trusted)
        self._lookups.reconfigure(config)
        self._config = config
        self._marks = marks
        self._router.reconfigure(config)
        self._operations.reconfigure(config)
        self._tracing.reconfigure(config)
        self._alarm.reconfigure(config)
        self._published.reconfigure(config)
        self._usage.reconfigure(config)
        self._gate.reconfigure(config, lists)
        for channel in self._channels:
            if IReconfigured.providedBy(channel):
                cast(Any, channel).reconfigure(config)
        for shard, queue in self.queue.shards.items():
            channels = made[shard]
            former = {name: queue.runners[name].channel for name in channels if name in queue.runners}
            ended = queue.reconfigure(config, channels, stopped or (lambda name: False))
            self._channels += channels.values()
            for name, old in former.items():
                if old is not None:
                    ended[name].addCallback(partial(self._end_channel, old))
        for notices in self._notices:
            await self.queue.in_thread(notices.thd_configure, config)
        self._listeners.use(pairs)
        self._listeners.reconfigure(config, clients)
        if self._duties is not None:
            self._duties.reconfigure(config)

    def _clock_set(self, step: float) -> None:
        """The time of day is another by so many seconds: what waits for one looks again."""
        for shard in self.queue.shards.values():
            for runner in shard.runners.values():
                runner.clock_set(step)
        if self._duties is not None:
            self._duties.clock_set()

    async def _stopped(self) -> Callable[[str], bool]:
        """Which channels an operator has stopped, for those that are new."""
        stopped: Callable[[str], bool] = await self.queue.in_thread(self._halted.thd_stopped)
        self._halted.watch()
        return stopped

    async def _end(self, channel: IChannel) -> None:
        self._channels.remove(channel)
        await channel.stop()

    def _end_channel(self, channel: IChannel, _: None) -> None:
        Deferred.fromCoroutine(self._end(channel)).addErrback(
            lambda failure: self._log.failure("bug while a channel ends", failure)
        )

    def _reopen(self) -> None:
        for recorder in self._recorders.values():
            recorder.reopen()

    # --- stop ------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        ended = [self._listeners.close(), *(port.stopListening() for port in self._ports)]
        await DeferredList([each for each in ended if each is not None], consumeErrors=True)
        indexed = self._duties.stop() if self._duties is not None else None
        self._halted.stop()
        if self._clock_watch is not None:
            self._clock_watch.stop()
        drain_s = self._config.server.drain_s
        late = self._reactor.callLater(drain_s * PROGRAMS, self._end_programs)
        grace = max(1.0, drain_s / 2)
        await self._listeners.drain(grace)
        await self.queue.in_thread(self._gate.thd_close)
        await self.queue.stopService()
        if late.active():
            late.cancel()
        await DeferredList([Deferred.fromCoroutine(channel.stop()) for channel in self._channels], consumeErrors=True)
        await self._published.stopService()
        self._tracing.traces.close()
        for recorder in self._recorders.values():
            recorder.close()
        await self._lookups.stop()
        self._alarm.stop()
        if indexed is not None:
            await indexed

    def _end_programs(self) -> None:
        """Some work on mail for minutes: theirs waits, and is recorded as all other, instead of being cut with us."""
        for channel in self._channels:
            if IRunsPrograms.providedBy(channel):
                channel.end_programs()

    def stopService(self) -> Deferred[None]:
        """Fires when what was in flight is recorded and everything is in files."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())


def thd_flush_others(home: str, own: str, destination: str) -> None:
    """
    Have the other mail workers try the mail for a destination now. Blocks.

    @raise CommandError: one did not.
    """
    for endpoint in running(home):
        if endpoint.role == "mta" and endpoint.name != own:
            call(home, endpoint.name, "queue.flush", destination=destination)
