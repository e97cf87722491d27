"""
Distinguished names (RFC 4514): read, written and folded into keys that sort as the tree does.

Pure. A name that cannot be read is a L{BadName}; control characters are refused because they would end up in logs
and because the tree key uses two of them as separators.
"""

from __future__ import annotations

import re

from attrs import frozen

LIMIT = 1024
"""Most characters of a name we read; a service's longest is about 400."""

SEPARATOR = "\x1f"
"""Stands between the levels of a tree key: below every character that a key may hold, so a subtree is a range."""

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+")
_HEX = re.compile(r"[0-9A-Fa-f]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPECIAL = re.compile(r'[,+"\\<>;=]')

Ava = tuple[str, str]
"""An attribute type and its value, unescaped."""


class BadName(ValueError):
    """Not a distinguished name; the text says what is wrong with it."""


def fold(text: str) -> str:
    """A value as caseIgnoreMatch compares it (RFC 4517 s.4.2.11): lower case, blanks squeezed."""
    return " ".join(text.split()).lower()


@frozen
class Name:
    """A distinguished name: its RDNs from the leaf up, each one or more attribute values. Empty = the root."""

    rdns: tuple[tuple[Ava, ...], ...]

    @property
    def key(self) -> str:
        """The tree key: levels from the root down, folded; equal for equal names, a prefix for an ancestor's."""
        levels = ["\x1e".join(sorted(f"{kind.lower()}={fold(value)}" for kind, value in rdn)) for rdn in self.rdns]
        return SEPARATOR.join(reversed(levels))

    @property
    def parent(self) -> Name:
        """The name one level up; the root's is the root."""
        return Name(self.rdns[1:])

    def child(self, kind: str, value: str) -> Name:
        """The name C{kind=value} below this one."""
        return Name((((kind, value),), *self.rdns))

    def __str__(self) -> str:
        return ",".join("+".join(f"{kind}={escape(value)}" for kind, value in rdn) for rdn in self.rdns)


def escape(value: str) -> str:
    """A value as it stands in a name (RFC 4514 s.2.4)."""
    text = _SPECIAL.sub(lambda found: "\\" + found.group(), value)
    if text.startswith((" ", "#")):
        text = "\\" + text
    if len(value) > 1 and value.endswith(" "):  # a single blank was escaped as the first character
        text = text[:-1] + "\\ "
    return text


def parse(text: str) -> Name:
    """
    Read a name, in one pass.

    @raise BadName: it is not one.
    """
    if len(text) > LIMIT:
        raise BadName(f"longer than {LIMIT} characters")
    if _CONTROL.search(text):
        raise BadName("holds a control character")
    if not text.strip():
        return Name(())
    rdns: list[tuple[Ava, ...]] = []
    avas: list[Ava] = []
    at = 0
    while True:
        equals = text.find("=", at)
        kind = text[at:equals].strip() if equals >= 0 else ""
        if not _TYPE.fullmatch(kind):
            raise BadName("a part of it is not of the form type=value")
        value, at = _value(text, equals + 1)
        avas.append((kind, value))
        if at < len(text) and text[at] == "+":
            at += 1
            continue
        rdns.append(tuple(avas))
        avas = []
        if at >= len(text):
            return Name(tuple(rdns))
        at += 1


def _value(text: str, at: int) -> tuple[str, int]:
    """The value from C{at} to the next separator, unescaped, and where that separator stands."""
    octets = bytearray()
    kept = 0  # octets that are not blanks to be trimmed at the end
    while at < len(text) and text[at] not in ",+;":
        char = text[at]
        if char == "\\":
            pair = text[at + 1 : at + 3]
            if _HEX.fullmatch(pair):
                octets.append(int(pair, 16))
                at += 3
            elif pair and pair[0] in ' "#+,;<=>\\':
                octets += pair[0].encode()
                at += 2
            else:
                raise BadName("a backslash is not followed by what may be escaped")
            kept = len(octets)
            continue
        if char in '"<>':
            raise BadName(f"{char} must be escaped with a backslash")
        if char != " ":
            octets += char.encode("utf-8", "surrogateescape")
            kept = len(octets)
        elif octets:
            octets += b" "
        at += 1
    del octets[kept:]
    try:
        value = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("not UTF-8") from None
    if not value.strip():
        raise BadName("a part of it has no value")
    if _CONTROL.search(value):
        raise BadName("holds a control character")
    return value, at
