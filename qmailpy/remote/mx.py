"""
Which hosts take a destination's mail, in what order: the rules without the questions (RFC 5321 s.5, RFC 7505).

A destination is written as one of

  - C{example.org}: the hosts of its MX records, or the name itself when it has none;
  - C{[192.0.2.1]}, C{[IPv6:2001:db8::1]}: that address (RFC 5321 s.4.1.3);
  - C{[relay.example]}, C{relay.example:2525}, C{[192.0.2.1]:2525} or several with commas between: these hosts, in this
    order, without MX; the forms of the configuration;
  - C{unix:/run/lmtp.sock}: a UNIX socket of this machine; of the configuration alone, and instead of a host above.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache

from attrs import evolve, frozen

from qmailpy.errors import Permanent
from qmailpy.remote.policy import DEFAULT, Policy
from qmailpy.values import Reply

UNIX = "unix:"
SOCKET_OCTETS = 107
"""Longest path of a UNIX socket (sun_path, Linux)."""


@frozen(kw_only=True)
class Hop:
    """A host that mail is to be given to whatever the DNS says of the domain."""

    host: str  # a name or an IP address, without brackets; or the path of a UNIX socket, from "/" on
    port: int  # 0 for a socket
    policy: Policy | None = None  # its own, where there are several; C{None} = the destination's


@frozen(kw_only=True, cache_hash=True)
class Destination:
    """
    Where mail goes, before any question was asked.

    Connections are kept by it, so trust is part of what makes two destinations equal: one that may lead into this
    machine must not lend its connections to a stranger's of the same name.
    """

    name: str  # as it was written
    domain: str = ""  # whose MX records to follow; "" when there are hops
    hops: tuple[Hop, ...] = ()
    trusted: bool = False  # from the configuration: may be anywhere, even on this machine
    policy: Policy = DEFAULT
    shuffled: bool = False  # the hops are tried in any order


@frozen
class Exchange:
    """A mail exchanger: smaller preferences first."""

    preference: int
    host: str


def first_host(text: str) -> str:
    """The domain or host that L{policies<qmailpy.remote.policy>} go by: of several, the first."""
    text = text.partition(",")[0].strip()
    host = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return host[5:] if host[:5].lower() == "ipv6:" else host


def destination(
    text: str,
    policy: Policy = DEFAULT,
    *,
    trusted: bool,
    of: Callable[[str], Policy] | None = None,
    shuffled: bool = False,
) -> Destination:
    """
    Read a destination.

    @param policy: its own; has the port where none is named.
    @param trusted: whether C{text} comes from the configuration.
    @param of: the policies of the hosts, where there are several.
    @param shuffled: of several, any may be tried first.
    @raise ValueError: it has none of the forms above.
    """
    if not text:
        raise ValueError("empty destination")
    if not text.startswith("[") and ":" not in text and "," not in text:
        return Destination(name=text, domain=text.lower().rstrip("."), trusted=trusted, policy=policy)
    parts = [part.strip() for part in text.split(",")]
    if of is None or len(parts) == 1:
        hops = tuple(_hop(part, policy.port) for part in parts)
    else:
        hops = tuple(evolve(_hop(part, own.port), policy=own) for part in parts for own in (of(first_host(part)),))
    if not trusted and any(is_socket(hop.host) for hop in hops):
        raise ValueError("a UNIX socket is for the configuration to name")
    return Destination(name=text, hops=hops, trusted=trusted, policy=policy, shuffled=shuffled)


def at_home(text: str, home: str) -> str:
    """C{text} of the configuration, the paths of its UNIX sockets made absolute: they are relative to HOME."""
    parts = [part.strip() for part in text.split(",")]
    return ",".join(
        [f"{UNIX}{home}/{part[len(UNIX) :]}" if part.startswith(UNIX) and part[5:6] != "/" else part for part in parts]
    )


def is_socket(host: str) -> bool:
    """Whether a host is a UNIX socket of this machine."""
    return host.startswith("/")


def _hop(text: str, port: int) -> Hop:
    if text.startswith(UNIX):
        path = text[len(UNIX) :]
        if not is_socket(path) or not path.isprintable() or len(path.encode()) > SOCKET_OCTETS:
            raise ValueError(f"malformed path of a socket in {text!r}")
        return Hop(host=path, port=0)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"malformed host {text!r}")
        number = rest[1:]
    else:
        host, colon, number = text.partition(":")
        rest = colon
    if rest:
        if not number.isdecimal() or not 0 < int(number[:6]) < 65536:
            raise ValueError(f"malformed port in {text!r}")
        port = int(number)
    if host[:5].lower() == "ipv6:":
        host = str(ipaddress.IPv6Address(host[5:]))
    if not host:
        raise ValueError(f"no host in {text!r}")
    return Hop(host=host, port=port)


def exchanges(
    domain: str, records: Sequence[tuple[int, str]], shuffle: Callable[[list[Exchange]], None]
) -> tuple[Exchange, ...]:
    """
    The exchangers to try, in order.

    @param records: (preference, host) as the DNS has them.
    @param shuffle: C{random.shuffle}, or what a test puts in its place; spreads equal preferences.
    @raise Permanent: 556 5.1.10, the domain takes no mail (null MX).
    """
    if not records:
        return (Exchange(0, domain),)  # RFC 5321 s.5.1: the implicit MX
    found = [Exchange(preference, host.lower().rstrip(".")) for preference, host in records if host.strip(".")]
    if not found:
        raise Permanent(Reply(556, "5.1.10", f"Domain {domain} does not accept mail (null MX)"))
    shuffle(found)
    found.sort(key=lambda exchange: exchange.preference)  # stable: equals stay shuffled
    return tuple(dict.fromkeys(found))


def before_us(domain: str, ordered: Sequence[Exchange], ourselves: Callable[[Exchange], bool]) -> tuple[Exchange, ...]:
    """
    The exchangers that are nearer to the domain than we are: when one of them is this very host, it and all that are
    not strictly better are left out (RFC 5321 s.5.1), or two hosts could send mail back and forth.

    @raise Permanent: 554 5.4.6, nobody is nearer.
    """
    ours = [exchange.preference for exchange in ordered if ourselves(exchange)]
    if not ours:
        return tuple(ordered)
    nearer = tuple(exchange for exchange in ordered if exchange.preference < min(ours))
    if not nearer:
        raise Permanent(Reply(554, "5.4.6", f"Mail for {domain} loops back to this host"))
    return nearer


class Reach:
    """Which addresses a destination from the foreign DNS may lead to."""

    def __init__(self, *, allow_loopback: bool, is_ours: Callable[[str], bool]) -> None:
        """
        @param is_ours: whether an IP address belongs to this machine.
        """
        self._allow_loopback = allow_loopback
        self._is_ours = is_ours

    def is_ourselves(self, address: str) -> bool:
        """Whether connecting to C{address} would end at this machine."""
        ip = _plain(address)
        if ip.is_loopback or ip.is_unspecified:
            return not self._allow_loopback
        # A socket can be bound to a group of hosts, too: no sign of this machine being one.
        return self.is_host(address) and self._is_ours(address)

    def is_host(self, address: str) -> bool:
        """Whether C{address} can be that of a single host at all."""
        ip = _plain(address)
        return not (ip.is_multicast or str(ip) == "255.255.255.255")


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, an IPv4 one hidden in IPv6 shown as what it is."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


@lru_cache(maxsize=1024)  # asked for the same few hosts with every message
def is_address(host: str) -> bool:
    """Whether C{host} is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
