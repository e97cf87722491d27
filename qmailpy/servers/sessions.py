"""
The sessions of a listener: how many there are, and how they end when it stops.

A listener's port may be gone while its sessions go on: L{Sessions.drain} ends them in an orderly way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from qmailpy.clocks import wall
from qmailpy.config.schema import ListenerConfig
from qmailpy.events.traces import Traces
from qmailpy.servers.clients import ClientCounts, TrustedNetworks
from qmailpy.servers.tls import Certificates


class Session(Protocol):
    """What can be ended."""

    def stop(self) -> None:
        """End now, unless in the middle of something: then behind that."""

    def abort(self) -> None:
        """End the connection at once."""


class Sessions:
    """
    Those there are.

    @ivar draining: an orderly stop has begun; whoever connects is to be turned away.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self.draining = False
        self._reactor = reactor
        self._there: set[Session] = set()
        self._drains: list[Deferred[None]] = []
        self._grace: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._there)

    def __iter__(self) -> Iterator[Session]:
        """Over a copy: sessions that are told to stop may be gone at once."""
        return iter(list(self._there))

    def add(self, session: Session) -> None:
        """A connection was made."""
        self._there.add(session)

    def discard(self, session: Session) -> None:
        """A connection was lost."""
        self._there.discard(session)
        if self.draining and not self._there:
            self._drained()

    def drain(self, grace_s: float) -> Deferred[None]:
        """
        Stop all of them, each behind what it is in the middle of. May be called again meanwhile.

        @param grace_s: after so many seconds what is left is cut off.
        @return: fires when there is no session any more.
        """
        done: Deferred[None] = Deferred()
        self._drains.append(done)
        if not self.draining:
            self.draining = True
            self._grace = self._reactor.callLater(grace_s, self._cut_off)
            for session in self:
                session.stop()
        if not self._there:
            self._drained()
        return done

    def _drained(self) -> None:
        if self._grace is not None and self._grace.active():
            self._grace.cancel()
        drains, self._drains = self._drains, []
        for done in drains:
            done.callback(None)

    def _cut_off(self) -> None:
        for session in self:
            session.abort()


@define(eq=False)
class Tally:
    """What happened at a listener since it was opened."""

    connections: int = 0
    turned_away: int = 0  # of these, for want of room
    tls: int = 0  # that came up


@define(eq=False, kw_only=True)
class ListenerSite:
    """What the connections of one listener share, whatever they speak."""

    reactor: IReactorTime
    listener: ListenerConfig
    trusted: TrustedNetworks
    certificates: Certificates | None = None  # none: no TLS here
    traces: Traces | None = None  # what of the protocol is written down; none: nothing
    counts: ClientCounts = field(factory=ClientCounts)
    tally: Tally = field(factory=Tally)
    sessions: Sessions = Factory(lambda site: Sessions(site.reactor), takes_self=True)
    wall: Callable[[], float] = Factory(lambda site: wall(site.reactor), takes_self=True)  # the time of day
