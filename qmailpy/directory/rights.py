"""
Who may see and change which entries: the access rules of the embedded server, apart from how it stores and speaks.

Pure. An L{Identity} is who a connection has bound as, with all that the rules ask about it:

    anonymous   nothing but the root DSE, which says how to bind
    user        sees his own entry; changes his password and what L{OF_ONESELF} names
    domain      a domain administrator: that, and all below the entries of his domains but what is for operators;
                of the domain's own entry only who gets mail for unknown users; of plans those named for his domains;
                nobody who administers more than he does
    service     our own workers: see everything, and note when somebody logged in
    operator    everything; C{cn=admin} is one, and so is a user with qmailAdministers C{*}

Nobody reads a password: L{SECRET}.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import schema
from qmailpy.directory.attributes import ATTRIBUTES
from qmailpy.directory.names import SEPARATOR, Name, fold
from qmailpy.directory.schema import Attributes, Entry

SECRET = frozenset({"userpassword"})
"""Attributes that never leave the store."""

OPERATIONAL = frozenset(one.name.lower() for one in ATTRIBUTES if one.operational)
"""Attributes the server keeps."""

_PERSON = frozenset(
    {"cn", "sn", "displayname", "givenname", "description", "telephonenumber", "mobile", "preferredlanguage"}
    | {"title", "postaladdress", "postalcode", "jpegphoto", "labeleduri"}
)
_ANSWER = frozenset({"mailreplytext", "qmailreplysubject", "qmailreplydays", "qmailreplybegin", "qmailreplyend"})

OF_ONESELF = _PERSON | _ANSWER | SECRET | {"mailforwardingaddress", "qmailsubfolders", "deliverymode"}
"""What a user may change of his own; of deliveryMode no more than whether there is an automatic answer."""

_OF_DOMAIN_ADMINISTRATORS = (
    OF_ONESELF
    | {"objectclass", "uid", "o", "ou", "employeenumber", "employeetype", "mail", "mailalternateaddress"}
    | {"accountstatus", "qmailplanname", "dnmember", "rfc822member", "member", "membersonly", "dnsender"}
    | {"rfc822sender", "qmailposters", "qmailgroupowner"}
)
"""What a domain administrator may set; not limits, nodes, places on disk, programs and roles."""

_CLASSES = frozenset({"top", "person", "organizationalperson", "inetorgperson", "qmailuser", "qmailgroup"}) | {
    "organizationalrole"
}
_OF_DOMAINS = frozenset({"mailcatchalladdress", "description"})


class Role(Enum):
    """Who a connection has bound as."""

    ANONYMOUS = "anonymous"
    USER = "user"
    DOMAIN = "domain administrator"
    SERVICE = "service"
    ADMIN = "operator"


@frozen
class Identity:
    """A role and, but for anonymous, the entry's name."""

    role: Role
    name: Name
    domains: tuple[str, ...] = ()  # administered
    roots: tuple[Name, ...] = ()  # entries of which all below is visible, in the order of the tree, none in another
    places: tuple[Name, ...] = ()  # entries of the domains administered
    plans: frozenset[str] = frozenset()  # names a domain administrator may give, folded

    @property
    def all_seeing(self) -> bool:
        """Whether every entry is visible."""
        return self.role in (Role.SERVICE, Role.ADMIN)


NOBODY = Identity(Role.ANONYMOUS, Name(()))


def within(name: Name, root: Name) -> bool:
    """Whether C{name} is C{root} or below it."""
    return (name.key + SEPARATOR).startswith(root.key + SEPARATOR)


def outermost(roots: list[Name]) -> tuple[Name, ...]:
    """The names in the order of the tree, without those within others."""
    kept: list[Name] = []
    for root in sorted(roots, key=lambda one: one.key + SEPARATOR):
        if not kept or not within(root, kept[-1]):
            kept.append(root)
    return tuple(kept)


def administered(attributes: Attributes) -> frozenset[str]:
    """What the holder of an entry administers: domains, C{*} for everything."""
    return frozenset(fold(value) for value in attributes.get("qmailadministers", ()))


def objection(who: Identity, before: Entry | None, after: Entry | None) -> str:
    """
    Why C{who} may not make C{after} of C{before}; "" = may.

    @param before: C{None} for a new entry.
    @param after: C{None} for one that is deleted.
    """
    if who.role is Role.ADMIN:
        return ""
    entry = after or before
    if entry is None or who.role not in (Role.USER, Role.DOMAIN):
        return "not allowed"
    changed = _changed(before, after)
    if before is not None and after is not None and before.name.key == after.name.key == who.name.key:
        mine = _of_oneself(before, after, changed)
        if not mine or who.role is Role.USER:
            return mine
    if who.role is Role.USER:
        return "only one's own entry"
    return _of_domain(who, before, after, changed)


def _changed(before: Entry | None, after: Entry | None) -> frozenset[str]:
    old: Attributes = before.attributes if before else {}
    new: Attributes = after.attributes if after else {}
    return frozenset(name for name in {*old, *new} if _keys(name, old.get(name, ())) != _keys(name, new.get(name, ())))


def _keys(name: str, values: tuple[str, ...]) -> set[str]:
    return set(values) if name in SECRET else {schema.value_key(name, value) for value in values}


def _of_oneself(before: Entry, after: Entry, changed: frozenset[str]) -> str:
    other = changed - OF_ONESELF
    if other:
        return f"{schema.spelling(min(other))} is not yours to change"
    if (schema.modes(before.attributes) ^ schema.modes(after.attributes)) - {"reply", "noreply"}:
        return "of deliveryMode only reply is yours to change"
    return ""


def _of_domain(who: Identity, before: Entry | None, after: Entry | None, changed: frozenset[str]) -> str:
    """What a domain administrator may do to others."""
    for entry in (before, after):
        if entry is None:
            continue
        if not any(within(entry.name, place) for place in who.places):
            return "not in a domain of yours"
        if entry.has_class("qmailDomain"):
            if before is not None and after is not None and before.name.key == after.name.key:
                other = changed - _OF_DOMAINS
                return f"{schema.spelling(min(other))} of a domain is the operators'" if other else ""
            return "domains are the operators'"
        if not administered(entry.attributes) <= set(who.domains):
            return "administers more than you do"
    if after is None:
        return ""
    other = changed - _OF_DOMAIN_ADMINISTRATORS
    if other and not (other == {"mailmessagestore"} and _usual_store(after)):
        return f"{schema.spelling(min(other))} is the operators' to set"
    if not {fold(value) for value in after.values("objectclass")} <= _CLASSES:
        return "only people, aliases and groups"
    for name in schema.ADDRESS_ATTRIBUTES:
        for value in after.values(name):
            if addresses.key(value.strip()).rpartition("@")[2] not in who.domains:
                return f"{value} is not in a domain of yours"
    if "qmailplanname" in changed and not {fold(one) for one in after.values("qmailplanname")} <= who.plans:
        return "not a plan that is named for your domains"
    if "program" in schema.modes(after.attributes) - (schema.modes(before.attributes) if before else frozenset()):
        return "deliveryMode program is the operators' to set"
    return ""


def _usual_store(entry: Entry) -> bool:
    """Whether the entry's mail is where it would be had the entry not said so."""
    try:
        usual = addresses.maildir(entry.value("mail"))
    except addresses.BadAddress:
        return False
    return all(value.rstrip("/") == usual for value in entry.values("mailmessagestore"))
