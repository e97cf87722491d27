"""
The operations of the LDAP server on the store, and who may do what.

Anonymous clients may do nothing but bind. C{cn=admin,BASE} may do everything, C{cn=service,BASE} (our own workers) may
look up, a user may see his own entry and change his own password. Nobody ever reads or tests C{userPassword};
what SCRAM needs of it the service identity may ask for, by an operation of our own.
Everything here blocks and runs in threads; refusals are L{Refusal}, with the result codes of RFC 4511 s.4.1.9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVar

from attrs import evolve, frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import filters, meaning, names, schema
from qmailpy.directory import password as passwords
from qmailpy.directory.names import Name
from qmailpy.directory.schema import Attributes, Entry
from qmailpy.directory.setup import ADMIN, SERVICE
from qmailpy.directory.store import Modification, Scope, Store, StoreError, Trouble, modified

T = TypeVar("T")

SCRAM_OPERATION = b"2.25.288879618623130678690261592698289982283"
"""
Our own extended operation (RFC 4511 s.4.12), its name made of a random UUID as X.667 has it: the request value is a
login, the response value what L{Access.thd_scram} gives.
"""

SECRET = frozenset({"userpassword"})
"""Attributes that never leave the store."""


class Code:
    """The result codes we use."""

    SUCCESS = 0
    PROTOCOL_ERROR = 2
    TIME_LIMIT = 3
    SIZE_LIMIT = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    AUTH_METHOD = 7
    CRITICAL_EXTENSION = 12
    NO_SUCH_ATTRIBUTE = 16
    CONSTRAINT = 19
    NO_SUCH_OBJECT = 32
    INVALID_DN = 34
    INVALID_CREDENTIALS = 49
    INSUFFICIENT_ACCESS = 50
    UNAVAILABLE = 52
    UNWILLING = 53
    NOT_ON_NONLEAF = 66
    EXISTS = 68
    OTHER = 80


_CODES = {
    Trouble.NO_SUCH: Code.NO_SUCH_OBJECT,
    Trouble.EXISTS: Code.EXISTS,
    Trouble.NOT_LEAF: Code.NOT_ON_NONLEAF,
    Trouble.INVALID: Code.CONSTRAINT,
    Trouble.CONFLICT: Code.CONSTRAINT,
    Trouble.NO_VALUE: Code.NO_SUCH_ATTRIBUTE,
    Trouble.UNAVAILABLE: Code.UNAVAILABLE,
}


class Refusal(Exception):
    """An operation was refused, with the result code and a text for the client."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Role(Enum):
    """Who a connection has bound as."""

    ANONYMOUS = "anonymous"
    USER = "user"
    SERVICE = "service"
    ADMIN = "admin"


@frozen
class Identity:
    """A role and, but for anonymous, the entry's name."""

    role: Role
    name: Name


NOBODY = Identity(Role.ANONYMOUS, Name(()))


def name_of(text: str) -> Name:
    """A name from the wire. @raise Refusal: it is none."""
    try:
        return names.parse(text)
    except names.BadName as problem:
        raise Refusal(Code.INVALID_DN, f"not a distinguished name: {problem}") from None


