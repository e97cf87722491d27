r"""
The PROXY protocol, versions 1 and 2 (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt): what a load balancer
says first, on behalf of the client it passes on. Pure, for whoever reads a connection's first octets.

It is believed without proof, so it may only be read from addresses that are named, and must then be there: a client
that could leave it out could speak for the load balancer, one that could add it for anybody.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from attrs import frozen

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_OCTETS = 107
"""The longest header of version 1, line end included (s.2.1)."""
V2_OCTETS = 4096
"""The longest header of version 2 we take: addresses need 36 octets, the rest are extensions we read over."""


class BadProxy(ValueError):
    """What came is no such header."""


@frozen(kw_only=True)
class Proxied:
    """Whom a connection is from."""

    ip: str  # of the client; "" when the proxy speaks for itself, or does not know
    port: int = 0
    our_ip: str = ""  # where the client had connected to
    our_port: int = 0
    octets: int  # of the header


def read(octets: bytes) -> Proxied | None:
    """
    The header at the beginning of C{octets}.

    @return: C{None} when it is not complete yet.
    @raise BadProxy: it is none, and cannot become one.
    """
    if octets.startswith(SIGNATURE):
        return _version_2(octets)
    if octets.startswith(b"PROXY "):
        return _version_1(octets)
    if SIGNATURE.startswith(octets) or b"PROXY ".startswith(octets):
        return None
    raise BadProxy("no PROXY header")


def _version_1(octets: bytes) -> Proxied | None:
    """s.2.1: C{PROXY TCP4 source destination source-port destination-port CRLF}, or C{PROXY UNKNOWN} and anything."""
    end = octets.find(b"\r\n", 0, V1_OCTETS)
    if end < 0:
        if len(octets) >= V1_OCTETS or b"\n" in octets:
            raise BadProxy("a header of version 1 without its end")
        return None
    parts = octets[:end].split(b" ")
    if parts[1] == b"UNKNOWN":
        return Proxied(ip="", octets=end + 2)
    kind = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}.get(parts[1])
    if kind is None or len(parts) != 6:
        raise BadProxy("a header of version 1 of another form")
    try:
        source, ours = (ip_address(part.decode("ascii")) for part in parts[2:4])
    except ValueError:
        raise BadProxy("an address that is none") from None
    ports = [int(part) for part in parts[4:] if part.isdigit() and len(part) <= 5]
    if not isinstance(source, kind) or not isinstance(ours, kind) or len(ports) != 2 or max(ports) > 65535:
        raise BadProxy("an address of another family, or a port that is none")
    return Proxied(ip=str(source), port=ports[0], our_ip=str(ours), our_port=ports[1], octets=end + 2)


def _version_2(octets: bytes) -> Proxied | None:
    """s.2.2: signature, version and command, family, length, addresses, extensions."""
    if len(octets) < 16:
        return None
    command, family, length = octets[12], octets[13], int.from_bytes(octets[14:16], "big")
    if command >> 4 != 2 or command & 15 > 1 or 16 + length > V2_OCTETS:
        raise BadProxy("a header of version 2 of another form")
    if len(octets) < 16 + length:
        return None
    form = {0x11: "!4s4sHH", 0x21: "!16s16sHH"}.get(family)
    if command & 15 == 0 or form is None:  # LOCAL: the proxy itself, for its checks of our health; or no TCP over IP
        return Proxied(ip="", octets=16 + length)
    if length < struct.calcsize(form):
        raise BadProxy("a header of version 2 without its addresses")
    source, ours, port, our_port = struct.unpack_from(form, octets, 16)
    return Proxied(
        ip=str(ip_address(source)), port=port, our_ip=str(ip_address(ours)), our_port=our_port, octets=16 + length
    )
