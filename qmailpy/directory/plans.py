"""
Service plans and nodes, as an administrator speaks of them: entries C{cn=NAME} in C{ou=plans} and C{ou=servers}.

All of it blocks. What cannot be done is a L{CommandError}.
"""

from __future__ import annotations

from attrs import frozen

from qmailpy.directory import meaning
from qmailpy.directory.filters import Equal, Or
from qmailpy.directory.names import fold
from qmailpy.directory.operations import Scope
from qmailpy.directory.schema import Entry
from qmailpy.directory.tree import Tree, Values, read_domain, told
from qmailpy.errors import CommandError


@frozen(kw_only=True)
class Kind:
    """What a named entry is."""

    word: str  # as commands call it
    class_: str
    unit: str
    references: tuple[str, ...]  # attributes (lower case) that name it


PLAN = Kind(word="plan", class_="qmailPlan", unit=meaning.PLANS, references=("qmailplanname", "qmaildomainplan"))
SERVER = Kind(
    word="server", class_="qmailServer", unit=meaning.SERVERS, references=("mailhost", "popserver", "smtpserver")
)


class Named:
    """The entries of a kind."""

    def __init__(self, tree: Tree, kind: Kind) -> None:
        self._tree = tree
        self._kind = kind

    def thd_add(self, name: str, values: Values) -> str:
        """Add one. Returns its name."""
        label = self._label(name)
        if self._tree.thd_named(self._kind.class_, label) is not None:
            raise CommandError(f"the {self._kind.word} {label} is there already")
        place = self._tree.thd_container(self._kind.unit).child("cn", label)
        attributes = {"objectclass": ("top", self._kind.class_), "cn": (label,), **values}
        self._tree.thd_add(Entry(place, attributes), f"the {self._kind.word} {label} is there already")
        return label

    def thd_list(self) -> list[Entry]:
        """All of them, by name."""
        return list(self._tree.thd_of_class(self._kind.class_))

    def thd_get(self, name: str) -> Entry:
        """One of them. @raise CommandError: there is none of that name."""
        entry = self._tree.thd_named(self._kind.class_, name)
        if entry is None:
            word = self._kind.word
            raise CommandError(f"there is no {word} {name}; make it with: qmailpy {word} add {name}")
        return entry

    def thd_set(self, name: str, values: Values) -> str:
        """Change one. Returns its name."""
        entry = self.thd_get(name)
        self._tree.thd_set(entry.name, values)
        return entry.value("cn")

    def thd_delete(self, name: str, *, force: bool = False) -> str:
        """Delete one; while others name it only by C{force}. Returns its name."""
        entry = self.thd_get(name)
        label = entry.value("cn")
        if not force:
            user = self._user(label)
            if user is not None:
                who = user.value("mail") or user.value("associatedDomain")
                raise CommandError(f"{who} still has the {self._kind.word} {label}; --force deletes it all the same")
        with told():
            self._tree.store.thd_delete(entry.name)
        return label

    def _user(self, name: str) -> Entry | None:
        """An entry that names it."""
        what = Or([Equal(attribute, name) for attribute in self._kind.references])
        return next(iter(self._tree.thd_search(self._tree.base, Scope.SUBTREE, what)), None)

    def _label(self, name: str) -> str:
        if self._kind is SERVER:
            return read_domain(name)
        label = " ".join(name.split())
        if not label or len(label) > 64 or not label.isprintable() or "," in label or " " in label:
            raise CommandError(f"{name!r} is no name for a {self._kind.word}: one word of up to 64 characters")
        return fold(label)
