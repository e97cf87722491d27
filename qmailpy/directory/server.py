"""
The embedded LDAP server (RFC 4511): simple bind, search, compare, add, modify, delete, modifyDN, password
change, whoami.

ldaptor decodes and encodes; L{access} decides. The server bounds what ldaptor does not: messages are cut out and
judged by L{ber} first, a client's operations run one after another in their order and at most so many wait, a search
goes out in batches no faster than the client reads, idle connections end.

Not spoken: StartTLS and SASL (the server listens on a UNIX socket and on loopback), referrals, paged results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ldaptor.protocols import pureldap
from ldaptor.protocols.ldap.ldapserver import BaseLDAPServer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.directory import ber, decode, filters, schema
from qmailpy.directory.access import NOBODY, SCRAM_OPERATION, Access, Code, Identity, Refusal, Role
from qmailpy.directory.embedded import InThread
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Change, Modification, Scope, Store

_LIMITS = {Role.ANONYMOUS: 16384, Role.USER: 65536, Role.SERVICE: 65536, Role.ADMIN: 1048576}
_WAITING = 32  # operations of a client that may wait before we stop reading
_FAILED_BINDS = 5  # then the connection ends
_WHOAMI = b"1.3.6.1.4.1.4203.1.11.3"  # RFC 4532
_DISCONNECTION = "1.3.6.1.4.1.1466.20036"  # RFC 4511 s.4.4.1


class LdapServerFactory(ServerFactory):
    """Builds a connection's protocol; holds what they share."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        base: str,
        in_thread: InThread,
        hash_in_thread: InThread | None = None,
        changed: Callable[[str], None] = lambda what: None,
    ) -> None:
        """
        @param in_thread: runs lookups; see L{InThread}.
        @param hash_in_thread: runs binds and password changes, which are slow on purpose.
        @param changed: told each address or domain that a client's change touched, in the reactor's thread.
        """
        self.clock = clock
        self.access = Access(store, base)
        self.in_thread = in_thread
        self.hash_in_thread = hash_in_thread or in_thread
        self.changed = changed
        self.connections: set[LdapServer] = set()
        self.most = 500
        self.anonymous_s = 60.0
        self.idle_s = 3600.0

    def buildProtocol(self, addr: object) -> LdapServer | None:
        if len(self.connections) >= self.most:
            return None
        made = LdapServer(self)
        self.connections.add(made)
        return made

    def stopFactory(self) -> None:
        """The last port is closed: nobody is served any more."""
        self.end_all()

    def end_all(self) -> None:
        """End every connection at once, whatever is under way."""
        for one in list(self.connections):
            if one.connected:
                one.transport.abortConnection()


