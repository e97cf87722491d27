"""
What the keys of access rules are compared with: words, addresses and hosts by pattern, clients by network. Pure.

Names are compared without regard to case. An entry is one of::

    joe@example.org    that address, or that word
    example.org        the host, or any address in that domain
    .example.org       hosts and domains below it
    joe@*, *@*.test    with stars, each for any text
    <>                 nothing: the null sender, no login
    10.0.0.0/8         for clients: the network, or one address

Entries without stars are looked up, however many there are: the whole text, its domain, and each domain above. Stars
are tried one after the other, each in one pass over the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Protocol

NOTHING = "<>"
"""Stands for an empty text."""


class Matcher(Protocol):
    """Entries of one kind."""

    def match(self, text: str) -> str:
        """The entry that C{text} fits, as it was written; "" when there is none."""


def glob(pattern: str, text: str) -> bool:
    """
    Whether C{text} is C{pattern} with something, or nothing, in place of each star.

    The leftmost place for each piece is as good as any other, so that there is nothing to go back for.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    last = rest.pop()
    if not text.startswith(first) or len(text) < len(first) + len(last) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in rest:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


class Names:
    """Words, addresses and hosts."""

    __slots__ = ("_globs", "_plain")

    def __init__(self, entries: Iterable[str]) -> None:
        self._plain: set[str] = set()
        self._globs: list[str] = []
        for entry in entries:
            if "*" in entry:
                self._globs.append(entry.lower())
            else:
                self._plain.add(entry.lower())

    def __len__(self) -> int:
        return len(self._plain) + len(self._globs)

    def match(self, text: str) -> str:
        text = text.lower()
        plain = self._plain
        if plain:
            whole = text or NOTHING
            if whole in plain:
                return whole
            domain = text.rpartition("@")[2]
            if domain in plain:
                return domain
            at = domain.find(".")
            while at >= 0:
                if domain[at:] in plain:
                    return domain[at:]
                at = domain.find(".", at + 1)
        for pattern in self._globs:
            if glob(pattern, text):
                return pattern
        return ""


class Networks:
    """IP networks, of both families; "*" is any client, also one over a UNIX socket."""

    __slots__ = ("_any", "_four", "_six")

    def __init__(self, entries: Iterable[str]) -> None:
        """@raise ValueError: one is no network and no address; its text says which."""
        self._any = False
        self._four: dict[int, set[int]] = {}  # by octets of the prefix: what stands in them
        self._six: dict[int, set[int]] = {}
        for entry in entries:
            if entry == "*":
                self._any = True
                continue
            network = ip_network(entry, strict=False)
            table = self._four if network.version == 4 else self._six
            shift = network.max_prefixlen - network.prefixlen
            table.setdefault(shift, set()).add(int(network.network_address) >> shift)

    def __len__(self) -> int:
        return sum(len(some) for table in (self._four, self._six) for some in table.values()) + self._any

    def match(self, text: str) -> str:
        """@param text: from L{qmailpy.servers.clients.plain_address}; "" over a UNIX socket."""
        if text and (self._four or self._six):
            address = ip_address(text)
            four = address.version == 4
            number = int(address)
            for shift, known in (self._four if four else self._six).items():
                if number >> shift in known:
                    kind = IPv4Address if four else IPv6Address
                    return f"{kind(number >> shift << shift)}/{address.max_prefixlen - shift}"
        return "*" if self._any else ""


class Several:
    """Entries of a rule and of the lists it names."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Iterable[tuple[str, Matcher]]) -> None:
        """@param parts: what is put in front of a match ("list:FILE "), and the entries."""
        self._parts = tuple(parts)

    def match(self, text: str) -> str:
        for before, matcher in self._parts:
            found = matcher.match(text)
            if found:
                return before + found
        return ""
