"""
L{IResolver} by asking the configured recursive name servers (RFC 1034, RFC 1035, RFC 6891).

Messages are built and read by dnspython; the octets travel over Twisted (L{qmailpy.remote.dns_wire}), so that no thread
is needed and the reactor never waits. twisted.names was looked at first: its stub takes any answer with the right
id whoever sent it and whatever question it repeats, has no EDNS, and drops the AD bit that DANE needs.

An answer is secure when the server says that it has validated it (AD, RFC 4035 s.3.2.3) and the configuration trusts
that server and the way to it; all aliases that led to it are secure as well then.

Answers are kept for their lifetime, at most an hour and at most L{CACHE_LIMIT} of them; a failure is kept for a few
seconds, so that a broken domain with much mail is not asked for a thousand times. A question asked while the same one
is under way waits for its answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver, ISecureResolver
from qmailpy.values import Reply
from qmailpy.wire.tlsa import Tlsa

CACHE_LIMIT = 20000
"""Answers kept; about a kilobyte each."""

LONGEST_S = 3600.0
"""No answer is kept longer, whatever its lifetime: a changed MX is followed within the hour."""

NEGATIVE_S = 300.0
"""The same for an absence (RFC 2308 s.5 allows up to three hours)."""

FAILURE_S = 5.0
"""How long a failure is remembered (RFC 2308 s.7 allows five minutes)."""

CHAIN_LIMIT = 8
"""CNAMEs followed from a name."""

UDP_OCTETS = 1232
"""Largest answer asked for over UDP: passes everywhere without fragments."""

ADDRESSES_LIMIT = 32
"""Addresses or exchangers taken from an answer."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_MX: dns.rdatatype.RdataType = dns.rdatatype.MX
_A = dns.rdatatype.A
_AAAA = dns.rdatatype.AAAA
_PTR = dns.rdatatype.PTR
_TXT = dns.rdatatype.TXT
_TLSA = dns.rdatatype.TLSA
_CNAME = dns.rdatatype.CNAME


class Ask(Protocol):
    """The way to a name server."""

    def __call__(self, query: bytes, server: tuple[str, int], timeout_s: float, *, tcp: bool) -> Awaitable[bytes]:
        """
        The octets of one answer with the query's id.

        @param server: address and port.
        @raise OSError: no answer in time (L{TimeoutError}) or no way there.
        """


@frozen
class Answer:
    """What the DNS says of one name and type."""

    exists: bool  # false: NXDOMAIN
    values: tuple[tuple[int, str], ...]  # (preference or 0, text)
    expires: float
    failure: str = ""  # not empty: no answer could be had, for this reason
    secure: bool = False  # a trusted server has validated it
    name: str = ""  # what the name is an alias for in the end; "" = itself


