"""
The side of C{pass_persist} that answers (snmpd.conf(5)): lines in, lines out.

    PING                    PONG
    get, OID                OID, type, value; or NONE
    getnext, OID            the same of the object behind it
    set, OID, TYPE VALUE    not-writable
    an empty line           the end
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TextIO

from qmailpy.watch.mib import Objects
from qmailpy.watch.snmp_value import Oid

_LINE = 4096  # characters
_PARTS = 128  # of a name (RFC 2578 s.3.5)
_NONE = ("NONE",)


def serve(source: TextIO, objects: Callable[[], Objects]) -> Iterator[str]:
    """
    The lines to send, each batch an answer.

    @param objects: those of now.
    """
    while line := _line(source):
        if line == "PING":
            yield "PONG\n"
        elif line in ("get", "getnext"):
            yield "".join(f"{one}\n" for one in _answer(line, _line(source), objects()))
        elif line == "set":
            _line(source)
            _line(source)
            yield "not-writable\n"
        else:
            yield "NONE\n"


def _line(source: TextIO) -> str:
    """Without its end; "" at the end of everything, or for one that is empty or too long."""
    line = source.readline(_LINE)
    return line.strip() if len(line) < _LINE else ""


def _answer(how: str, name: str, objects: Objects) -> tuple[str, ...]:
    wanted = parsed(name)
    if wanted is None:
        return _NONE
    if how == "getnext":
        behind = objects.next(wanted)
        if behind is None:
            return _NONE
        wanted, value = behind
    else:
        found = objects.get(wanted)
        if found is None:
            return _NONE
        value = found
    return "." + ".".join(map(str, wanted)), value.kind, value.text


def parsed(name: str) -> Oid | None:
    """An object's name, C{".1.3.6"}; C{None} for what is none."""
    parts = name.strip().lstrip(".").split(".")
    if len(parts) > _PARTS or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        return None
    return tuple(map(int, parts))
