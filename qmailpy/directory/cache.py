"""
A cache in front of a directory: mail asks for every recipient, the directory answers a few thousand times a second.

An answer is kept under (service, realm, key): the service is the question, for a login with a keyed hash of the
password (the key is this process's own and never leaves it); the realm is the directory it is put to; the key is the
whole address. So nobody gets what is somebody else's. What exists is kept for C{positive_s}, what does not for
C{negative_s}, a login that succeeded for C{login_s}; at most C{entries} in all, the least recently used going first. A
login that failed is not kept, so a mistyped password costs the next try nothing. Failures of the directory are never
kept.

While the directory is away, what exists may be used for another C{stale_s} after its lifetime; that somebody does not
exist may not: mail would go back for want of a server.

Identical questions asked while the first is under way share its answer; a flush ends that, so that whoever asks after a
change never gets the answer from before.
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
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory
from qmailpy.values import Alias, Domain, Group, Mailbox, ScramSecret


class Unknown(Enum):
    """The type of L{UNKNOWN}."""

    UNKNOWN = "not in the cache"


UNKNOWN: Final = Unknown.UNKNOWN
"""What a peek returns when only the directory can tell."""

Answer = Domain | Mailbox | Alias | Group | None
_Key = tuple[str, str, str]  # service, realm, address or domain
AWAY_S = 1.0
"""So long after a failure answers past their lifetime are given at once, without asking again."""


class IPeek(Interface):
    """A directory that can answer some questions at once."""

    hits: int = Attribute("Questions answered from memory, peeks included.")
    misses: int = Attribute("Questions put to the directory.")
    stale: int = Attribute("Of the hits, those that were past their lifetime while the directory was away.")

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
        self,
        clock: IReactorTime,
        directory: IDirectory,
        positive_s: float,
        negative_s: float,
        entries: int,
        *,
        login_s: float | None = None,
        stale_s: float = 0.0,
        realm: str = "",
    ) -> None:
        """
        @param directory: asked what is not known.
        @param positive_s: lifetime of what exists.
        @param negative_s: lifetime of what does not.
        @param entries: most answers kept; at least 1.
        @param login_s: lifetime of logins; C{None} = C{positive_s}.
        @param stale_s: how long after its lifetime what exists may be used while the directory is away.
        @param realm: which directory it is; answers of another one are not looked at.
        """
        self._now = clock.seconds
        self._directory = directory
        self.reconfigure(positive_s, negative_s, entries, login_s=login_s, stale_s=stale_s, realm=realm)
        self._away_until = float("-inf")
        self._kept: OrderedDict[_Key, tuple[float, Answer]] = OrderedDict()
        self._tags: dict[str, set[_Key]] = {}  # address or domain: what to forget with it
        self._asking: dict[_Key, list[Deferred[Any]]] = {}
        self._secret = os.urandom(32)
        self.hits = 0
        self.misses = 0
        self.stale = 0

    def reconfigure(
        self,
        positive_s: float,
        negative_s: float,
        entries: int,
        *,
        login_s: float | None = None,
        stale_s: float = 0.0,
        realm: str = "",
    ) -> None:
        """Take other lifetimes; what is kept keeps its own."""
        self._positive_s = positive_s
        self._negative_s = negative_s
        self._login_s = positive_s if login_s is None else login_s
        self._stale_s = stale_s
        self._most = max(1, entries)
        self._realm = realm

    def __len__(self) -> int:
        return len(self._kept)

    def peek_domain(self, name: str) -> Domain | Unknown | None:
        found = self._peek(("domain", self._realm, name))
        return found if found is UNKNOWN or not isinstance(found, Mailbox | Alias | Group) else None

    def peek_lookup(self, address: str) -> Mailbox | Alias | Group | Unknown | None:
        found = self._peek(("lookup", self._realm, addresses.key(address)))
        return found if found is UNKNOWN or not isinstance(found, Domain) else None

    async def domain(self, name: str) -> Domain | None:
        key = ("domain", self._realm, addresses.key(name))
        found: Domain | None = await self._ask(key, lambda: self._directory.domain(name))
        return found

    async def lookup(self, address: str) -> Mailbox | Alias | Group | None:
        key = ("lookup", self._realm, addresses.key(address))
        found: Mailbox | Alias | Group | None = await self._ask(key, lambda: self._directory.lookup(address))
        return found

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        digest = hmac.digest(self._secret, password, "sha256").hex()
        key = ("login " + digest, self._realm, addresses.key(login))
        found: Mailbox | None = await self._ask(key, lambda: self._directory.authenticate(login, password))
        return found

    async def scram(self, login: str) -> ScramSecret | None:
        return await self._directory.scram(login)  # a secret is not kept longer than it is needed

    async def logged_in(self, address: str, service: str, ip: str) -> None:
        await self._directory.logged_in(address, service, ip)

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
            for key in [key for key in self._kept if key[2] == tag or key[2].endswith("@" + tag)]:
                self._forget(key)

    def _peek(self, key: _Key) -> Answer | Unknown:
        kept = self._kept.get(key)
        if kept is None:
            return UNKNOWN
        now = self._now()
        if kept[0] <= now:
            if now >= self._away_until or not self._usable(kept, now):
                return UNKNOWN
            self.stale += 1
        self._kept.move_to_end(key)
        self.hits += 1
        return kept[1]

    def _usable(self, kept: tuple[float, Answer], now: float) -> bool:
        """Whether an answer past its lifetime may be used for want of a directory."""
        return kept[1] is not None and now < kept[0] + self._stale_s

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
            if isinstance(answer, Failure):
                answer = self._instead(answer, key)
            else:
                self._keep(key, answer)
        for one in waiting:
            if not one.called:
                one.callback(answer)  # a Failure goes down the errback side

    def _instead(self, problem: Failure, key: _Key) -> Answer | Failure:
        """What to say when the directory could not: an old answer, or that it could not."""
        kept, now = self._kept.get(key), self._now()
        # Two entries for one address, and the like, are an answer: a bad one.
        if not isinstance(problem.value, Temporary) or problem.value.reply.enhanced != "4.3.0":
            return problem
        self._away_until = now + AWAY_S
        if kept is None or not self._usable(kept, now):
            return problem
        self.stale += 1
        return kept[1]

    def _keep(self, key: _Key, answer: Answer) -> None:
        self._forget(key)
        login = key[0].startswith("login ")
        lifetime = self._negative_s if answer is None else self._login_s if login else self._positive_s
        if lifetime <= 0 or (answer is None and login):
            return
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
    return {key[2], answer.address} if isinstance(answer, Mailbox | Alias | Group) else {key[2]}