@implementer(IResolver, ISecureResolver)
class Resolver:
    """Questions of mail to the DNS, with a cache."""

    _log = Logger()

    def __init__(
        self,
        ask: Ask,
        servers: Sequence[tuple[str, int]],
        timeout_s: float,
        seconds: Callable[[], float],
        *,
        trusted: bool = False,
    ) -> None:
        """
        @param servers: address and port, asked in this order; at least one.
        @param timeout_s: for one question altogether, however many servers are silent.
        @param seconds: the time now, C{reactor.seconds}.
        @param trusted: the servers validate, and what they say of it is believed.
        """
        self.validating = trusted
        self._ask = ask
        self._servers = tuple(servers)
        self._timeout_s = timeout_s
        self._seconds = seconds
        self._cache: dict[tuple[str, int], Answer] = {}
        self._asking: dict[tuple[str, int], list[Deferred[Answer]]] = {}

    def use(self, servers: Sequence[tuple[str, int]], timeout_s: float, *, trusted: bool) -> None:
        """Ask others from now on, as the constructor has it; what was not found with the former ones is forgotten."""
        if (tuple(servers), trusted) != (self._servers, self.validating):
            self._cache.clear()
        self._servers, self._timeout_s, self.validating = tuple(servers), timeout_s, trusted

    async def mx(self, domain: str) -> Sequence[tuple[int, str]]:
        return (await self._find(domain, _MX)).values

    async def addresses(self, host: str) -> Sequence[str]:
        # One after the other: the second is seldom far behind, and the answers are cached.
        six, four = await self._lookup(host, _AAAA), await self._lookup(host, _A)
        found = tuple(text for answer in (six, four) for _, text in answer.values)
        if not found and (six.failure or four.failure):
            raise _failed(host, six.failure or four.failure)
        return found

    async def ipv4(self, host: str) -> Sequence[str]:
        return tuple(text for _, text in (await self._find(host, _A)).values)

    async def exists(self, domain: str) -> bool:
        return (await self._find(domain, _MX)).exists

    async def reverse(self, address: str) -> str:
        answer = await self._find(dns.reversename.from_address(address).to_text(), _PTR)
        return answer.values[0][1] if answer.values else ""

    async def text(self, name: str) -> Sequence[str]:
        return tuple(text for _, text in (await self._find(name, _TXT)).values)

    # DANE

    async def secure_mx(self, domain: str) -> bool:
        return (await self._find(domain, _MX)).secure

    async def tlsa_bases(self, host: str) -> Sequence[str]:
        answers = [answer for kind in (_AAAA, _A) if not (answer := await self._lookup(host, kind)).failure]
        if not answers:
            return ()
        host = host.lower().rstrip(".")
        names = {answer.name or host for answer in answers}
        if all(answer.secure for answer in answers):
            return (*sorted(names - {host}), host)
        if names != {host}:
            # The alias may be in a signed zone though what it stands for is not (RFC 7672 s.2.2.2).
            alias = await self._lookup(host, _CNAME)
            if alias.values and alias.secure:
                return (host,)
        return ()

    async def tlsa(self, name: str) -> tuple[Sequence[Tlsa], bool]:
        answer = await self._find(name, _TLSA)
        return tuple(_tlsa(text) for _, text in answer.values), answer.secure

    async def _find(self, name: str, kind: dns.rdatatype.RdataType) -> Answer:
        answer = await self._lookup(name, kind)
        if answer.failure:
            raise _failed(name, answer.failure)
        return answer

    async def _lookup(self, name: str, kind: dns.rdatatype.RdataType) -> Answer:
        """The answer, from the cache when it is there; failures are answers too."""
        name = name.lower().rstrip(".")
        if len(name) > 253 or _NAME.fullmatch(name) is None or any(len(label) > 63 for label in name.split(".")):
            return Answer(False, (), 0.0)  # no such name can be in the DNS that mail uses
        key = (name, kind)
        kept = self._cache.get(key)
        if kept is not None and kept.expires > self._seconds():
            return kept
        waiting = self._asking.get(key)
        if waiting is not None:
            mine: Deferred[Answer] = Deferred()
            waiting.append(mine)
            return await mine
        self._asking[key] = waiting = []
        answer = Answer(False, (), 0.0, "lookup was given up")
        try:
            answer = await self._follow(name, kind)
            self._keep(key, answer)
        finally:
            del self._asking[key]
            for other in waiting:
                other.callback(answer)
        return answer

    def _keep(self, key: tuple[str, int], answer: Answer) -> None:
        self._cache.pop(key, None)
        if len(self._cache) >= CACHE_LIMIT:
            # The oldest entries are most likely over, and asking again is cheap.
            for old in list(self._cache)[: CACHE_LIMIT // 10]:
                del self._cache[old]
        self._cache[key] = answer

    async def _follow(self, name: str, kind: dns.rdatatype.RdataType) -> Answer:
        """Ask, and follow CNAMEs where the server did not do it for us."""
        now = self._seconds()
        asked, lifetime_s, secure = name, LONGEST_S, self.validating
        for _ in range(CHAIN_LIMIT):
            try:
                response = await self._query(asked, kind)
                if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return Answer(True, (), now + FAILURE_S, dns.rcode.to_text(response.rcode()))
                chain = response.resolve_chaining()
            except OSError as error:
                return Answer(True, (), now + FAILURE_S, str(error) or "no answer")
            except dns.exception.DNSException as error:
                return Answer(True, (), now + FAILURE_S, f"malformed answer: {type(error).__name__}")
            lifetime_s = min(lifetime_s, float(chain.minimum_ttl))
            secure = secure and bool(response.flags & dns.flags.AD)
            target = chain.canonical_name.to_text(omit_final_dot=True).lower()
            if chain.answer is not None:
                values = tuple(_value(record, kind) for record in list(chain.answer)[:ADDRESSES_LIMIT])
                return Answer(True, values, now + lifetime_s, secure=secure, name=target)
            if response.rcode() == dns.rcode.NXDOMAIN or target == asked.lower():
                exists = response.rcode() != dns.rcode.NXDOMAIN
                return Answer(exists, (), now + min(lifetime_s, NEGATIVE_S), secure=secure, name=target)
            asked = target
        return Answer(True, (), now + FAILURE_S, "too many aliases")

    async def _query(self, name: str, kind: dns.rdatatype.RdataType) -> dns.message.QueryMessage:
        """
        One question to the servers, each at most twice, until one answers.

        @raise OSError: none did.
        """
        deadline = self._seconds() + self._timeout_s
        share_s = self._timeout_s / (2 * len(self._servers))
        trouble: Exception = TimeoutError("no answer from the name servers")
        last: dns.message.QueryMessage | None = None
        for turn, server in enumerate(self._servers * 2):
            left_s = min(share_s, deadline - self._seconds())
            if left_s <= 0:
                break
            edns = 0 if turn < len(self._servers) else False  # what chokes on EDNS may do without
            query = dns.message.make_query(name, kind, use_edns=edns, payload=UDP_OCTETS)
            if self.validating:
                query.flags |= dns.flags.AD  # we want to be told (RFC 6840 s.5.7)
            try:
                response = await self._exchange(query, server, left_s)
            except (OSError, dns.exception.DNSException) as error:
                trouble = error
                continue
            if response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return response
            last = response  # SERVFAIL, REFUSED...: another server may know better
        if last is not None:
            return last
        raise OSError(str(trouble) or "no answer from the name servers")

    async def _exchange(
        self, query: dns.message.QueryMessage, server: tuple[str, int], timeout_s: float
    ) -> dns.message.QueryMessage:
        wire = query.to_wire()
        response = _read(query, await self._ask(wire, server, timeout_s, tcp=False))
        if response.flags & dns.flags.TC:
            response = _read(query, await self._ask(wire, server, timeout_s, tcp=True))
        return response


def _read(query: dns.message.QueryMessage, wire: bytes) -> dns.message.QueryMessage:
    """
    Read an answer.

    @raise OSError: it answers another question.
    @raise dns.exception.DNSException: it is malformed.
    """
    response = dns.message.from_wire(wire, ignore_trailing=True, raise_on_truncation=False)
    if not isinstance(response, dns.message.QueryMessage) or not query.is_response(response):
        raise OSError("answer to another question")
    return response


def _value(record: object, kind: dns.rdatatype.RdataType) -> tuple[int, str]:
    """What of a record is wanted."""
    if kind == _MX:
        exchange: dns.name.Name = record.exchange  # type: ignore[attr-defined]
        preference: int = record.preference  # type: ignore[attr-defined]
        return preference, exchange.to_text(omit_final_dot=True) if exchange != dns.name.root else ""
    if kind == _TXT:
        strings: tuple[bytes, ...] = record.strings  # type: ignore[attr-defined]
        return 0, b"".join(strings).decode("utf-8", "replace")
    if kind == _TLSA:
        return 0, record.to_text()  # type: ignore[attr-defined]
    if kind in (_PTR, _CNAME):
        target: dns.name.Name = record.target  # type: ignore[attr-defined]
        return 0, target.to_text(omit_final_dot=True)
    return 0, record.address  # type: ignore[attr-defined]


def _tlsa(text: str) -> Tlsa:
    """A record from its text in a zone file."""
    usage, selector, matching, data = text.split(" ", 3)
    return Tlsa(int(usage), int(selector), int(matching), bytes.fromhex(data))


def _failed(name: str, why: str) -> Temporary:
    return Temporary(Reply(451, "4.4.3", f"DNS lookup of {name} failed: {why}"))
