"""
What TLS each peer of a destination must have, by all that is known of it. The first that says something counts:

==================  ====================================  ==========================================================
policy              where it comes from                   what a host must have
==================  ====================================  ==========================================================
the destination's   C{[[destination]]} C{tls}             what it says
DANE (RFC 7672)     validated TLSA records of the host    a certificate they describe; any one, where none is usable
MTA-STS (RFC 8461)  the policy of the domain              C{enforce}: to be in the policy, and a certificate of a known
                                                          authority for its name; C{testing}: as below, and a report
the channel's       C{[channel]} C{tls}                   what it says
==================  ====================================  ==========================================================

A host that must not be used is passed over (L{Planned.barred}); with none left the mail waits, it never comes back at
once: whoever forged a record, or made a mistake, would decide that our mail is lost.

A message with REQUIRETLS (RFC 8689 s.4.2.1) goes to hosts that can be verified by any of these, or whose certificate is
for the domain itself, which no forged MX record can have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from attrs import evolve, frozen

from qmailpy.errors import Temporary
from qmailpy.interfaces import ISecureResolver
from qmailpy.remote.mx import Destination, is_address, is_socket
from qmailpy.remote.peers import Peer
from qmailpy.values import Reply
from qmailpy.wire.client_events import Tls
from qmailpy.wire.sts import Mode, StsPolicy
from qmailpy.wire.tlsa import TRUST_ANCHOR, Mismatch, Tlsa, Tlsas
from qmailpy.wire.tlsrpt import NOTHING, Applied


@frozen
class Barred:
    """Why a host must not be used."""

    reply: Reply
    kind: str = ""  # the result type of RFC 8460 s.4.3; "" = nothing to report


@frozen
class Planned:
    """A peer with what it must have."""

    peer: Peer
    applied: Applied = NOTHING  # the published policy it is judged by
    barred: Barred | None = None


@frozen
class StsFound:
    """What is known of a domain's MTA-STS policy."""

    policy: StsPolicy | None = None  # that holds now
    failure: Mismatch | None = None  # why it, or a newer one, could not be had


class Sts(Protocol):
    """Where MTA-STS policies come from: L{qmailpy.remote.sts.StsPolicies}, or what a test puts there."""

    def find(self, domain: str) -> Awaitable[StsFound]:
        """The policy of a domain, asked for where it must be; fails never."""


@frozen
class _Dane:
    """What the DNS says of a host's certificates."""

    base: str  # the name the records are of
    usable: Tlsas
    found: Sequence[Tlsa]


