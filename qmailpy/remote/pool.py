"""
The connections of one channel: dialled when needed, kept for a moment, reused, and never more than the channel allows.

An idle connection is found by the destination it last served, before any question to the DNS, or by its peer, since
many domains share a host. At one peer there are at most C{destination_concurrency} connections; who needs another waits
for one to be given back, in turn.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol as Seam
from typing import cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTCP, IReactorTime, IReactorUNIX, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from qmailpy.config.schema import ChannelConfig
from qmailpy.remote.memory import HostMemory
from qmailpy.remote.mx import Destination, is_socket
from qmailpy.remote.peers import Peer
from qmailpy.remote.session import Session, Watcher
from qmailpy.remote.trouble import Fault, Trouble, judge
from qmailpy.wire.client_events import Stage

DESTINATIONS_LIMIT = 10000
"""Destinations whose last peer is remembered."""

OUR_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors of connect(2) that say nothing of the host."""


class NewSession(Seam):
    """Makes a session that is not connected yet."""

    def __call__(self, peer: Peer) -> Session: ...


class Unreached(Exception):
    """No session with a peer, and why."""

    def __init__(self, trouble: Trouble, session: Session | None = None) -> None:
        """
        @param session: the connection, when there was one, over which it was refused.
        """
        super().__init__(trouble.why or trouble.fault.value)
        self.trouble = trouble
        self.session = session


