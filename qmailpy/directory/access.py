"""
The operations of the LDAP server on the store; who may do what says L{rights}.

Everything here blocks and runs in threads; refusals are L{Refusal}, with the result codes of RFC 4511 s.4.1.9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from attrs import evolve

from qmailpy.directory import address as addresses
from qmailpy.directory import filters, meaning, names, schema
from qmailpy.directory import password as passwords
from qmailpy.directory.names import SEPARATOR, Name, fold
from qmailpy.directory.operations import Change, Login, Modification, Scope, StoreError, Trouble, modified
from qmailpy.directory.rights import (
    OPERATIONAL,
    SECRET,
    Identity,
    Role,
    administered,
    objection,
    outermost,
    within,
)
from qmailpy.directory.schema import Attributes, Entry
from qmailpy.directory.setup import ADMIN, SERVICE
from qmailpy.directory.store import Store

T = TypeVar("T")

_NONE: frozenset[str] = frozenset()
_ROOT = "\x00"  # no tree key begins so: with a number behind it, the beginning of what is below one of several roots

SCRAM_OPERATION = b"2.25.288879618623130678690261592698289982283"
"""
Our own extended operation (RFC 4511 s.4.12), its name made of a random UUID as X.667 has it: the request value is a
login, the response value what L{Access.thd_scram} gives.
"""


class Code:
    """The result codes we use."""

    SUCCESS = 0
    OPERATIONS = 1
    PROTOCOL_ERROR = 2
    TIME_LIMIT = 3
    SIZE_LIMIT = 4
    COMPARE_FALSE = 5
    COMPARE_TRUE = 6
    AUTH_METHOD = 7
    CRITICAL_EXTENSION = 12
    CONFIDENTIALITY = 13
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
        open_ = entry is not None and (self._machine(entry.name) or meaning.may_log_in(entry.attributes))
        stored = entry.values("userPassword") if entry is not None and open_ else ()
        if not passwords.thd_verify(stored, password) or entry is None:
            raise Refusal(Code.INVALID_CREDENTIALS)
        return self._identity(entry)

    def _machine(self, name: Name) -> Role | None:
        """The role of our own two identities."""
        return {self._admin: Role.ADMIN, self._service: Role.SERVICE}.get(name.key)

    def _identity(self, entry: Entry) -> Identity:
        machine = self._machine(entry.name)
        if machine is not None:
            return Identity(machine, entry.name)
        domains = administered(entry.attributes)
        if "*" in domains:
            return Identity(Role.ADMIN, entry.name)
        places, plans = [], set()
        for domain in domains:
            for found in _guard(self._store.thd_by_key, "associateddomain", domain):
                places.append(found.name)
                plans |= {fold(one) for one in found.values("qmailDomainPlan")}
        roots = [entry.name, *places]
        for plan in plans:
            roots += [one.name for one in _guard(self._store.thd_by_key, "cn", plan) if one.has_class("qmailPlan")]
        role = Role.DOMAIN if domains else Role.USER
        return Identity(role, entry.name, tuple(domains), outermost(roots), tuple(places), frozenset(plans))

    def _now(self, who: Identity) -> Identity:
        """
        Who a connection is by now: what was taken away since it bound is gone.

        @raise Refusal: INSUFFICIENT_ACCESS: not bound, or nobody any more.
        """
        if who.role is Role.ANONYMOUS:
            raise Refusal(Code.INSUFFICIENT_ACCESS, "bind first")
        if self._machine(who.name) is not None:
            return who
        entry = _guard(self._store.thd_get, who.name)
        if entry is None or not meaning.may_log_in(entry.attributes):
            raise Refusal(Code.INSUFFICIENT_ACCESS, "bind again")
        return self._identity(entry)

    def thd_search(
        self, who: Identity, base: str, scope: Scope, what: filters.Filter, after: str, wanted: frozenset[str] = _NONE
    ) -> tuple[list[Entry], str]:
        """
        A batch of a search, secrets removed; the arguments and result of L{Store.thd_search}.

        @param after: "" at first, then what the batch before returned, or the tree key of an entry it had: then the
            batch begins behind that one.
        @param wanted: operational attributes the client asked for.
        @raise Refusal: NO_SUCH_OBJECT, INSUFFICIENT_ACCESS, INVALID_DN, UNAVAILABLE.
        """
        who = self._now(who)
        name, what = name_of(base), filters.without(what, SECRET)
        if who.all_seeing:
            if not after and not _guard(self._store.thd_get, name):
                raise Refusal(Code.NO_SUCH_OBJECT)
            found, after = _guard(self._store.thd_search, name, scope, what, after)
        else:
            found, after = self._part(who.roots, name, scope, what, after)
        logins = _guard(self._store.thd_logins, [one.name for one in found]) if wanted & OPERATIONAL else {}
        return [_public(one, logins.get(one.name.key)) for one in found], after

    def _part(
        self, roots: Sequence[Name], base: Name, scope: Scope, what: filters.Filter, after: str
    ) -> tuple[list[Entry], str]:
        """A search by somebody who sees no more than what is below C{roots}."""
        if any(within(base, root) for root in roots):
            return _guard(self._store.thd_search, base, scope, what, after)
        if scope is not Scope.SUBTREE:
            # What is above the roots is not seen; of what is one level below it, a root may be.
            inside = [one for one in roots if scope is Scope.ONE and one.parent.key == base.key and one.key > after]
            found = [one for root in inside for one in _guard(self._store.thd_search, root, Scope.BASE, what, "")[0]]
            return found, ""
        inside = [root for root in roots if within(root, base)]
        at, rest = 0, ""
        if after.startswith(_ROOT):
            at = int(after[1:])
        elif after:
            place = next(
                (i for i, root in enumerate(inside) if (after + SEPARATOR).startswith(root.key + SEPARATOR)), None
            )
            if place is None:
                return [], ""  # that one was taken away meanwhile
            at, rest = place, after
        if at >= len(inside):
            return [], ""
        found, rest = _guard(self._store.thd_search, inside[at], Scope.SUBTREE, what, rest)
        return found, rest or (f"{_ROOT}{at + 1}" if at + 1 < len(inside) else "")

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
        who, name = self._now(who), name_of(dn)
        if not within(name, self.base):
            raise Refusal(Code.NO_SUCH_OBJECT, f"everything here is below {self.base}")
        _no_operational(attributes)
        # Whether it is allowed comes before what a password costs.
        _allowed(who, None, _named(Entry(name, attributes)))
        entry = Entry(name, _hashed(attributes))
        _guard(self._store.thd_add, entry)
        return _touched(entry)

    def thd_modify(self, who: Identity, dn: str, changes: Sequence[Modification]) -> Sequence[str]:
        """Modify an entry; as L{thd_add}."""
        who, name = self._now(who), name_of(dn)
        if who.role is Role.SERVICE:
            self._note_login(name, changes)
            return ()
        _no_operational({step.attribute: step.values for step in changes})
        present = _guard(self._store.thd_get, name) if who.role is not Role.ADMIN else None
        if present is not None:
            _allowed(who, present, modified(present, changes))
        elif who.role is not Role.ADMIN:
            raise Refusal(Code.INSUFFICIENT_ACCESS)
        ready = [
            evolve(step, values=_hashed({step.attribute: step.values})[step.attribute])
            if step.attribute in SECRET
            else step
            for step in changes
        ]
        before: list[Entry] = []

        def change(entry: Entry) -> Entry:
            before.append(entry)
            result = modified(entry, ready)
            _allowed(who, entry, result)  # again: it may have become another one since
            return result

        after = _guard(self._store.thd_modify, name, change)
        return _touched(*before, after)

    def _note_login(self, name: Name, changes: Sequence[Modification]) -> None:
        """All the service identity may change: when, by what and from where somebody logged in."""
        values = {step.attribute: next(iter(step.values), "") for step in changes if step.change is Change.REPLACE}
        if len(values) != len(changes) or not values.keys() <= OPERATIONAL or "qmaillastlogin" not in values:
            raise Refusal(Code.INSUFFICIENT_ACCESS)
        try:
            when = schema.time_of(values["qmaillastlogin"])
        except ValueError as problem:
            raise Refusal(Code.CONSTRAINT, f"qmailLastLogin {problem}") from None
        login = Login(when, values.get("qmaillastservice", "")[:40], values.get("qmaillastaddress", "")[:60])
        _guard(self._store.thd_note_login, name, login)

    def thd_delete(self, who: Identity, dn: str) -> Sequence[str]:
        """Delete a leaf; as L{thd_add}."""
        who, name = self._now(who), name_of(dn)
        entry = self._changeable(who, name)
        _guard(self._store.thd_delete, name)
        return _touched(entry)

    def thd_rename(self, who: Identity, dn: str, rdn: str, keep: bool, above: str | None) -> Sequence[str]:
        """Give a leaf another name (RFC 4511 s.4.9); as L{thd_add}."""
        who, name, leaf = self._now(who), name_of(dn), name_of(rdn)
        if len(leaf.rdns) != 1 or not name.rdns:
            raise Refusal(Code.INVALID_DN, "the new name must have one level")
        parent = name.parent if above is None else name_of(above)
        new = Name((*leaf.rdns, *parent.rdns))
        if not within(new, self.base):
            raise Refusal(Code.NO_SUCH_OBJECT, f"everything here is below {self.base}")
        entry = self._changeable(who, name)
        _allowed(who, None, _named(evolve(entry, name=new)), entry)
        _guard(self._store.thd_rename, name, new, keep)
        return _touched(entry)

    def _changeable(self, who: Identity, name: Name) -> Entry:
        """An entry that C{who} may take away from where it is."""
        if name.key == self.base.key or self._machine(name) is not None:
            raise Refusal(Code.UNWILLING, "the directory cannot do without this entry")
        entry = _guard(self._store.thd_get, name)
        if entry is None:
            raise Refusal(Code.NO_SUCH_OBJECT if who.all_seeing else Code.INSUFFICIENT_ACCESS)
        _allowed(who, entry, None)
        return entry

    def thd_password(self, who: Identity, dn: str, old: bytes | None, new: bytes) -> Sequence[str]:
        """Change a password (RFC 3062): one's own, or of whom one administers. @raise Refusal: whatever is wrong."""
        who = self._now(who)
        name = name_of(dn) if dn else who.name
        if who.role is Role.SERVICE:
            raise Refusal(Code.INSUFFICIENT_ACCESS)
        if not 1 <= len(new) <= passwords.MOST:
            raise Refusal(Code.CONSTRAINT, f"a password has 1 to {passwords.MOST} octets")
        entry = _guard(self._store.thd_get, name)
        if entry is None:
            raise Refusal(Code.NO_SUCH_OBJECT if who.all_seeing else Code.INSUFFICIENT_ACCESS)
        _allowed(who, entry, evolve(entry, attributes={**entry.attributes, "userpassword": ("",)}))
        if old is not None and not passwords.thd_verify(entry.values("userPassword"), old):
            raise Refusal(Code.INVALID_CREDENTIALS)
        hashed = passwords.thd_stored(new)

        def change(present: Entry) -> Entry:
            result = evolve(present, attributes={**present.attributes, "userpassword": hashed})
            _allowed(who, present, result)
            return result

        return _touched(_guard(self._store.thd_modify, name, change))


