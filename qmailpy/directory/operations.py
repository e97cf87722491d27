"""
What is asked of a directory's store, and in what way it refuses: the same for the embedded one (L{directory.store}) and
for an LDAP server in its place (L{directory.remote_store}).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from attrs import evolve, frozen

from qmailpy.directory import schema
from qmailpy.directory.schema import Entry
from qmailpy.errors import QmailpyError


class Trouble(Enum):
    """In what way the store refused."""

    NO_SUCH = "no such entry"
    EXISTS = "the entry is there already"
    NOT_LEAF = "the entry has others below it"
    INVALID = "not a valid entry"
    CONFLICT = "an address belongs to somebody else"
    NO_VALUE = "no such attribute or value"
    UNAVAILABLE = "the directory's file cannot be used"


class StoreError(QmailpyError):
    """The store refused; nothing was changed."""

    def __init__(self, kind: Trouble, text: str = "") -> None:
        """@param text: a line for people; "" when the kind says it all."""
        super().__init__(text or kind.value)
        self.kind = kind


class Scope(Enum):
    """How far below its base a search goes (RFC 4511 s.4.5.1.2), with the protocol's numbers."""

    BASE = 0
    ONE = 1
    SUBTREE = 2


class Change(Enum):
    """What a modification does with its values (RFC 4511 s.4.6), with the protocol's numbers."""

    ADD = 0
    DELETE = 1
    REPLACE = 2


@frozen
class Modification:
    """One step of a modify request."""

    change: Change
    attribute: str  # lower case
    values: tuple[str, ...]


@frozen
class Login:
    """When and how somebody last logged in."""

    time: float  # seconds since the epoch
    service: str  # "pop3", "submission"
    address: str  # IP address, "" when there is none


def modified(entry: Entry, changes: Sequence[Modification]) -> Entry:
    """
    The entry after the steps of a modify request (RFC 4511 s.4.6).

    @raise StoreError: NO_VALUE for deleting what is not there.
    """
    attributes = dict(entry.attributes)
    for step in changes:
        name, present = step.attribute, attributes.get(step.attribute, ())
        if step.change is Change.ADD:
            attributes[name] = (*present, *step.values)
        elif step.change is Change.REPLACE:
            attributes[name] = step.values
        else:
            gone = {schema.value_key(name, value) for value in step.values}
            if not present or not gone <= {schema.value_key(name, value) for value in present}:
                raise StoreError(Trouble.NO_VALUE)
            attributes[name] = tuple(v for v in present if gone and schema.value_key(name, v) not in gone)
    return evolve(entry, attributes={name: values for name, values in attributes.items() if values})
