"""
LDIF (RFC 2849), as entries are carried from one LDAP server to another.

Pure. Written: one record an entry, lines folded at 76 octets, values in Base64 where they must be. Read: content
records alone, no changes and no values from URLs; a line at a time, so that a tree of any size takes no more memory
than its largest entry.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

WIDTH = 76
_MOST = 4 * 1048576  # octets of a record
_UNSAFE_FIRST = frozenset(" :<")


class BadLdif(ValueError):
    """Not LDIF, or more of it than we take; the text says where and what."""


@frozen
class Record:
    """An entry as it stands in a file."""

    line: int  # of its dn, from 1
    dn: str
    attributes: Mapping[str, Sequence[str]]  # as spelled there; octets that are not UTF-8 as surrogate escapes


def written(dn: str, attributes: Mapping[str, Sequence[str]]) -> str:
    """A record with its blank line."""
    lines = [_line("dn", dn), *(_line(name, value) for name, values in attributes.items() for value in values)]
    return "".join(f"{line}\n" for line in lines) + "\n"


def _line(name: str, value: str) -> str:
    safe = not value or (
        value.isascii()
        and value[0] not in _UNSAFE_FIRST
        and not value.endswith(" ")
        and not any(char in value for char in "\0\r\n")
    )
    if not safe:
        value = base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
    line = f"{name}: {value}" if safe else f"{name}:: {value}"
    if len(line) <= WIDTH:
        return line
    rest = line[WIDTH:]
    return "\n ".join((line[:WIDTH], *(rest[at : at + WIDTH - 1] for at in range(0, len(rest), WIDTH - 1))))


def read(lines: Iterable[bytes]) -> Iterator[Record]:
    """
    The records of a file.

    @param lines: with or without their ends.
    @raise BadLdif: it cannot be read on.
    """
    pending: list[tuple[int, list[bytes]]] = []  # a line and what continues it
    octets = 0
    comment = False
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip(b"\r\n")
        octets += len(line)
        if octets > _MOST:
            raise BadLdif(f"line {number}: the entry is too large")
        if line.startswith(b" "):
            if not comment:
                if not pending:
                    raise BadLdif(f"line {number}: continues nothing")
                pending[-1][1].append(line[1:])
            continue
        comment = line.startswith(b"#")
        if comment:
            continue
        if line:
            pending.append((number, [line]))
            continue
        yield from _record(pending)
        pending, octets = [], 0
    yield from _record(pending)


def _record(pending: Sequence[tuple[int, Sequence[bytes]]]) -> Iterator[Record]:
    """The record made of its lines; nothing where there are none but the version's."""
    pairs = [(number, *_pair(number, b"".join(parts))) for number, parts in pending]
    if pairs and pairs[0][1].lower() == "version":
        pairs = pairs[1:]
    if not pairs:
        return
    start, name, dn = pairs[0]
    if name.lower() != "dn":
        raise BadLdif(f"line {start}: an entry begins with dn, not with {name[:50]}")
    attributes: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for number, kind, value in pairs[1:]:
        if kind.lower() in ("changetype", "control"):
            raise BadLdif(f"line {number}: changes are not read, only entries")
        attributes.setdefault(spelled.setdefault(kind.lower(), kind), []).append(value)
    yield Record(start, dn, attributes)


def _pair(number: int, line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not name.isascii():
        raise BadLdif(f"line {number}: is not of the form attribute: value")
    if value.startswith(b"<"):
        raise BadLdif(f"line {number}: values from elsewhere are not read")
    if value.startswith(b":"):
        try:
            octets = base64.b64decode(value[1:].strip(), validate=True)
        except (binascii.Error, ValueError):
            raise BadLdif(f"line {number}: is no Base64") from None
    else:
        octets = value.lstrip(b" ")
    return name.decode("ascii"), octets.decode("utf-8", "surrogateescape")