def _allowed(who: Identity, before: Entry | None, after: Entry | None, former: Entry | None = None) -> None:
    """
    @param former: what an entry without C{before} was made of: values it had may stay.
    @raise Refusal: the rules object.
    """
    if before is None and former is not None and after is not None:
        same = {name: values for name, values in former.attributes.items() if after.attributes.get(name) == values}
        before = Entry(after.name, same)
    why = objection(who, before, after)
    if why:
        raise Refusal(Code.INSUFFICIENT_ACCESS, why)


def _named(entry: Entry) -> Entry:
    """With the values of its name among its attributes, as the store will keep it."""
    attributes = dict(entry.attributes)
    for kind, value in entry.name.rdns[0] if entry.name.rdns else ():
        attributes[kind.lower()] = (*attributes.get(kind.lower(), ()), value)
    return evolve(entry, attributes=attributes)


def _no_operational(attributes: Attributes) -> None:
    for name in attributes:
        if name in OPERATIONAL:
            raise Refusal(Code.CONSTRAINT, f"{schema.spelling(name)} is kept by the server")


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


def _public(entry: Entry, login: Login | None = None) -> Entry:
    attributes = {name: values for name, values in entry.attributes.items() if name not in SECRET}
    if login is not None:
        attributes["qmaillastlogin"] = (schema.time_value(login.time),)
        attributes["qmaillastservice"] = (login.service,) * bool(login.service)
        attributes["qmaillastaddress"] = (login.address,) * bool(login.address)
    return evolve(entry, attributes=attributes)


def _touched(*entries: Entry) -> Sequence[str]:
    """What caches must forget about: addresses and domains, "" for everything."""
    if any(entry.has_class("qmailPlan") for entry in entries):
        return ("",)
    found = [
        one
        for entry in entries
        for attribute in (*schema.ADDRESS_ATTRIBUTES, "associateddomain")
        for one in entry.values(attribute)
    ]
    return tuple(dict.fromkeys(found))
