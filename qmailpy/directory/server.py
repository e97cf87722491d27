"""
The embedded LDAP server (RFC 4511): simple bind, StartTLS, search with paged results, compare, add, modify, delete,
modifyDN, password change, whoami.

ldaptor decodes and encodes; L{access} decides. The server bounds what ldaptor does not: messages are cut out and
judged by L{ber} first, a client's operations run one after another in their order and at most so many wait, a search
goes out in batches no faster than the client reads and ends in time, idle connections end.

Passwords come over TLS, over a UNIX socket or from the machine itself; elsewhere a bind in clear is refused.

Not spoken: SASL, referrals.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from ldaptor.protocols import pureber, pureldap
from ldaptor.protocols.ldap.ldapserver import BaseLDAPServer
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLServerConnectionCreator,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    ITLSTransport,
)
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.directory import ber, decode, filters, names, paging, requests, subschema
from qmailpy.directory.access import SCRAM_OPERATION, Access, Code, Refusal
from qmailpy.directory.operations import Change, Modification, Scope
from qmailpy.directory.rights import NOBODY, Identity, Role
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Store
from qmailpy.interfaces import InThread

_LIMITS = {Role.ANONYMOUS: 16384, Role.USER: 65536, Role.SERVICE: 65536, Role.DOMAIN: 1048576, Role.ADMIN: 1048576}
_WAITING = 32  # operations of a client that may wait before we stop reading
_FAILED_BINDS = 5  # then the connection ends
_SEARCH_S = 300.0  # then a search ends, whatever the client allows
_STARTTLS = b"1.3.6.1.4.1.1466.20037"  # RFC 4511 s.4.14
_ALL_OPERATIONAL = b"1.3.6.1.4.1.4203.1.5.1"  # RFC 3673
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
        certificates: IOpenSSLServerConnectionCreator | None = None,
        implicit: bool = False,
    ) -> None:
        """
        @param in_thread: runs lookups; see L{InThread}.
        @param hash_in_thread: runs binds and password changes, which are slow on purpose.
        @param changed: told each address or domain that a client's change touched ("" = everything), in the reactor's
            thread.
        @param certificates: for TLS; C{None} = there is none.
        @param implicit: TLS comes first of all on these connections.
        """
        self.clock = clock
        self.access = Access(store, base)
        self.in_thread = in_thread
        self.hash_in_thread = hash_in_thread or in_thread
        self.changed = changed
        self.certificates = certificates
        self.implicit = implicit
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
        self._secured = False
        self._pages = paging.Pages()

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        return self.factory.clock.callLater(period, func)

    def connectionMade(self) -> None:
        super().connectionMade()
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.setTimeout(self.factory.anonymous_s)
        if self.factory.implicit:
            self.transport.startTLS(self.factory.certificates)
            self._secured = True

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
            paged = None
            for kind, critical, value in controls:
                if kind == paging.CONTROL and isinstance(operation, pureldap.LDAPSearchRequest):
                    paged = value or b""
                elif critical:
                    raise Refusal(Code.CRITICAL_EXTENSION, "a control that is not supported")
            if isinstance(operation, pureldap.LDAPSearchRequest):
                await self._search(operation, number, paged)
                return
            result = await method(self, operation, number)
        except Refusal as refusal:
            result = response(resultCode=refusal.code, errorMessage=refusal.text)
        except Exception:  # a bug, or a request of odd shape: the client learns nothing of it
            self.log.failure("an LDAP request failed")
            result = response(resultCode=Code.OTHER, errorMessage="internal error")
        if self.connected and result is not None:
            self.queue(number, result)

    async def _bind(self, request: Any, number: int) -> Any:
        self._become(NOBODY)
        if request.version != 3:
            raise Refusal(Code.PROTOCOL_ERROR, "only LDAPv3")
        if request.sasl:
            raise Refusal(Code.AUTH_METHOD, "only simple binds")
        dn, password = requests.text(request.dn), requests.octets(request.auth)
        if dn or password:
            if not self._secured and _far(self.transport):
                raise Refusal(Code.CONFIDENTIALITY, "no password in clear: use ldaps, or StartTLS first")
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

    async def _search(self, request: Any, number: int, paged: bytes | None) -> None:
        """@param paged: value of the control for paged results; C{None} without it."""
        base, scope, what = (
            requests.text(request.baseObject),
            requests.scope(request),
            requests.filter_of(request.filter),
        )
        wanted = requests.wanted(request)
        question = (base, scope, what, wanted)
        controls = None
        try:
            page = None if paged is None else self._pages.page(paged, question)
        except paging.BadPage as problem:
            raise Refusal(Code.UNWILLING, str(problem)) from None
        if page is not None and not page.size:
            controls = [self._pages.control(question, "")]
        elif scope is Scope.BASE and self._of_ours(base) is not None:
            entry = self._of_ours(base)
            if entry is not None and filters.matches(what, entry):
                self.queue(number, requests.result(entry, wanted, bool(request.typesOnly)))
        else:
            after = await self._found(request, number, question, page)
            controls = None if page is None else [self._pages.control(question, after)]
        if self.connected:
            done = pureldap.LDAPSearchResultDone(resultCode=Code.SUCCESS)
            self.transport.write(pureldap.LDAPMessage(done, id=number, controls=controls).toWire())

    async def _found(self, request: Any, number: int, question: _Question, page: paging.Page | None) -> str:
        """Send what a search finds. Returns where the next page begins, "" when nothing is left."""
        base, scope, what, wanted = question
        operational = requests.operational(wanted)
        limit = min(request.timeLimit or _SEARCH_S, _SEARCH_S)
        end = self.factory.clock.seconds() + limit
        pace, sent, after = _Pace(self.transport), 0, "" if page is None else page.after
        search = self.factory.access.thd_search
        try:
            while self.connected:
                found, after = await self.factory.in_thread(search, self._who, base, scope, what, after, operational)
                for at, entry in enumerate(found):
                    if page is not None and sent >= page.size:
                        return found[at - 1].name.key if at else page.after
                    if request.sizeLimit and sent >= request.sizeLimit:
                        raise Refusal(Code.SIZE_LIMIT)
                    if self.connected:
                        self.queue(number, requests.result(entry, wanted, bool(request.typesOnly)))
                    sent += 1
                if not after or (page is not None and sent >= page.size):
                    break
                if self.factory.clock.seconds() >= end:
                    raise Refusal(Code.TIME_LIMIT)
                await pace.ready()
        finally:
            pace.stop()
        return after

    def _of_ours(self, base: str) -> Entry | None:
        """An entry that is not in the store: the root DSE (RFC 4512 s.5.1), seen by anybody, or the subschema."""
        if not base.strip():
            extensions = [_WHOAMI, pureldap.LDAPPasswordModifyRequest.oid]
            if self.factory.certificates is not None and not self._secured:
                extensions.append(_STARTTLS)
            return Entry(
                names.Name(()),
                {
                    "objectclass": ("top",),
                    "namingcontexts": (str(self.factory.access.base),),
                    "supportedldapversion": ("3",),
                    "supportedcontrol": (requests.text(paging.CONTROL),),
                    "supportedextension": tuple(map(requests.text, extensions)),
                    "supportedfeatures": (requests.text(_ALL_OPERATIONAL),),
                    "vendorname": ("qmailpy",),
                },
            )
        if names.fold(base) == names.fold(subschema.NAME) and self._who.role is not Role.ANONYMOUS:
            return subschema.entry()
        return None

    async def _compare(self, request: Any, number: int) -> Any:
        same = await self.factory.in_thread(
            self.factory.access.thd_compare,
            self._who,
            requests.text(request.entry),
            requests.text(request.ava.attributeDesc.value).lower(),
            requests.text(request.ava.assertionValue.value),
        )
        return pureldap.LDAPCompareResponse(resultCode=Code.COMPARE_TRUE if same else Code.COMPARE_FALSE)

    async def _add(self, request: Any, number: int) -> Any:
        attributes: dict[str, tuple[str, ...]] = {}
        for kind, values in request.attributes:
            attributes[requests.text(kind.value).lower()] = tuple(requests.text(one.value) for one in values)
        await self._change(self.factory.access.thd_add, requests.text(request.entry), attributes)
        return pureldap.LDAPAddResponse(resultCode=Code.SUCCESS)

    async def _modify(self, request: Any, number: int) -> Any:
        try:
            changes = [
                Modification(
                    Change(step[0].value),
                    requests.text(step[1][0].value).lower(),
                    tuple(requests.text(one.value) for one in step[1][1]),
                )
                for step in request.modification
            ]
        except ValueError:
            raise Refusal(Code.PROTOCOL_ERROR, "only add, delete and replace") from None
        await self._change(self.factory.access.thd_modify, requests.text(request.object), changes)
        return pureldap.LDAPModifyResponse(resultCode=Code.SUCCESS)

    async def _delete(self, request: Any, number: int) -> Any:
        await self._change(self.factory.access.thd_delete, requests.text(request.value))
        return pureldap.LDAPDelResponse(resultCode=Code.SUCCESS)

    async def _rename(self, request: Any, number: int) -> Any:
        above = None if request.newSuperior is None else requests.text(request.newSuperior)
        keep = not request.deleteoldrdn
        await self._change(
            self.factory.access.thd_rename, requests.text(request.entry), requests.text(request.newrdn), keep, above
        )
        return pureldap.LDAPModifyDNResponse(resultCode=Code.SUCCESS)

    async def _extended(self, request: Any, number: int) -> Any:
        name = requests.octets(request.requestName)
        if name == _WHOAMI:
            dn = str(self._who.name)
            return pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS, response=f"dn:{dn}" if dn else "")
        if name == pureldap.LDAPPasswordModifyRequest.oid:
            return await self._password(request.requestValue)
        if name == _STARTTLS and self.factory.certificates is not None:
            self._start_tls(number)
            return None
        if name == SCRAM_OPERATION:
            login = requests.text(requests.octets(request.requestValue or b""))
            found = await self.factory.in_thread(self.factory.access.thd_scram, self._who, login)
            return pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS, response=found)
        raise Refusal(Code.PROTOCOL_ERROR, "unknown extended operation")  # RFC 4511 s.4.12

    async def _password(self, value: bytes | None) -> Any:
        """RFC 3062: without a new password one is made up, and told."""
        whose, old, new = requests.password_change(value)
        made = b"" if new is not None else secrets.token_urlsafe(12).encode()
        await self._change(self.factory.access.thd_password, whose, old, new or made)
        told = pureber.BERSequence([pureber.BEROctetString(made, tag=0x80)]).toWire() if made else None
        return pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS, response=told)

    def _start_tls(self, number: int) -> None:
        certificates = self.factory.certificates
        if certificates is None or self._secured or not ITLSTransport.providedBy(self.transport):
            raise Refusal(Code.OPERATIONS, "TLS is there already")
        if self._waiting or self._frames.pending:
            # RFC 4511 s.4.14.1. What comes in clear behind the request could be anybody's.
            self._disconnect("something came behind StartTLS")
            return
        answer = pureldap.LDAPExtendedResponse(resultCode=Code.SUCCESS, responseName=requests.text(_STARTTLS))
        self.queue(number, answer)
        self.transport.startTLS(certificates)
        self._secured = True
        self._become(NOBODY)

    async def _change(self, function: Callable[..., Sequence[str]], *arguments: object) -> None:
        """Run a change for whoever is bound, and tell those who remember the old state."""
        for what in await self.factory.hash_in_thread(function, self._who, *arguments):
            self.factory.changed(what)


_Question = tuple[str, Scope, filters.Filter, frozenset[str]]


def _far(transport: Any) -> bool:
    """Whether the client is on another machine."""
    peer = transport.getPeer()
    return isinstance(peer, IPv4Address | IPv6Address) and not ip_address(peer.host.partition("%")[0]).is_loopback


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
