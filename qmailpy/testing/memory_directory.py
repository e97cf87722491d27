"""A directory of tables, for tests of what asks one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zope.interface import implementer

from qmailpy.errors import Temporary
from qmailpy.interfaces import IDirectory
from qmailpy.values import Alias, Domain, Group, Mailbox, Reply, ScramSecret
from qmailpy.wire.sasl import derive


@implementer(IDirectory)
class MemoryDirectory:
    """
    L{IDirectory} over what it was given.

    @ivar away: while true every question fails as when the directory is away.
    @ivar logins: what L{logged_in} was told.
    @ivar asked: every question so far, in order, as (question, key).
    """

    def __init__(
        self,
        domains: Iterable[Domain | str] = (),
        entries: Iterable[Mailbox | Alias | Group | str] = (),
        *,
        alternates: Mapping[str, str] | None = None,
        passwords: Mapping[str, bytes] | None = None,
    ) -> None:
        """
        @param domains: domains, or their names.
        @param entries: mailboxes, aliases and groups, or the addresses of plain mailboxes.
        @param alternates: further address: main address.
        @param passwords: main address: password.
        """
        self.domains = {one.name: one for one in (Domain(name=d) if isinstance(d, str) else d for d in domains)}
        self.entries = {one.address: one for one in (_mailbox(e) if isinstance(e, str) else e for e in entries)}
        self.alternates = dict(alternates or {})
        self.passwords = dict(passwords or {})
        self.away = False
        self.logins: list[tuple[str, str, str]] = []
        self.asked: list[tuple[str, str]] = []

    async def domain(self, name: str) -> Domain | None:
        self._asked("domain", name)
        return self.domains.get(name.lower())

    async def lookup(self, address: str) -> Mailbox | Alias | Group | None:
        self._asked("lookup", address)
        key = address.lower()
        return self.entries.get(self.alternates.get(key, key))

    async def authenticate(self, login: str, password: bytes) -> Mailbox | None:
        self._asked("authenticate", login)
        key = login.lower()
        found = self.entries.get(self.alternates.get(key, key))
        if not isinstance(found, Mailbox) or not _opens(found) or not password:
            return None
        return found if self.passwords.get(found.address) == password else None

    async def scram(self, login: str) -> ScramSecret | None:
        self._asked("scram", login)
        key = login.lower()
        found = self.entries.get(self.alternates.get(key, key))
        if not isinstance(found, Mailbox) or not _opens(found) or found.address not in self.passwords:
            return None
        return derive(self.passwords[found.address], b"salt of tests", 4096)

    async def logged_in(self, address: str, service: str, ip: str) -> None:
        self._asked("logged_in", address)
        self.logins.append((address, service, ip))

    def _asked(self, question: str, key: str) -> None:
        self.asked.append((question, key))
        if self.away:
            raise Temporary(Reply(451, "4.3.0", "User directory is not available, try again later"), "away")


def _mailbox(address: str) -> Mailbox:
    local, _, domain = address.rpartition("@")
    return Mailbox(address=address, path=f"{domain}/{local}/Maildir")


def _opens(mailbox: Mailbox) -> bool:
    return mailbox.active and mailbox.status in ("active", "nopop")