class Protection:
    """Plans for one channel."""

    def __init__(self, resolver: object, sts: Sts | None = None, *, no_trust: str = "", watch: bool = False) -> None:
        """
        @param resolver: one that is an L{ISecureResolver} is asked for TLSA records.
        @param sts: C{None} = there is no MTA-STS.
        @param no_trust: why certificates of authorities cannot be verified here, "" when they can.
        @param watch: whether somebody wants to know what would have failed (MTA-STS C{testing}).
        """
        self._dns = resolver if ISecureResolver.providedBy(resolver) else None
        self._sts = sts
        self._no_trust = no_trust
        self._watch = watch

    async def plan(self, destination: Destination, peers: Sequence[Peer]) -> tuple[Sequence[Planned], Mismatch | None]:
        """
        What each peer must have; in the same order.

        @return: with it a failure to get the domain's MTA-STS policy, for the report.
        """
        policy, domain = destination.policy, destination.domain
        failure = None
        found: StsPolicy | None = None
        if policy.mta_sts and not policy.optional and domain and self._sts is not None and not self._no_trust:
            sts = await self._sts.find(domain)
            found, failure = sts.policy, sts.failure
            if found is not None and found.mode is Mode.NONE:
                found = None
        danes: dict[tuple[str, int], _Dane | Barred | None] = {}
        secure = False
        wanted = policy.dane or any(hop.policy is not None and hop.policy.dane for hop in destination.hops)
        if self._dns is not None and self._dns.validating and wanted and not policy.optional:
            secure = not domain or await self._secure_mx(domain)
            if secure:
                for peer in peers:
                    key = peer.host, peer.port
                    if (
                        key not in danes
                        and peer.published
                        and not is_address(peer.host)
                        and not is_socket(peer.address)
                    ):
                        danes[key] = await self._dane(*key)
        planned = []
        for peer in peers:
            one = self._of(peer, destination, danes.get((peer.host, peer.port)) if peer.published else None, found)
            if policy.required and one.barred is None:
                one = self._required(one, domain, found, secure=secure)
            planned.append(one)
        return planned, failure

    async def _secure_mx(self, domain: str) -> bool:
        """Whether a host's name comes from where nobody can change it (RFC 7672 s.2.2.1)."""
        assert self._dns is not None
        try:
            return bool(await self._dns.secure_mx(domain))
        except Temporary:
            return False

    async def _dane(self, host: str, port: int) -> _Dane | Barred | None:
        """The TLSA records of a host; C{None} when it has none (that anybody could rely on)."""
        assert self._dns is not None
        for base in await self._dns.tlsa_bases(host):
            try:
                found, secure = await self._dns.tlsa(f"_{port}._tcp.{base}")
            except Temporary as error:
                # An attacker who could make the records go away would have us forget them (RFC 7672 s.2.1.2).
                reply = Reply(451, "4.7.5", f"TLSA records of {host} cannot be had: {error.reply.text}")
                return Barred(reply, "dnssec-invalid")
            if secure and found:
                return _Dane(base, Tlsas.usable(found), found)
        return None

    def _of(self, peer: Peer, destination: Destination, dane: _Dane | Barred | None, sts: StsPolicy | None) -> Planned:
        if isinstance(dane, Barred):
            return Planned(peer, Applied(kind="tlsa"), dane)
        if dane is not None:
            applied = Applied(kind="tlsa", strings=tuple(str(record) for record in dane.found[:32]))
            return Planned(_with_dane(peer, dane, destination.domain), applied)
        if peer.tls is Tls.DANE:
            reply = Reply(451, "4.7.5", f"{peer.host} has no TLSA records, which {destination.name} must have")
            return Planned(peer, NOTHING, Barred(reply, "dane-required"))
        if sts is None:
            return Planned(peer)
        applied = Applied(kind="sts", strings=sts.lines, mx=sts.mx)
        if sts.mode is Mode.TESTING:
            if not self._watch or peer.tls in (Tls.NONE, Tls.VERIFY):
                return Planned(peer, applied)
            names = (peer.host,) if sts.allows(peer.host) else ("a host of the MTA-STS policy",)
            return Planned(evolve(peer, watched=True, names=names), applied)
        if not sts.allows(peer.host):
            reply = Reply(451, "4.7.5", f"{peer.host} is not in the MTA-STS policy of {destination.domain}")
            return Planned(peer, applied, Barred(reply, "validation-failure"))
        return Planned(evolve(peer, tls=Tls.VERIFY, names=(peer.host,), how="mta-sts"), applied)

    def _required(self, one: Planned, domain: str, sts: StsPolicy | None, *, secure: bool) -> Planned:
        """The same for a message that must have verified TLS."""
        peer = one.peer
        if peer.tls is Tls.VERIFY or peer.tlsas is not None:
            return one
        if self._no_trust or peer.tls is Tls.NONE:
            why = self._no_trust or "by the configuration it has no TLS"
            reply = Reply(
                451 if self._no_trust else 550, "4.7.5" if self._no_trust else "5.7.30", f"{peer.host}: {why}"
            )
            return Planned(peer, one.applied, Barred(reply))
        by_name = not domain or secure or (sts is not None and sts.allows(peer.host))
        names = (peer.host,) if by_name else (domain,)
        return evolve(one, peer=evolve(peer, tls=Tls.VERIFY, names=names, watched=False, how="verify"))


def _with_dane(peer: Peer, dane: _Dane, domain: str) -> Peer:
    if not dane.usable:
        # RFC 7672 s.2.2: TLS it must be, and there is nothing to compare its certificate with. What the configuration
        # asks for beyond that still holds.
        return peer if peer.tls is Tls.VERIFY else evolve(peer, tls=Tls.MUST, how="dane, unusable")
    names: tuple[str, ...] = ()
    if any(record.usage == TRUST_ANCHOR for record in dane.usable.records):
        names = tuple(dict.fromkeys(filter(None, (dane.base, domain))))  # RFC 7672 s.3.2.3
    return evolve(peer, tls=Tls.DANE, names=names, tlsas=dane.usable, sni=dane.base, how="dane")
