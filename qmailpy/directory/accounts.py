"""
Domains, users and aliases as an administrator speaks of them, over the store.

All of it blocks and is for commands and threads. What cannot be done is a L{CommandError} whose text is one line for
a person. The tree: C{dc=example.org,BASE} (domain, qmailDomain), below it C{uid=joe,...} (inetOrgPerson, qmailUser);
an alias of one user is a mailAlternateAddress there, any other alias an entry C{uid=NAME,...} that only forwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import evolve, frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import names, password, schema
from qmailpy.directory.filters import Equal, Filter
from qmailpy.directory.names import Name
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Scope, Store, StoreError
from qmailpy.errors import CommandError


@frozen(kw_only=True)
class User:
    """A mailbox, for people."""

    address: str
    status: str  # active, noaccess, disabled, deleted
    store: str  # Maildir relative to HOME/mail
    name: str = ""
    quota_octets: int = 0
    aliases: tuple[str, ...] = ()
    forwards: tuple[str, ...] = ()  # copies go there
    has_password: bool = False


@frozen(kw_only=True)
class AliasInfo:
    """An address that stands for others, for people."""

    address: str
    targets: tuple[str, ...]


@frozen(kw_only=True)
class DomainInfo:
    """A domain, for people."""

    name: str
    status: str
    catch_all: str
    users: int
    aliases: int


class Accounts:
    """The administrator's operations on a store."""

    def __init__(self, store: Store, base: str) -> None:
        """@param base: the name that everything is below, C{"o=qmailpy"}."""
        self.store = store
        self.base = names.parse(base)

    # Domains

    def thd_add_domain(self, domain: str, catch_all: str = "") -> str:
        """Add a domain; returns its name as stored."""
        name = _domain(domain)
        attributes = {"objectclass": ("top", "domain", "qmailDomain"), "associateddomain": (name,), "dc": (name,)}
        if catch_all:
            attributes["mailcatchalladdress"] = (_target(catch_all),)
        with _told(f"the domain {name} is there already"):
            self.store.thd_add(Entry(self._domain_name(name), attributes))
        return name

    def thd_domains(self) -> list[DomainInfo]:
        """All domains, by name."""
        found = self._search(self.base, Scope.ONE, Equal("objectclass", "qmailDomain"))
        return [self._info(entry) for entry in found]

    def thd_domain(self, domain: str) -> DomainInfo:
        """One domain."""
        return self._info(self._domain_entry(_domain(domain)))

    def thd_set_domain(self, domain: str, *, status: str | None = None, catch_all: str | None = None) -> None:
        """Change a domain; C{None} leaves a value, "" removes it."""
        name = self._domain_entry(_domain(domain)).name
        self._set(
            name,
            accountstatus=None if status is None else (status,) * bool(status),
            mailcatchalladdress=None if catch_all is None else (_target(catch_all),) if catch_all else (),
        )

    def thd_delete_domain(self, domain: str, *, force: bool = False) -> int:
        """Delete a domain; with users or aliases in it only by C{force}. Returns how many of these went with it."""
        name = _domain(domain)
        info = self._info(self._domain_entry(name))
        if info.users + info.aliases and not force:
            raise CommandError(f"{name} has {info.users} users and {info.aliases} aliases; --force deletes them too")
        with _told(""):
            return self.store.thd_delete(self._domain_name(name), subtree=True) - 1

    # Users

    def thd_add_user(
        self,
        address: str,
        *,
        secret: bytes | None = None,
        name: str = "",
        quota_octets: int = 0,
        forwards: Sequence[str] = (),
    ) -> User:
        """Add a mailbox; without C{secret} nobody can log in yet."""
        mail = _own(address)
        attributes = self._person(mail, name)
        attributes["mailmessagestore"] = (addresses.maildir(mail),)
        attributes["accountstatus"] = ("active",)
        attributes["mailquotasize"] = (str(quota_octets),) if quota_octets else ()
        attributes["mailforwardingaddress"] = tuple(_target(one) for one in forwards)
        if secret is not None:
            attributes["userpassword"] = _hashed(secret)
        with _told(f"{mail} is there already"):
            self.store.thd_add(Entry(self._free_name(mail), attributes))
        return self.thd_user(mail)

    def thd_users(self, domain: str = "") -> list[User]:
        """The users of a domain, or of all, by domain and name."""
        return [_user(entry) for entry in self._members(domain) if not schema.forwards_only(entry.attributes)]

    def thd_user(self, address: str) -> User:
        """One user, by any of its addresses."""
        return _user(self._user_entry(address))

    def thd_known(self, address: str) -> bool:
        """Whether C{address} is a user or an alias already."""
        with _told(""):
            return self.store.thd_by_address(_own(address)) is not None

    def thd_set_user(
        self,
        address: str,
        *,
        name: str | None = None,
        quota_octets: int | None = None,
        forwards: Sequence[str] | None = None,
        status: str | None = None,
    ) -> User:
        """Change a user; C{None} leaves a value as it is."""
        entry = self._user_entry(address)
        self._set(
            entry.name,
            cn=None if name is None else (name or entry.value("mail").partition("@")[0],),
            mailquotasize=None if quota_octets is None else (str(quota_octets),) * bool(quota_octets),
            mailforwardingaddress=None if forwards is None else tuple(_target(one) for one in forwards),
            accountstatus=None if status is None else (status,),
        )
        return self.thd_user(entry.value("mail"))

    def thd_set_password(self, address: str, secret: bytes) -> None:
        """Give a user another password; the old one is void at once."""
        entry = self._user_entry(address)
        self._set(entry.name, userpassword=_hashed(secret))

    def thd_delete_user(self, address: str) -> User:
        """Delete a user and its aliases; the mail stays on disk."""
        entry = self._user_entry(address)
        with _told(""):
            self.store.thd_delete(entry.name)
        return _user(entry)

    # Aliases

    def thd_add_alias(self, address: str, targets: Sequence[str]) -> AliasInfo:
        """
        Make C{address} stand for C{targets}.

        A single target that is a user here gets it as mailAlternateAddress, anything else is an entry that forwards.
        """
        alias = _own(address)
        self._domain_entry(alias.partition("@")[2])
        forwards = tuple(dict.fromkeys(_target(one) for one in targets))
        if not forwards:
            raise CommandError("an alias needs at least one target")
        if alias in {addresses.key(one) for one in forwards}:
            raise CommandError(f"{alias} cannot be its own target")
        with _told(f"{alias} is there already"):
            only = self.store.thd_by_address(addresses.key(forwards[0])) if len(forwards) == 1 else None
            if only is not None and not schema.forwards_only(only.attributes):
                self._set(only.name, mailalternateaddress=(*only.values("mailAlternateAddress"), alias))
            else:
                attributes = self._person(alias, "")
                attributes["deliverymode"] = ("forwardonly",)
                attributes["mailforwardingaddress"] = forwards
                self.store.thd_add(Entry(self._free_name(alias), attributes))
        return AliasInfo(address=alias, targets=forwards)

    def thd_aliases(self, domain: str = "") -> list[AliasInfo]:
        """The aliases that lead from a domain (or any): forwarding entries and alternate addresses."""
        wanted = _domain(domain) if domain else ""
        if wanted:
            self._domain_entry(wanted)
        found = [info for entry in self._members("") for info in _aliases(entry)]
        if wanted:
            found = [info for info in found if info.address.endswith("@" + wanted)]
        return sorted(found, key=lambda info: info.address.rpartition("@")[::-1])

    def thd_delete_alias(self, address: str) -> None:
        """Take an alias away."""
        alias = _own(address)
        entry = self.store.thd_by_address(alias)
        if entry is None:
            raise CommandError(f"there is no alias {alias}")
        if entry.value("mail") == alias:
            if not schema.forwards_only(entry.attributes):
                raise CommandError(f"{alias} is a user, not an alias")
            with _told(""):
                self.store.thd_delete(entry.name)
        else:
            rest = tuple(one for one in entry.values("mailAlternateAddress") if addresses.key(one) != alias)
            self._set(entry.name, mailalternateaddress=rest)

    # Helpers

    def _domain_name(self, domain: str) -> Name:
        return self.base.child("dc", domain)

    def _free_name(self, mail: str) -> Name:
        local, _, domain = mail.rpartition("@")
        self._domain_entry(domain)
        return self._domain_name(domain).child("uid", local)

    def _person(self, mail: str, name: str) -> dict[str, tuple[str, ...]]:
        local = mail.partition("@")[0]
        return {
            "objectclass": ("top", "inetOrgPerson", "qmailUser"),
            "uid": (local,),
            "cn": (name or local,),
            "sn": ((name or local).split()[-1],),
            "mail": (mail,),
        }

    def _domain_entry(self, domain: str) -> Entry:
        with _told(""):
            entry = next(iter(self.store.thd_by_key("associateddomain", domain)), None)
        if entry is None:
            raise CommandError(f"there is no domain {domain} here; make it with: qmailpy domain add {domain}")
        return entry

    def _user_entry(self, address: str) -> Entry:
        mail = _own(address)
        with _told(""):
            entry = self.store.thd_by_address(mail)
        if entry is None:
            raise CommandError(f"there is no user {mail}")
        if schema.forwards_only(entry.attributes):
            raise CommandError(f"{mail} is an alias, not a user")
        return entry

    def _members(self, domain: str) -> Iterator[Entry]:
        base = self._domain_entry(_domain(domain)).name if domain else self.base
        return self._search(base, Scope.SUBTREE, Equal("objectclass", "qmailUser"))

    def _search(self, base: Name, scope: Scope, what: Filter) -> Iterator[Entry]:
        after = ""
        while True:
            with _told(""):
                found, after = self.store.thd_search(base, scope, what, after, 1000)
            yield from found
            if not after:
                return

    def _info(self, entry: Entry) -> DomainInfo:
        members = [
            schema.forwards_only(member.attributes)
            for member in self._search(entry.name, Scope.SUBTREE, Equal("objectclass", "qmailUser"))
        ]
        return DomainInfo(
            name=entry.value("associatedDomain"),
            status=schema.status(entry.attributes),
            catch_all=entry.value("mailCatchAllAddress"),
            users=members.count(False),
            aliases=members.count(True),
        )

    def _set(self, name: Name, **values: tuple[str, ...] | None) -> None:
        wanted = {key: value for key, value in values.items() if value is not None}

        def change(entry: Entry) -> Entry:
            attributes = {**entry.attributes, **wanted}
            return evolve(entry, attributes={key: value for key, value in attributes.items() if value})

        with _told(""):
            self.store.thd_modify(name, change)


