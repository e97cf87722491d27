"""
A store as administrators' commands use it: entries found by what people call them, changes that are told in one line.

All of it blocks and is for commands and threads. What cannot be done is a L{CommandError}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import evolve

from qmailpy.directory import address as addresses
from qmailpy.directory import meaning, names
from qmailpy.directory.filters import EVERYTHING, Equal, Filter
from qmailpy.directory.names import Name
from qmailpy.directory.operations import Scope, StoreError
from qmailpy.directory.schema import Entry, Invalid
from qmailpy.directory.store import Store
from qmailpy.errors import CommandError

Values = Mapping[str, tuple[str, ...]]
"""Attribute (lower case): the values it gets; () removes it."""


class told:
    """Turns what the store refuses into a line for a person."""

    def __init__(self, exists: str = "") -> None:
        """@param exists: the line for what is there already; "" = the store's own."""
        self._exists = exists

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, StoreError):
            conflict = problem.kind.name == "EXISTS" or (problem.kind.name == "CONFLICT" and self._exists)
            raise CommandError(self._exists if conflict and self._exists else str(problem)) from None
        if isinstance(problem, Invalid):
            raise CommandError(str(problem)) from None


class Tree:
    """The entries below a base."""

    def __init__(self, store: Store, base: str) -> None:
        """@param base: the name that everything is below, C{"o=qmailpy"}."""
        self.store = store
        self.base = names.parse(base)

    def thd_search(self, base: Name, scope: Scope, what: Filter) -> Iterator[Entry]:
        """Everything that is found, in the order of the tree."""
        after = ""
        while True:
            with told():
                found, after = self.store.thd_search(base, scope, what, after, 1000)
            yield from found
            if not after:
                return

    def thd_all(self) -> Iterator[Entry]:
        """Every entry."""
        return self.thd_search(self.base, Scope.SUBTREE, EVERYTHING)

    def thd_of_class(self, name: str, base: Name | None = None) -> Iterator[Entry]:
        """The entries of an object class below C{base}."""
        return self.thd_search(base or self.base, Scope.SUBTREE, Equal("objectclass", name))

    def domain_name(self, domain: str) -> Name:
        """The name a new domain's entry gets."""
        return self.base.child("dc", domain)

    def thd_domain(self, domain: str) -> Entry:
        """The entry of a domain. @raise CommandError: there is none."""
        with told():
            entry = next(iter(self.store.thd_by_key("associateddomain", domain)), None)
        if entry is None:
            raise CommandError(f"there is no domain {domain} here; make it with: qmailpy domain add {domain}")
        return entry

    def thd_place_of(self, mail: str, kind: str = "uid") -> Name:
        """The name a new entry with that address gets. @raise CommandError: its domain is not here."""
        local, _, domain = mail.rpartition("@")
        return self.thd_domain(domain).name.child(kind, local)

    def thd_named(self, class_: str, name: str) -> Entry | None:
        """The plan or node of that name."""
        with told():
            found = self.store.thd_by_key("cn", names.fold(name))
        return next((entry for entry in found if entry.has_class(class_)), None)

    def thd_container(self, unit: str) -> Name:
        """The name of C{ou=UNIT,BASE}, made when it is not there."""
        name = self.base.child("ou", unit)
        with told():
            if self.store.thd_get(name) is None:
                self.store.thd_add(Entry(name, {"objectclass": ("top", "organizationalUnit"), "ou": (unit,)}))
        return name

    def thd_add(self, entry: Entry, exists: str) -> None:
        """Add an entry, attributes without values left out. @param exists: as for L{told}."""
        attributes = {key: values for key, values in entry.attributes.items() if values}
        with told(exists):
            self.store.thd_add(evolve(entry, attributes=attributes))

    def thd_set(self, name: Name, values: Values) -> Entry:
        """Give attributes other values."""

        def change(entry: Entry) -> Entry:
            attributes = {**entry.attributes, **values}
            return evolve(entry, attributes={key: value for key, value in attributes.items() if value})

        with told():
            return self.store.thd_modify(name, change)

    def thd_plan_exists(self, values: Values) -> None:
        """@raise CommandError: the values name a plan that is not there."""
        for attribute in ("qmailplanname", "qmaildomainplan"):
            for plan in values.get(attribute, ()):
                if self.thd_named("qmailPlan", plan) is None:
                    raise CommandError(f"there is no plan {plan}; make it with: qmailpy plan add {plan}")

    def thd_inherited(self, entry: Entry) -> list[Entry]:
        """Whose values count when an entry has none: its plan, the domain's plan, the domain."""
        with told():
            domains = self.store.thd_by_key("associateddomain", meaning.domain_of(entry.attributes))[:1]
        plans = dict.fromkeys(meaning.plan_of(one.attributes) for one in (entry, *domains))
        found = [self.thd_named("qmailPlan", plan) for plan in plans if plan]
        return [*(one for one in found if one is not None), *domains]


def read_domain(text: str) -> str:
    """A domain as it is stored. @raise CommandError: it is none."""
    try:
        return addresses.domain_key(text)
    except addresses.BadAddress as problem:
        raise CommandError(f"{text!r} is not a domain: {problem}") from None


def read_own(text: str) -> str:
    """An address of ours as it is stored. @raise CommandError: it is none, or cannot have a mailbox."""
    try:
        result = addresses.own(text)
        addresses.maildir(result)
    except addresses.BadAddress as problem:
        raise CommandError(f"{text!r} is not an address: {problem}") from None
    return result


def read_target(text: str) -> str:
    """An address of anybody. @raise CommandError: it is none."""
    try:
        return addresses.target(text)
    except addresses.BadAddress as problem:
        raise CommandError(f"{text!r} is not an address: {problem}") from None
