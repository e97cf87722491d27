"""
What is wrong with a whole directory: references that lead nowhere, what is there twice, circles, entries that mail
cannot use.

Pure: every entry is shown to an L{Audit} once, in any order; then it tells. It keeps an address and a path for each
user.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import meaning, names, schema
from qmailpy.directory.names import fold
from qmailpy.directory.schema import Entry, Invalid


@frozen(kw_only=True)
class Finding:
    """Something that somebody should look at."""

    code: str  # for scripts: "invalid", "duplicate", "dangling", "loop", "misplaced", "useless", "homeless"
    subject: str  # an address, a domain or an entry's name
    problem: str
    remedy: str
    severe: bool = True  # false: mail works all the same


@frozen
class _Reference:
    subject: str
    kind: str  # "plan", "domain", "host" or "entry"
    value: str
    remedy: str


class Audit:
    """Sees the entries, then tells."""

    def __init__(self, hosts: frozenset[str] = frozenset()) -> None:
        """@param hosts: our own names, beside those of the directory's nodes."""
        self._hosts = set(hosts)
        self._nodes = False  # whether the directory names nodes at all
        self._names: set[str] = set()
        self._owners: dict[str, str] = {}  # address: main address
        self._stores: dict[str, str] = {}  # Maildir: main address
        self._domains: dict[str, tuple[str, str]] = {}  # name: tree key of its entry, catch-all
        self._places: list[tuple[str, str]] = []  # main address, tree key
        self._plans: set[str] = set()
        self._leads: dict[str, tuple[str, ...]] = {}  # alias or group: where to
        self._copies: dict[str, tuple[str, ...]] = {}  # user: who gets copies
        self._references: list[_Reference] = []
        self._found: list[Finding] = []

    @property
    def mailboxes(self) -> dict[str, str]:
        """Maildir (relative to HOME/mail): the main address of its user; of those stored here."""
        return self._stores

    def see(self, entry: Entry) -> None:
        """Look at an entry."""
        self._names.add(entry.name.key)
        subject = entry.value("mail") or entry.value("associatedDomain") or str(entry.name)
        try:
            schema.checked(entry)
        except Invalid as problem:
            self._tell("invalid", subject, str(problem), "change it with an LDAP tool")
        if entry.has_class("qmailDomain"):
            self._domain(entry)
        elif entry.has_class("qmailPlan"):
            self._plan(entry)
        elif entry.has_class("qmailServer"):
            self._nodes = True
            self._hosts.add(entry.value("cn").lower())
        elif entry.has_class("qmailUser") or entry.has_class("qmailGroup"):
            self._addressed(entry)

    def _tell(self, code: str, subject: str, problem: str, remedy: str, *, severe: bool = True) -> None:
        self._found.append(Finding(code=code, subject=subject, problem=problem, remedy=remedy, severe=severe))

    def _refer(self, subject: str, kind: str, values: tuple[str, ...], remedy: str) -> None:
        self._references += [_Reference(subject, kind, value, remedy) for value in values]

    def _domain(self, entry: Entry) -> None:
        name = entry.value("associatedDomain").lower()
        if name in self._domains:
            self._tell("duplicate", name, "is there twice", f"delete one of the entries, as {entry.name}")
            return
        self._domains[name] = (entry.name.key, entry.value("mailCatchAllAddress"))
        remedy = f"qmailpy domain set {name} plan=ANOTHER, or make it: qmailpy plan add NAME"
        self._refer(name, "plan", entry.values("qmailPlanName"), remedy)
        self._refer(name, "plan", entry.values("qmailDomainPlan"), f"qmailpy domain set {name} plans=OTHERS")
        self._hosts_of(entry, name, "domain")

    def _plan(self, entry: Entry) -> None:
        name = fold(entry.value("cn"))
        if name in self._plans:
            self._tell("duplicate", str(entry.name), f"the plan {name} is there twice", "delete one of the entries")
        self._plans.add(name)

    def _hosts_of(self, entry: Entry, subject: str, word: str) -> None:
        for attribute, key in (("mailHost", "host"), ("popServer", "pop-host"), ("smtpServer", "smtp-host")):
            remedy = f"qmailpy {word} set {subject} {key}=ANOTHER, or make it: qmailpy server add NAME"
            self._refer(subject, "host", entry.values(attribute), remedy)

    def _addressed(self, entry: Entry) -> None:
        mail = addresses.key(entry.value("mail"))
        for attribute in schema.ADDRESS_ATTRIBUTES:
            for value in entry.values(attribute):
                address = addresses.key(value)
                other = self._owners.setdefault(address, mail)
                again = attribute == "mail" and (address in self._leads or address in self._copies)
                if other != mail or again:
                    problem = f"belongs to {other} and to {entry.name}"
                    self._tell("duplicate", address, problem, "take it from one of them")
        if schema.status(entry.attributes) == "deleted":
            return
        self._places.append((mail, entry.name.key))
        if entry.has_class("qmailGroup"):
            self._group(entry, mail)
            return
        forwards = tuple(addresses.key(one) for one in entry.values("mailForwardingAddress"))
        if schema.forwards_only(entry.attributes):
            self._leads[mail] = forwards
            return
        self._copies[mail] = forwards
        self._refer(mail, "plan", entry.values("qmailPlanName"), f"qmailpy user set {mail} plan=ANOTHER")
        self._hosts_of(entry, mail, "user")
        administered = tuple(one for one in entry.values("qmailAdministers") if one != "*")
        self._refer(mail, "domain", administered, f"qmailpy role set {mail} DOMAIN...")
        if "reply" in schema.modes(entry.attributes) and not meaning.answers(entry.attributes):
            remedy = f"qmailpy user vacation {mail} --text-file FILE, or --off"
            self._tell("useless", mail, "is to answer by itself, but there is no text", remedy, severe=False)
        self._store(entry, mail)

    def _store(self, entry: Entry, mail: str) -> None:
        try:
            path = entry.value("mailMessageStore").rstrip("/") or addresses.maildir(mail)
        except addresses.BadAddress:
            return  # told as invalid
        other = self._stores.setdefault(path, mail)
        if other != mail:
            remedy = f"qmailpy user set {mail} store=ANOTHER"
            self._tell("duplicate", mail, f"has the same Maildir as {other}: {path}", remedy)

    def _group(self, entry: Entry, mail: str) -> None:
        self._leads[mail] = tuple(addresses.key(one) for one in entry.values("rfc822member"))
        for attribute in ("dnmember", "member", "dnsender"):
            self._refer(mail, "entry", entry.values(attribute), f"take it away with an LDAP tool: {attribute}")
        if not self._leads[mail] and not entry.values("dnmember") and not entry.values("member"):
            remedy = f"qmailpy group member add {mail} ADDRESS"
            self._tell("useless", mail, "is a group without members", remedy, severe=False)
        owner = entry.value("qmailGroupOwner")
        if owner:
            self._copies[mail + " owner"] = (addresses.key(owner),)

    def findings(self) -> list[Finding]:
        """Everything that was found, by subject."""
        return sorted([*self._found, *self._dangling(), *self._circles()], key=lambda one: (one.subject, one.code))

    def _dangling(self) -> Iterator[Finding]:
        known = {"plan": self._plans, "domain": self._domains, "host": self._hosts, "entry": self._names}
        for one in self._references:
            if one.kind == "host" and not self._nodes:
                continue  # nodes need not be in the directory; when some are, all should be
            value = _key(one.kind, one.value)
            if value not in known[one.kind]:
                word = {"host": "server"}.get(one.kind, one.kind)
                problem = f"refers to the {word} {one.value}, which is not there"
                yield Finding(code="dangling", subject=one.subject, problem=problem, remedy=one.remedy)
        for mail, key in self._places:
            place = self._domains.get(mail.rpartition("@")[2])
            if place is None:
                remedy = f"qmailpy domain add {mail.rpartition('@')[2]}"
                problem = "its domain is not here: it gets no mail"
                yield Finding(code="dangling", subject=mail, problem=problem, remedy=remedy)
            elif not (key + names.SEPARATOR).startswith(place[0] + names.SEPARATOR):
                yield Finding(
                    code="misplaced",
                    subject=mail,
                    problem="is not below its domain's entry: its domain administrators do not see it",
                    remedy="move it with ldapmodrdn",
                    severe=False,
                )
        for name, (_, catch_all) in self._domains.items():
            if catch_all and not self._reached(addresses.key(catch_all), catching=False):
                remedy = f"qmailpy domain set {name} catch-all=ANOTHER"
                yield Finding(code="dangling", subject=name, problem=f"nobody is {catch_all}", remedy=remedy)
        for source, words in ((self._leads, "leads to"), (self._copies, "sends copies to")):
            for mail, targets in source.items():
                subject = mail.removesuffix(" owner")
                for target in targets:
                    if not self._reached(target):
                        problem = f"{words if subject == mail else 'is owned by'} {target}, which is nobody"
                        remedy = f"change it, or make it: qmailpy user add {target}"
                        yield Finding(code="dangling", subject=subject, problem=problem, remedy=remedy)

    def _reached(self, address: str, *, catching: bool = True) -> bool:
        """Whether somebody gets mail for an address, as far as we can tell."""
        local, _, domain = address.rpartition("@")
        if domain not in self._domains or local == addresses.POSTMASTER or address in self._owners:
            return True
        if f"{local.partition('+')[0]}@{domain}" in self._owners:
            return True
        return catching and bool(self._domains[domain][1])

    def _circles(self) -> Iterator[Finding]:
        """Aliases and groups that lead back to themselves, each circle once."""
        done: set[str] = set()
        for start in self._leads:
            path: list[str] = []
            at: dict[str, int] = {}
            stack: list[tuple[str, Iterator[str]]] = []
            todo: str | None = start
            while todo is not None or stack:
                if todo is not None:
                    if todo not in done:
                        at[todo] = len(path)
                        path.append(todo)
                        stack.append((todo, iter(self._leads[todo])))
                    todo = None
                    continue
                node, targets = stack[-1]
                target = next((self._owners.get(one, one) for one in targets), None)
                if target is None:
                    stack.pop()
                    path.pop()
                    del at[node]
                    done.add(node)
                elif target in at:
                    circle = path[at[target] :]
                    yield Finding(
                        code="loop",
                        subject=min(circle),
                        problem="leads back to itself: " + " -> ".join((*circle, target)),
                        remedy=f"take {target} out of {node}",
                    )
                elif target in self._leads:
                    todo = target


def _key(kind: str, value: str) -> str:
    if kind == "entry":
        try:
            return names.parse(value).key
        except names.BadName:
            return value
    if kind == "host":
        return value.partition(":")[0].lower()
    return fold(value)
