"""
The directory's entries: what is written is checked here, whoever writes it (command line or LDAP).

Pure. C{BASE} holds C{dc=DOMAIN} entries (objectClass qmailDomain), these hold C{uid=USER} entries (qmailUser) and
C{cn=GROUP} entries (qmailGroup); C{ou=plans,BASE} and C{ou=servers,BASE} hold service plans and nodes. An address is
the C{mail} of an entry or one of its C{mailAlternateAddress}; an entry with C{deliveryMode} C{forwardonly} (or
C{nolocal}) is an alias for its C{mailForwardingAddress}es, any other user gets them copies. What entries mean for mail
says L{meaning}, what attributes there are L{attributes}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from attrs import frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import names
from qmailpy.directory import password as passwords
from qmailpy.directory.attributes import BY_NAME, DN, NUMBER
from qmailpy.directory.names import Name, fold
from qmailpy.values import FEATURES, Reply

STATUSES = ("active", "nopop", "noaccess", "disabled", "deleted")
"""accountStatus: all; no fetching of mail; mail but no login; neither, mail is refused; as if there were no entry."""

POSTERS = ("anyone", "members", "listed", "domain")
"""qmailPosters."""

ADDRESS_ATTRIBUTES = ("mail", "mailalternateaddress")
"""Whose values are unique over the whole directory."""

INDEXED = frozenset(
    {"uid", "dc", "cn", "associateddomain", "mailhost", "objectclass", "qmailplanname", "qmailadministers"}
)
"""Attributes that are found without a scan, beside the addresses."""

_EXACT = frozenset(
    name
    for name, one in BY_NAME.items()
    if one.syntax.equality in ("", "octetStringMatch") or "Exact" in one.syntax.equality
)
_OTHERS = {
    name.lower(): name
    for name in (
        *("namingContexts", "subschemaSubentry", "supportedControl", "supportedExtension", "supportedFeatures"),
        *("supportedLDAPVersion", "vendorName", "ldapSyntaxes", "matchingRules", "attributeTypes", "objectClasses"),
        *("entryDN", "createTimestamp"),
    )
}
# mail may have several values for other programs (RFC 4524), but is the one main address here.
_SINGLE = frozenset({"mail"} | {name for name, one in BY_NAME.items() if one.single})
_NAMES = frozenset(name for name, one in BY_NAME.items() if one.syntax is DN)
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9-]{0,63}(;[a-z0-9-]{1,32}){0,3}")
_BAD_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_TIME = re.compile(r"[0-9]{10}([0-9]{2}){0,2}Z", re.ASCII)
_MOST_VALUES = 10000
_MOST_OCTETS = 524288

Attributes = Mapping[str, tuple[str, ...]]
"""Lower-case attribute name: values (octets that are not UTF-8 as surrogate escapes)."""


class Invalid(ValueError):
    """An entry that may not be written; the text says why, for people."""


@frozen
class Entry:
    """An entry of the tree."""

    name: Name
    attributes: Attributes

    def values(self, attribute: str) -> tuple[str, ...]:
        """All values of an attribute, none when it is absent."""
        return self.attributes.get(attribute.lower(), ())

    def value(self, attribute: str) -> str:
        """The first value, or ""."""
        return next(iter(self.values(attribute)), "")

    def has_class(self, name: str) -> bool:
        """Whether C{name} is among the object classes."""
        return name.lower() in {value.lower() for value in self.values("objectclass")}


def spelling(attribute: str) -> str:
    """An attribute's name as people write it."""
    known = BY_NAME.get(attribute)
    return _OTHERS.get(attribute, attribute) if known is None else known.name


def value_key(attribute: str, value: str) -> str:
    """A value as the attribute's equality rule compares it."""
    if attribute in _EXACT:
        return value
    if attribute in ADDRESS_ATTRIBUTES:
        return addresses.key(value.strip())
    if attribute in _NAMES:
        try:
            return names.parse(value).key
        except names.BadName:
            return value
    return fold(value)


def checked(entry: Entry) -> Entry:
    """
    The entry in the form it is stored in: values normalised, passwords hashed by the caller beforehand.

    @raise Invalid: it may not be stored.
    """
    attributes: dict[str, tuple[str, ...]] = {}
    total = octets = 0
    for name, values in entry.attributes.items():
        if not _ATTRIBUTE.fullmatch(name):
            raise Invalid("an attribute's name has characters that are not allowed")
        kept: dict[str, str] = {}
        for value in values:
            normal = _normal(name, value)
            kept.setdefault(value_key(name, normal), normal)
            octets += len(normal)
        total += len(kept)
        if name in _SINGLE and len(kept) > 1:
            raise Invalid(f"{spelling(name)} may have one value only")
        if kept:
            attributes[name] = tuple(kept.values())
    if total > _MOST_VALUES or octets > _MOST_OCTETS:
        raise Invalid("the entry is too large")
    for kind, value in entry.name.rdns[0] if entry.name.rdns else ():
        present = attributes.get(kind.lower(), ())
        if value_key(kind.lower(), value) not in {value_key(kind.lower(), one) for one in present}:
            attributes[kind.lower()] = (*present, _normal(kind.lower(), value))
    result = Entry(entry.name, attributes)
    _check_classes(result)
    return result


