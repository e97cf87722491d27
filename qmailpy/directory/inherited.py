"""
What users inherit: entries of domains and plans, remembered for seconds by whoever asks a directory over the wire.

Without it each look-up of a user would be two or three searches. Thousands of users share a domain and a plan, so
nearly every look-up finds both here. A change is seen after L{LIFETIME_S} at the latest, or at once by L{forget}.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from qmailpy.directory import meaning
from qmailpy.directory.schema import Attributes

LIFETIME_S = 10.0
_MOST = 10000

Ask = Callable[[str, str], Coroutine[Any, Any, Attributes | None]]
"""Searches for the entry of ("domain" or "plan", name)."""


class Inherited:
    """Domains and plans by name."""

    def __init__(self, seconds: Callable[[], float], ask: Ask) -> None:
        """@param ask: may raise; then so does who wanted to know."""
        self._now = seconds
        self._ask = ask
        self._kept: dict[tuple[str, str], tuple[float, Attributes | None]] = {}
        self._asking: dict[tuple[str, str], list[Deferred[Attributes | None]]] = {}

    def forget(self) -> None:
        """Something has changed: ask anew."""
        self._kept.clear()
        self._asking.clear()

    async def of(self, attributes: Attributes) -> tuple[Attributes, ...]:
        """What L{meaning.recipient} wants as C{inherited} for an entry."""
        if not meaning.inherits(attributes):
            return ()
        domain = await self._entry("domain", meaning.domain_of(attributes))
        plans = [meaning.plan_of(attributes), meaning.plan_of(domain or {})]
        found = [await self._entry("plan", plan) for plan in dict.fromkeys(plans)]
        return tuple(one for one in (*found, domain) if one is not None)

    async def _entry(self, kind: str, name: str) -> Attributes | None:
        key = (kind, name)
        kept = self._kept.get(key)
        if not name or (kept is not None and kept[0] > self._now()):
            return kept[1] if name and kept is not None else None
        mine: Deferred[Attributes | None] = Deferred()
        waiting = self._asking.get(key)
        if waiting is not None:
            waiting.append(mine)
            return await mine
        waiting = self._asking[key] = [mine]
        # On its own: one who asked may give up, the others still get their answer.
        Deferred.fromCoroutine(self._ask(kind, name)).addBoth(self._answered, key, waiting)
        return await mine

    def _answered(
        self, answer: Attributes | Failure | None, key: tuple[str, str], waiting: list[Deferred[Any]]
    ) -> None:
        if self._asking.get(key) is waiting:  # not so after a change
            del self._asking[key]
            if not isinstance(answer, Failure):
                if len(self._kept) >= _MOST:
                    self._kept.clear()
                self._kept[key] = (self._now() + LIFETIME_S, answer)
        for one in waiting:
            if not one.called:
                one.callback(answer)  # a Failure goes down the errback side
