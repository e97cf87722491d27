"""
What the directory's entries mean for mail: attributes become L{Mailbox}, L{Alias}, L{Group} and L{Domain}.

Pure, and the same whether they came from the store or over the wire from any LDAP server. What an external directory
holds may be of any shape: a value that is not of its attribute's form counts as absent, but for what would lead mail to
a wrong place, which is L{Temporary}.

A limit that a user has no value of its own for comes from the user's plan, else from the domain's plan, else from the
domain: L{recipient} is given these as C{inherited}, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable

from qmailpy.directory import address as addresses
from qmailpy.directory import schema
from qmailpy.directory.names import fold
from qmailpy.directory.schema import MISCONFIGURED, Attributes
from qmailpy.errors import Temporary
from qmailpy.values import FEATURES, Alias, AutoReply, Domain, Group, Mailbox

LOOKUP_ATTRIBUTES = (
    *("objectClass", "mail", "mailMessageStore", "accountStatus", "deliveryMode", "mailForwardingAddress"),
    *("mailQuotaSize", "mailQuotaCount", "mailSizeMax", "qmailSendsADay", "qmailFeature", "qmailPlanName"),
    *("mailHost", "popServer", "qmailDotMode", "qmailSubfolders"),
    *("mailReplyText", "qmailReplySubject", "qmailReplyDays", "qmailReplyBegin", "qmailReplyEnd"),
    *("dnmember", "member", "rfc822member", "membersonly", "qmailPosters", "dnsender", "rfc822sender"),
    "qmailGroupOwner",
)
"""What L{recipient} needs to see of an entry."""

DOMAIN_ATTRIBUTES = (
    *("associatedDomain", "accountStatus", "mailCatchAllAddress", "mailHost", "popServer", "qmailDomainQuota"),
    *("qmailPlanName", "mailQuotaSize", "mailQuotaCount", "mailSizeMax", "qmailSendsADay", "qmailFeature"),
    "qmailSubfolders",
)
"""What L{domain} needs to see of an entry, and what its users inherit."""

PLAN_ATTRIBUTES = (
    *("cn", "mailQuotaSize", "mailQuotaCount", "mailSizeMax", "qmailSendsADay", "qmailFeature"),
    "qmailSubfolders",
)
"""What users inherit of a plan."""

PLANS = "plans"
"""C{ou=plans,BASE} holds the service plans."""

SERVERS = "servers"
"""C{ou=servers,BASE} holds the nodes."""


def first(attributes: Attributes, name: str) -> str:
    """The first value of an attribute (lower case), or ""."""
    return next(iter(attributes.get(name, ())), "")


def has_class(attributes: Attributes, name: str) -> bool:
    """Whether C{name} (lower case) is among the object classes."""
    return any(value.lower() == name for value in attributes.get("objectclass", ()))


def domain_of(attributes: Attributes) -> str:
    """The domain an address entry belongs to: that of its main address."""
    return first(attributes, "mail").lower().rpartition("@")[2]


def plan_of(attributes: Attributes) -> str:
    """The name of the plan an entry refers to, as plans are looked up by; "" for none."""
    return fold(first(attributes, "qmailplanname"))


def inherits(attributes: Attributes) -> bool:
    """Whether L{recipient} wants to know of domain and plans: only a mailbox does."""
    return not has_class(attributes, "qmailgroup") and not schema.forwards_only(attributes)


def dns(attributes: Attributes) -> tuple[str, ...]:
    """The names of entries whose addresses L{recipient} wants to know: members and senders of a group."""
    if not has_class(attributes, "qmailgroup"):
        return ()
    return tuple(dict.fromkeys(one for name in ("dnmember", "member", "dnsender") for one in attributes.get(name, ())))


def recipient(
    attributes: Attributes,
    *inherited: Attributes,
    addresses_of: dict[str, str] | None = None,
) -> Mailbox | Alias | Group | None:
    """
    What mail for an entry with an address means.

    @param inherited: the user's plan, the domain's plan and the domain, as far as there are such.
    @param addresses_of: the address of each of L{dns}; who is missing there gets nothing.
    @raise Temporary: the entry names a store outside the mail directory: somebody must mend it, mail waits.
    """
    address = first(attributes, "mail").lower()
    state = schema.status(attributes)
    if not address or state == "deleted":
        return None
    if has_class(attributes, "qmailgroup"):
        if state == "disabled":
            return _mailbox(address, attributes, (), ())
        return _group(address, attributes, addresses_of or {})
    modes = schema.modes(attributes)
    forwards = () if "noforward" in modes else tuple(_targets(attributes.get("mailforwardingaddress", ())))
    if schema.forwards_only(attributes):
        if state == "disabled":
            return _mailbox(address, attributes, (), ())
        return Alias(address=address, targets=forwards)
    return _mailbox(address, attributes, forwards, inherited)


def _mailbox(
    address: str, attributes: Attributes, forwards: tuple[str, ...], inherited: tuple[Attributes, ...]
) -> Mailbox:
    path = first(attributes, "mailmessagestore").rstrip("/")
    try:
        path = path or addresses.maildir(address)
    except addresses.BadAddress as problem:
        raise Temporary(MISCONFIGURED, f"the entry of {address!r} has no usable address: {problem}") from None
    if not addresses.safe_path(path):
        raise Temporary(MISCONFIGURED, f"mailMessageStore of {address!r} is not below the mail directory: {path!r}")
    sources = (attributes, *inherited)
    state = schema.status(attributes)
    features = _features(sources)
    return Mailbox(
        address=address,
        path=path,
        active=state != "disabled",
        status=state,
        quota_octets=_number(sources, "mailquotasize"),
        quota_messages=_number(sources, "mailquotacount"),
        size_octets=_number(sources, "mailsizemax"),
        sends_a_day=_number(sources, "qmailsendsaday"),
        forwards=forwards if "forwarding" in features else (),
        host=_host(sources, "mailhost"),
        pop_host=_host(sources, "popserver"),
        plan=next((found for found in map(plan_of, sources) if found), ""),
        features=features,
        auto_reply=_auto_reply(attributes) if "autoreply" in features else None,
        subfolders=_first_of(sources, "qmailsubfolders").upper() == "TRUE",
        dot_qmail=_dot_qmail(attributes),
    )


def _first_of(sources: Iterable[Attributes], name: str) -> str:
    return next((found for found in (first(source, name) for source in sources) if found), "")


def _number(sources: Iterable[Attributes], name: str) -> int:
    for source in sources:
        value = first(source, name)
        if value.isascii() and value.isdigit() and len(value) <= 18:
            return int(value)
    return 0


def _host(sources: Iterable[Attributes], name: str) -> str:
    return _first_of(sources, name).strip().rstrip(".").lower()


def _features(sources: Iterable[Attributes]) -> frozenset[str]:
    for source in sources:
        named = source.get("qmailfeature")
        if named:
            return frozenset(map(fold, named)) & FEATURES
    return FEATURES


def _dot_qmail(attributes: Attributes) -> bool:
    mode = fold(first(attributes, "qmaildotmode"))
    return mode in ("dotonly", "both") or (not mode and "program" in schema.modes(attributes))


def answers(attributes: Attributes) -> bool:
    """Whether an entry answers by itself, in the time set for it."""
    return "reply" in schema.modes(attributes) and bool(first(attributes, "mailreplytext").strip())


def _auto_reply(attributes: Attributes) -> AutoReply | None:
    text = first(attributes, "mailreplytext")
    if not answers(attributes):
        return None
    subject = first(attributes, "qmailreplysubject")
    if text.startswith("%HEADER%"):  # qmail-ldap: the text brings header lines of its own, up to an empty line
        lines = text.removeprefix("%HEADER%").lstrip("\r\n").splitlines()
        end = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
        for line in lines[:end]:
            name, _, value = line.partition(":")
            if name.strip().lower() == "subject" and not subject:
                subject = value.strip()
        text = "\n".join(lines[end + 1 :])
    days = first(attributes, "qmailreplydays")
    return AutoReply(
        text=text,
        subject=subject,
        days=int(days) if days.isascii() and days.isdigit() and len(days) < 6 else 7,
        begins=_moment(first(attributes, "qmailreplybegin")),
        ends=_moment(first(attributes, "qmailreplyend")),
    )


def _moment(value: str) -> float:
    try:
        return schema.time_of(value) if value else 0.0
    except ValueError:
        return 0.0


def _group(address: str, attributes: Attributes, addresses_of: dict[str, str]) -> Group:
    def people(plain: str, *by_name: str) -> tuple[str, ...]:
        named = (addresses_of.get(one, "") for name in by_name for one in attributes.get(name, ()))
        return tuple(dict.fromkeys((*_targets(attributes.get(plain, ())), *(one for one in named if one))))

    posters = fold(first(attributes, "qmailposters"))
    if posters not in schema.POSTERS:
        # What cannot be read must not open a group to everybody.
        closed = bool(posters) or first(attributes, "membersonly").upper() == "TRUE"
        posters = "members" if closed else "anyone"
    return Group(
        address=address,
        members=people("rfc822member", "dnmember", "member"),
        posters=posters,
        listed=people("rfc822sender", "dnsender"),
        owner=next(iter(_targets(attributes.get("qmailgroupowner", ()))), ""),
    )


def _targets(values: Iterable[str]) -> Iterable[str]:
    for value in values:
        try:
            yield schema.forward(value)
        except addresses.BadAddress:
            continue  # an external directory may hold anything; what is no address cannot be sent to


def domain(attributes: Attributes) -> Domain | None:
    """What a domain entry means; C{None} for one that is deleted."""
    name = first(attributes, "associateddomain").lower()
    state = schema.status(attributes)
    if not name or state == "deleted":
        return None
    return Domain(
        name=name,
        active=state != "disabled",
        catch_all=next(iter(_targets(attributes.get("mailcatchalladdress", ()))), ""),
        quota_octets=_number((attributes,), "qmaildomainquota"),
        plan=plan_of(attributes),
        host=_host((attributes,), "mailhost"),
    )


def may_log_in(attributes: Attributes) -> bool:
    """Whether the right password opens this mailbox; what for, the mailbox's status and features say."""
    return (
        schema.status(attributes) in ("active", "nopop")
        and not schema.forwards_only(attributes)
        and not has_class(attributes, "qmailgroup")
    )
