"""
The directory over the wire: L{IDirectory} as questions to an LDAP server.

A few connections, made when first needed and again when lost, are bound as the service identity and carry searches,
many at a time; others carry the binds that check passwords, one at a time each. A question whose connection breaks is
asked again on another; what fails then, or takes too long, is L{Temporary} (451 4.3.0): never "no such user".
Filters are built as ldaptor objects, never as text, so no address can be anything but a value (RFC 4515 does not
arise). Two entries for one address are an error of the directory's and make mail wait, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from ldaptor.protocols import pureldap
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.error import ConnectionAborted, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.directory import address as addresses
from qmailpy.directory import ber, decode, meaning, schema
from qmailpy.directory import password as passwords
from qmailpy.directory.access import SCRAM_OPERATION, Code
from qmailpy.directory.cache import IForgets
from qmailpy.directory.inherited import Inherited
from qmailpy.directory.schema import Attributes
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory
from qmailpy.values import Alias, Domain, Group, Mailbox, ScramSecret

_MESSAGE = 1048576  # octets; an entry with thousands of forwarding addresses still fits
_MOST_OUTSTANDING = 1000  # questions on one connection
_MEMBERS_AT_ONCE = 50  # of a group's members that are named by their entries


class LdapTrouble(Exception):
    """The server said no to what must work, or something that is no answer."""


class LdapConnection(TwistedProtocol):
    """
    One connection: sends requests, matches the answers to them.

    ldaptor's own client imports the global reactor, decodes a partial message again with every packet and takes
    messages of any size; its messages are used here, its client is not.
    """

    def __init__(self) -> None:
        self._frames = ber.Frames(_MESSAGE)
        self._asked: dict[int, tuple[Deferred[Any], list[Any]]] = {}
        self._number = 0
        self.open = False

    @property
    def outstanding(self) -> int:
        """Questions without an answer so far."""
        return len(self._asked)

    def connectionMade(self) -> None:
        self.open = True
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        asked, self._asked = self._asked, {}
        for waiting, _ in asked.values():
            if not waiting.called:
                waiting.errback(reason)

    def dataReceived(self, data: bytes) -> None:
        try:
            for octets in self._frames.feed(data):
                self._take(decode.message(octets))
        except Exception:  # whatever ldaptor makes of a peer's octets: the connection is of no use any more
            self.drop()

    def _take(self, message: Any) -> None:
        entry = self._asked.get(message.id)
        if entry is None:
            return  # an answer nobody waits for any more, or a notice of disconnection
        waiting, found = entry
        if isinstance(message.value, pureldap.LDAPSearchResultEntry):
            found.append(message.value)
            return
        if isinstance(message.value, pureldap.LDAPSearchResultReference):
            return
        del self._asked[message.id]
        if not waiting.called:
            waiting.callback((message.value, found))

    def ask(self, operation: Any) -> Deferred[Any]:
        """Send a request; fires with (final answer, entries), or fails when the connection is lost."""
        if not self.open or self.transport is None:
            raise ConnectionDone("the connection is lost")
        self._number = self._number % 0x7FFFFFFF + 1
        number = self._number
        waiting: Deferred[Any] = Deferred(lambda _: self._forget(number))
        self._asked[number] = (waiting, [])
        self.transport.write(pureldap.LDAPMessage(operation, id=number).toWire())
        return waiting

    def _forget(self, number: int) -> None:
        self._asked.pop(number, None)

    async def bind(self, dn: str, password: bytes) -> bool:
        """
        Bind as C{dn}; whether the password was right.

        @raise LdapTrouble: the server could not say.
        """
        answer, _ = await self.ask(pureldap.LDAPBindRequest(dn=dn, auth=password))
        if answer.resultCode == Code.SUCCESS:
            return True
        if answer.resultCode in (Code.INVALID_CREDENTIALS, Code.NO_SUCH_OBJECT, Code.UNWILLING):
            return False
        raise LdapTrouble(f"bind: result code {answer.resultCode}")

    def drop(self) -> None:
        """End the connection at once; what waits on it fails."""
        if self.open and self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()
            self.connectionLost(Failure(ConnectionAborted()))


class SecretSource(Protocol):
    """Where a connection gets the service identity's secret."""

    def __call__(self) -> bytes:
        """The secret; called when a connection is made, so that a new one is seen."""


