"""
Search filters (RFC 4511 s.4.5.1) as values: matching an entry, and which index could answer them.

Pure. Matching is two-valued: an attribute an entry lacks makes a comparison false, and its negation true.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from qmailpy.directory.names import fold
from qmailpy.directory.schema import ADDRESS_ATTRIBUTES, INDEXED, Entry, value_key


@frozen
class And:
    """Every one of C{parts} (none: true, RFC 4526)."""

    parts: Sequence[Filter]


@frozen
class Or:
    """One of C{parts} (none: false, RFC 4526)."""

    parts: Sequence[Filter]


@frozen
class Not:
    """Not C{part}."""

    part: Filter


@frozen
class Equal:
    """One of the attribute's values equals C{value} by its matching rule."""

    attribute: str  # lower case
    value: str


@frozen
class Present:
    """The attribute has a value."""

    attribute: str


@frozen
class Substrings:
    """A value begins with C{initial}, then holds C{middle} in order, and ends with C{final}; "" asks nothing."""

    attribute: str
    initial: str = ""
    middle: tuple[str, ...] = ()
    final: str = ""


@frozen
class Ordered:
    """A value is not below (C{least}) or not above C{value}."""

    attribute: str
    value: str
    least: bool


Filter = And | Or | Not | Equal | Present | Substrings | Ordered

EVERYTHING = Present("objectclass")


def matches(what: Filter, entry: Entry) -> bool:
    """Whether C{entry} fits; linear in the filter's size times the entry's."""
    match what:
        case And(parts):
            return all(matches(part, entry) for part in parts)
        case Or(parts):
            return any(matches(part, entry) for part in parts)
        case Not(part):
            return not matches(part, entry)
        case Equal(attribute, value):
            wanted = value_key(attribute, value)
            return any(value_key(attribute, one) == wanted for one in entry.values(attribute))
        case Present(attribute):
            return bool(entry.values(attribute))
        case Substrings(attribute):
            return any(_holds(what, value_key(attribute, one)) for one in entry.values(attribute))
        case Ordered(attribute, value, least):
            return any(_in_order(one, value, least) for one in entry.values(attribute))


def _holds(what: Substrings, text: str) -> bool:
    exact = what.attribute == "userpassword"
    initial, final = (part if exact else part.lower() for part in (what.initial, what.final))
    if not (text.startswith(initial) and text.endswith(final)):
        return False
    at, end = len(initial), len(text) - len(final)
    for part in what.middle:
        found = text.find(part if exact else part.lower(), at, max(end, 0))
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


def _in_order(one: str, value: str, least: bool) -> bool:
    if one.isdigit() and value.isdigit() and one.isascii() and value.isascii():
        low, high = one.lstrip("0").zfill(len(value)), value.lstrip("0").zfill(len(one))
        return low >= high if least else low <= high
    return fold(one) >= fold(value) if least else fold(one) <= fold(value)


def without(what: Filter, attributes: frozenset[str]) -> Filter:
    """The filter with every test of C{attributes} (lower case) false: what a reader who may not see them gets."""
    match what:
        case And(parts):
            return And([without(part, attributes) for part in parts])
        case Or(parts):
            return Or([without(part, attributes) for part in parts])
        case Not(part):
            # An undefined test stays undefined under a negation (RFC 4511 s.4.5.1.7): it must not become true.
            return Or(()) if _mentions(part, attributes) else Not(part)
        case Equal(attribute) | Present(attribute) | Substrings(attribute) | Ordered(attribute):
            return Or(()) if attribute.split(";")[0] in attributes else what


def _mentions(what: Filter, attributes: frozenset[str]) -> bool:
    match what:
        case And(parts) | Or(parts):
            return any(_mentions(part, attributes) for part in parts)
        case Not(part):
            return _mentions(part, attributes)
        case Equal(attribute) | Present(attribute) | Substrings(attribute) | Ordered(attribute):
            return attribute.split(";")[0] in attributes


def keys(what: Filter) -> tuple[tuple[str, str], ...] | None:
    """
    Index keys (attribute, value) of which every matching entry has at least one.

    @return: C{None} when no index can narrow the search down, () when nothing can match.
    """
    match what:
        case Equal(attribute, value) if attribute in INDEXED or attribute in ADDRESS_ATTRIBUTES:
            return ((attribute, value_key(attribute, value)),)
        case And(parts):
            found = [one for one in (keys(part) for part in parts) if one is not None]
            # A class is a poor key when there is any other: nearly every entry has the same few.
            return min(found, key=lambda one: (any(kind == "objectclass" for kind, _ in one), len(one)), default=None)
        case Or(parts):
            found = []
            for part in parts:
                one = keys(part)
                if one is None:
                    return None
                found.append(one)
            return tuple(pair for one in found for pair in one)
        case _:
            return None