class _told:
    """Turns what the store refuses into a line for a person."""

    def __init__(self, exists: str) -> None:
        self._exists = exists

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, StoreError):
            conflict = problem.kind.name == "EXISTS" or (problem.kind.name == "CONFLICT" and self._exists)
            raise CommandError(self._exists if conflict and self._exists else str(problem)) from None


def _aliases(entry: Entry) -> Iterator[AliasInfo]:
    mail = entry.value("mail")
    if schema.forwards_only(entry.attributes):
        yield AliasInfo(address=mail, targets=entry.values("mailForwardingAddress"))
    for one in entry.values("mailAlternateAddress"):
        yield AliasInfo(address=one, targets=(mail,))


def _user(entry: Entry) -> User:
    mail = entry.value("mail")
    local = mail.partition("@")[0]
    return User(
        address=mail,
        status=schema.status(entry.attributes),
        store=entry.value("mailMessageStore") or addresses.maildir(mail),
        name=entry.value("cn") if entry.value("cn") != local else "",
        quota_octets=int(entry.value("mailQuotaSize") or 0),
        aliases=tuple(sorted(entry.values("mailAlternateAddress"))),
        forwards=entry.values("mailForwardingAddress"),
        has_password=bool(entry.values("userPassword")),
    )


def _hashed(secret: bytes) -> tuple[str, ...]:
    if not secret:
        raise CommandError("an empty password is not a password")
    if len(secret) > password.MOST:
        raise CommandError(f"a password may have {password.MOST} octets at most")
    return password.thd_stored(secret)


def _domain(text: str) -> str:
    try:
        return addresses.domain_key(text)
    except addresses.BadAddress as problem:
        raise CommandError(f"{text!r} is not a domain: {problem}") from None


def _own(text: str) -> str:
    try:
        result = addresses.own(text)
        addresses.maildir(result)
    except addresses.BadAddress as problem:
        raise CommandError(f"{text!r} is not an address: {problem}") from None
    return result


def _target(text: str) -> str:
    try:
        return addresses.target(text)
    except addresses.BadAddress as problem:
        raise CommandError(f"{text!r} is not an address: {problem}") from None
