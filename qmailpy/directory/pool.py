"""
The connections to one LDAP server.

A few, made when first needed and again when lost, are bound as the service identity and carry searches, many at a time;
others carry the binds that check passwords, one at a time each. A request whose connection breaks is sent again on
another.

What fails and how: L{LdapTrouble}, or what Twisted says of a connection; L{LdapBusy} when so much waits already that
asking another server would not be right either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ldaptor.protocols import pureldap
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from qmailpy.directory.access import Code
from qmailpy.directory.connection import Answer, LdapConnection, LdapTrouble, Secure

_MOST_OUTSTANDING = 1000  # questions on one connection

SecretSource = Callable[[], Deferred[bytes]]
"""Gives the service identity's secret; called when a connection is made, so that a new one is seen."""


class LdapBusy(LdapTrouble):
    """Too much waits: not the server's fault."""


class Pool:
    """
    One server.

    @ivar name: for the log and for people.
    @ivar given_up: nothing is to be sent again here; whoever set it asks another server.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        *,
        service: str,
        secret: SecretSource,
        name: str = "",
        secure: Secure | None = None,
        timeout_s: float = 10.0,
        searching: int = 2,
        binding: int = 4,
    ) -> None:
        """
        @param endpoint: where the server is.
        @param service: the name of our own identity, which may search; its secret comes from C{secret}.
        @param secure: how there is TLS; C{None} = there is none.
        @param timeout_s: for making a connection.
        @param searching: most connections for searches.
        @param binding: most connections for password checks.
        """
        self.name = name
        self.given_up = False
        self._clock = clock
        self._endpoint = endpoint
        self._service = service
        self._secret = secret
        self._secure = secure
        self._timeout_s = timeout_s
        # A connection, those who wait while it is made, or nothing.
        self._searching: list[LdapConnection | list[Deferred[LdapConnection]] | None] = [None] * searching
        self._making: dict[int, Deferred[None]] = {}
        self._turn = 0
        self._binding = DeferredSemaphore(binding)
        self._most_binds = binding * 50
        self._idle: list[LdapConnection] = []
        self._bound: set[LdapConnection] = set()  # those that carry a bind now
        self._stopped = False

    def stop(self) -> None:
        """End all connections; questions under way fail, and so do new ones."""
        self._stopped = True
        self.drop()

    def drop(self) -> None:
        """End all connections; new questions make new ones."""
        for making in list(self._making.values()):
            making.cancel()
        for one in (*self._searching, *self._idle, *self._bound):
            if isinstance(one, LdapConnection):
                one.drop()
        self._searching = [None if isinstance(one, LdapConnection) else one for one in self._searching]
        self._idle.clear()

    async def ping(self) -> None:
        """Whether the server is there and knows us. @raise Exception: it is not."""
        request = pureldap.LDAPSearchRequest(
            baseObject="", scope=0, filter=pureldap.LDAPFilter_present("objectClass"), attributes=["1.1"]
        )
        answer = await self.exchange(request)
        if answer.result.resultCode not in (Code.SUCCESS, Code.NO_SUCH_OBJECT):
            raise LdapTrouble(f"search: result code {answer.result.resultCode}")

    async def exchange(self, request: Any) -> Answer:
        """A request as the service identity."""
        # A server that restarts cuts all our connections, one after the other: each may be tried, then a new one.
        for left in reversed(range(len(self._searching) + 1)):
            connection = await self._connection()
            try:
                return await connection.ask(request)
            except (ConnectionClosed, OSError, LdapTrouble) as problem:
                if not left or self._stopped or self.given_up:
                    raise LdapTrouble(f"connection lost: {problem}") from None
            except Exception:
                # Cancelled by the timeout, most of all: a server that does not answer is not asked more on this line.
                connection.drop()
                raise
        raise AssertionError("unreachable")

    async def _connection(self) -> LdapConnection:
        """The next connection for searches, made and bound when it is not there."""
        self._turn = (self._turn + 1) % len(self._searching)
        slot = self._turn
        held = self._searching[slot]
        if isinstance(held, LdapConnection):
            if held.open:
                if held.outstanding >= _MOST_OUTSTANDING:
                    raise LdapBusy("too many questions wait")
                return held
            held = None
        mine: Deferred[LdapConnection] = Deferred()
        if held is not None:
            held.append(mine)
        elif self._stopped:
            raise LdapTrouble("stopped")
        else:
            waiting = self._searching[slot] = [mine]
            # On its own: one who waits may give up, the others still want the connection.
            making = Deferred.fromCoroutine(self._make()).addTimeout(self._timeout_s, self._clock)
            finished = making.addBoth(self._made, slot, waiting)
            if not finished.called:
                self._making[slot] = finished
        return await mine

    def _made(self, result: LdapConnection | Failure, slot: int, waiting: list[Deferred[LdapConnection]]) -> None:
        self._making.pop(slot, None)
        if isinstance(result, Failure) and result.check(CancelledError, LateError):
            result = Failure(LdapTrouble("no connection was made in time"))
        if self._stopped and isinstance(result, LdapConnection):
            result.drop()
            result = Failure(LdapTrouble("stopped"))
        if self._searching[slot] is waiting:
            self._searching[slot] = None if isinstance(result, Failure) else result
        for one in waiting:
            if not one.called:
                one.callback(result)  # a Failure goes down the errback side

    async def _make(self) -> LdapConnection:
        secret = await self._secret()
        connection = await self._connect()
        try:
            if not await connection.bind(self._service, secret):
                raise LdapTrouble(f"the server does not know {self._service} or its secret")
        except BaseException:
            connection.drop()
            raise
        return connection

    async def _connect(self) -> LdapConnection:
        factory = Factory.forProtocol(LdapConnection)
        factory.noisy = False
        connection = cast(LdapConnection, await self._endpoint.connect(factory))
        if self._secure is not None:
            try:
                await connection.secure(self._secure)
            except BaseException:
                connection.drop()
                raise
        return connection

    async def check(self, dn: str, password: bytes) -> bool:
        """Whether C{dn} may bind with that password."""
        if len(self._binding.waiting) >= self._most_binds:
            raise LdapBusy("too many logins wait")
        await self._binding.acquire()
        try:
            return await self._bind(dn, password)
        finally:
            self._binding.release()

    async def _bind(self, dn: str, password: bytes) -> bool:
        for left in reversed(range(len(self._idle) + 1)):
            if self._stopped:
                raise LdapTrouble("stopped")
            self._idle = [one for one in self._idle if one.open]
            connection = self._idle.pop() if self._idle else await self._connect()
            self._bound.add(connection)
            try:
                right = await connection.bind(dn, password)
            except (ConnectionClosed, OSError) as problem:
                if not left or self._stopped or self.given_up:
                    raise LdapTrouble(f"connection lost: {problem}") from None
                continue
            except BaseException:
                connection.drop()  # its answer may still come: never use it for somebody else
                raise
            finally:
                self._bound.discard(connection)
            if connection.open:  # not so when we were stopped meanwhile
                self._idle.append(connection)
            return right
        raise AssertionError("unreachable")
