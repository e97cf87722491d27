"""
The directory straight from the store's file: for everything in one process, for commands, and for tests.

SQLite and password hashing block, so both run in threads: lookups where C{in_thread} says, hashing where
C{hash_in_thread} says, because a few logins at once must not delay the lookups of mail.
"""

from __future__ import annotations

import time

from zope.interface import implementer

from qmailpy.directory import address as addresses
from qmailpy.directory import meaning, names, schema
from qmailpy.directory import password as passwords
from qmailpy.directory.operations import Login, StoreError
from qmailpy.directory.schema import Attributes, Entry
from qmailpy.directory.store import Store
from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory, InThread
from qmailpy.values import Alias, Domain, Group, Mailbox, ScramSecret


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

    async def lookup(self, address: str) -> Mailbox | Alias | Group | None:
        found: Mailbox | Alias | Group | None = await self._in_thread(self.thd_lookup, address)
        return found

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        found: Mailbox | None = await self._hash_in_thread(self.thd_authenticate, login, password)
        return found

    async def scram(self, login: str) -> ScramSecret | None:
        found: ScramSecret | None = await self._in_thread(self.thd_scram, login)
        return found

    async def logged_in(self, address: str, service: str, ip: str) -> None:
        await self._in_thread(self.thd_logged_in, address, service, ip)

    def thd_logged_in(self, address: str, service: str, ip: str) -> None:
        """L{IDirectory.logged_in}, blocking."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(address))
            if entry is not None:
                self._store.thd_note_login(entry.name, Login(time.time(), service, ip))

    def thd_domain(self, name: str) -> Domain | None:
        """L{IDirectory.domain}, blocking."""
        with _temporary():
            entries = self._store.thd_by_key("associateddomain", addresses.key(name))
        return meaning.domain(entries[0].attributes) if entries else None

    def thd_lookup(self, address: str) -> Mailbox | Alias | Group | None:
        """L{IDirectory.lookup}, blocking."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(address))
            return self._thd_meaning(entry) if entry else None

    def _thd_meaning(self, entry: Entry) -> Mailbox | Alias | Group | None:
        """What an entry means, with what it takes from others."""
        attributes = entry.attributes
        known: dict[str, str] = {}
        for dn in meaning.dns(attributes):
            member = self._store.thd_get(names.parse(dn))  # the store keeps none that cannot be read
            known[dn] = member.value("mail") if member else ""
        return meaning.recipient(attributes, *self._thd_inherited(attributes), addresses_of=known)

    def _thd_inherited(self, attributes: Attributes) -> list[Attributes]:
        if not meaning.inherits(attributes):
            return []
        domains = self._store.thd_by_key("associateddomain", meaning.domain_of(attributes))
        domain = [one.attributes for one in domains[:1]]
        plans = dict.fromkeys(meaning.plan_of(one) for one in (attributes, *domain))
        return [*(one for plan in plans if plan for one in self._thd_plan(plan)), *domain]

    def _thd_plan(self, name: str) -> list[Attributes]:
        found = self._store.thd_by_key("cn", name)
        return [one.attributes for one in found if one.has_class("qmailPlan")][:1]

    def thd_authenticate(self, login: str, password: bytes) -> Mailbox | None:
        """L{IDirectory.authenticate}, blocking, and slow on purpose."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(login))
        stored = entry.values("userPassword") if entry and meaning.may_log_in(entry.attributes) else ()
        if not passwords.thd_verify(stored, password) or entry is None:
            return None
        with _temporary():
            found = self._thd_meaning(entry)
        return found if isinstance(found, Mailbox) else None

    def thd_scram(self, login: str) -> ScramSecret | None:
        """L{IDirectory.scram}, blocking."""
        with _temporary():
            entry = self._store.thd_by_address(addresses.key(login))
        if entry is None or not meaning.may_log_in(entry.attributes):
            return None
        return passwords.scram(entry.values("userPassword"))


class _temporary:
    """Turns trouble with the store into the reply that keeps mail waiting."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, StoreError):
            raise Temporary(schema.AWAY, str(problem)) from problem
