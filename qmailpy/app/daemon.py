"""
The daemon's top: one Service that holds the mail processes, or, with C{workers = 0}, does everything itself.

Signals: SIGTERM and SIGINT stop in an orderly way with exit status 0, a second one cuts it short; SIGHUP opens the logs
again and reads the configuration anew, whole or not at all.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any, Protocol, TypeVar

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from qmailpy.app.context import BoundSocket
from qmailpy.app.host import ROLES, RoleHost
from qmailpy.app.instance import Instance
from qmailpy.app.log import LogFile
from qmailpy.app.notify import Notifier
from qmailpy.app.sockets import ROLES as ROLE_OF_KIND
from qmailpy.app.sockets import Listening
from qmailpy.app.supervisor import Place
from qmailpy.config.schema import Config, DirectoryConfig, MonitorConfig, QueueConfig, ServerConfig
from qmailpy.errors import ConfigError, QmailpyError
from qmailpy.servers.keys import Pair

S = TypeVar("S", ServerConfig, QueueConfig, DirectoryConfig, MonitorConfig)

_SHARD = re.compile(r"[0-9]{1,4}")


def shards(queue: str, workers: int) -> list[tuple[str, ...]]:
    """
    Which shards each worker holds: its own, and the first one those without a worker (there were more last time).

    @param queue: path of HOME/queue.
    @param workers: how many there are, at least 1.
    """
    own = [str(number) for number in range(workers)]
    try:
        found = {name for name in os.listdir(queue) if _SHARD.fullmatch(name)}
    except FileNotFoundError:
        found = set()
    left = sorted(found - set(own), key=int)
    return [(own[0], *left), *((name,) for name in own[1:])]


def places(config: Config) -> list[Place]:
    """The processes of a configuration, for C{workers} of at least 1 (0 gives those of one process)."""
    divided = shards(config.path("queue"), max(1, config.server.workers))
    workers = [Place(role="mta", index=index, shards=held, rank=1) for index, held in enumerate(divided)]
    # With a directory elsewhere there is none of ours.
    found = [*([] if config.directory.servers else [Place(role="directory", index=0)]), *workers]
    if any(ROLE_OF_KIND.get(listener.kind) == "access" for listener in config.listeners):
        # Nobody looks into a mailbox before the deliveries of an unclean stop have been replayed.
        found.append(Place(role="access", index=0, rank=2, patient=True))
    return found


def effective(wanted: Config, running: Config, bound: dict[str, str]) -> tuple[Config, list[str]]:
    """
    What of a new configuration can be had without a restart.

    Sockets stay as they are bound, and with the process that has them: a listener of the old configuration stays, with
    its new settings where it has some.

    @param bound: endpoints by listener name.
    @return: the configuration the processes get, and what needs a restart, one line each.
    """
    late = []
    new = {one.name: one for one in wanted.listeners}
    listeners = []
    for old in running.listeners:
        one = new.pop(old.name, None)
        if one is None:
            late.append(f"listener {old.name} is gone from the configuration")
            listeners.append(old)
            continue
        if one.endpoint != bound.get(one.name, one.endpoint):
            late.append(f"listener {one.name} has a new endpoint {one.endpoint}")
        if one.kind != old.kind:
            late.append(f"listener {one.name} has a new kind {one.kind}")
        tls = one.tls
        if ROLE_OF_KIND.get(old.kind) == "access" and tls != old.tls:  # it may have no certificates, and be closed
            late.append(f"listener {one.name} has a new tls {tls}")
            tls = old.tls
        listeners.append(evolve(one, endpoint=old.endpoint, kind=old.kind, tls=tls))
    late += [f"listener {name} is new" for name in new]
    server = _kept(
        "server",
        wanted.server,
        running.server,
        ("hostname", "postmaster", "workers", "user", "group", "directory_user"),
        late,
    )
    # A journal's segments are as large as they were made; larger messages in memory than fit there could not be taken.
    queue = _kept("queue", wanted.queue, running.queue, ("segment_octets", "segments"), late)
    if queue.spill_octets > queue.segment_octets // 4:
        queue = _kept("queue", queue, running.queue, ("spill_octets",), late)
    directory = _kept("directory", wanted.directory, running.directory, ("endpoint", "tls_endpoint"), late)
    if bool(wanted.directory.servers) != bool(running.directory.servers):
        late.append("[directory] servers: the embedded directory server is started and stopped")
    monitor = _kept("monitor", wanted.monitor, running.monitor, ("endpoint",), late)
    if running.directory.servers and not wanted.directory.servers:
        directory = running.directory  # ours is not there yet
    kept = evolve(wanted, server=server, queue=queue, directory=directory, monitor=monitor, listeners=tuple(listeners))
    return kept, late


def _kept(name: str, wanted: S, running: S, keys: Sequence[str], late: list[str]) -> S:
    """
    A section with some keys as they are.

    @param late: gets a line for each that was to be another.
    """
    late += [f"[{name}] {key} has changed" for key in keys if getattr(wanted, key) != getattr(running, key)]
    return evolve(wanted, **{key: getattr(running, key) for key in keys})


class Running(Protocol):
    """Whoever does the work: L{Supervisor} or L{OneProcess}."""

    def start(self) -> None: ...

    def stop(self, limit_s: float) -> Deferred[None]: ...

    def kill(self) -> None: ...

    def reload(self, config: Config) -> None: ...

    def reopen(self) -> None: ...

    @property
    def answering(self) -> bool: ...


class OneProcess:
    """
    All roles in this process, as the supervisor would run them in children.

    @ivar answering: always; whoever asks is this process itself.
    """

    log = Logger()
    answering = True

    def __init__(
        self,
        reactor: Any,
        config: Config,
        *,
        listening: Listening,
        session: str,
        on_ready: Callable[[], None],
        asked: Callable[[str], None],
        roles: str = ROLES,
        keys: Callable[[], dict[str, Pair]] | None = None,
    ) -> None:
        """@param keys: as for L{RoleHost}."""
        self._reactor = reactor
        self._hosts: list[RoleHost] = []
        self._later: list[RoleHost] = []  # start when all others are ready
        self._waiting: set[str] = set()
        self._on_ready = on_ready
        self._stopped: Deferred[None] | None = None
        for place in places(config):
            sockets = {
                name: tuple(BoundSocket(os.dup(one.fileno()), int(one.family)) for one in made)
                for name, made in listening.of(place.role).items()
            }
            self._waiting.add(place.name)
            host = RoleHost(
                reactor,
                config,
                role=place.role,
                index=place.index,
                shards=place.shards,
                sockets=sockets,
                session=session,
                ready=lambda name=place.name: self._ready(name),  # type: ignore[misc]
                stop=lambda: asked("stop"),
                reload=lambda: asked("reload"),
                roles=roles,
                changed=self._changed,
                keys=keys,
            )
            self._hosts.append(host)
            if place.patient:
                self._later.append(host)

    def start(self) -> None:
        for host in self._hosts:
            if host not in self._later:
                host.startService()

    def _changed(self, what: list[str]) -> None:
        for host in self._hosts:
            Deferred.fromCoroutine(host.flush(what))

    def _ready(self, name: str) -> None:
        self.log.info("{name} is ready", name=name)
        self._waiting.discard(name)
        if self._stopped is not None:
            return
        if self._later and self._waiting == {host.context.name for host in self._later}:
            later, self._later = self._later, []
            for host in later:
                host.startService()
        if not self._waiting:
            self._on_ready()

    def stop(self, limit_s: float) -> Deferred[None]:
        stopped = self._stopped = Deferred()
        limit = self._reactor.callLater(limit_s, self.kill)

        async def stop() -> None:
            for host in reversed(self._hosts):
                if host.running:
                    await host.stopService()

        def end(result: object) -> object:
            if limit.active():
                limit.cancel()
            self.kill()
            return result

        failed = Deferred.fromCoroutine(stop()).addBoth(end)
        failed.addErrback(lambda failure: self.log.failure("while stopping", failure=failure))
        return stopped

    def kill(self) -> None:
        """Wait no longer."""
        if self._stopped is not None and not self._stopped.called:
            self._stopped.callback(None)

    def reload(self, config: Config) -> None:
        given = [Deferred.fromCoroutine(host.reload(config)) for host in self._hosts]
        for one in given:
            one.addErrback(lambda failure: self.log.error("{why}", why=failure.getErrorMessage()))
        DeferredList(given).addCallback(lambda done: self.log.info("the new configuration is in force"))

    def reopen(self) -> None:
        for host in self._hosts:
            host.reopen()


@frozen(kw_only=True)
class Seat:
    """What the daemon got hold of before it became one: all of it is given back at the end."""

    instance: Instance
    listening: Listening
    logfile: LogFile
    notifier: Notifier


class Daemon(Service):
    """
    Runs the processes from start to stop.

    C{make} builds whoever does the work when the service starts: in the background the process has its final id only
    then.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        seat: Seat,
        make: Callable[[Callable[[], None], Callable[[str], None]], Running],
        load: Callable[[str], Config],
        in_thread: Callable[..., Awaitable[Config]],
    ) -> None:
        """
        @param make: called with what to call when all is ready, and with what to pass wishes to.
        @param load: reads and checks the configuration of a home; blocks.
        @param in_thread: runs a blocking function elsewhere.
        """
        self._reactor = reactor
        self._config = config
        self._seat = seat
        self._make = make
        self._load = load
        self._in_thread = in_thread
        self._work: Running | None = None
        self._stopping = False
        self._watchdog: LoopingCall | None = None

    def startService(self) -> None:
        super().startService()
        self._seat.instance.write_pid()
        self._reactor.callWhenRunning(self._take_signals)
        self._work = self._make(self._ready, self._asked)
        self.log.info("qmailpy starts on {home}", home=self._config.home)
        self._reactor.callWhenRunning(self._begin, self._work)

    def _begin(self, work: Running) -> None:
        try:
            work.start()
        except Exception as error:
            self.log.failure("qmailpy cannot start: {error}", error=str(error))
            atexit.register(os._exit, 1)  # twistd knows no other way to a status of our own
            self._asked("stop")

    def _ready(self) -> None:
        self.log.info("qmailpy is ready")
        self._seat.notifier.tell("READY=1", f"STATUS=serving {self._config.server.hostname}")
        period = self._seat.notifier.watchdog_s
        if period and self._watchdog is None:
            self._watchdog = LoopingCall(self._watch)
            self._watchdog.clock = self._reactor
            self._watchdog.start(period / 2)

    def _watch(self) -> None:
        if self._work is not None and self._work.answering:
            self._seat.notifier.tell("WATCHDOG=1")

    def _take_signals(self) -> None:
        # Not Twisted's own handlers: after SIGTERM twistd ends by the same signal, and we promise exit status 0.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._asked, "reload" if number == signal.SIGHUP else "stop")

    def _asked(self, wish: str) -> None:
        if wish == "reload":
            self.reload()
        elif not self._stopping:
            self._stopping = True
            self._reactor.stop()
        elif self._work is not None:
            self.log.warn("asked a second time: not waiting any longer")
            self._work.kill()

    def reload(self) -> Deferred[None]:
        """SIGHUP. Fires when the processes have been told, or the new configuration was refused and logged."""
        self._seat.logfile.reopen()
        if self._work is not None:
            self._work.reopen()
        done = Deferred.fromCoroutine(self._reread())
        done.addErrback(lambda failure: self.log.failure("the configuration was not read", failure=failure))
        return done

    async def _reread(self) -> None:
        try:
            wanted = await self._in_thread(self._load, self._config.home)
        except ConfigError as error:
            for problem in error.problems:
                self.log.error("configuration refused: {problem}", problem=problem)
            self.log.error("the old configuration stays in force")
            return
        except (QmailpyError, OSError) as error:
            self.log.error("configuration refused: {error}; the old one stays in force", error=str(error))
            return
        if self._work is None or self._stopping:
            return
        self._config, late = effective(wanted, self._config, self._seat.listening.endpoints)
        for line in late:
            self.log.warn("{line}: this needs a restart", line=line)
        self._work.reload(self._config)

    async def _halt(self) -> None:
        self._stopping = True
        self.log.info("qmailpy stops")
        self._seat.notifier.tell("STOPPING=1")
        self._seat.listening.close()  # clients are refused from now on, instead of waiting for nobody
        if self._work is not None:
            await self._work.stop(self._config.server.drain_s)
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()
        self._seat.instance.remove_pid()
        self.log.info("qmailpy has stopped")

    def stopService(self) -> Deferred[None]:
        """Fires when no process is left."""
        super().stopService()
        return Deferred.fromCoroutine(self._halt())