def _check_classes(entry: Entry) -> None:
    if not entry.values("objectclass"):
        raise Invalid("objectClass is missing")
    if entry.has_class("qmailUser"):
        if not entry.value("mail"):
            raise Invalid("a qmailUser needs mail")
        if forwards_only(entry.attributes) and not entry.values("mailforwardingaddress"):
            raise Invalid("an entry that only forwards needs mailForwardingAddress")
    if entry.has_class("qmailGroup") and not entry.value("mail"):
        raise Invalid("a qmailGroup needs mail")
    if entry.has_class("qmailPlan") and not entry.value("cn"):
        raise Invalid("a qmailPlan needs cn")
    if entry.has_class("qmailDomain"):
        if not entry.value("associateddomain"):
            raise Invalid("a qmailDomain needs associatedDomain")
    elif entry.values("associateddomain"):
        raise Invalid("associatedDomain needs objectClass qmailDomain")


def _normal(name: str, value: str) -> str:
    rule = _RULES.get(name)
    if rule is None:
        if name in INDEXED and _BAD_TEXT.search(value):
            raise Invalid(f"{spelling(name)} holds a character that is not allowed")
        return value
    try:
        return rule(value)
    except addresses.BadAddress as problem:
        raise Invalid(f"{spelling(name)}: {problem}") from None
    except ValueError as problem:
        raise Invalid(f"{spelling(name)} {problem}") from None


def forward(value: str) -> str:
    return addresses.target(value.removeprefix("mailto:"))


def _own(value: str) -> str:
    result = addresses.own(value)
    addresses.maildir(result)  # one that could not have a mailbox is refused while somebody can still be told
    return result


def _one_of(*allowed: str) -> Callable[[str], str]:
    def rule(value: str) -> str:
        folded = fold(value)
        if folded not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return folded

    return rule


def _number(value: str) -> str:
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise ValueError("must be a number")
    return str(int(value))


def _store(value: str) -> str:
    if not addresses.safe_path(value):
        raise ValueError("must be a plain path below the mail directory, such as example.org/joe/Maildir")
    return value.rstrip("/")


def _password(value: str) -> str:
    if not passwords.supported(value):
        raise ValueError("has a scheme that is not supported ({ARGON2}, {SSHA} and {SCRAM-SHA-256} are)")
    return value


def _target(value: str) -> str:
    return addresses.target(value)


def _dn(value: str) -> str:
    return str(names.parse(value))  # BadName is a ValueError with a text that follows the attribute's name


def _host(value: str) -> str:
    name, colon, port = value.strip().partition(":")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError("must be a host name, perhaps with :PORT behind it")
    return addresses.domain_key(name) + colon + port


def _flag(value: str) -> str:
    folded = value.strip().upper()
    if folded not in ("TRUE", "FALSE"):
        raise ValueError("must be TRUE or FALSE")
    return folded


def _line(value: str) -> str:
    if not value.strip() or _BAD_TEXT.search(value):
        raise ValueError("must be one line of text")
    return value.strip()


def _time(value: str) -> str:
    return time_value(time_of(value))


def _administered(value: str) -> str:
    return "*" if value.strip() == "*" else addresses.domain_key(value)


_NUMBERS = sorted(name for name, one in BY_NAME.items() if one.syntax is NUMBER)
_RULES: Mapping[str, Callable[[str], str]] = {
    "mail": _own,
    "mailalternateaddress": _own,
    "mailforwardingaddress": forward,
    "mailcatchalladdress": forward,
    "associateddomain": addresses.domain_key,
    "accountstatus": _one_of(*STATUSES),
    "deliverymode": _one_of(
        *("nolocal", "noforward", "noprogram", "reply", "forwardonly", "noreply", "local", "forward", "program")
    ),
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(("rfc822member", "rfc822sender", "qmailgroupowner"), _target),
    **dict.fromkeys(("dnmember", "dnsender", "member"), _dn),
    **dict.fromkeys(("mailhost", "popserver", "smtpserver"), _host),
    **dict.fromkeys(("membersonly", "qmailsubfolders"), _flag),
    **dict.fromkeys(("qmailreplybegin", "qmailreplyend"), _time),
    **dict.fromkeys(("qmailplanname", "qmaildomainplan"), _line),
    "qmaildotmode": _one_of("ldaponly", "ldapwithprog", "dotonly", "both", "none"),
    "qmailfeature": _one_of(*sorted(FEATURES), "none"),
    "qmailposters": _one_of(*POSTERS),
    "qmailadministers": _administered,
    "qmailserverrole": _one_of("store", "pop", "smtp"),
    "mailmessagestore": _store,
    "userpassword": _password,
}


def time_of(value: str) -> float:
    """
    Seconds since the epoch of a Generalized Time (RFC 4517 s.3.3.13) in UTC, fractions not allowed.

    @raise ValueError: it is none; the text follows the attribute's name.
    """
    if not _TIME.fullmatch(value):
        raise ValueError("must be a time in UTC such as 20261231235959Z")
    text = value[:-1].ljust(14, "0")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError("must be a time in UTC such as 20261231235959Z") from None


def time_value(seconds: float) -> str:
    """The Generalized Time of a moment."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%SZ")


def status(attributes: Attributes) -> str:
    """accountStatus; what is missing or unknown counts as active, as qmail-ldap has it."""
    found = fold(next(iter(attributes.get("accountstatus", ())), ""))
    return found if found in STATUSES else "active"


def modes(attributes: Attributes) -> frozenset[str]:
    """The words of deliveryMode."""
    return frozenset(fold(value) for value in attributes.get("deliverymode", ()))


def forwards_only(attributes: Attributes) -> bool:
    """Whether the entry has no mailbox of its own."""
    return not modes(attributes).isdisjoint({"forwardonly", "nolocal", "nombox"})


MISCONFIGURED = Reply(451, "4.3.5", "Mail system misconfigured, try again later")
AWAY = Reply(451, "4.3.0", "User directory is not available, try again later")