@implementer(IDirectory, IForgets)
class LdapDirectory:
    """L{IDirectory} over LDAP."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        base: str,
        *,
        service: str,
        secret: SecretSource,
        timeout_s: float = 10.0,
        searching: int = 2,
        binding: int = 4,
    ) -> None:
        """
        @param endpoint: where the server is.
        @param base: the name everything is below.
        @param service: the name of our own identity, which may search; its secret comes from C{secret}.
        @param timeout_s: for a whole question, connecting included.
        @param searching: most connections for searches.
        @param binding: most connections for password checks.
        """
        self._clock = clock
        self._endpoint = endpoint
        self._base = base
        self._service = service
        self._secret = secret
        self._timeout_s = timeout_s
        # A connection, those who wait while it is made, or nothing.
        self._searching: list[LdapConnection | list[Deferred[LdapConnection]] | None] = [None] * searching
        self._making: dict[int, Deferred[None]] = {}
        self._turn = 0
        self._binding = DeferredSemaphore(binding)
        self._most_binds = binding * 50
        self._idle: list[LdapConnection] = []
        self._away = False
        self._stopped = False
        self._inherited = Inherited(clock.seconds, self._entry_of)

    async def domain(self, name: str) -> Domain | None:
        key = addresses.key(name)
        what = pureldap.LDAPFilter_and([_equal("objectClass", "qmailDomain"), _equal("associatedDomain", key)])
        found = await self._question(self._search(what, meaning.DOMAIN_ATTRIBUTES))
        return meaning.domain(found[1]) if found else None

    async def lookup(self, address: str) -> Mailbox | Alias | Group | None:
        found: Mailbox | Alias | Group | None = await self._question(self._lookup(address))
        return found

    async def _lookup(self, address: str) -> Mailbox | Alias | Group | None:
        found = await self._search(_address(address), meaning.LOOKUP_ATTRIBUTES)
        return await self._meaning(found[1]) if found else None

    async def _meaning(self, attributes: Attributes) -> Mailbox | Alias | Group | None:
        """What an entry means, with what it takes from others."""
        inherited = await self._inherited.of(attributes)
        named = meaning.dns(attributes)
        known: dict[str, str] = {}
        for at in range(0, len(named), _MEMBERS_AT_ONCE):
            some = named[at : at + _MEMBERS_AT_ONCE]
            found = await gatherResults([Deferred.fromCoroutine(self._mail_of(dn)) for dn in some], consumeErrors=True)
            known.update(zip(some, found, strict=True))
        return meaning.recipient(attributes, *inherited, addresses_of=known)

    async def _mail_of(self, dn: str) -> str:
        """The main address of an entry, "" when it has none or is not there."""
        found = await self._search(_present("objectClass"), ("mail",), base=dn)
        return meaning.first(found[1], "mail") if found else ""

    async def _entry_of(self, kind: str, name: str) -> Attributes | None:
        """For L{Inherited}."""
        attribute, wanted = {
            "domain": ("associatedDomain", meaning.DOMAIN_ATTRIBUTES),
            "plan": ("cn", meaning.PLAN_ATTRIBUTES),
        }[kind]
        what = pureldap.LDAPFilter_and([_equal("objectClass", f"qmail{kind.capitalize()}"), _equal(attribute, name)])
        found = await self._search(what, wanted)
        return found[1] if found else None

    def forget(self) -> None:
        """Something in the directory has changed."""
        self._inherited.forget()

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        if not password or len(password) > 1024:
            return None  # a bind without a password succeeds as nobody (RFC 4513 s.5.1.2)
        found = await self._question(self._search(_address(login), meaning.LOOKUP_ATTRIBUTES))
        # For somebody unknown we bind as well, so that the time taken tells nothing.
        dn = found[0] if found and meaning.may_log_in(found[1]) else f"uid=nobody,{self._base}"
        right = await self._question(self._check(dn, password))
        if not right or not found or not meaning.may_log_in(found[1]):
            return None
        mailbox = await self._question(self._meaning(found[1]))
        return mailbox if isinstance(mailbox, Mailbox) else None

    async def scram(self, login: str) -> ScramSecret | None:
        request = pureldap.LDAPExtendedRequest(
            requestName=SCRAM_OPERATION, requestValue=addresses.key(login).encode("utf-8", "surrogateescape")
        )
        answer, _ = await self._question(self._exchange(request))
        if answer.resultCode != Code.SUCCESS:
            # A directory that is not ours has no such operation: then nobody logs in by SCRAM.
            return None
        return passwords.scram([_text(answer.response or b"")])

    async def stop(self) -> None:
        """End all connections; questions under way fail."""
        self._stopped = True
        for making in list(self._making.values()):
            making.cancel()
        for one in (*self._searching, *self._idle):
            if isinstance(one, LdapConnection):
                one.drop()
        self._searching = [None] * len(self._searching)
        self._idle.clear()

    async def _question(self, coroutine: Any) -> Any:
        """Bound a question in time, and turn what goes wrong into the reply that keeps mail waiting."""
        try:
            result = await Deferred.fromCoroutine(coroutine).addTimeout(self._timeout_s, self._clock)
        except Temporary:
            raise
        except Exception as problem:  # refused, lost, timed out, nonsense: the directory is away
            if not self._away:
                self._away = True
                self.log.warn("the directory is away: {problem}", problem=f"{type(problem).__name__}: {problem}"[:300])
            raise Temporary(schema.AWAY, f"directory: {type(problem).__name__}: {problem}"[:300]) from None
        if self._away:
            self._away = False
            self.log.info("the directory is back")
        return result

    async def _search(
        self, what: Any, attributes: Sequence[str], base: str | None = None
    ) -> tuple[str, Attributes] | None:
        """The one entry that C{what} finds, or whose name is C{base}: its name and attributes."""
        request = pureldap.LDAPSearchRequest(
            baseObject=self._base if base is None else base.encode("utf-8", "surrogateescape"),
            scope=pureldap.LDAP_SCOPE_wholeSubtree if base is None else pureldap.LDAP_SCOPE_baseObject,
            filter=what,
            attributes=attributes,
            sizeLimit=2,
            timeLimit=int(self._timeout_s) or 1,
        )
        answer, found = await self._exchange(request)
        if answer.resultCode not in (Code.SUCCESS, Code.SIZE_LIMIT, Code.NO_SUCH_OBJECT, Code.INVALID_DN):
            raise LdapTrouble(f"search: result code {answer.resultCode}")
        if len(found) > 1 or answer.resultCode == Code.SIZE_LIMIT:
            raise Temporary(schema.MISCONFIGURED, f"two entries for one key: {found[0].objectName!r} is one")
        return (_text(found[0].objectName), _attributes(found[0])) if found else None

    async def _exchange(self, request: Any) -> tuple[Any, list[Any]]:
        """A request as the service identity: the final answer and the entries before it."""
        # A server that restarts cuts all our connections, one after the other: each may be tried, then a new one.
        for left in reversed(range(len(self._searching) + 1)):
            connection = await self._connection()
            try:
                answer: tuple[Any, list[Any]] = await connection.ask(request)
            except (ConnectionClosed, OSError, LdapTrouble) as problem:
                if not left or self._stopped:
                    raise LdapTrouble(f"connection lost: {problem}") from None
                continue
            except Exception:
                # Cancelled by the timeout, most of all: a server that does not answer is not asked more on this line.
                connection.drop()
                raise
            return answer
        raise AssertionError("unreachable")

    async def _connection(self) -> LdapConnection:
        """The next connection for searches, made and bound when it is not there."""
        self._turn = (self._turn + 1) % len(self._searching)
        slot = self._turn
        held = self._searching[slot]
        if isinstance(held, LdapConnection):
            if held.open:
                if held.outstanding >= _MOST_OUTSTANDING:
                    raise LdapTrouble("too many questions wait")
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
        if self._stopped and isinstance(result, LdapConnection):
            result.drop()
            result = Failure(LdapTrouble("stopped"))
        if self._searching[slot] is waiting:
            self._searching[slot] = None if isinstance(result, Failure) else result
        for one in waiting:
            if not one.called:
                one.callback(result)  # a Failure goes down the errback side

    async def _make(self) -> LdapConnection:
        connection = await self._connect()
        try:
            if not await connection.bind(self._service, self._secret()):
                raise LdapTrouble(f"the server does not know {self._service} or its secret")
        except BaseException:
            connection.drop()
            raise
        return connection

    async def _connect(self) -> LdapConnection:
        factory = Factory.forProtocol(LdapConnection)
        factory.noisy = False
        return cast(LdapConnection, await self._endpoint.connect(factory))

    async def _check(self, dn: str, password: bytes) -> bool:
        """Whether C{dn} may bind with that password."""
        if len(self._binding.waiting) >= self._most_binds:
            raise LdapTrouble("too many logins wait")
        await self._binding.acquire()
        try:
            for left in reversed(range(len(self._idle) + 1)):
                self._idle = [one for one in self._idle if one.open]
                connection = self._idle.pop() if self._idle else await self._connect()
                try:
                    right = await connection.bind(dn, password)
                except (ConnectionClosed, OSError) as problem:
                    if not left or self._stopped:
                        raise LdapTrouble(f"connection lost: {problem}") from None
                    continue
                except BaseException:
                    connection.drop()  # its answer may still come: never use it for somebody else
                    raise
                if self._stopped:
                    connection.drop()
                else:
                    self._idle.append(connection)
                return right
            raise AssertionError("unreachable")
        finally:
            self._binding.release()


def _equal(attribute: str, value: str) -> Any:
    return pureldap.LDAPFilter_equalityMatch(
        attributeDesc=pureldap.LDAPAttributeDescription(attribute),
        assertionValue=pureldap.LDAPAssertionValue(value.encode("utf-8", "surrogateescape")),
    )


def _present(attribute: str) -> Any:
    return pureldap.LDAPFilter_present(attribute)


def _address(address: str) -> Any:
    key = addresses.key(address)
    return pureldap.LDAPFilter_or([_equal("mail", key), _equal("mailAlternateAddress", key)])


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _attributes(found: Any) -> Attributes:
    return {_text(kind).lower(): tuple(_text(value) for value in values) for kind, values in found.attributes}