class Access:
    """A store as its LDAP clients may use it."""

    def __init__(self, store: Store, base: str) -> None:
        self._store = store
        self.base = names.parse(base)
        self._admin = self.base.child("cn", ADMIN).key
        self._service = self.base.child("cn", SERVICE).key

    def thd_bind(self, dn: str, password: bytes) -> Identity:
        """
        Who that is (RFC 4513 s.5.1): slow on purpose, as slow for a name that does not exist.

        @raise Refusal: INVALID_CREDENTIALS, whatever was wrong; UNWILLING for a name without a password.
        """
        if not password:
            raise Refusal(Code.UNWILLING, "a bind with a name needs a password")  # RFC 4513 s.5.1.2
        try:
            name: Name | None = names.parse(dn)
        except names.BadName:
            name = None
        entry = _guard(self._store.thd_get, name) if name is not None else None
        role = self._role(entry) if entry is not None else Role.ANONYMOUS
        open_ = entry is not None and (role is not Role.USER or meaning.may_log_in(entry.attributes))
        stored = entry.values("userPassword") if entry is not None and open_ else ()
        if not passwords.thd_verify(stored, password) or entry is None:
            raise Refusal(Code.INVALID_CREDENTIALS)
        return Identity(role, entry.name)

    def _role(self, entry: Entry) -> Role:
        return {self._admin: Role.ADMIN, self._service: Role.SERVICE}.get(entry.name.key, Role.USER)

    def thd_search(
        self, who: Identity, base: str, scope: Scope, what: filters.Filter, after: str
    ) -> tuple[list[Entry], str]:
        """
        A batch of a search, secrets removed; the arguments and result of L{Store.thd_search}.

        @raise Refusal: NO_SUCH_OBJECT, INSUFFICIENT_ACCESS, INVALID_DN, UNAVAILABLE.
        """
        if who.role is Role.ANONYMOUS:
            raise Refusal(Code.INSUFFICIENT_ACCESS, "bind first")
        name, what = name_of(base), filters.without(what, SECRET)
        if who.role is Role.USER:
            return self._own_entry(who, name, scope, what), ""
        if not after and not _guard(self._store.thd_get, name):
            raise Refusal(Code.NO_SUCH_OBJECT)
        found, after = _guard(self._store.thd_search, name, scope, what, after)
        return [_public(entry) for entry in found], after

    def _own_entry(self, who: Identity, base: Name, scope: Scope, what: filters.Filter) -> list[Entry]:
        """What a user sees: himself, wherever he looks from."""
        own, key = who.name.key, base.key
        inside = {
            Scope.BASE: own == key,
            Scope.ONE: who.name.parent.key == key,
            Scope.SUBTREE: own == key or own.startswith(key + names.SEPARATOR),
        }[scope]
        entry = _guard(self._store.thd_get, who.name) if inside else None
        return [_public(entry)] if entry is not None and filters.matches(what, entry) else []

    def thd_scram(self, who: Identity, login: str) -> str:
        """
        What SCRAM needs of whoever may log in as C{login}, in its stored form; "" when there is nothing.

        For L{Role.SERVICE} alone, not even for the admin: a name at a time, which the client has just given.

        @raise Refusal: INSUFFICIENT_ACCESS, UNAVAILABLE.
        """
        if who.role is not Role.SERVICE:
            raise Refusal(Code.INSUFFICIENT_ACCESS)
        entry = _guard(self._store.thd_by_address, addresses.key(login))
        secret = None
        if entry is not None and meaning.may_log_in(entry.attributes):
            secret = passwords.scram(entry.values("userPassword"))
        return "" if secret is None else passwords.scram_value(secret)

    def thd_compare(self, who: Identity, dn: str, attribute: str, value: str) -> bool:
        """Whether the entry has that value (RFC 4511 s.4.10). @raise Refusal: as L{thd_search}."""
        if attribute in SECRET:
            raise Refusal(Code.INSUFFICIENT_ACCESS)
        found, _ = self.thd_search(who, dn, Scope.BASE, filters.EVERYTHING, "")
        if not found:
            raise Refusal(Code.NO_SUCH_OBJECT)
        if not found[0].values(attribute):
            raise Refusal(Code.NO_SUCH_ATTRIBUTE)
        return filters.matches(filters.Equal(attribute, value), found[0])

    def thd_add(self, who: Identity, dn: str, attributes: Attributes) -> Sequence[str]:
        """Add an entry. Returns the addresses and domains that changed. @raise Refusal: whatever is wrong."""
        self._must_be_admin(who)
        name = name_of(dn)
        if not (name.key + names.SEPARATOR).startswith(self.base.key + names.SEPARATOR):
            raise Refusal(Code.NO_SUCH_OBJECT, f"everything here is below {self.base}")
        entry = Entry(name, _hashed(attributes))
        _guard(self._store.thd_add, entry)
        return _touched(entry)

    def thd_modify(self, who: Identity, dn: str, changes: Sequence[Modification]) -> Sequence[str]:
        """Modify an entry; as L{thd_add}."""
        self._must_be_admin(who)
        ready = [
            evolve(step, values=_hashed({step.attribute: step.values})[step.attribute])
            if step.attribute in SECRET
            else step
            for step in changes
        ]
        before: list[Entry] = []

        def change(entry: Entry) -> Entry:
            before.append(entry)
            return modified(entry, ready)

        after = _guard(self._store.thd_modify, name_of(dn), change)
        return _touched(*before, after)

    def thd_delete(self, who: Identity, dn: str) -> Sequence[str]:
        """Delete a leaf; as L{thd_add}."""
        self._must_be_admin(who)
        name = name_of(dn)
        if name.key in {self.base.key, self._admin, self._service}:
            raise Refusal(Code.UNWILLING, "the directory cannot do without this entry")
        entry = _guard(self._store.thd_get, name)
        _guard(self._store.thd_delete, name)
        return _touched(entry) if entry else ()

    def thd_rename(self, who: Identity, dn: str, rdn: str, keep: bool, above: str | None) -> Sequence[str]:
        """Give a leaf another name (RFC 4511 s.4.9); as L{thd_add}."""
        self._must_be_admin(who)
        name, leaf = name_of(dn), name_of(rdn)
        if len(leaf.rdns) != 1 or not name.rdns:
            raise Refusal(Code.INVALID_DN, "the new name must have one level")
        if name.key in {self.base.key, self._admin, self._service}:
            raise Refusal(Code.UNWILLING, "the directory cannot do without this entry")
        parent = name.parent if above is None else name_of(above)
        new = Name((*leaf.rdns, *parent.rdns))
        entry = _guard(self._store.thd_get, name)
        _guard(self._store.thd_rename, name, new, keep)
        return _touched(entry) if entry else ()

    def thd_password(self, who: Identity, dn: str, old: bytes | None, new: bytes) -> Sequence[str]:
        """Change a password (RFC 3062): the admin anybody's, a user his own. @raise Refusal: whatever is wrong."""
        name = name_of(dn) if dn else who.name
        if who.role is not Role.ADMIN and (who.role is not Role.USER or name.key != who.name.key):
            raise Refusal(Code.INSUFFICIENT_ACCESS)
        if not 1 <= len(new) <= passwords.MOST:
            raise Refusal(Code.CONSTRAINT, f"a password has 1 to {passwords.MOST} octets")
        if old is not None:
            entry = _guard(self._store.thd_get, name)
            if entry is None or not passwords.thd_verify(entry.values("userPassword"), old):
                raise Refusal(Code.INVALID_CREDENTIALS)
        hashed = passwords.thd_stored(new)
        after = _guard(
            self._store.thd_modify,
            name,
            lambda entry: evolve(entry, attributes={**entry.attributes, "userpassword": hashed}),
        )
        return _touched(after)

    def _must_be_admin(self, who: Identity) -> None:
        if who.role is not Role.ADMIN:
            raise Refusal(Code.INSUFFICIENT_ACCESS)


def _guard(function: Callable[..., T], *arguments: object) -> T:
    try:
        return function(*arguments)
    except StoreError as problem:
        text = "" if problem.kind is Trouble.UNAVAILABLE else str(problem)  # that one names files
        raise Refusal(_CODES[problem.kind], text) from problem


def _hashed(attributes: Attributes) -> dict[str, tuple[str, ...]]:
    """The attributes with passwords that came in clear hashed."""
    result = dict(attributes)
    for name in SECRET & result.keys():
        result[name] = tuple(
            one
            for value in result[name]
            for one in (
                (value,) if passwords.scheme(value) else passwords.thd_stored(value.encode("utf-8", "surrogateescape"))
            )
        )
    return result


def _public(entry: Entry) -> Entry:
    return evolve(entry, attributes={name: values for name, values in entry.attributes.items() if name not in SECRET})


def _touched(*entries: Entry) -> Sequence[str]:
    """What caches must forget about."""
    found = [
        one
        for entry in entries
        for attribute in (*schema.ADDRESS_ATTRIBUTES, "associateddomain")
        for one in entry.values(attribute)
    ]
    return tuple(dict.fromkeys(found))
