"""
The directory straight from the store's file: for everything in one process, for commands, and for tests.

SQLite and password hashing block, so both run in threads: lookups where C{in_thread} says, hashing where
C{hash_in_thread} says, because a few logins at once must not delay the lookups of mail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from qmailpy.directory import address as addresses
from qmailpy.directory import password as passwords
from qmailpy.directory import schema
from qmailpy.directory.store import Store, StoreError
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory
from qmailpy.values import Alias, Domain, Mailbox, ScramSecret

InThread = Callable[..., Deferred[Any]]
"""Runs a function with its arguments elsewhere: C{partial(deferToThreadPool, reactor, pool)}, or C{maybeDeferred}."""


@implementer(IDirectory)
class EmbeddedDirectory:
    """L{IDirectory} over a L{Store}."""

    def __init__(self, store: Store, in_thread: InThread, hash_in_thread: InThread | None = None) -> None:
        self._store = store
        self._in_thread = in_thread
        self._hash_in_thread = hash_in_thread or in_thread

    async def domain(self, name: str) -> Domain | None:
        found: Domain | None = await self._in_thread(self.thd_domain, name)
        return found

    async def lookup(self, address: str) -> Mailbox | Alias | None:
        found: Mailbox | Alias | None = await self._in_thread(self.thd_lookup, address)
        return found

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        found: Mailbox | None = await self._hash_in_thread(self.thd_authenticate, login, password)
        return found

    async def scram(self, login: str) -> ScramSecret | None:
        found: ScramSecret | None = await self._in_thread(self.thd_scram, login)
        return found

    def thd_domain(self, name: str) -> Domain | None:
        """L{IDirectory.domain}, blocking."""
        with _temporary():
            entries = self._store.thd_by_key("associateddomain", addresses.key(name))
        return schema.domain(entries[0].attributes) if entries else None

    def thd_lookup(self, address: str) -> Mailbox | Alias | None:
        """L{IDirectory.lookup}, blocking."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(address))
        return schema.recipient(entry.attributes) if entry else None

    def thd_authenticate(self, login: str, password: bytes) -> Mailbox | None:
        """L{IDirectory.authenticate}, blocking, and slow on purpose."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(login))
        stored = entry.values("userPassword") if entry and schema.may_log_in(entry.attributes) else ()
        if not passwords.thd_verify(stored, password) or entry is None:
            return None
        found = schema.recipient(entry.attributes)
        return found if isinstance(found, Mailbox) else None

    def thd_scram(self, login: str) -> ScramSecret | None:
        """L{IDirectory.scram}, blocking."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(login))
        if entry is None or not schema.may_log_in(entry.attributes):
            return None
        return passwords.scram(entry.values("userPassword"))


class _temporary:
    """Turns trouble with the store into the reply that keeps mail waiting."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, StoreError):
            raise Temporary(schema.AWAY, str(problem)) from problem
