"""
What administrators' commands ask of the directory's store, put to an LDAP server instead.

The server checks what its schema says; what the embedded store checks beyond that is checked here, before anything is
sent: values (L{schema.checked}), and that no address belongs to two. Between that question and the change somebody else
may be quicker; OpenLDAP's slapo-unique closes the gap.

Everything blocks. Fails with L{StoreError}, as the store does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve

from qmailpy.config.ldapurl import parse_ldap_url
from qmailpy.config.schema import Config
from qmailpy.directory import address as addresses
from qmailpy.directory import filters, names, schema
from qmailpy.directory.access import Code
from qmailpy.directory.blocking import BlockingLdap, Found, LdapError
from qmailpy.directory.names import Name
from qmailpy.directory.operations import Change, Login, Modification, Scope, StoreError, Trouble
from qmailpy.directory.schema import Entry
from qmailpy.directory.service import thd_read_password
from qmailpy.directory.store import Store

_LAST_LOGIN = ("qmailLastLogin", "qmailLastService", "qmailLastAddress")
_TROUBLES = {
    Code.NO_SUCH_OBJECT: Trouble.NO_SUCH,
    Code.EXISTS: Trouble.EXISTS,
    Code.NOT_ON_NONLEAF: Trouble.NOT_LEAF,
    **dict.fromkeys((16, 17, 19, 20, 21, 65), Trouble.INVALID),
}


class RemoteStore(Store):
    """The first configured server that answers, as whoever may change it."""

    def __init__(self, config: Config) -> None:
        """
        Connect and bind. Commands use the first server that answers, as the daemon does.

        @raise StoreError: no server can be had.
        """
        options = config.directory
        self._base = options.base
        dn, file = options.bind_dn, options.bind_password_file
        if options.admin_dn:
            dn, file = options.admin_dn, options.admin_password_file
        try:
            password = thd_read_password(config, file)
        except OSError as error:
            raise StoreError(Trouble.UNAVAILABLE, f"{config.path(file)}: {error.strerror or error}") from None
        problem = ""
        for text in options.servers:
            try:
                self._ldap = BlockingLdap(parse_ldap_url(text), options)
            except LdapError as error:
                problem = problem or str(error)
                continue
            try:
                self._ldap.thd_bind(dn, password)
            except LdapError as error:
                self._ldap.close()
                raise StoreError(Trouble.UNAVAILABLE, str(error)) from None
            return
        raise StoreError(Trouble.UNAVAILABLE, problem)

    def thd_close(self) -> None:
        self._ldap.close()

    def thd_get(self, name: Name) -> Entry | None:
        return next(iter(self._found(str(name), Scope.BASE, filters.EVERYTHING)), None)

    def thd_by_address(self, address: str) -> Entry | None:
        if not addresses.possible(address):
            return None
        found = self._found(self._base, Scope.SUBTREE, _has(address), 2)
        if len(found) > 1:
            raise StoreError(Trouble.CONFLICT, f"two entries have {address}: {found[0].name} and {found[1].name}")
        return next(iter(found), None)

    def thd_by_key(self, attribute: str, value: str) -> list[Entry]:
        if "\0" in value:
            return []
        return self._found(self._base, Scope.SUBTREE, filters.Equal(attribute, value), 100)

    def thd_search(
        self, base: Name, scope: Scope, what: filters.Filter, after: str = "", limit: int = 200
    ) -> tuple[list[Entry], str]:
        """As L{Store.thd_search}; everything is in one batch, since the server keeps no order to go on in."""
        found = self._found(str(base), scope, what)
        return sorted(found, key=lambda entry: entry.name.key), ""

    def _found(self, base: str, scope: Scope, what: filters.Filter, most: int = 0) -> list[Entry]:
        try:
            return [_entry(one) for one in self._ldap.thd_search(base, scope, what, most=most)]
        except LdapError as error:
            raise _trouble(error) from None

    def thd_add(self, *entries: Entry) -> None:
        """As L{Store.thd_add}, but those before one that is refused are there."""
        for entry in map(self._checked, entries):
            self._free(entry)
            self._told(
                self._ldap.thd_add,
                str(entry.name),
                {schema.spelling(name): values for name, values in entry.attributes.items()},
            )

    def thd_add_each(self, entries: Sequence[Entry]) -> list[StoreError | None]:
        result: list[StoreError | None] = []
        for entry in entries:
            try:
                self.thd_add(entry)
            except StoreError as problem:
                if problem.kind is Trouble.UNAVAILABLE:
                    raise
                result.append(problem)
            else:
                result.append(None)
        return result

    def thd_modify(self, name: Name, change: Callable[[Entry], Entry]) -> Entry:
        before = self.thd_get(name)
        if before is None:
            raise StoreError(Trouble.NO_SUCH, f"there is no entry {name}")
        wanted = change(before)
        kept = before.values("userPassword") if wanted.values("userPassword") == before.values("userPassword") else ()
        # A password that stays may be kept in a way that only the server knows.
        attributes = {name: values for name, values in wanted.attributes.items() if not kept or name != "userpassword"}
        after = self._checked(Entry(before.name, attributes))
        if kept:
            after = evolve(after, attributes={**after.attributes, "userpassword": kept})
        self._free(after)
        steps = [
            Modification(Change.REPLACE, attribute, after.values(attribute))
            for attribute in sorted({*before.attributes, *after.attributes})
            if before.values(attribute) != after.values(attribute)
        ]
        if steps:
            self._told(self._ldap.thd_modify, str(before.name), steps)
        return after

    def thd_rename(self, name: Name, new: Name, keep: bool) -> None:
        self._told(self._ldap.thd_rename, str(name), str(Name(new.rdns[:1])), str(new.parent), keep)

    def thd_delete(self, name: Name, *, subtree: bool = False) -> int:
        found = self._found(str(name), Scope.SUBTREE, filters.EVERYTHING) if subtree else []
        below = sorted((entry.name for entry in found), key=lambda one: len(one.rdns), reverse=True)
        for one in below or [name]:
            self._told(self._ldap.thd_delete, str(one))
        return len(below) or 1

    def thd_note_login(self, name: Name, login: Login) -> None:
        values = (schema.time_value(login.time), login.service, login.address)
        steps = [
            Modification(Change.REPLACE, attribute, (value,) if value else ())
            for attribute, value in zip(_LAST_LOGIN, values, strict=True)
        ]
        self._told(self._ldap.thd_modify, str(name), steps)

    def thd_logins(self, names_: Sequence[Name]) -> dict[str, Login]:
        found: dict[str, Login] = {}
        for name in names_:
            entry = self.thd_get(name)
            when, service, address = (entry.value(one) if entry else "" for one in _LAST_LOGIN)
            try:
                found[name.key] = Login(schema.time_of(when), service, address)
            except ValueError:
                continue
        return found

    def _told(self, method: Callable[..., None], *arguments: Any) -> None:
        try:
            method(*arguments)
        except LdapError as error:
            raise _trouble(error) from None

    def _free(self, entry: Entry) -> None:
        """See that no other entry has an address or a domain of this one."""
        wanted = [(kind, value) for kind in schema.ADDRESS_ATTRIBUTES for value in entry.values(kind)]
        domain = entry.value("associatedDomain")
        parts: list[tuple[str, filters.Filter]] = [(value, _has(value)) for _, value in wanted]
        if domain:
            parts.append((domain, filters.Equal("associatedDomain", domain)))
        for value, what in parts:
            for other in self._found(self._base, Scope.SUBTREE, what, 2):
                if other.name.key != entry.name.key:
                    raise StoreError(Trouble.CONFLICT, f"{value} belongs to another entry, {other.name}")


def _has(address: str) -> filters.Filter:
    return filters.Or([filters.Equal("mail", address), filters.Equal("mailAlternateAddress", address)])


def _entry(found: Found) -> Entry:
    try:
        return Entry(names.parse(found[0]), found[1])
    except names.BadName as problem:
        raise StoreError(Trouble.UNAVAILABLE, f"{found[0][:200]!r} is not a name we can read: {problem}") from None


def _trouble(error: LdapError) -> StoreError:
    return StoreError(_TROUBLES.get(error.code, Trouble.UNAVAILABLE), str(error))