class LdapServer(BaseLDAPServer, TimeoutMixin):  # type: ignore[misc]  # ldaptor has no types
    """A client's connection."""

    log = Logger()

    def __init__(self, factory: LdapServerFactory) -> None:
        super().__init__()
        self.factory = factory
        self._frames = ber.Frames(_LIMITS[Role.ANONYMOUS])
        self._waiting: deque[bytes] = deque()
        self._working = False
        self._paused = False
        self._failed = 0
        self._who = NOBODY

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        return self.factory.clock.callLater(period, func)

    def connectionMade(self) -> None:
        super().connectionMade()
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.setTimeout(self.factory.anonymous_s)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.connections.discard(self)
        self.setTimeout(None)
        self._waiting.clear()

    def dataReceived(self, data: bytes) -> None:
        self.resetTimeout()
        try:
            self._waiting.extend(self._frames.feed(data))
        except ber.BadMessage as problem:
            self._disconnect(str(problem))
            return
        if len(self._waiting) > _WAITING and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        if not self._working and self._waiting:
            self._working = True
            Deferred.fromCoroutine(self._work()).addErrback(self._broken)

    async def _work(self) -> None:
        """Answer what waits, one after another."""
        try:
            while self._waiting and self.connected:
                await self._answer(self._waiting.popleft())
                if self._paused and len(self._waiting) <= _WAITING // 2 and self.connected:
                    self._paused = False
                    self.transport.resumeProducing()
        finally:
            self._working = False

    def _broken(self, failure: Failure) -> None:
        self.log.failure("the LDAP server's own fault", failure)
        self._disconnect("internal error")

    def _disconnect(self, why: str) -> None:
        """Say that nothing more can come of this connection, and end it."""
        if self.connected:
            self.queue(
                0,
                pureldap.LDAPExtendedResponse(
                    resultCode=Code.PROTOCOL_ERROR, errorMessage=why, responseName=_DISCONNECTION
                ),
            )
            self.transport.loseConnection()
        self._waiting.clear()

    async def _answer(self, octets: bytes) -> None:
        try:
            message = decode.message(octets)
            operation, number, controls = message.value, message.id, message.controls or ()
            answer = _ANSWERS[type(operation)]
        except ber.BadMessage as problem:
            self._disconnect(str(problem))
            return
        except Exception:  # ldaptor raises whatever comes to its mind; the octets are the client's
            self._disconnect("not an LDAP request we know")
            return
        method, response = answer
        if response is None:
            if method is not None:
                method(self)
            return
        try:
            if any(critical for _, critical, _ in controls):
                raise Refusal(Code.CRITICAL_EXTENSION, "no control is supported")
            result = await method(self, operation, number)
        except Refusal as refusal:
            result = response(resultCode=refusal.code, errorMessage=refusal.text)
        except Exception:  # a bug, or a request of odd shape: the client learns nothing of it
            self.log.failure("an LDAP request failed")
            result = response(resultCode=Code.OTHER, errorMessage="internal error")
        if self.connected:
            self.queue(number, result)

    async def _bind(self, request: Any, number: int) -> Any:
        self._become(NOBODY)
        if request.version != 3:
            raise Refusal(Code.PROTOCOL_ERROR, "only LDAPv3")
        if request.sasl:
            raise Refusal(Code.AUTH_METHOD, "only simple binds")
        dn, password = _text(request.dn), _octets(request.auth)
        if dn or password:
            try:
                who: Identity = await self.factory.hash_in_thread(self.factory.access.thd_bind, dn, password)
            except Refusal:
                self._failed += 1
                self.log.info("LDAP bind as {dn!r} refused", dn=dn[:200])
                if self._failed >= _FAILED_BINDS and self.connected:
                    self.factory.clock.callLater(0, self.transport.loseConnection)
                raise
            self._failed = 0
            self._become(who)
        return pureldap.LDAPBindResponse(resultCode=Code.SUCCESS)

    def _become(self, who: Identity) -> None:
        self._who = who
        self._frames.limit = _LIMITS[who.role]
        self.setTimeout(self.factory.anonymous_s if who.role is Role.ANONYMOUS else self.factory.idle_s)

    def _unbind(self) -> None:
        self.transport.loseConnection()

    async def _search(self, request: Any, number: int) -> Any:
        access, base, scope, what = (
            self.factory.access,
            _text(request.baseObject),
            _scope(request),
            _filter(request.filter),
        )
        wanted = [_text(one).lower() for one in request.attributes]
        if not base and scope is Scope.BASE and self._who.role is not Role.ANONYMOUS:
            self._root(number)
            return pureldap.LDAPSearchResultDone(resultCode=Code.SUCCESS)
        end = self.factory.clock.seconds() + request.timeLimit if request.timeLimit else None
        pace, sent, after = _Pace(self.transport), 0, ""
        try:
            while self.connected:
                found, after = await self.factory.in_thread(access.thd_search, self._who, base, scope, what, after)
                for entry in found:
                    if request.sizeLimit and sent >= request.sizeLimit:
                        raise Refusal(Code.SIZE_LIMIT)
                    if self.connected:
                        self.queue(number, _result(entry, wanted, bool(request.typesOnly)))
                    sent += 1
                if not after:
                    break
                if end is not None and self.factory.clock.seconds() >= end:
                    raise Refusal(Code.TIME_LIMIT)
                await pace.ready()
        finally:
            pace.stop()
        return pureldap.LDAPSearchResultDone(resultCode=Code.SUCCESS)

    def _root(self, number: int) -> None:
        """The root DSE (RFC 4512 s.5.1)."""
        self.queue(
            number,
            pureldap.LDAPSearchResultEntry(
                objectName="",
                attributes=[
                    ("objectClass", ["top"]),
                    ("supportedLDAPVersion", ["3"]),
                    ("namingContexts", [str(self.factory.access.base)]),
                    ("supportedExtension", [_WHOAMI, pureldap.LDAPPasswordModifyRequest.oid]),
                ],
            ),
        )

    async def _compare(self, request: Any, number: int) -> Any:
        same = await self.factory.in_thread(
            self.factory.access.thd_compare,
            self._who,
            _text(request.entry),
            _text(request.ava.attributeDesc.value).lower(),
            _text(request.ava.assertionValue.value),
        )
        return pureldap.LDAPCompareResponse(resultCode=Code.COMPARE_TRUE if same else Code.COMPARE_FALSE)

    async def _add(self, request: Any, number: int) -> Any:
        attributes: dict[str, tuple[str, ...]] = {}
        for kind, values in request.attributes:
            attributes[_text(kind.value).lower()] = tuple(_text(one.value) for one in values)
        await self._change(self.factory.access.thd_add, _text(request.entry), attributes)
        return pureldap.LDAPAddResponse(resultCode=Code.SUCCESS)

    async def _modify(self, request: Any, number: int) -> Any:
        try:
            changes = [
                Modification(
                    Change(step[0].value),
                    _text(step[1][0].value).lower(),
                    tuple(_text(one.value) for one in step[1][1]),
                )
                for step in request.modification
            ]
        except ValueError:
            raise Refusal(Code.PROTOCOL_ERROR, "only add, delete and replace") from None
        await self._change(self.factory.access.thd_modify, _text(request.object), changes)
        return pureldap.LDAPModifyResponse(resultCode=Code.SUCCESS)

    async def _delete(self, request: Any, number: int) -> Any:
        await self._change(self.factory.access.thd_delete, _text(request.value))
        return pureldap.LDAPDelResponse(resultCode=Code.SUCCESS)

    async def _rename(self, request: Any, number: int) -> Any:
        above = None if request.newSuperior is None else _text(request.newSuperior)
        keep = not request.deleteoldrdn
        await self._change(self.factory.access.thd_rename, _text(request.entry), _text(request.newrdn), keep, above)
        return pureldap.LDAPModifyDNResponse(resultCode=Code.SUCCESS)

    async def _extended(self, request: Any, number: int) -> Any:
        name = _octets(request.requestName)
        if name == _WHOAMI:
            dn = str(self._who.name)
            return pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS, response=f"dn:{dn}" if dn else "")
        if name == pureldap.LDAPPasswordModifyRequest.oid:
            await self._change(self.factory.access.thd_password, *_password_change(request.requestValue))
            return pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS)
        if name == SCRAM_OPERATION:
            login = _text(_octets(request.requestValue or b""))
            found = await self.factory.in_thread(self.factory.access.thd_scram, self._who, login)
            return pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS, response=found)
        raise Refusal(Code.PROTOCOL_ERROR, "unknown extended operation")  # RFC 4511 s.4.12

    async def _change(self, function: Callable[..., Sequence[str]], *arguments: object) -> None:
        """Run a change for whoever is bound, and tell those who remember the old state."""
        for what in await self.factory.hash_in_thread(function, self._who, *arguments):
            self.factory.changed(what)


