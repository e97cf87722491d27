"""
From a destination to the addresses to connect to: the rules of L{qmailpy.remote.mx} with the answers of the DNS.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Collection, Sequence
from itertools import zip_longest
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, gatherResults

from qmailpy.errors import Permanent, Temporary
from qmailpy.interfaces import IResolver
from qmailpy.remote.mx import Destination, Exchange, Hop, Reach, before_us, exchanges, is_address, is_socket
from qmailpy.remote.policy import NOBODY, Account, Policy
from qmailpy.values import Reply
from qmailpy.wire.client_events import Tls
from qmailpy.wire.tlsa import Tlsas

EXCHANGES_LIMIT = 16
"""Exchangers of a domain that are looked at. Real domains have fewer; a list without end tries our patience."""

PEERS_LIMIT = 24
"""Addresses tried in one attempt."""


@frozen(cache_hash=True)
class Peer:
    """One address of one host: what a connection is made to, and kept for."""

    host: str  # its name, or its address when it has no other name
    address: str  # or the path of a UNIX socket
    port: int
    tls: Tls = Tls.MAY
    most: int = 0  # connections at once; 0 = the channel's
    names: tuple[str, ...] = ()  # one of which its certificate must be for; only where it is verified
    tlsas: Tlsas | None = None  # what the DNS says of its certificate
    sni: str = ""  # the name it is told before it shows one; "" = host
    watched: bool = False  # its certificate is looked at, and nothing follows but a report
    how: str = ""  # the policy behind tls, for diagnostics: "dane", "mta-sts", "verify"
    published: bool = True  # what the DNS says of its certificate counts, where the destination asks for that
    implicit: bool = False  # TLS from the first octet
    account: Account = NOBODY  # who we are to it
    source: str = ""  # our address; "" = any
    helo: str = ""  # our name; "" = the host name


class Finder:
    """Finds the peers of a destination, by the policy of one channel."""

    def __init__(
        self,
        resolver: IResolver,
        *,
        our_names: Collection[str],
        reach: Reach,
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        """
        @param our_names: host names that mean this host when an MX record names them.
        """
        self._resolver = resolver
        self._our_names = frozenset(name.lower() for name in our_names)
        self._reach = reach
        self._shuffle = shuffle

    async def find(self, destination: Destination) -> tuple[Peer, ...]:
        """
        Where to connect, in the order to try; never empty.

        @raise Temporary: it cannot be told now (DNS).
        @raise Permanent: nowhere: no such domain, null MX, or the way leads back to us.
        """
        if destination.hops:
            found = await self._of_hops(destination)
        else:
            found = await self._of_domain(destination)
        return tuple(dict.fromkeys(found))[:PEERS_LIMIT]

    async def _of_hops(self, destination: Destination) -> list[Peer]:
        found = []
        trouble: Temporary | None = None
        hops = list(destination.hops)
        if destination.shuffled:
            self._shuffle(hops)
        for hop, addresses in zip(hops, await self._all_addresses([hop.host for hop in hops]), strict=True):
            if isinstance(addresses, Temporary):
                trouble = addresses
                continue
            usable = [address for address in addresses if destination.trusted or self._foreign(address)]
            if addresses and not usable:
                raise Permanent(Reply(554, "5.4.6", f"Mail for {destination.name} loops back to this host"))
            found.extend(_peers(hop, usable, destination))
        if found:
            return found
        if trouble is not None:
            raise trouble
        # A relay without an address is a mistake of ours, which is not the sender's to pay for.
        reply = Reply(451, "4.4.4", f"Host {destination.name} has no address")
        raise Temporary(reply) if destination.trusted else Permanent(Reply(550, "5.1.2", reply.text))

    def _foreign(self, address: str) -> bool:
        return self._reach.is_host(address) and not self._reach.is_ourselves(address)

    async def _of_domain(self, destination: Destination) -> list[Peer]:
        domain = destination.domain
        records = await self._resolver.mx(domain)
        ordered = exchanges(domain, records, self._shuffle)[:EXCHANGES_LIMIT]
        answers = await self._all_addresses([exchange.host for exchange in ordered])
        known = dict(zip(ordered, answers, strict=True))

        def ourselves(exchange: Exchange) -> bool:
            if exchange.host in self._our_names:
                return True
            addresses = known[exchange]
            return not isinstance(addresses, Temporary) and any(map(self._reach.is_ourselves, addresses))

        if not destination.trusted:
            ordered = before_us(domain, ordered, ourselves)
        found = []
        trouble: Temporary | None = None
        for exchange in ordered:
            addresses = known[exchange]
            if isinstance(addresses, Temporary):
                trouble = addresses
                continue
            usable = [address for address in addresses if self._reach.is_host(address)]
            found.extend(_peers(Hop(host=exchange.host, port=destination.policy.port), usable, destination))
        if found:
            return found
        if trouble is not None:
            raise trouble
        if not records and not await self._resolver.exists(domain):
            raise Permanent(Reply(550, "5.1.2", f"Domain {domain} does not exist"))
        what = "its mail hosts have" if records else "it has"
        raise Permanent(Reply(550, "5.1.2", f"Domain {domain} takes no mail: {what} no address"))

    async def _all_addresses(self, hosts: Sequence[str]) -> list[Sequence[str] | Temporary]:
        """The addresses of each host, asked for side by side."""
        if len(hosts) == 1:
            return [await self._addresses(hosts[0])]
        return await gatherResults([Deferred.fromCoroutine(self._addresses(host)) for host in hosts])

    async def _addresses(self, host: str) -> Sequence[str] | Temporary:
        if is_address(host) or is_socket(host):
            return (host,)
        try:
            return await self._resolver.addresses(host)
        except Temporary as error:
            return error


def _peers(hop: Hop, addresses: Sequence[str], destination: Destination) -> list[Peer]:
    policy = hop.policy or destination.policy
    tls = policy.tls
    names = (hop.host, destination.domain) if destination.domain else (hop.host,)
    verified = tuple(dict.fromkeys(names)) if tls is Tls.VERIFY else ()
    how = tls.value if verified else ""
    host = "localhost" if is_socket(hop.host) else hop.host
    made = Peer(host, "", hop.port, tls, policy.concurrency, verified, how=how)
    if hop.policy is not None or policy.source or policy.helo or policy.implicit or policy.account != NOBODY:
        made = evolve(
            made,
            published=hop.policy is None or policy.dane,
            implicit=policy.implicit,
            # Nobody else's DNS is to say who gets our password.
            account=policy.account if destination.trusted else NOBODY,
            helo=policy.helo,
        )
    return [evolve(made, address=one, source=_source(policy, one)) for one in _by_turns(addresses)]


def _by_turns(addresses: Sequence[str]) -> list[str]:
    """
    Both families by turns, as they begin: where one of them leads nowhere, its many addresses do not use up the time
    of the attempt (RFC 8305 s.4).
    """
    if len(addresses) < 3:
        return list(addresses)
    first = [one for one in addresses if (":" in one) == (":" in addresses[0])]
    second = [one for one in addresses if (":" in one) != (":" in addresses[0])]
    pairs = zip_longest(first, second)
    return [one for pair in pairs for one in pair if one is not None]


def _source(policy: Policy, address: str) -> str:
    """Our end of a connection to C{address}: of the same family, where there is one."""
    for source in policy.source:
        if (":" in source) == (":" in address) and not is_socket(address):
            return source
    return ""


def is_address_of_this_machine(address: str) -> bool:
    """
    Whether an interface of this machine has C{address}: what can be bound is ours. No packet is sent.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