class Pool:
    """The connections of one channel."""

    def __init__(
        self,
        clock: IReactorTime,
        dialler: IReactorTCP,
        config: ChannelConfig,
        memory: HostMemory,
        watcher: Watcher,
        new_session: NewSession,
    ) -> None:
        self._clock = clock
        self._dialler = dialler
        self._config = config
        self._memory = memory
        self._watcher = watcher
        self._new_session = new_session
        self._idle: OrderedDict[Session, float] = OrderedDict()  # since when; oldest first
        self._counts: dict[Peer, int] = {}  # connections at each peer: idle, busy, being made
        self._idle_at: dict[Peer, list[Session]] = {}
        self._waiting: dict[Peer, deque[Deferred[None]]] = {}
        self._last_peer: OrderedDict[Destination, Peer] = OrderedDict()
        self._sweeper: IDelayedCall | None = None
        self._stopped = False

    @property
    def total(self) -> int:
        """Connections there are, those being made included."""
        return sum(self._counts.values())

    @property
    def idle(self) -> int:
        """Connections that wait for mail."""
        return len(self._idle)

    def recall(self, destination: Destination) -> Session | None:
        """An idle session that served C{destination} before; it is the caller's now."""
        peer = self._last_peer.get(destination)
        return None if peer is None else self.take(peer)

    def take(self, peer: Peer) -> Session | None:
        """An idle session with C{peer}; it is the caller's now, who gives it back with L{give}."""
        waiting = self._idle_at.get(peer)
        while waiting:
            session = waiting.pop()  # the one used last is the least likely to be closed by the peer
            if not waiting:
                del self._idle_at[peer]
            del self._idle[session]
            if session.usable:
                return session
            self._leave(session)
        return None

    async def connect(self, peer: Peer, prepare: Callable[[Session], None] | None = None) -> Session:
        """
        A session with C{peer}, ready for mail: an idle one, or a new one.

        @param prepare: is given a new one before it is connected.
        @raise Unreached: there is none to be had; the host's failures have been noted.
        """
        most = peer.most or self._config.destination_concurrency
        while self._counts.get(peer, 0) >= most:
            session = self.take(peer)
            if session is not None:
                return session
            turn: Deferred[None] = Deferred()
            self._waiting.setdefault(peer, deque()).append(turn)
            try:
                await turn
            except BaseException:
                self._wake(peer)  # given up; if it was our turn, it is the next one's now
                raise
        session = self.take(peer)
        if session is not None:
            return session
        blocked = self._memory.blocked(peer)
        if blocked is not None:  # since we began to wait for our turn
            self._wake(peer)
            raise Unreached(Trouble(stage=Stage.CONNECT, fault=Fault.UNREACHED, why=skipping(blocked.why)))
        if self.total >= self._config.concurrency and self._idle:
            self._retire(next(iter(self._idle)))
        self._counts[peer] = self._counts.get(peer, 0) + 1
        try:
            session = await self._dial(peer, prepare)
        except BaseException:
            self._uncount(peer)
            raise
        self._memory.reached(peer)
        return session

    async def _dial(self, peer: Peer, prepare: Callable[[Session], None] | None) -> Session:
        session = self._new_session(peer)
        session.core.chunks = not self._memory.chunkless(peer)
        if prepare is not None:
            prepare(session)
        ready = session.open()
        endpoint = self._endpoint(peer)
        try:
            factory = Factory.forProtocol(lambda: session)
            factory.noisy = False
            await endpoint.connect(factory)
        except Exception as error:  # ConnectError and its kin, OSError for want of sockets
            if session.trace is not None:
                session.trace.unreached(connect_error(error))
            raise Unreached(self._unreached(peer, error)) from error
        try:
            trouble = await ready
        except BaseException:
            session.drop("given up")
            raise
        if trouble is not None:
            if judge(trouble).blame:
                self._memory.failed(peer, judge(trouble).reply.text)
            raise Unreached(trouble, session)
        session.ended = self._ended
        return session

    def _endpoint(self, peer: Peer) -> IStreamClientEndpoint:
        timeout_s = self._config.connect_timeout_s
        if is_socket(peer.address):
            # A reactor that dials TCP can do this as well, wherever there are UNIX sockets.
            return UNIXClientEndpoint(cast(IReactorUNIX, self._dialler), peer.address, timeout=timeout_s)
        kind = TCP6ClientEndpoint if ":" in peer.address else TCP4ClientEndpoint
        here = (peer.source, 0) if peer.source else None
        return kind(self._dialler, peer.address, peer.port, timeout=timeout_s, bindAddress=here)

    def _unreached(self, peer: Peer, error: Exception) -> Trouble:
        words = connect_error(error)
        way, where = ("UNIX", peer.address) if is_socket(peer.address) else ("TCP", f"{peer.address}:{peer.port}")
        here = f" from {peer.source}" if peer.source else ""
        why = f"{way} active open: Failed connect() {where}{here}  Error: {words}"
        self._watcher.unreached(peer, why)
        if _number(error) in OUR_SHORTAGES:
            return Trouble(stage=Stage.CONNECT, fault=Fault.OURS, why=why)
        self._memory.failed(peer, words)
        return Trouble(stage=Stage.CONNECT, fault=Fault.UNREACHED, why=why)

    def give(self, session: Session, destination: Destination) -> None:
        """
        Take back a session, after its transactions.

        @param destination: what it was used for; the next mail for that goes the same way.
        """
        peer = session.peer
        if not session.usable:
            self._leave(session)
            if session.core.stage is Stage.IDLE:
                session.quit()
            return
        spent = session.spent or session.transactions >= self._config.messages_per_connection
        if self._stopped or spent or self._config.connections_idle_s <= 0:
            self._leave(session)
            session.quit()
            return
        self._last_peer[destination] = peer
        self._last_peer.move_to_end(destination)
        if len(self._last_peer) > DESTINATIONS_LIMIT:
            self._last_peer.popitem(last=False)
        self._idle[session] = self._clock.seconds()
        self._idle_at.setdefault(peer, []).append(session)
        self._wake(peer)
        if self._idle and self._sweeper is None:
            self._sweeper = self._clock.callLater(self._config.connections_idle_s, self._sweep)

    async def stop(self) -> None:
        """Say goodbye on idle connections; sessions in use close as they are given back."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await DeferredList([self._retire(session) for session in list(self._idle)])

    # Counting

    def _ended(self, session: Session) -> None:
        """A session is dead. One in use is counted until it is given back."""
        if session in self._idle:
            del self._idle[session]
            self._forget_idle(session)
            self._uncount(session.peer)

    def _leave(self, session: Session) -> None:
        """A session in use will not be used again."""
        session.ended = None
        self._uncount(session.peer)

    def _retire(self, session: Session) -> Deferred[None]:
        """Close an idle session."""
        del self._idle[session]
        self._forget_idle(session)
        self._leave(session)
        return session.quit()

    def _forget_idle(self, session: Session) -> None:
        waiting = self._idle_at[session.peer]
        waiting.remove(session)
        if not waiting:
            del self._idle_at[session.peer]

    def _uncount(self, peer: Peer) -> None:
        left = self._counts[peer] - 1
        if left:
            self._counts[peer] = left
        else:
            del self._counts[peer]
        self._wake(peer)

    def _wake(self, peer: Peer) -> None:
        """Somebody who waits for a session with C{peer} may look again."""
        turns = self._waiting.get(peer)
        if turns:
            turn = turns.popleft()
            if not turns:
                del self._waiting[peer]
            turn.callback(None)

    def _sweep(self) -> None:
        """Close what has been idle for long enough."""
        self._sweeper = None
        now = self._clock.seconds()
        while self._idle:
            session, since = next(iter(self._idle.items()))
            left = since + self._config.connections_idle_s - now
            if left > 0:
                self._sweeper = self._clock.callLater(left, self._sweep)
                return
            self._retire(session)


def skipping(why: str) -> str:
    """The diagnostic for a host that is passed over."""
    return f"Too many failures to this host during this run; skipping this host: {why}"


def connect_error(error: Exception) -> str:
    """Why a connection failed, in the operating system's words."""
    if isinstance(error, ConnectTimeout):
        return "connection timed out"
    number = _number(error)
    return os.strerror(number).lower() if number else str(error) or type(error).__name__


def _number(error: Exception) -> int:
    """The errno of a failed connection, 0 when there is none."""
    number = getattr(error, "errno", None) or getattr(error, "osError", None)
    return number if isinstance(number, int) else 0
