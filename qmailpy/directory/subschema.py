"""
The schema of L{attributes} as others read it: definitions of RFC 4512 s.4.1, the subschema entry of the embedded
server, the LDIF for an OpenLDAP server's C{cn=config}, and the table in docs/directory.md.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qmailpy.directory import attributes as table
from qmailpy.directory import names
from qmailpy.directory.attributes import ATTRIBUTES, CLASSES, AttributeType, ObjectClass
from qmailpy.directory.schema import Entry

NAME = "cn=Subschema"
"""Where the embedded server publishes what it knows (RFC 4512 s.4.2)."""

_LDAP = "1.3.6.1.4.1.1466.115.121.1"
_RULES = {  # RFC 4517 s.4.2: OID, and the syntax of the assertion
    "booleanMatch": ("2.5.13.13", f"{_LDAP}.7"),
    "caseExactIA5Match": ("1.3.6.1.4.1.1466.109.114.1", f"{_LDAP}.26"),
    "caseExactMatch": ("2.5.13.5", f"{_LDAP}.15"),
    "caseIgnoreIA5Match": ("1.3.6.1.4.1.1466.109.114.2", f"{_LDAP}.26"),
    "caseIgnoreIA5SubstringsMatch": ("1.3.6.1.4.1.1466.109.114.3", f"{_LDAP}.58"),
    "caseIgnoreMatch": ("2.5.13.2", f"{_LDAP}.15"),
    "caseIgnoreSubstringsMatch": ("2.5.13.4", f"{_LDAP}.58"),
    "distinguishedNameMatch": ("2.5.13.1", f"{_LDAP}.12"),
    "generalizedTimeMatch": ("2.5.13.27", f"{_LDAP}.24"),
    "generalizedTimeOrderingMatch": ("2.5.13.28", f"{_LDAP}.24"),
    "integerMatch": ("2.5.13.14", f"{_LDAP}.27"),
    "integerOrderingMatch": ("2.5.13.15", f"{_LDAP}.27"),
    "objectIdentifierMatch": ("2.5.13.0", f"{_LDAP}.38"),
    "octetStringMatch": ("2.5.13.17", f"{_LDAP}.40"),
    "telephoneNumberMatch": ("2.5.13.20", f"{_LDAP}.50"),
    "telephoneNumberSubstringsMatch": ("2.5.13.21", f"{_LDAP}.58"),
}
_OPENLDAP = "qmailpy"  # what an OpenLDAP server calls our arc, so that it stands in one line there


def attribute_type(one: AttributeType, oid: str = "", operational: bool = True) -> str:
    """
    The definition of an attribute (RFC 4512 s.4.1.2).

    @param oid: instead of its own.
    @param operational: whether to say that it is, where it is.
    """
    syntax = one.syntax
    parts = [oid or one.oid, f"NAME '{one.name}'"]
    if one.meaning:
        parts.append(f"DESC '{_description(one.meaning)}'")
    for word, rule in (("EQUALITY", syntax.equality), ("ORDERING", syntax.ordering), ("SUBSTR", syntax.substring)):
        if rule:
            parts.append(f"{word} {rule}")
    parts.append(f"SYNTAX {syntax.oid}")
    if one.single:
        parts.append("SINGLE-VALUE")
    if one.operational and operational:
        parts.append("NO-USER-MODIFICATION USAGE directoryOperation")
    return f"( {' '.join(parts)} )"


def object_class(one: ObjectClass, oid: str = "") -> str:
    """The definition of an object class (RFC 4512 s.4.1.1)."""
    parts = [oid or one.oid, f"NAME '{one.name}'"]
    if one.meaning:
        parts.append(f"DESC '{_description(one.meaning)}'")
    if one.above:
        parts.append(f"SUP {one.above}")
    parts.append(one.kind)
    for word, some in (("MUST", one.must), ("MAY", one.may)):
        if some:
            parts.append(f"{word} ( {' $ '.join(some)} )" if len(some) > 1 else f"{word} {some[0]}")
    return f"( {' '.join(parts)} )"


def _description(meaning: str) -> str:
    return meaning.replace("`", "").replace("\\", "\\5C").replace("'", "\\27")


def entry() -> Entry:
    """The subschema entry."""
    syntaxes = {one.syntax.oid: one.syntax.name for one in ATTRIBUTES}
    syntaxes[f"{_LDAP}.58"] = "Substring Assertion"
    return Entry(
        names.parse(NAME),
        {
            "objectclass": ("top", "subentry", "subschema", "extensibleObject"),
            "cn": ("Subschema",),
            "ldapsyntaxes": tuple(f"( {oid} DESC '{name}' )" for oid, name in syntaxes.items()),
            "matchingrules": tuple(
                f"( {oid} NAME '{name}' SYNTAX {syntax} )" for name, (oid, syntax) in _RULES.items()
            ),
            "attributetypes": tuple(map(attribute_type, ATTRIBUTES)),
            "objectclasses": tuple(map(object_class, CLASSES)),
        },
    )


def ldif() -> str:
    """
    Our schema for an OpenLDAP server: C{ldapadd -Y EXTERNAL -H ldapi:///} takes it.

    The server has the schemas core, cosine, nis and inetorgperson already, as Debian's has.
    """
    # What the server keeps for itself in ours, it does not know how to keep: there our service identity writes it.
    lines = [
        f"dn: cn={_OPENLDAP},cn=schema,cn=config",
        "objectClass: olcSchemaConfig",
        f"cn: {_OPENLDAP}",
        f"olcObjectIdentifier: {_OPENLDAP} {table.ARC}",
        *(
            f"olcAttributeTypes: {attribute_type(one, _macro(one.oid), operational=False)}"
            for one in ATTRIBUTES
            if one.ours
        ),
        *(f"olcObjectClasses: {object_class(one, _macro(one.oid))}" for one in CLASSES if one.ours),
    ]
    return "".join(f"{folded}\n" for line in lines for folded in _folded(line))


def _macro(oid: str) -> str:
    return oid.replace(f"{table.ARC}.", f"{_OPENLDAP}:", 1)


def _folded(line: str, width: int = 76) -> Iterator[str]:
    """A line of LDIF, continued where it is long (RFC 2849 s.2)."""
    yield line[:width]
    for at in range(width, len(line), width - 1):
        yield " " + line[at : at + width - 1]


def markdown() -> str:
    """The tables of docs/directory.md."""
    classes = [
        f"| `{one.name}` | {one.oid} | {one.kind.lower()} | {one.meaning} | {', '.join(one.must)} |"
        for one in CLASSES
        if one.ours
    ]
    rows = [
        f"| `{one.name}` | {_short(one.oid)} | {one.syntax.name} | {_count(one)} | {one.meaning} |"
        for one in ATTRIBUTES
        if one.ours or (one.meaning and one.meaning != "for people")
    ]
    return _table("Class | OID | Kind | Meaning | Must have", [row.replace(table.ARC, "ARC") for row in classes]) + (
        "\n" + _table("Attribute | OID | Syntax | Values | Meaning", rows)
    )


def _short(oid: str) -> str:
    return oid.replace(f"{table.ARC}.", "ARC.", 1)


def _table(heads: str, rows: Sequence[str]) -> str:
    columns = heads.count("|") + 1
    return "\n".join([f"| {heads} |", "|" + "---|" * columns, *rows]) + "\n"


def _count(one: AttributeType) -> str:
    return "one" if one.single else "several"
