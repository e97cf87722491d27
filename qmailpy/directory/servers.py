"""
Several LDAP servers with the same tree: which one is asked.

    UP --cannot be reached, or does not answer a search in time--> DOWN --a probe succeeds--> UP

The first that is up is asked; when that fails, the next one that is up, once. One that is down gets no questions, only
a probe now and then, after waits that grow: a server that comes back is not met by everybody at once, and the first is
used again as soon as it answers. With all of them down questions fail at once. A lone server is not called down for
being slow.

What fails and how: whatever the last server asked failed with.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.directory.connection import LdapTrouble
from qmailpy.directory.pool import LdapBusy, Pool
from qmailpy.errors import Temporary
from qmailpy.interfaces import IEvents
from qmailpy.stats.health import tell_over

T = TypeVar("T")

FIRST_PROBE_S = 0.1
LAST_PROBE_S = 15.0
"""The wait before the first probe; each is twice as long as the one before, up to the last."""

CODES_AWAY = frozenset({51, 52})
"""busy and unavailable: the server itself says that another one should be asked (RFC 4511 s.A.2)."""


class Away(LdapTrouble):
    """The server says that it cannot serve now."""


class _Server:
    """One server and what is known of it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.failures = 0  # probes since it was up, the question that failed included; 0 = it is up
        self.since = 0.0  # when that was
        self.asked = 0
        self.latency_s = 0.0  # of the last answer
        self.why = ""
        self.later: IDelayedCall | None = None
        self.probing: Deferred[None] | None = None


class Servers:
    """
    The servers, in the order of preference.

    @ivar each_s: seconds one server has to answer.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        pools: Sequence[Pool],
        events: IEvents,
        *,
        timeout_s: float = 10.0,
        chance: Random | None = None,
    ) -> None:
        """
        @param pools: at least one.
        @param timeout_s: for a whole question; with several servers each gets half of it.
        @param chance: spreads the probes of many processes.
        """
        self._clock = clock
        self._servers = [_Server(pool) for pool in pools]
        self._events = events
        self.each_s = timeout_s / min(2, len(pools))
        self._chance = chance or Random()  # noqa: S311 - spreads probes
        self._stopped = False
        self._closing: IDelayedCall | None = None

    async def ask(self, question: Callable[[Pool], Coroutine[Any, Any, T]], *, telling: bool = True) -> T:
        """
        Put a question to the first server that is up, and when it fails to the next.

        @param telling: whether a server that does not answer in time is down.
        @raise Exception: none could answer.
        """
        problem: Exception = LdapTrouble(self._servers[0].why or "no server is there")
        up = [server for server in self._servers if not server.failures]
        for server in up[:2]:
            if server.failures:
                continue  # meanwhile
            server.asked += 1
            began = self._clock.seconds()
            try:
                answer: T = await Deferred.fromCoroutine(question(server.pool)).addTimeout(self.each_s, self._clock)
            except (Temporary, LdapBusy, CancelledError):
                raise
            except LateError as error:
                problem = error
                if telling and len(self._servers) > 1:
                    self._down(server, f"no answer in {self.each_s:g} s")
            except Exception as error:  # refused, lost, nonsense
                problem = error
                self._down(server, f"{type(error).__name__}: {error}"[:200])
            else:
                server.latency_s = self._clock.seconds() - began
                return answer
        raise problem

    def _down(self, server: _Server, why: str) -> None:
        if server.failures or self._stopped:
            return
        server.failures = 1
        server.since = self._clock.seconds()
        server.why = why
        server.pool.given_up = True
        server.pool.drop()
        if len(self._servers) > 1:
            self.log.warn("directory server {name} is given up: {why}", name=server.pool.name, why=why)
            self._events.happened("directory.server", server=server.pool.name, why=why)
        self._plan(server)

    def _plan(self, server: _Server) -> None:
        wait = min(LAST_PROBE_S, FIRST_PROBE_S * 2.0 ** min(server.failures - 1, 20))
        server.later = self._clock.callLater(wait * self._chance.uniform(0.8, 1.2), self._probe, server)

    def _probe(self, server: _Server) -> None:
        server.later = None
        probing = Deferred.fromCoroutine(server.pool.ping()).addTimeout(self.each_s, self._clock)
        server.probing = probing.addBoth(self._probed, server)

    def _probed(self, result: Failure | None, server: _Server) -> None:
        server.probing = None
        if self._stopped:
            return
        if isinstance(result, Failure):
            server.failures += 1
            server.why = f"{type(result.value).__name__}: {result.value}"[:200]
            if len(self._servers) > 1:
                self._events.happened("directory.server", server=server.pool.name, why=server.why)
            server.pool.drop()
            self._plan(server)
            return
        server.failures = 0
        server.why = ""
        server.pool.given_up = False
        if len(self._servers) > 1:
            self.log.info("directory server {name} is back", name=server.pool.name)
            tell_over(self._events, "directory.server", server.pool.name, self._clock.seconds() - server.since)

    def figures(self) -> list[dict[str, object]]:
        """The servers in their order: name, whether it is up, questions it was asked, the time of the last answer."""
        return [
            {
                "server": server.pool.name,
                "up": not server.failures,
                "asked": server.asked,
                "latency_s": round(server.latency_s, 6),
                "why": server.why,
            }
            for server in self._servers
        ]

    def retire(self, after_s: float) -> None:
        """Others have taken over: end when what is under way has had its time."""
        if self._closing is None and not self._stopped:
            self._closing = self._clock.callLater(after_s, self.stop)

    def stop(self) -> None:
        """End all connections; questions under way fail."""
        self._stopped = True
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        for server in self._servers:
            if server.later is not None:
                server.later.cancel()
                server.later = None
            if server.probing is not None:
                server.probing.cancel()
            server.pool.stop()
