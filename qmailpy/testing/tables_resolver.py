"""
A resolver made of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver, ISecureResolver
from qmailpy.values import Reply
from qmailpy.wire.tlsa import Tlsa


@implementer(IResolver, ISecureResolver)
class TablesResolver:
    """Answers from what it was given; names in C{broken} cannot be looked up now. C{asked} lists the questions."""

    def __init__(
        self,
        *,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        reverse: Mapping[str, str] | None = None,
        broken: Sequence[str] = (),
        texts: Mapping[str, Sequence[str]] | None = None,
        tlsas: Mapping[str, Sequence[Tlsa]] | None = None,
        secure: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """
        @param mx: by domain; a domain in no table does not exist.
        @param addresses: by host.
        @param reverse: names by address.
        @param texts: TXT records by name.
        @param tlsas: TLSA records by name.
        @param secure: names whose answers were validated; with any, the resolver counts as a validating one.
        @param aliases: what a host is an alias for, for TLSA alone.
        """
        self.texts = dict(texts or {})
        self.tlsas = dict(tlsas or {})
        self.secure = set(secure)
        self.validating = bool(secure)
        self._aliases = dict(aliases or {})
        self._mx = dict(mx or {})
        self._addresses = dict(addresses or {})
        self._reverse = dict(reverse or {})
        self._broken = set(broken)
        self.asked: list[str] = []

    async def mx(self, domain: str) -> Sequence[tuple[int, str]]:
        self._ask("mx", domain)
        return self._mx.get(domain.lower().rstrip("."), ())

    async def addresses(self, host: str) -> Sequence[str]:
        self._ask("addresses", host)
        return self._addresses.get(host.lower().rstrip("."), ())

    async def ipv4(self, host: str) -> Sequence[str]:
        self._ask("ipv4", host)
        return [text for text in self._addresses.get(host.lower().rstrip("."), ()) if ":" not in text]

    async def exists(self, domain: str) -> bool:
        self._ask("exists", domain)
        name = domain.lower().rstrip(".")
        return name in self._mx or name in self._addresses

    async def reverse(self, address: str) -> str:
        self._ask("reverse", address)
        return self._reverse.get(address, "")

    async def text(self, name: str) -> Sequence[str]:
        self._ask("text", name)
        return self.texts.get(name, ())

    async def secure_mx(self, domain: str) -> bool:
        self._ask("mx", domain)
        return domain in self.secure

    async def tlsa_bases(self, host: str) -> Sequence[str]:
        alias = self._aliases.get(host)
        if alias is not None and alias in self.secure and host in self.secure:
            return alias, host
        return (host,) if host in self.secure else ()

    async def tlsa(self, name: str) -> tuple[Sequence[Tlsa], bool]:
        self._ask("tlsa", name)
        return self.tlsas.get(name, ()), name in self.secure

    def _ask(self, what: str, name: str) -> None:
        self.asked.append(f"{what} {name}")
        if name.lower().rstrip(".") in self._broken:
            raise Temporary(Reply(451, "4.4.3", f"DNS lookup of {name} failed: SERVFAIL"))
