"""
The directory's entries and what they mean for mail: the attributes of qmail-ldap's schema and a few for domains.

Pure. C{BASE} holds C{dc=DOMAIN} entries (objectClass qmailDomain), these hold C{uid=USER} entries (qmailUser). An
address is a user's C{mail} or one of its C{mailAlternateAddress}; an entry with C{deliveryMode} C{forwardonly} (or
C{nolocal}) is an alias for its C{mailForwardingAddress}es, any other user gets them copies. What is written is
checked here, whoever writes it (command line or LDAP), and what is read from a directory becomes L{Mailbox}, L{Alias}
and L{Domain} here, whether it came from the store or over the wire.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from attrs import frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import password as passwords
from qmailpy.directory.names import Name, fold
from qmailpy.errors import Temporary
from qmailpy.values import Alias, Domain, Mailbox, Reply

STATUSES = ("active", "noaccess", "disabled", "deleted")
"""accountStatus: mail and login; mail only; neither, mail is refused; as if the entry were not there."""

ADDRESS_ATTRIBUTES = ("mail", "mailalternateaddress")
"""Whose values are unique over the whole directory."""

INDEXED = frozenset({"uid", "dc", "cn", "associateddomain", "mailhost", "objectclass"})
"""Attributes that are found without a scan, beside the addresses."""

LOOKUP_ATTRIBUTES = (
    "mail",
    "mailMessageStore",
    "accountStatus",
    "deliveryMode",
    "mailForwardingAddress",
    "mailQuotaSize",
)
"""What L{recipient} needs to see of an entry."""

DOMAIN_ATTRIBUTES = ("associatedDomain", "accountStatus", "mailCatchAllAddress")
"""What L{domain} needs to see of an entry."""

_SPELLING = {
    name.lower(): name
    for name in (
        *LOOKUP_ATTRIBUTES,
        *DOMAIN_ATTRIBUTES,
        *("objectClass", "mailAlternateAddress", "userPassword", "qmailUID", "qmailGID", "homeDirectory", "mailHost"),
        *("deliveryProgramPath", "qmailDotMode", "mailReplyText", "qmailAccountPurge", "mailQuotaCount"),
        *("mailSizeMax", "displayName", "givenName", "telephoneNumber", "postalAddress", "postalCode"),
        *("employeeNumber", "employeeType", "preferredLanguage", "jpegPhoto", "labeledURI", "createTimestamp"),
    )
}
_SINGLE = frozenset(
    {"mail", "mailmessagestore", "accountstatus", "mailhost", "mailquotasize", "mailquotacount", "mailsizemax"}
    | {"homedirectory", "associateddomain", "mailcatchalladdress", "qmailuid", "qmailgid", "qmaildotmode"}
)
_EXACT = frozenset({"userpassword", "homedirectory", "mailmessagestore", "deliveryprogrampath", "mailreplytext"})
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9-]{0,63}(;[a-z0-9-]{1,32}){0,3}")
_BAD_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MOST_VALUES = 10000
_MOST_OCTETS = 262144

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
    return _SPELLING.get(attribute, attribute)


def value_key(attribute: str, value: str) -> str:
    """A value as the attribute's equality rule compares it."""
    if attribute in _EXACT:
        return value
    if attribute in ADDRESS_ATTRIBUTES:
        return addresses.key(value.strip())
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


def _forward(value: str) -> str:
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


_RULES: Mapping[str, Callable[[str], str]] = {
    "mail": _own,
    "mailalternateaddress": _own,
    "mailforwardingaddress": _forward,
    "mailcatchalladdress": _forward,
    "associateddomain": addresses.domain_key,
    "accountstatus": _one_of(*STATUSES),
    "deliverymode": _one_of(
        *("nolocal", "noforward", "noprogram", "reply", "forwardonly", "noreply", "local", "forward", "program")
    ),
    "mailquotasize": _number,
    "mailquotacount": _number,
    "mailsizemax": _number,
    "mailmessagestore": _store,
    "userpassword": _password,
}


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


def recipient(attributes: Attributes) -> Mailbox | Alias | None:
    """
    What mail for a user entry means.

    @raise Temporary: the entry names a store outside the mail directory: somebody must mend it, mail waits.
    """
    address = next(iter(attributes.get("mail", ())), "").lower()
    state = status(attributes)
    if not address or state == "deleted":
        return None
    forwards = tuple(_targets(attributes.get("mailforwardingaddress", ())))
    if "noforward" in modes(attributes):
        forwards = ()
    if forwards_only(attributes):
        return Alias(address=address, targets=forwards) if state != "disabled" else _mailbox(address, attributes, ())
    return _mailbox(address, attributes, forwards)


def _mailbox(address: str, attributes: Attributes, forwards: tuple[str, ...]) -> Mailbox:
    path = next(iter(attributes.get("mailmessagestore", ())), "").rstrip("/")
    try:
        path = path or addresses.maildir(address)
    except addresses.BadAddress as problem:
        raise Temporary(MISCONFIGURED, f"the entry of {address!r} has no usable address: {problem}") from None
    if not addresses.safe_path(path):
        raise Temporary(MISCONFIGURED, f"mailMessageStore of {address!r} is not below the mail directory: {path!r}")
    quota = next(iter(attributes.get("mailquotasize", ())), "0")
    return Mailbox(
        address=address,
        path=path,
        active=status(attributes) != "disabled",
        quota_octets=int(quota) if quota.isascii() and quota.isdigit() else 0,
        forwards=forwards,
    )


def _targets(values: Iterable[str]) -> Iterable[str]:
    for value in values:
        try:
            yield _forward(value)
        except addresses.BadAddress:
            continue  # an external directory may hold anything; what is no address cannot be sent to


def domain(attributes: Attributes) -> Domain | None:
    """What a domain entry means; C{None} for one that is deleted."""
    name = next(iter(attributes.get("associateddomain", ())), "").lower()
    state = status(attributes)
    if not name or state == "deleted":
        return None
    catch_all = next(iter(_targets(attributes.get("mailcatchalladdress", ()))), "")
    return Domain(name=name, active=state != "disabled", catch_all=catch_all)


def may_log_in(attributes: Attributes) -> bool:
    """Whether the right password opens this mailbox."""
    return status(attributes) == "active" and not forwards_only(attributes)


MISCONFIGURED = Reply(451, "4.3.5", "Mail system misconfigured, try again later")
AWAY = Reply(451, "4.3.0", "User directory is not available, try again later")
