"""
Groups, as an administrator speaks of them: C{cn=NAME} in its domain, with members by address.

Members that an LDAP tool gave by the name of their entry are shown with that entry's address, and can be taken away by
it. All of it blocks. What cannot be done is a L{CommandError}.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import meaning, names
from qmailpy.directory.schema import Entry
from qmailpy.directory.tree import Tree, Values, read_domain, read_own, read_target, told
from qmailpy.errors import CommandError

_BY_NAME = ("dnmember", "member")


@frozen(kw_only=True)
class GroupInfo:
    """A group, for people."""

    address: str
    posters: str
    members: tuple[str, ...]


class Groups:
    """The groups of a tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def thd_add(self, address: str, members: Sequence[str], values: Values) -> str:
        """Add a group. Returns its address."""
        mail = read_own(address)
        place = self._tree.thd_place_of(mail, "cn")
        attributes = {
            "objectclass": ("top", "organizationalRole", "qmailGroup"),
            "cn": (mail.partition("@")[0],),
            "mail": (mail,),
            "rfc822member": _members(mail, members),
            **values,
        }
        self._tree.thd_add(Entry(place, attributes), f"{mail} is there already")
        return mail

    def thd_list(self, domain: str = "") -> list[GroupInfo]:
        """The groups of a domain, or of all."""
        base = self._tree.thd_domain(read_domain(domain)).name if domain else None
        return [self.info(entry) for entry in self._tree.thd_of_class("qmailGroup", base)]

    def thd_get(self, address: str) -> Entry:
        """The entry of a group. @raise CommandError: there is none of that address."""
        mail = read_own(address)
        with told():
            entry = self._tree.store.thd_by_address(mail)
        if entry is None or not entry.has_class("qmailGroup"):
            raise CommandError(f"there is no group {mail}; make it with: qmailpy group add {mail} MEMBER...")
        return entry

    def info(self, entry: Entry) -> GroupInfo:
        """What people want to know of a group."""
        named = [self._mail_of(dn) for attribute in _BY_NAME for dn in entry.values(attribute)]
        found = meaning.recipient({**entry.attributes, "accountstatus": ()})
        return GroupInfo(
            address=entry.value("mail"),
            posters=getattr(found, "posters", "anyone"),
            members=tuple(dict.fromkeys((*entry.values("rfc822member"), *named))),
        )

    def thd_set(self, address: str, values: Values) -> str:
        """Change a group. Returns its address."""
        entry = self.thd_get(address)
        self._tree.thd_set(entry.name, values)
        return entry.value("mail")

    def thd_add_members(self, address: str, members: Sequence[str]) -> tuple[str, int]:
        """Add members; who is one already stays. Returns the address, and how many are new."""
        entry = self.thd_get(address)
        present = entry.values("rfc822member")
        after = tuple(dict.fromkeys((*present, *_members(entry.value("mail"), members))))
        self._tree.thd_set(entry.name, {"rfc822member": after})
        return entry.value("mail"), len(after) - len(present)

    def thd_remove_members(self, address: str, members: Sequence[str]) -> str:
        """Take members away. Returns the address. @raise CommandError: somebody is none; then nothing is changed."""
        entry = self.thd_get(address)
        gone = {addresses.key(read_target(one)) for one in members}
        values: dict[str, tuple[str, ...]] = {}
        left = set(gone)
        for attribute in ("rfc822member", *_BY_NAME):
            keys = {
                value: addresses.key(value if attribute == "rfc822member" else self._mail_of(value))
                for value in entry.values(attribute)
            }
            left -= set(keys.values())
            values[attribute] = tuple(value for value, key in keys.items() if key not in gone)
        if left:
            raise CommandError(f"{min(left)} is no member of {entry.value('mail')}")
        self._tree.thd_set(entry.name, values)
        return entry.value("mail")

    def thd_delete(self, address: str) -> Entry:
        """Delete a group. Returns what it was."""
        entry = self.thd_get(address)
        with told():
            self._tree.store.thd_delete(entry.name)
        return entry

    def _mail_of(self, dn: str) -> str:
        """The address of an entry; its name when it has none."""
        with told():
            entry = self._tree.store.thd_get(names.parse(dn))
        return (entry.value("mail") if entry else "") or dn


def _members(group: str, members: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(map(read_target, members)))
    if group in {addresses.key(one) for one in found}:
        raise CommandError(f"{group} cannot be its own member")
    return found
