"""
What stands behind MAIL and RCPT: a path and parameters (RFC 5321 s.4.1.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qmailpy.values import Reply
from qmailpy.wire.address import parse_path
from qmailpy.wire.smtp_service import Limits, ParameterParser

_TWICE = Reply(501, "5.5.4", "Parameter given twice")
_PARAMETER = Reply(555, "5.5.4", "Unknown parameter")


def path(argument: bytes, word: bytes, *, sender: bool, utf8: bool = False) -> tuple[str, int] | Reply | None:
    """
    C{FROM:<path>} or C{TO:<path>}; C{None} when it is not of that form. A blank before the path is forgiven: many
    clients send one.

    @param utf8: as for L{parse_path}.
    """
    at = len(word)
    if argument[:at] != word and argument[:at].upper() != word:
        return None
    while argument[at : at + 1] == b" ":
        at += 1
    found = parse_path(argument, at, sender=sender, utf8=utf8)
    if not isinstance(found, Reply) and argument[found[1] : found[1] + 1] not in (b"", b" "):
        return None
    return found


def parameters(
    text: bytes, table: Mapping[str, tuple[str, ParameterParser]], limits: Limits, *, utf8: bool = False
) -> dict[str, Any] | Reply:
    """
    RFC 5321 s.4.1.2 C{Mail-parameters}, by C{table}. A parser sees U+FFFD for what is not US-ASCII.

    @param utf8: the transaction has SMTPUTF8, so that ORCPT may have UTF-8 (RFC 6533 s.3).
    @return: fields of the event by name, or the refusal.
    """
    fields: dict[str, Any] = {}
    for word in text.split(b" "):
        if not word:
            continue
        name, sign, value = word.decode("ascii", "replace").partition("=")
        if utf8 and name.upper() == "ORCPT":
            value = word.decode("utf-8", "replace").partition("=")[2]
        row = table.get(name.upper())
        if row is None:
            return _PARAMETER
        target, parse = row
        if target in fields:
            return _TWICE
        found = parse(value if sign else None, limits)
        if isinstance(found, Reply):
            return found
        fields[target] = found
    return fields
