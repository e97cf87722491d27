"""
A cache in front of a directory: mail asks for every recipient, the directory answers a few hundred times a second.

An answer is kept under (question, key): what exists for C{positive_s}, what does not for C{negative_s}, at most
C{entries} in all, the least recently used going first. A login that succeeded is kept under a keyed hash of the
password (the key is this process's own and never leaves it); one that failed is not kept, so a mistyped password costs
the next try nothing. Failures of the directory are never kept. Identical questions asked while the first is under way
share its answer; a flush ends that, so that whoever asks after a change never gets the answer from before.
"""

from __future__ import annotations

import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from qmailpy.directory import address as addresses
from qmailpy.interfaces import IDirectory
from qmailpy.values import Alias, Domain, Group, Mailbox, ScramSecret


class Unknown(Enum):
    """The type of L{UNKNOWN}."""

    UNKNOWN = "not in the cache"


UNKNOWN: Final = Unknown.UNKNOWN
"""What a peek returns when only the directory can tell."""

Answer = Domain | Mailbox | Alias | Group | None
_Key = tuple[str, str]


class IPeek(Interface):
    """A directory that can answer some questions at once."""

    hits: int = Attribute("Questions answered from memory, peeks included.")

    def peek_domain(name: str) -> Domain | Unknown | None:
        """L{IDirectory.domain}, or L{UNKNOWN}."""

    def peek_lookup(address: str) -> Mailbox | Alias | Group | Unknown | None:
        """L{IDirectory.lookup}, or L{UNKNOWN}."""

    def flush(what: str = "") -> None:
        """Forget an address, a domain and all in it, or ("") everything."""


class IForgets(Interface):
    """A directory behind the cache that remembers something itself."""

    def forget() -> None:
        """Something has changed."""


@implementer(IDirectory, IPeek)
class CachedDirectory:
    """L{IDirectory} that remembers."""

    def __init__(
        self, clock: IReactorTime, directory: IDirectory, positive_s: float, negative_s: float, entries: int
    ) -> None:
        """
        @param directory: asked what is not known.
        @param positive_s: lifetime of what exists, and of logins.
        @param negative_s: lifetime of what does not.
        @param entries: most answers kept; at least 1.
        """
        self._now = clock.seconds
        self._directory = directory
        self._positive_s = positive_s
        self._negative_s = negative_s
        self._most = max(1, entries)
        self._kept: OrderedDict[_Key, tuple[float, Answer]] = OrderedDict()
        self._tags: dict[str, set[_Key]] = {}  # address or domain: what to forget with it
        self._asking: dict[_Key, list[Deferred[Any]]] = {}
        self._secret = os.urandom(32)
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def peek_domain(self, name: str) -> Domain | Unknown | None:
        found = self._peek(("domain", name))
        return found if found is UNKNOWN or not isinstance(found, Mailbox | Alias | Group) else None

    def peek_lookup(self, address: str) -> Mailbox | Alias | Group | Unknown | None:
        found = self._peek(("lookup", addresses.key(address)))
        return found if found is UNKNOWN or not isinstance(found, Domain) else None

    async def domain(self, name: str) -> Domain | None:
        found: Domain | None = await self._ask(("domain", addresses.key(name)), lambda: self._directory.domain(name))
        return found

    async def lookup(self, address: str) -> Mailbox | Alias | Group | None:
        key = ("lookup", addresses.key(address))
        found: Mailbox | Alias | Group | None = await self._ask(key, lambda: self._directory.lookup(address))
        return found

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        digest = hmac.digest(self._secret, password, "sha256").hex()
        key = ("login " + digest, addresses.key(login))
        found: Mailbox | None = await self._ask(key, lambda: self._directory.authenticate(login, password))
        return found

    async def scram(self, login: str) -> ScramSecret | None:
        return await self._directory.scram(login)  # a secret is not kept longer than it is needed

    def flush(self, what: str = "") -> None:
        if IForgets.providedBy(self._directory):
            self._directory.forget()
        self._asking.clear()  # those who wait get their answer; who asks from now on does not join them
        if not what:
            self._kept.clear()
            self._tags.clear()
            return
        tag = addresses.key(what)
        for key in list(self._tags.get(tag, ())):
            self._forget(key)
        if "@" not in tag:
            for key in [key for key in self._kept if key[1] == tag or key[1].endswith("@" + tag)]:
                self._forget(key)

    def _peek(self, key: _Key) -> Answer | Unknown:
        kept = self._kept.get(key)
        if kept is None:
            return UNKNOWN
        if kept[0] <= self._now():
            self._forget(key)
            return UNKNOWN
        self._kept.move_to_end(key)
        self.hits += 1
        return kept[1]

    async def _ask(self, key: _Key, question: Callable[[], Coroutine[Any, Any, Answer]]) -> Any:
        found = self._peek(key)
        if found is not UNKNOWN:
            return found
        waiting = self._asking.get(key)
        mine: Deferred[Any] = Deferred()
        if waiting is not None:
            waiting.append(mine)
            return await mine
        self.misses += 1
        waiting = self._asking[key] = [mine]
        # Not awaited by us but on its own: one who asked may be cancelled and the others still get their answer.
        Deferred.fromCoroutine(question()).addBoth(self._answered, key, waiting)
        return await mine

    def _answered(self, answer: Answer | Failure, key: _Key, waiting: list[Deferred[Any]]) -> None:
        if self._asking.get(key) is waiting:  # not so after a flush: then the answer may be from before the change
            del self._asking[key]
            if not isinstance(answer, Failure):
                self._keep(key, answer)
        for one in waiting:
            if not one.called:
                one.callback(answer)  # a Failure goes down the errback side

    def _keep(self, key: _Key, answer: Answer) -> None:
        lifetime = self._negative_s if answer is None else self._positive_s
        if lifetime <= 0 or (answer is None and key[0].startswith("login ")):
            return
        self._forget(key)
        self._kept[key] = (self._now() + lifetime, answer)
        for tag in _tags(key, answer):
            self._tags.setdefault(tag, set()).add(key)
        while len(self._kept) > self._most:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: _Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        for tag in _tags(key, kept[1]):
            tagged = self._tags.get(tag)
            if tagged is not None:
                tagged.discard(key)
                if not tagged:
                    del self._tags[tag]


def _tags(key: _Key, answer: Answer) -> set[str]:
    """What names an answer goes by: its key and, for an alternate address, the mailbox it leads to."""
    return {key[1], answer.address} if isinstance(answer, Mailbox | Alias) else {key[1]}
