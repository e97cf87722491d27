"""
C{KEY=VALUE}: the attributes of users, domains, plans and groups as administrators write and read them.

Pure. One table a kind of entry; the commands C{add}, C{set} and C{show}, and the columns of C{user import|export}, are
made of it. An empty value removes the attribute, so that what a plan or a domain says counts again.

What a person got wrong is a L{CommandError}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from attrs import frozen

from qmailpy.directory import meaning, schema
from qmailpy.directory.schema import STATUSES, Entry
from qmailpy.directory.tree import Values, read_domain, read_own, read_target
from qmailpy.errors import CommandError
from qmailpy.values import FEATURES

Plain = int | str | bool | list[str] | None
"""A value as JSON has it."""


@frozen(kw_only=True)
class Key:
    """A key: what it is called, where it is kept, how it is read and shown."""

    name: str
    attribute: str  # lower case
    read: Callable[[str], tuple[str, ...]]  # of what is not empty
    show: Callable[[Sequence[str]], Plain]  # of values that are there
    help: str
    inherited: bool = False  # whether plan and domain have it, too


def _one(values: Sequence[str]) -> Plain:
    return values[0]


def _all(values: Sequence[str]) -> Plain:
    return list(values)


def _number(values: Sequence[str]) -> Plain:
    return int(values[0]) if values[0].isascii() and values[0].isdigit() else values[0]


def _truth(values: Sequence[str]) -> Plain:
    return values[0].upper() == "TRUE"


def _text(value: str) -> tuple[str, ...]:
    return (value,)


def _words(value: str) -> list[str]:
    return value.replace(",", " ").split()


def _addresses(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(read_target, _words(value))))


def _own_addresses(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(read_own, _words(value))))


def _domains(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(read_domain, _words(value))))


def size(text: str) -> int:
    """Octets, with K, M, G or T behind the number for multiples of 1024. @raise CommandError: it is none."""
    short = text.strip().upper().removesuffix("B").removesuffix("I")
    shift = {"K": 10, "M": 20, "G": 30, "T": 40}.get(short[-1:], 0)
    number = short[:-1] if shift else short
    if not (number.isascii() and number.isdigit() and len(number) <= 15):
        raise CommandError(f"{text!r} is no size; right would be as in 500M or 2G (0 = no limit)")
    return min(int(number) << shift, 10**17)


def _size(value: str) -> tuple[str, ...]:
    return (str(size(value)),)


def _count(value: str) -> tuple[str, ...]:
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise CommandError(f"{value!r} is no number; 0 = no limit")
    return (str(int(value)),)


def _flag(value: str) -> tuple[str, ...]:
    word = value.lower()
    if word not in ("yes", "no"):
        raise CommandError(f"{value!r} is neither yes nor no")
    return ("TRUE" if word == "yes" else "FALSE",)


def _choice(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    def read(value: str) -> tuple[str, ...]:
        if value.lower() not in allowed:
            raise CommandError(f"{value!r} is not one of {', '.join(allowed)}")
        return (value.lower(),)

    return read


def _features(value: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.lower() for word in _words(value)))
    known = {*FEATURES, "none"}
    for word in found:
        if word not in known:
            raise CommandError(
                f"{word!r} is no feature; there are {', '.join(sorted(FEATURES))}; none for none of them"
            )
    return found


def _dot(value: str) -> tuple[str, ...]:
    return ("both",) if _flag(value) == ("TRUE",) else ("none",)


def moment(text: str) -> float:
    """
    Seconds since the epoch of a day or a time, in UTC.

    @raise CommandError: it is neither.
    """
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y%m%d%H%M%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise CommandError(f"{text!r} is no time; right would be 2026-12-24 or 2026-12-24T18:00, in UTC")


_LIMITS = (
    Key(name="quota", attribute="mailquotasize", read=_size, show=_number, help="most octets of mail", inherited=True),
    Key(name="messages", attribute="mailquotacount", read=_count, show=_number, help="most messages", inherited=True),
    Key(
        name="size", attribute="mailsizemax", read=_size, show=_number, help="octets of a message, most", inherited=True
    ),
    Key(
        name="sends",
        attribute="qmailsendsaday",
        read=_count,
        show=_number,
        help="recipients in 24 hours, most",
        inherited=True,
    ),
    Key(
        name="features",
        attribute="qmailfeature",
        read=_features,
        show=_all,
        help="what may be used: " + ", ".join(sorted(FEATURES)) + "; or none",
        inherited=True,
    ),
    Key(
        name="subfolders",
        attribute="qmailsubfolders",
        read=_flag,
        show=_truth,
        help="user+tag goes to the folder tag: yes or no",
        inherited=True,
    ),
)
_PLAN = Key(name="plan", attribute="qmailplanname", read=_text, show=_one, help="the service plan", inherited=True)
_HOSTS = (
    Key(name="host", attribute="mailhost", read=_text, show=_one, help="the node that stores the mail", inherited=True),
    Key(
        name="pop-host",
        attribute="popserver",
        read=_text,
        show=_one,
        help="the node that serves POP3, if another",
        inherited=True,
    ),
    Key(
        name="smtp-host",
        attribute="smtpserver",
        read=_text,
        show=_one,
        help="the node mail is submitted to, for people",
        inherited=True,
    ),
)
_STATUS = Key(
    name="status", attribute="accountstatus", read=_choice(*STATUSES), show=_one, help="one of " + ", ".join(STATUSES)
)
_DESCRIPTION = Key(name="description", attribute="description", read=_text, show=_one, help="for people")
_ALIASES = Key(
    name="aliases",
    attribute="mailalternateaddress",
    read=_own_addresses,
    show=_all,
    help="further addresses, with commas between",
)

USER = (
    Key(name="name", attribute="cn", read=_text, show=_one, help="the person's name"),
    _STATUS,
    _ALIASES,
    Key(
        name="forward",
        attribute="mailforwardingaddress",
        read=_addresses,
        show=_all,
        help="who gets copies, with commas between",
    ),
    _PLAN,
    *_LIMITS,
    *_HOSTS,
    Key(
        name="dot-qmail",
        attribute="qmaildotmode",
        read=_dot,
        show=lambda values: values[0].lower() in ("both", "dotonly"),
        help="dot-qmail files decide: yes or no",
    ),
    Key(name="store", attribute="mailmessagestore", read=_text, show=_one, help="Maildir below HOME/mail"),
    Key(name="language", attribute="preferredlanguage", read=_text, show=_one, help="of the person"),
    _DESCRIPTION,
)
DOMAIN = (
    Key(name="status", attribute="accountstatus", read=_choice("active", "disabled"), show=_one, help="or disabled"),
    Key(
        name="catch-all",
        attribute="mailcatchalladdress",
        read=lambda value: (read_target(value),),
        show=_one,
        help="who gets mail for unknown users",
    ),
    Key(
        name="total",
        attribute="qmaildomainquota",
        read=_size,
        show=_number,
        help="octets of all mailboxes together, most",
    ),
    _PLAN,
    Key(
        name="plans",
        attribute="qmaildomainplan",
        read=lambda value: tuple(dict.fromkeys(_words(value))),
        show=_all,
        help="plans its administrators may give, with commas between",
    ),
    *_LIMITS,
    *_HOSTS,
    _DESCRIPTION,
)
PLAN = (*_LIMITS, _DESCRIPTION)
GROUP = (
    Key(
        name="posters",
        attribute="qmailposters",
        read=_choice(*schema.POSTERS),
        show=_one,
        help="who may write: " + ", ".join(schema.POSTERS),
    ),
    Key(
        name="listed",
        attribute="rfc822sender",
        read=_addresses,
        show=_all,
        help="who may write besides, with commas between",
    ),
    Key(
        name="owner",
        attribute="qmailgroupowner",
        read=lambda value: (read_target(value),),
        show=_one,
        help="who is told of members that cannot be reached",
    ),
    _STATUS,
    _ALIASES,
    _DESCRIPTION,
)
SERVER = (
    Key(
        name="roles",
        attribute="qmailserverrole",
        read=lambda value: tuple(one for word in _words(value) for one in _choice("store", "pop", "smtp")(word)),
        show=_all,
        help="store, pop, smtp, with commas between",
    ),
    _DESCRIPTION,
)


def read(keys: Sequence[Key], settings: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """
    What C{KEY=VALUE} words come to.

    @raise CommandError: one is not of that form, not a key, or its value is none.
    """
    known = {key.name: key for key in keys}
    values: dict[str, tuple[str, ...]] = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals:
            raise CommandError(f"{word!r} is not of the form KEY=VALUE; the keys: {', '.join(known)}")
        key = known.get(name.strip().lower())
        if key is None:
            raise CommandError(f"there is no key {name!r}; the keys: {', '.join(known)}")
        try:
            values[key.attribute] = key.read(value.strip()) if value.strip() else ()
        except CommandError as problem:
            raise CommandError(f"{key.name}: {problem}") from None
    return values


def show(keys: Sequence[Key], entry: Entry, inherited: Sequence[Entry] = ()) -> dict[str, Plain]:
    """
    The values of an entry by key, those it has from others included; C{None} for what is nowhere.

    @param inherited: as L{meaning.recipient} takes it.
    """
    found: dict[str, Plain] = {}
    for key in keys:
        sources = (entry, *inherited) if key.inherited else (entry,)
        values = next((some for some in (one.values(key.attribute) for one in sources) if some), ())
        found[key.name] = key.show(values) if values else None
    return found


def origin(key: Key, entry: Entry, inherited: Sequence[Entry]) -> str:
    """Where the value of a key comes from: "" = the entry itself or nowhere."""
    if not key.inherited or entry.values(key.attribute):
        return ""
    for one in inherited:
        if one.values(key.attribute):
            return (
                f"plan {one.value('cn')}" if one.has_class("qmailPlan") else f"domain {one.value('associatedDomain')}"
            )
    return ""


_DAY_S = 86400


def answer(
    *, text: str | None, subject: str | None, days: int | None, begins: str | None, ends: str | None, now: Entry
) -> Values:
    """
    What to write so that an entry answers by itself; C{None} leaves a value as it is.

    @raise CommandError: there would be no text, or it would end before it begins.
    """
    values: dict[str, tuple[str, ...]] = {}
    given: Mapping[str, str | None] = {"mailreplytext": text, "qmailreplysubject": subject}
    for name, one in given.items():
        if one is not None:
            values[name] = (one,) if one.strip() else ()
    if days is not None:
        values["qmailreplydays"] = (str(days),)
    for name, when in (("qmailreplybegin", begins), ("qmailreplyend", ends)):
        if when is not None:
            values[name] = (schema.time_value(moment(when)),) if when else ()
    if ends and ":" not in ends and "Z" not in ends:
        # Who is away "to" a day is away on it, too.
        values["qmailreplyend"] = (schema.time_value(moment(ends) + _DAY_S - 1),)
    after = {**now.attributes, **values}
    if not meaning.first(after, "mailreplytext").strip():
        raise CommandError("there is no text to answer with; give one with --text-file")
    begin, end = meaning.first(after, "qmailreplybegin"), meaning.first(after, "qmailreplyend")
    if begin and end and schema.time_of(end) <= schema.time_of(begin):
        raise CommandError("it would end before it begins")
    modes = [mode for mode in now.values("deliveryMode") if mode.lower() not in ("reply", "noreply")]
    return {**values, "deliverymode": (*modes, "reply")}
