"""
Domains, users and aliases as an administrator speaks of them, over the store.

All of it blocks and is for commands and threads. What cannot be done is a L{CommandError} whose text is one line for
a person. The tree: C{dc=example.org,BASE} (domain, qmailDomain), below it C{uid=joe,...} (inetOrgPerson, qmailUser);
an alias of one user is a mailAlternateAddress there, any other alias an entry C{uid=NAME,...} that only forwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from attrs import frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import password, schema
from qmailpy.directory.names import Name
from qmailpy.directory.operations import Login
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Store
from qmailpy.directory.tree import Tree, Values, read_domain, read_own, read_target, told
from qmailpy.errors import CommandError

NOTHING: Mapping[str, tuple[str, ...]] = {}
"""No further attributes."""


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
    plan: str = ""
    last_login: str = ""  # ISO 8601, to the hour; "" = never, or not known
    last_service: str = ""
    last_address: str = ""


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
    groups: int = 0
    plan: str = ""

    @property
    def members(self) -> int:
        """Everything below it."""
        return self.users + self.aliases + self.groups

    @property
    def held(self) -> str:
        """What it holds, for people."""
        groups = f" and {self.groups} groups" if self.groups else ""
        between = ", " if groups else " and "
        return f"{self.users} users{between}{self.aliases} aliases{groups}"


class Accounts:
    """The administrator's operations on a store."""

    def __init__(self, store: Store, base: str) -> None:
        """@param base: the name that everything is below, C{"o=qmailpy"}."""
        self.store = store
        self.tree = Tree(store, base)

    # Domains

    def thd_add_domain(self, domain: str, catch_all: str = "", values: Values = NOTHING) -> str:
        """Add a domain, with further attributes; returns its name as stored."""
        name = read_domain(domain)
        attributes = {"objectclass": ("top", "domain", "qmailDomain"), "associateddomain": (name,), "dc": (name,)}
        if catch_all:
            attributes["mailcatchalladdress"] = (read_target(catch_all),)
        self.tree.thd_plan_exists(values)
        entry = Entry(self.tree.domain_name(name), {**attributes, **values})
        self.tree.thd_add(entry, f"the domain {name} is there already")
        return name

    def thd_domains(self) -> list[DomainInfo]:
        """All domains, by name."""
        return [self._info(entry) for entry in self.tree.thd_of_class("qmailDomain")]

    def thd_domain(self, domain: str) -> DomainInfo:
        """One domain."""
        return self._info(self.tree.thd_domain(read_domain(domain)))

    def thd_set_domain(
        self, domain: str, *, status: str | None = None, catch_all: str | None = None, values: Values = NOTHING
    ) -> str:
        """Change a domain; C{None} leaves a value, "" removes it. Returns its name as stored."""
        entry = self.tree.thd_domain(read_domain(domain))
        self.tree.thd_plan_exists(values)
        self._set(
            entry.name,
            values,
            accountstatus=None if status is None else (status,) * bool(status),
            mailcatchalladdress=None if catch_all is None else (read_target(catch_all),) if catch_all else (),
        )
        return entry.value("associatedDomain")

    def thd_delete_domain(self, domain: str, *, force: bool = False) -> int:
        """Delete a domain; with users or aliases in it only by C{force}. Returns how many of these went with it."""
        name = read_domain(domain)
        info = self._info(self.tree.thd_domain(name))
        if info.members and not force:
            raise CommandError(f"{name} has {info.held}; --force deletes them too")
        with told():
            return self.store.thd_delete(self.tree.domain_name(name), subtree=True) - 1

    # Users

    def thd_add_user(
        self,
        address: str,
        *,
        secret: bytes | None = None,
        name: str = "",
        quota_octets: int = 0,
        forwards: Sequence[str] = (),
        values: Values = NOTHING,
    ) -> User:
        """Add a mailbox, with further attributes; without C{secret} nobody can log in yet."""
        mail = read_own(address)
        attributes = person(mail, name)
        attributes["mailmessagestore"] = (addresses.maildir(mail),)
        attributes["accountstatus"] = ("active",)
        attributes["mailquotasize"] = (str(quota_octets),) if quota_octets else ()
        attributes["mailforwardingaddress"] = tuple(read_target(one) for one in forwards)
        if secret is not None:
            attributes["userpassword"] = hashed(secret)
        self.tree.thd_plan_exists(values)
        given = {key: one for key, one in values.items() if one or key != "cn"}
        entry = Entry(self.tree.thd_place_of(mail), {**attributes, **given})
        self.tree.thd_add(entry, f"{mail} is there already")
        return self.thd_user(mail)

    def thd_users(self, domain: str = "") -> list[User]:
        """The users of a domain, or of all, by domain and name."""
        found = [entry for entry in self.thd_members(domain) if not schema.forwards_only(entry.attributes)]
        with told():
            logins = self.store.thd_logins([entry.name for entry in found])
        return [_user(entry, logins.get(entry.name.key)) for entry in found]

    def thd_user(self, address: str) -> User:
        """One user, by any of its addresses."""
        entry = self.thd_user_entry(address)
        with told():
            return _user(entry, self.store.thd_logins([entry.name]).get(entry.name.key))

    def thd_known(self, address: str) -> bool:
        """Whether C{address} is a user or an alias already."""
        with told():
            return self.store.thd_by_address(read_own(address)) is not None

    def thd_set_user(
        self,
        address: str,
        *,
        name: str | None = None,
        quota_octets: int | None = None,
        forwards: Sequence[str] | None = None,
        status: str | None = None,
        values: Values = NOTHING,
    ) -> User:
        """Change a user; C{None} leaves a value as it is, () of C{values} removes it."""
        entry = self.thd_user_entry(address)
        self.tree.thd_plan_exists(values)
        if values.get("cn") == ():
            values = {**values, "cn": (entry.value("mail").partition("@")[0],)}  # inetOrgPerson cannot be without
        self._set(
            entry.name,
            values,
            cn=None if name is None else (name or entry.value("mail").partition("@")[0],),
            mailquotasize=None if quota_octets is None else (str(quota_octets),) * bool(quota_octets),
            mailforwardingaddress=None if forwards is None else tuple(read_target(one) for one in forwards),
            accountstatus=None if status is None else (status,),
        )
        return self.thd_user(entry.value("mail"))

    def thd_set_password(self, address: str, secret: bytes) -> None:
        """Give a user another password; the old one is void at once."""
        entry = self.thd_user_entry(address)
        self._set(entry.name, NOTHING, userpassword=hashed(secret))

    def thd_delete_user(self, address: str) -> User:
        """Delete a user and its aliases; the mail stays on disk."""
        entry = self.thd_user_entry(address)
        with told():
            self.store.thd_delete(entry.name)
        return _user(entry)

    # Aliases

    def thd_add_alias(self, address: str, targets: Sequence[str]) -> AliasInfo:
        """
        Make C{address} stand for C{targets}.

        A single target that is a user here gets it as mailAlternateAddress, anything else is an entry that forwards.
        """
        alias = read_own(address)
        self.tree.thd_domain(alias.partition("@")[2])
        forwards = tuple(dict.fromkeys(read_target(one) for one in targets))
        if not forwards:
            raise CommandError("an alias needs at least one target")
        if alias in {addresses.key(one) for one in forwards}:
            raise CommandError(f"{alias} cannot be its own target")
        with told(f"{alias} is there already"):
            only = self.store.thd_by_address(addresses.key(forwards[0])) if len(forwards) == 1 else None
            plain = only is not None and not only.has_class("qmailGroup")
            if only is not None and plain and not schema.forwards_only(only.attributes):
                self._set(only.name, NOTHING, mailalternateaddress=(*only.values("mailAlternateAddress"), alias))
            else:
                attributes = person(alias)
                attributes["deliverymode"] = ("forwardonly",)
                attributes["mailforwardingaddress"] = forwards
                self.store.thd_add(Entry(self.tree.thd_place_of(alias), attributes))
        return AliasInfo(address=alias, targets=forwards)

    def thd_aliases(self, domain: str = "") -> list[AliasInfo]:
        """The aliases that lead from a domain (or any): forwarding entries and alternate addresses."""
        wanted = read_domain(domain) if domain else ""
        if wanted:
            self.tree.thd_domain(wanted)
        found = [info for entry in self.thd_members("") for info in _aliases(entry)]
        if wanted:
            found = [info for info in found if info.address.endswith("@" + wanted)]
        return sorted(found, key=lambda info: info.address.rpartition("@")[::-1])

    def thd_alias(self, address: str) -> AliasInfo:
        """Where an alias leads."""
        alias, entry = self._alias_entry(address)
        found = {info.address: info for info in _aliases(entry)}
        return found[alias]

    def thd_set_alias(self, address: str, targets: Sequence[str]) -> AliasInfo:
        """Have an alias lead elsewhere."""
        alias, entry = self._alias_entry(address)
        forwards = tuple(dict.fromkeys(read_target(one) for one in targets))
        if alias in {addresses.key(one) for one in forwards}:
            raise CommandError(f"{alias} cannot be its own target")
        if entry.value("mail") == alias:
            self._set(entry.name, {"mailforwardingaddress": forwards})
            return AliasInfo(address=alias, targets=forwards)
        self.thd_delete_alias(alias)
        return self.thd_add_alias(alias, targets)

    def _alias_entry(self, address: str) -> tuple[str, Entry]:
        alias = read_own(address)
        with told():
            entry = self.store.thd_by_address(alias)
        if entry is None or entry.has_class("qmailGroup"):
            raise CommandError(f"there is no alias {alias}")
        if entry.value("mail") == alias and not schema.forwards_only(entry.attributes):
            raise CommandError(f"{alias} is a user, not an alias")
        return alias, entry

    def thd_delete_alias(self, address: str) -> None:
        """Take an alias away."""
        alias, entry = self._alias_entry(address)
        if entry.value("mail") == alias:
            with told():
                self.store.thd_delete(entry.name)
        else:
            rest = tuple(one for one in entry.values("mailAlternateAddress") if addresses.key(one) != alias)
            self._set(entry.name, NOTHING, mailalternateaddress=rest)

    # Helpers

    def _set(self, name: Name, more: Values, **values: tuple[str, ...] | None) -> None:
        self.tree.thd_set(name, {**more, **{key: value for key, value in values.items() if value is not None}})

    def thd_user_entry(self, address: str) -> Entry:
        """The entry of a user, by any of its addresses. @raise CommandError: there is none, or it is something else."""
        mail = read_own(address)
        with told():
            entry = self.store.thd_by_address(mail)
        if entry is None:
            raise CommandError(f"there is no user {mail}")
        if entry.has_class("qmailGroup"):
            raise CommandError(f"{mail} is a group, not a user")
        if schema.forwards_only(entry.attributes):
            raise CommandError(f"{mail} is an alias, not a user")
        return entry

    def thd_members(self, domain: str) -> Iterator[Entry]:
        """The entries of users and aliases of a domain, or of all."""
        base = self.tree.thd_domain(read_domain(domain)).name if domain else None
        return self.tree.thd_of_class("qmailUser", base)

    def _info(self, entry: Entry) -> DomainInfo:
        members = [
            schema.forwards_only(member.attributes) for member in self.tree.thd_of_class("qmailUser", entry.name)
        ]
        return DomainInfo(
            name=entry.value("associatedDomain"),
            status=schema.status(entry.attributes),
            catch_all=entry.value("mailCatchAllAddress"),
            users=members.count(False),
            aliases=members.count(True),
            groups=sum(1 for _ in self.tree.thd_of_class("qmailGroup", entry.name)),
            plan=entry.value("qmailPlanName"),
        )


