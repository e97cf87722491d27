"""
A resolver made of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IResolver
from qmailpy.values import Reply


@implementer(IResolver)
class TablesResolver:
    """Answers from what it was given; names in C{broken} cannot be looked up now. C{asked} lists the questions."""

    def __init__(
        self,
        *,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        reverse: Mapping[str, str] | None = None,
        broken: Sequence[str] = (),
    ) -> None:
        """
        @param mx: by domain; a domain in no table does not exist.
        @param addresses: by host.
        @param reverse: names by address.
        """
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

    async def exists(self, domain: str) -> bool:
        self._ask("exists", domain)
        name = domain.lower().rstrip(".")
        return name in self._mx or name in self._addresses

    async def reverse(self, address: str) -> str:
        self._ask("reverse", address)
        return self._reverse.get(address, "")

    def _ask(self, what: str, name: str) -> None:
        self.asked.append(f"{what} {name}")
        if name.lower().rstrip(".") in self._broken:
            raise Temporary(Reply(451, "4.4.3", f"DNS lookup of {name} failed: SERVFAIL"))
