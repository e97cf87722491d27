"""
What ldaptor makes of requests, as our own values; and entries as ldaptor wants them.

Pure. What is no request of ours is a L{Refusal}.
"""

from __future__ import annotations

from typing import Any

from ldaptor.protocols import pureldap

from qmailpy.directory import decode, filters, schema, subschema
from qmailpy.directory.access import Code, Refusal
from qmailpy.directory.operations import Scope
from qmailpy.directory.rights import OPERATIONAL
from qmailpy.directory.schema import Entry

ALL = "*"
"""Stands for all attributes but operational ones (RFC 4511 s.4.5.1.8)."""

ALL_OPERATIONAL = "+"
"""Stands for all operational ones (RFC 3673)."""


def text(value: bytes | str) -> str:
    """A string of the protocol; octets that are not UTF-8 as surrogate escapes."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def octets(value: bytes | str) -> bytes:
    """The reverse of L{text}."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def scope(request: Any) -> Scope:
    """How far below its base a search goes."""
    try:
        return Scope(request.scope)
    except ValueError:
        raise Refusal(Code.PROTOCOL_ERROR, "unknown scope") from None


def wanted(request: Any) -> frozenset[str]:
    """The attributes a search asks for, lower case; none named means L{ALL}."""
    named = frozenset(text(one).lower() for one in request.attributes)
    return named or frozenset({ALL})


def operational(names: frozenset[str]) -> frozenset[str]:
    """The operational attributes among those wanted."""
    return OPERATIONAL if ALL_OPERATIONAL in names else names & OPERATIONAL


def result(entry: Entry, names: frozenset[str], types_only: bool) -> Any:
    """
    The entry as the client asked to see it (RFC 4511 s.4.5.1.8).

    @param names: from L{wanted}.
    """
    shown = dict(entry.attributes)
    shown["entrydn"] = (str(entry.name),)  # RFC 5020
    shown["subschemasubentry"] = (subschema.NAME,)
    return pureldap.LDAPSearchResultEntry(
        objectName=octets(str(entry.name)),
        attributes=[
            (schema.spelling(name), [] if types_only else [octets(value) for value in values])
            for name, values in shown.items()
            if values and (name in names or (ALL_OPERATIONAL if name in _HIDDEN else ALL) in names)
        ],
    )


_ROOT = {"namingcontexts", "subschemasubentry", "supportedcontrol", "supportedextension", "supportedfeatures"} | {
    "supportedldapversion",
    "vendorname",
}
_SUBSCHEMA = {"ldapsyntaxes", "matchingrules", "attributetypes", "objectclasses"}
_HIDDEN = OPERATIONAL | _ROOT | _SUBSCHEMA | {"entrydn"}


def filter_of(what: Any) -> filters.Filter:
    """ldaptor's filter as ours; its depth was bounded by L{ber.check}."""
    if isinstance(what, pureldap.LDAPFilter_and):
        return filters.And([filter_of(part) for part in what])
    if isinstance(what, pureldap.LDAPFilter_or):
        return filters.Or([filter_of(part) for part in what])
    if isinstance(what, pureldap.LDAPFilter_not):
        return filters.Not(filter_of(what.value))
    if isinstance(what, pureldap.LDAPFilter_present):
        return filters.Present(text(what.value).lower())
    if isinstance(what, pureldap.LDAPFilter_substrings):
        return _substrings(what)
    if isinstance(what, pureldap.LDAPAttributeValueAssertion):
        attribute, value = text(what.attributeDesc.value).lower(), text(what.assertionValue.value)
        if isinstance(what, pureldap.LDAPFilter_greaterOrEqual | pureldap.LDAPFilter_lessOrEqual):
            return filters.Ordered(attribute, value, isinstance(what, pureldap.LDAPFilter_greaterOrEqual))
        return filters.Equal(attribute, value)  # an approximate match may be an equality (RFC 4511 s.4.5.1.7.6)
    raise Refusal(Code.UNWILLING, "a kind of filter that is not supported")


def _substrings(what: Any) -> filters.Filter:
    initial, final, middle = "", "", []
    for part in what.substrings:
        piece = text(part.value)
        if isinstance(part, pureldap.LDAPFilter_substrings_initial):
            initial = piece
        elif isinstance(part, pureldap.LDAPFilter_substrings_final):
            final = piece
        else:
            middle.append(piece)
    return filters.Substrings(text(what.type).lower(), initial, tuple(middle), final)


def password_change(value: bytes | None) -> tuple[str, bytes | None, bytes | None]:
    """Whose, the old and the new password of an RFC 3062 request; C{None} for what is not said."""
    try:
        parts = {type(part): part.value for part in decode.password_change(octets(value or b""))}
    except Exception:  # the client's octets in ldaptor's hands
        raise Refusal(Code.PROTOCOL_ERROR, "not a password change") from None
    new = parts.get(pureldap.LDAPPasswordModifyRequest_newPasswd)
    whose = parts.get(pureldap.LDAPPasswordModifyRequest_userIdentity, b"")
    return text(whose), parts.get(pureldap.LDAPPasswordModifyRequest_oldPasswd), None if new is None else octets(new)