def person(mail: str, name: str = "") -> dict[str, tuple[str, ...]]:
    """What every user's entry has."""
    local = mail.partition("@")[0]
    return {
        "objectclass": ("top", "inetOrgPerson", "qmailUser"),
        "uid": (local,),
        "cn": (name or local,),
        "sn": ((name or local).split()[-1],),
        "mail": (mail,),
    }


def _aliases(entry: Entry) -> Iterator[AliasInfo]:
    mail = entry.value("mail")
    if schema.forwards_only(entry.attributes):
        yield AliasInfo(address=mail, targets=entry.values("mailForwardingAddress"))
    for one in entry.values("mailAlternateAddress"):
        yield AliasInfo(address=one, targets=(mail,))


def _user(entry: Entry, login: Login | None = None) -> User:
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
        plan=entry.value("qmailPlanName"),
        last_login="" if login is None else datetime.fromtimestamp(login.time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        last_service="" if login is None else login.service,
        last_address="" if login is None else login.address,
    )


def hashed(secret: bytes) -> tuple[str, ...]:
    """The stored forms of a password. Slow on purpose. @raise CommandError: it can be none."""
    if not secret:
        raise CommandError("an empty password is not a password")
    if len(secret) > password.MOST:
        raise CommandError(f"a password may have {password.MOST} octets at most")
    return password.thd_stored(secret)