@implementer(IPushProducer)
class _Pace:
    """Holds a search back while the client does not read."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held: Deferred[None] | None = None
        self._full = False
        transport.registerProducer(self, True)

    async def ready(self) -> None:
        """Returns when there is room to write."""
        if self._full:
            self._held = Deferred()
            await self._held

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        held, self._held = self._held, None
        if held is not None:
            held.callback(None)

    stopProducing = resumeProducing

    def stop(self) -> None:
        """The search is over."""
        self._transport.unregisterProducer()


_ANSWERS: dict[type[Any], tuple[Any, Any]] = {
    pureldap.LDAPBindRequest: (LdapServer._bind, pureldap.LDAPBindResponse),
    pureldap.LDAPUnbindRequest: (LdapServer._unbind, None),
    pureldap.LDAPAbandonRequest: (None, None),  # operations run in turn: the one meant is over or about to begin
    pureldap.LDAPSearchRequest: (LdapServer._search, pureldap.LDAPSearchResultDone),
    pureldap.LDAPCompareRequest: (LdapServer._compare, pureldap.LDAPCompareResponse),
    pureldap.LDAPAddRequest: (LdapServer._add, pureldap.LDAPAddResponse),
    pureldap.LDAPModifyRequest: (LdapServer._modify, pureldap.LDAPModifyResponse),
    pureldap.LDAPDelRequest: (LdapServer._delete, pureldap.LDAPDelResponse),
    pureldap.LDAPModifyDNRequest: (LdapServer._rename, pureldap.LDAPModifyDNResponse),
    pureldap.LDAPExtendedRequest: (LdapServer._extended, pureldap.LDAPExtendedResponse),
}


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _octets(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _scope(request: Any) -> Scope:
    try:
        return Scope(request.scope)
    except ValueError:
        raise Refusal(Code.PROTOCOL_ERROR, "unknown scope") from None


def _result(entry: Entry, wanted: Sequence[str], types_only: bool) -> Any:
    """The entry as the client asked to see it (RFC 4511 s.4.5.1.8)."""
    everything = not wanted or "*" in wanted
    return pureldap.LDAPSearchResultEntry(
        objectName=str(entry.name),
        attributes=[
            (schema.spelling(name), [] if types_only else [_octets(value) for value in values])
            for name, values in entry.attributes.items()
            if everything or name in wanted
        ],
    )


def _filter(what: Any) -> filters.Filter:
    """ldaptor's filter as ours; its depth was bounded by L{ber.check}."""
    if isinstance(what, pureldap.LDAPFilter_and):
        return filters.And([_filter(part) for part in what])
    if isinstance(what, pureldap.LDAPFilter_or):
        return filters.Or([_filter(part) for part in what])
    if isinstance(what, pureldap.LDAPFilter_not):
        return filters.Not(_filter(what.value))
    if isinstance(what, pureldap.LDAPFilter_present):
        return filters.Present(_text(what.value).lower())
    if isinstance(what, pureldap.LDAPFilter_substrings):
        return _substrings(what)
    if isinstance(what, pureldap.LDAPAttributeValueAssertion):
        attribute, value = _text(what.attributeDesc.value).lower(), _text(what.assertionValue.value)
        if isinstance(what, pureldap.LDAPFilter_greaterOrEqual | pureldap.LDAPFilter_lessOrEqual):
            return filters.Ordered(attribute, value, isinstance(what, pureldap.LDAPFilter_greaterOrEqual))
        return filters.Equal(attribute, value)  # an approximate match may be an equality (RFC 4511 s.4.5.1.7.6)
    raise Refusal(Code.UNWILLING, "a kind of filter that is not supported")


def _substrings(what: Any) -> filters.Filter:
    initial, final, middle = "", "", []
    for part in what.substrings:
        text = _text(part.value)
        if isinstance(part, pureldap.LDAPFilter_substrings_initial):
            initial = text
        elif isinstance(part, pureldap.LDAPFilter_substrings_final):
            final = text
        else:
            middle.append(text)
    return filters.Substrings(_text(what.type).lower(), initial, tuple(middle), final)


def _password_change(value: bytes | None) -> tuple[str, bytes | None, bytes]:
    """Whose, the old and the new password of an RFC 3062 request."""
    try:
        parts = {type(part): part.value for part in decode.password_change(_octets(value or b""))}
    except Exception:  # the client's octets in ldaptor's hands
        raise Refusal(Code.PROTOCOL_ERROR, "not a password change") from None
    new = parts.get(pureldap.LDAPPasswordModifyRequest_newPasswd)
    if new is None:
        raise Refusal(Code.UNWILLING, "say which password; none is made up here")
    whose = parts.get(pureldap.LDAPPasswordModifyRequest_userIdentity, b"")
    return _text(whose), parts.get(pureldap.LDAPPasswordModifyRequest_oldPasswd), _octets(new)
