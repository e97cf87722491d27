"""
Who administers what: C{qmailAdministers} of users.

All of it blocks. What cannot be done is a L{CommandError}.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from qmailpy.directory.accounts import Accounts
from qmailpy.directory.filters import Present
from qmailpy.directory.operations import Scope
from qmailpy.directory.schema import Entry
from qmailpy.directory.tree import read_domain
from qmailpy.errors import CommandError

OPERATOR = "operator"
EVERYTHING = "*"


@frozen(kw_only=True)
class RoleInfo:
    """Somebody who administers something, for people."""

    address: str
    role: str  # "operator", "domain administrator" or "user"
    domains: tuple[str, ...]


class Roles:
    """The roles of the users of a tree."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def thd_list(self) -> list[RoleInfo]:
        """Everybody who is more than a user."""
        tree = self._accounts.tree
        found = tree.thd_search(tree.base, Scope.SUBTREE, Present("qmailadministers"))
        return [_info(entry) for entry in found]

    def thd_get(self, address: str) -> RoleInfo:
        """What a user administers."""
        return _info(self._accounts.thd_user_entry(address))

    def thd_add(self, address: str, what: tuple[str, ...]) -> RoleInfo:
        """Give a role. @param what: domains of ours, or "operator"."""
        return self._changed(address, lambda now: now | self._meant(what))

    def thd_set(self, address: str, what: tuple[str, ...]) -> RoleInfo:
        """Give these roles and no other."""
        return self._changed(address, lambda now: self._meant(what))

    def thd_delete(self, address: str, what: tuple[str, ...]) -> RoleInfo:
        """Take roles away, all of them when none is named."""
        gone = {EVERYTHING if one.lower() == OPERATOR else read_domain(one) for one in what}

        def change(now: set[str]) -> set[str]:
            missing = min(gone - now, default="" if now else "anything")
            if missing:
                what = "everything" if missing == EVERYTHING else missing
                raise CommandError(f"{address} does not administer {what}")
            return now - gone if gone else set()

        return self._changed(address, change)

    def _meant(self, what: tuple[str, ...]) -> set[str]:
        found = set()
        for one in what:
            if one.lower() == OPERATOR:
                found.add(EVERYTHING)
            else:
                found.add(self._accounts.tree.thd_domain(read_domain(one)).value("associatedDomain"))
        return found

    def _changed(self, address: str, change: Callable[[set[str]], set[str]]) -> RoleInfo:
        entry = self._accounts.thd_user_entry(address)
        after = tuple(sorted(change(set(entry.values("qmailAdministers")))))
        return _info(self._accounts.tree.thd_set(entry.name, {"qmailadministers": after}))


def _info(entry: Entry) -> RoleInfo:
    held = entry.values("qmailAdministers")
    role = OPERATOR if EVERYTHING in held else "domain administrator" if held else "user"
    return RoleInfo(address=entry.value("mail"), role=role, domains=tuple(sorted(set(held) - {EVERYTHING})))
