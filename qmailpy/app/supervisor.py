"""
Keeps the child processes running: starts them in order, restarts one that dies, stops them in the opposite order.

A child's life::

    WAITING --start--> STARTING --"ready"--> READY
       ^                  |                    |
       +---- died --------+--------------------+         (again at once, then as L{Restarts} says)
    any --stop--> STOPPING (told to end) --died--> GONE  (or killed when the drain limit is over)

A child that lives and does not answer (L{qmailpy.app.pulse}) is told of, event C{worker.down}, until it answers again
or its successor is ready. When it has been silent for C{[server] frozen_s}, it is killed.

The supervisor keeps no mail state and parses nothing from the network. Pure of processes: L{Spawn} starts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from qmailpy.app.handover import Message, encode
from qmailpy.app.pulse import QUESTION_S, STARTING, Pulse, is_late
from qmailpy.app.restarts import WINDOW_S, Restarts
from qmailpy.config.schema import Config
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IEvents
from qmailpy.stats.health import age_text, tell_over
from qmailpy.values import first_line

OF_PROCESSES = frozenset({"worker.down", "worker.crash-loop"})
"""The conditions that are told of here."""

PATIENCE_S = 10.0
"""How long the next rank waits for the one before to be ready: mail does not stay away because a directory does."""

FLUSH_MOST = 100  # names in one message that we pass on; the directory sends no more than half as many


@frozen(kw_only=True)
class Place:
    """A process there is to be."""

    role: str
    index: int
    shards: tuple[str, ...] = ()
    rank: int = 0  # lower ranks start first and stop last
    patient: bool = False  # does not start before all lower ranks have been ready, however long that takes

    @property
    def name(self) -> str:
        """C{ROLE-INDEX}."""
        return f"{self.role}-{self.index}"


class Child(Protocol):
    """A running process."""

    pid: int

    def send(self, message: Message) -> None:
        """Pass it a message of L{qmailpy.app.handover}; nothing happens when it is gone."""

    def terminate(self) -> None:
        """Ask it to end in an orderly way (SIGTERM)."""

    def kill(self) -> None:
        """End it (SIGKILL)."""


class Keeper(Protocol):
    """Who is told about a process."""

    def said(self, message: Message) -> None:
        """It sent a message."""

    def ended(self, how: str, clean: bool) -> None:
        """It is gone, once; C{how} for the log, C{clean} when its exit status was 0."""


class Spawn(Protocol):
    """Starts processes."""

    def __call__(self, place: Place, config: Config, keeper: Keeper) -> Child:
        """@raise OSError: it cannot be started now."""


class State(Enum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"


class _Kept:
    """One place and whoever fills it."""

    log = Logger()

    def __init__(
        self,
        place: Place,
        clock: IReactorTime,
        spawn: Spawn,
        changed: Callable[[], None],
        asked: Callable[[str], None],
        flush: Callable[[list[str]], None],
        period_s: float,
        patience: int,
        events: IEvents,
    ) -> None:
        """
        @param period_s: between two rounds of questions.
        @param patience: questions that may stay without an answer; 0 = any number.
        """
        self._events = events
        self.place = place
        self._flush = flush
        self.patience = patience
        self._pulse = Pulse(period_s)
        self._down_since: float | None = None  # it was told of
        self._kept_back: dict[str, Message] = {}  # by what it does: for when it answers again
        self.hung = False
        self.state = State.GONE
        self.child: Child | None = None
        self._clock = clock
        self._spawn = spawn
        self._changed = changed
        self._asked = asked
        self._restarts = Restarts()
        self._since = 0.0
        self._later: IDelayedCall | None = None
        self._held_back: float | None = None  # restarts are, since then
        self.config: Config | None = None

    def start(self, config: Config) -> None:
        self.config = config
        self.state = State.WAITING
        self._start_now()

    def _start_now(self) -> None:
        self._later = None
        assert self.config is not None
        self._since = self._clock.seconds()
        self._pulse.answered()
        self._kept_back.clear()
        self.hung = False
        self.state = State.STARTING
        try:
            self.child = self._spawn(self.place, self.config, self)
        except OSError as error:
            self.ended(f"could not be started: {error}", False)
            return
        self.log.info("{name} started, process {pid}", name=self.place.name, pid=self.child.pid)

    def said(self, message: Message) -> None:
        said = message.get("say")
        self._pulse.answered()
        if said == "ready" and self.state is State.STARTING:
            self.state = State.READY
            took = self._clock.seconds() - self._since
            self.log.info("{name} is ready after {took:.2f} s", name=self.place.name, took=took)
            self._answers()
            self._changed()
            return
        if self.state is State.READY:
            self._answers()
        if said == "refused":
            why = first_line(str(message.get("why", "")))
            self.log.error("{name} keeps the old configuration: {why}", name=self.place.name, why=why)
        elif said == "reloaded":
            self.log.info("{name} has the new configuration", name=self.place.name)
        elif said == "changed":
            what = message.get("what")
            if isinstance(what, list) and len(what) <= FLUSH_MOST and all(isinstance(one, str) for one in what):
                self._flush(what)
        elif said in ("reload", "stop"):
            self.log.info("{name} passes on a wish: {wish}", name=self.place.name, wish=said)
            self._asked(said)

    def tell(self, message: Message) -> None:
        """Pass it a message, if it is there. One that stands still gets the last of each kind when it goes on."""
        if self.child is None:
            return
        if self._down_since is None:
            self.child.send(message)
        elif message["do"] == "flush":
            self._kept_back["flush"] = {"do": "flush", "what": [""]}
        else:
            self._kept_back[str(message["do"])] = message

    def ping(self, late: bool) -> None:
        """
        A round: ask whether it is alive. One that has not answered for too long is told of, and then ended.

        @param late: the round is, and proves nothing.
        """
        if self.child is None or self.state is State.STOPPING:
            return
        self._look_after_restarts()
        if not late:
            self._judge(self.child)
        if not self.hung and self._pulse.ask(late=late):
            self.child.send({"do": "ping"})

    def _judge(self, child: Child) -> None:
        starting = self.state is State.STARTING
        if not starting and self._pulse.silent(self.patience or math.inf):
            silent = age_text(self._pulse.silent_s)
            if self._down_since is None:
                self._down_since = self._clock.seconds() - self._pulse.silent_s
                self.log.error("{name} has not answered for {silent}", name=self.place.name, silent=silent)
            self._events.happened("worker.down", worker=self.place.name, why=f"it has said nothing for {silent}")
        if self.patience and not self.hung and self._pulse.unanswered >= self.patience * (STARTING if starting else 1):
            self.hung = True
            self.log.error("{name} does not answer any more: killed", name=self.place.name)
            child.kill()

    def _answers(self) -> None:
        """It is open for business, and says so."""
        if self._down_since is None:
            return
        self._over("worker.down", self._down_since)
        self._down_since = None
        kept, self._kept_back = self._kept_back, {}
        for message in kept.values():
            self.tell(message)

    def _look_after_restarts(self) -> None:
        if self._held_back is None or self.state is not State.READY:
            return
        if self._clock.seconds() - self._since >= WINDOW_S:
            self._over("worker.crash-loop", self._held_back)
            self._held_back = None

    def _over(self, event: str, since: float) -> None:
        lasted_s = self._clock.seconds() - since
        lasted = age_text(max(0.0, lasted_s))
        self.log.info("{name}: {event} is over after {lasted}", name=self.place.name, event=event, lasted=lasted)
        tell_over(self._events, event, self.place.name, lasted_s)

    def ended(self, how: str, clean: bool) -> None:
        self.child = None
        how = f"it did not answer: {how}" if self.hung else how
        self.hung = False
        if self.state in (State.STOPPING, State.GONE):
            self.state = State.GONE
            report = self.log.info if clean else self.log.warn
            report("{name} ended: {how}", name=self.place.name, how=how)
            self._changed()
            return
        now = self._clock.seconds()
        wait, too_often = self._restarts.delay(now, now - self._since)
        self.log.error("{name} died: {how}; restart in {wait:.2f} s", name=self.place.name, how=how, wait=wait)
        self._events.happened("worker.restarted", worker=self.place.name, how=how, wait=round(wait, 2))
        if too_often:
            if self._held_back is None:
                self._held_back = now
                self.log.error("{name} dies again and again: restarts are held back", name=self.place.name)
            self._events.happened("worker.crash-loop", worker=self.place.name, how=how)
        self.state = State.WAITING
        if wait:
            self._later = self._clock.callLater(wait, self._start_now)
        else:
            self._start_now()

    def stop(self) -> None:
        if self.child is not None:
            self.state = State.STOPPING
            self.child.terminate()
        else:
            if self._later is not None:
                self._later.cancel()
                self._later = None
            self.state = State.GONE

    def kill(self) -> None:
        if self.child is not None:
            self.log.error("{name} did not end in time: killed", name=self.place.name)
            self.child.kill()


class Supervisor:
    """
    All children.

    @ivar ready: whether every child is open for business.
    @ivar answering: whether no child has been silent for too long. One that was is killed and started again, so this
        is false only while even that does not help.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        places: Sequence[Place],
        spawn: Spawn,
        config: Config,
        on_ready: Callable[[], None] = lambda: None,
        asked: Callable[[str], None] = lambda wish: None,
        silence_s: float | None = None,
        question_s: float = QUESTION_S,
        more: Callable[[str, Config], Message] = lambda role, config: {},
        events: IEvents | None = None,
        besides: tuple[Callable[[Config], None], Callable[[], None]] = (lambda config: None, lambda: None),
    ) -> None:
        """
        @param besides: what in this process wants a new configuration, and the end, too.
        @param on_ready: called once, when all are ready for the first time.
        @param asked: called with C{"reload"} or C{"stop"} when somebody asked a child for it.
        @param silence_s: how long a child may stay without an answer; C{None}: as the configuration says.
        @param question_s: how often each is asked, at least.
        @param more: what a child of a role is given beside a new configuration.
        @param events: is told of children that died.
        """
        self._clock = clock
        self._reconfigured, self._ended = besides
        self._silence_s = silence_s
        self._period = question_s if silence_s is None else min(question_s, silence_s / 4)
        self._kept = [
            _Kept(
                place,
                clock,
                spawn,
                self._changed,
                asked,
                self._flush,
                self._period,
                self._patience_of(config),
                events or NoEvents(),
            )
            for place in places
        ]
        self._pings = LoopingCall(self._ping)
        self._pings.clock = clock
        self._asked_at = 0.0
        self._config = config
        self._more = more
        self._on_ready: Callable[[], None] | None = on_ready
        self._ranks = sorted({place.rank for place in places})
        self._started: list[int] = []
        self._patience: IDelayedCall | None = None
        self._limit: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None

    @property
    def ready(self) -> bool:
        return all(kept.state is State.READY for kept in self._kept)

    @property
    def answering(self) -> bool:
        return not any(kept.hung for kept in self._kept)

    def children(self) -> dict[str, tuple[State, int]]:
        """State and process id (0 = none) by name."""
        return {kept.place.name: (kept.state, kept.child.pid if kept.child else 0) for kept in self._kept}

    def _patience_of(self, config: Config) -> int:
        silence_s = config.server.frozen_s if self._silence_s is None else self._silence_s
        return math.ceil(silence_s / self._period)

    def start(self) -> None:
        """Start the first rank; the others follow as ranks become ready."""
        self._asked_at = self._clock.seconds()
        self._pings.start(self._period, now=False)
        self._next_rank()

    def _ping(self) -> None:
        now = self._clock.seconds()
        late, self._asked_at = is_late(now - self._asked_at, self._period), now
        for kept in self._kept:
            kept.ping(late)

    def _flush(self, what: list[str]) -> None:
        for kept in self._kept:
            if kept.place.role in ("mta", "access"):
                kept.tell({"do": "flush", "what": what})

    def _next_rank(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None
        left = [rank for rank in self._ranks if rank not in self._started]
        if not left or self._stopped is not None:
            return
        self._started.append(left[0])
        if left[1:] and not any(kept.place.patient for kept in self._of(left[1])):
            self._patience = self._clock.callLater(PATIENCE_S, self._out_of_patience)
        for kept in self._of(left[0]):
            kept.start(self._config)

    def _out_of_patience(self) -> None:
        late = [kept.place.name for kept in self._kept if kept.state in (State.STARTING, State.WAITING)]
        self.log.warn("{late} not ready after {limit} s: going on", late=", ".join(late), limit=PATIENCE_S)
        self._patience = None
        self._next_rank()

    def _of(self, rank: int) -> list[_Kept]:
        return [kept for kept in self._kept if kept.place.rank == rank]

    def _changed(self) -> None:
        if self._stopped is not None:
            self._stop_next()
            return
        if all(kept.state is State.READY for kept in self._of(self._started[-1])):
            self._next_rank()
        if self.ready and self._on_ready is not None:
            tell, self._on_ready = self._on_ready, None
            tell()

    def reload(self, config: Config) -> None:
        """Give all children, now and after restarts, a new configuration."""
        self._config = config
        self._reconfigured(config)
        for kept in self._kept:
            kept.config = config
            kept.patience = self._patience_of(config)
            if kept.child is not None:
                kept.tell({"do": "reload", "config": encode(config), **self._more(kept.place.role, config)})

    def reopen(self) -> None:
        """Have all children open their log files again."""
        self._send({"do": "reopen"})

    def _send(self, message: Message) -> None:
        for kept in self._kept:
            kept.tell(message)

    def stop(self, limit_s: float) -> Deferred[None]:
        """
        End all children, the last rank first; fires when none is left.

        @param limit_s: what has not ended by then is killed.
        """
        if self._stopped is not None:
            raise RuntimeError("stopped twice")
        stopped = self._stopped = Deferred()
        self._ended()
        if self._pings.running:
            self._pings.stop()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._limit = self._clock.callLater(limit_s, self.kill)
        self._stop_next()
        return stopped

    def _stop_next(self) -> None:
        """Go on with the highest rank that is not gone; rank by rank, since delivery needs the directory."""
        for rank in reversed(self._ranks):
            for kept in self._of(rank):
                if kept.state not in (State.STOPPING, State.GONE):
                    kept.stop()
            if any(kept.state is not State.GONE for kept in self._of(rank)):
                return
        if self._limit is not None:
            if self._limit.active():
                self._limit.cancel()
            self._limit = None
            assert self._stopped is not None
            self._stopped.callback(None)

    def kill(self) -> None:
        """End all children at once, without further waiting; for a limit that is over and for impatient people."""
        for kept in self._kept:
            if kept.state is not State.GONE:
                kept.state = State.STOPPING
                kept.kill()
