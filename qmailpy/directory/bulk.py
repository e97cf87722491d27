"""
Many entries at once: rows of a CSV file and records of an LDIF file into the tree, users out of it as rows.

All of it blocks. A row is judged by itself: one that is bad is a L{Bad} and the others go on. What is there already
with the same values is left alone, so that an import that was cut off is simply begun again; each portion is durable
when L{Import.thd_take} returns.

Passwords may come in their stored form; in clear they are hashed, which is slow on purpose: 20 ms each on one core with
argon2.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor

from attrs import evolve, frozen

from qmailpy.directory import address as addresses
from qmailpy.directory import ldif, names, schema
from qmailpy.directory import password as passwords
from qmailpy.directory.accounts import person
from qmailpy.directory.names import Name, fold
from qmailpy.directory.rights import OPERATIONAL
from qmailpy.directory.schema import Attributes, Entry, Invalid
from qmailpy.directory.settings import USER, read, show
from qmailpy.directory.tree import Tree, read_own, told
from qmailpy.errors import CommandError

PORTION = 500
"""Rows that are made durable together."""

SCHEMES: dict[str, Callable[[bytes], tuple[str, ...]]] = {
    "argon2": passwords.thd_stored,
    "ssha": lambda word: (passwords.ssha(word),),
}
"""What a password in clear becomes: slow to guess, and good for SCRAM; or quick, for passwords made by a machine."""

COLUMNS = ("address", "password", *(key.name for key in USER))
_MOST_RECORD = 100000  # lines
_KEPT_BY_SERVERS = OPERATIONAL | {
    *("structuralobjectclass", "entryuuid", "creatorsname", "createtimestamp", "entrycsn", "modifiersname"),
    *("modifytimestamp", "contextcsn", "entrydn", "subschemasubentry", "hassubordinates", "memberof", "pwdchangedtime"),
}


@frozen
class Bad:
    """A row that cannot be used."""

    line: int  # where it begins, from 1
    what: str  # its address or name, as far as known
    problem: str


@frozen
class Row:
    """A row that may be."""

    line: int
    entry: Entry  # userpassword in its stored form, or in clear
    said: Attributes  # what of it the row says; the rest is what every new user gets


@frozen(kw_only=True)
class Outcome:
    """What became of a portion."""

    added: int = 0
    changed: int = 0
    same: int = 0
    bad: tuple[Bad, ...] = ()


def csv_rows(lines: Iterable[str], tree: Tree, first_line: int = 1) -> Iterator[Row | Bad]:
    """
    The rows of a CSV file, its first line the names of its columns: some of L{COLUMNS}, C{address} among them.

    @param lines: the file, opened with C{newline=""}; octets that are not UTF-8 as surrogate escapes.
    @param first_line: rows that begin before are left out.
    @raise CommandError: the columns cannot be used.
    """
    source = iter(lines)
    head = next(source, "").lstrip("\ufeff")
    delimiter = max(",;\t", key=head.count)
    columns = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
    for name in columns:
        if name not in COLUMNS:
            raise CommandError(f"line 1: there is no column {name!r}; the columns: {', '.join(COLUMNS)}")
    if "address" not in columns or len(set(columns)) < len(columns):
        raise CommandError("line 1: must name the columns, each once and address among them")
    reader = csv.reader(source, delimiter=delimiter)
    places: dict[str, Name] = {}
    while True:
        start = reader.line_num + 2
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            yield Bad(start, "", str(problem))
            continue
        if start < first_line or not any(cell.strip() for cell in cells):
            continue
        what = cells[columns.index("address")] if len(cells) == len(columns) else ""
        try:
            if len(cells) != len(columns):
                raise CommandError(f"has {len(cells)} cells, not {len(columns)}")
            yield Row(start, *_user(dict(zip(columns, cells, strict=True)), tree, places))
        except CommandError as problem:
            yield Bad(start, what[:100], str(problem))


def _user(cells: dict[str, str], tree: Tree, places: dict[str, Name]) -> tuple[Entry, Attributes]:
    if any("\ud800" <= char <= "\udfff" for cell in cells.values() for char in cell):
        raise CommandError("is not UTF-8")
    mail = read_own(cells.pop("address"))
    word = cells.pop("password", "")
    values = {**read(USER, [f"{name}={cell}" for name, cell in cells.items() if cell.strip()])}
    tree.thd_plan_exists(values)
    local, _, domain = mail.rpartition("@")
    if domain not in places:
        places[domain] = tree.thd_domain(domain).name
    if word:
        values["userpassword"] = _stored(word)
    return Entry(places[domain].child("uid", local), {**person(mail), **values}), values


def _stored(word: str) -> tuple[str, ...]:
    """One password in clear, or all stored forms of one."""
    parts = word.split()
    return tuple(parts) if parts and all(map(passwords.scheme, parts)) else (word,)


def ldif_rows(lines: Iterable[bytes], tree: Tree, first_line: int = 1, base: str = "") -> Iterator[Row | Bad]:
    """
    The records of an LDIF file: whatever stands below the tree's base.

    @param base: what the names in the file end with instead of the tree's base; "" = the same.
    @raise CommandError: C{base} is no name.
    """
    try:
        theirs = names.parse(base) if base else tree.base
    except names.BadName as problem:
        raise CommandError(f"{base!r} is not a distinguished name: {problem}") from None
    for start, some in _records(lines):
        if start < first_line:
            continue
        what = ""
        try:
            if len(some) > _MOST_RECORD:
                raise CommandError(f"has more than {_MOST_RECORD} lines")
            for record in ldif.read(some):
                what = record.dn[:200]
                entry = _moved(record, theirs, tree.base)
                yield Row(start + record.line - 1, entry, entry.attributes)
        except (CommandError, ldif.BadLdif) as problem:
            yield Bad(start, what, str(problem))


def _records(lines: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Lines up to an empty one, with the number of the first; of one that is too long only the beginning."""
    some: list[bytes] = []
    start = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            if not some:
                start = number
            if len(some) <= _MOST_RECORD:
                some.append(line)
        elif some:
            yield start, some
            some = []
    if some:
        yield start, some


def _moved(record: ldif.Record, theirs: Name, ours: Name) -> Entry:
    try:
        name = names.parse(record.dn)
    except names.BadName as problem:
        raise CommandError(f"is not a distinguished name: {problem}") from None
    above = len(name.rdns) - len(theirs.rdns)
    if above < 0 or Name(name.rdns[above:]).key != theirs.key:
        raise CommandError(f"is not below {theirs}")
    attributes = {
        kind.lower(): tuple(values)
        for kind, values in record.attributes.items()
        if kind.lower() not in _KEPT_BY_SERVERS
    }
    return Entry(Name((*name.rdns[:above], *ours.rdns)), attributes)


class Import:
    """Takes rows into a tree."""

    def __init__(self, tree: Tree, hashing: Executor, *, scheme: str = "argon2", update: bool = False) -> None:
        """
        @param hashing: threads that hash passwords.
        @param scheme: of L{SCHEMES}, for passwords in clear.
        @param update: give entries that are there already the row's values; otherwise other values are a fault.
        """
        self._tree = tree
        self._hashing = hashing
        self._hash = SCHEMES[scheme]
        self._update = update

    def thd_take(self, rows: Sequence[Row | Bad]) -> Outcome:
        """Take a portion of rows; what is added and changed is durable on return."""
        bad = [row for row in rows if isinstance(row, Bad)]
        new: list[Row] = []
        same = changed = 0
        for row in rows:
            if isinstance(row, Bad):
                continue
            try:
                present = self._present(row.entry)
                if present is None:
                    new.append(row)
                elif self._same(present, row):
                    same += 1
                elif self._update:
                    ready = self._hashed([row])[0].entry.attributes
                    self._tree.thd_set(present.name, {name: ready[name] for name in row.said})
                    changed += 1
                else:
                    raise CommandError("is there already with other values; --update changes it")
            except CommandError as problem:
                bad.append(Bad(row.line, _label(row.entry), str(problem)))
        added = 0
        new = self._hashed(new)
        with told():
            refused = self._tree.store.thd_add_each([row.entry for row in new])
        for row, why in zip(new, refused, strict=True):
            if why is None:
                added += 1
            else:
                bad.append(Bad(row.line, _label(row.entry), str(why)))
        bad.sort(key=lambda one: one.line)
        return Outcome(added=added, changed=changed, same=same, bad=tuple(bad))

    def _present(self, entry: Entry) -> Entry | None:
        with told():
            mail = entry.value("mail")
            found = self._tree.store.thd_by_address(addresses.key(mail)) if mail else None
            return found or self._tree.store.thd_get(entry.name)

    def _same(self, present: Entry, row: Row) -> bool:
        """Whether everything the row says is so already; a password in clear is not looked at."""
        try:
            normal = schema.checked(evolve(row.entry, attributes=_without(row.entry, "userpassword"))).attributes
        except Invalid as problem:
            raise CommandError(str(problem)) from None
        words = row.entry.values("userPassword")
        # Our own two identities keep the secrets they have.
        if not present.has_class("simpleSecurityObject") and all(map(passwords.scheme, words)):
            normal = {**normal, "userpassword": words}
        for name in row.said:
            here = {fold(one) if name == "objectclass" else schema.value_key(name, one) for one in present.values(name)}
            there = {schema.value_key(name, one) for one in normal.get(name, ())}
            if name in normal and not (there <= here if name == "objectclass" else there == here):
                return False
        return True

    def _hashed(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with passwords in their stored form."""
        clear = {
            word
            for row in rows
            for word in row.entry.values("userPassword")
            if not passwords.scheme(word) and len(word) <= passwords.MOST
        }
        made = dict(zip(clear, self._hashing.map(self._hash, [_octets(word) for word in clear]), strict=True))
        result = []
        for row in rows:
            words = row.entry.values("userPassword")
            stored = tuple(one for word in words for one in made.get(word, (word,)))
            attributes = {**row.entry.attributes, "userpassword": stored} if words else row.entry.attributes
            result.append(evolve(row, entry=evolve(row.entry, attributes=attributes)))
        return result


def _octets(word: str) -> bytes:
    return word.encode("utf-8", "surrogateescape")


def _without(entry: Entry, attribute: str) -> dict[str, tuple[str, ...]]:
    return {name: values for name, values in entry.attributes.items() if name != attribute}


def _label(entry: Entry) -> str:
    return entry.value("mail") or str(entry.name)


def csv_cells(entry: Entry, *, secrets: bool) -> list[str]:
    """The cells of a user's row, in the order of L{columns}."""
    values = show(USER, entry)
    if entry.value("cn") == entry.value("mail").partition("@")[0]:
        values["name"] = None
    cells = [entry.value("mail")]
    if secrets:
        cells.append(" ".join(entry.values("userPassword")))
    for value in values.values():
        if isinstance(value, bool):
            cells.append("yes" if value else "no")
        elif isinstance(value, list):
            cells.append(",".join(value))
        else:
            cells.append("" if value is None else str(value))
    return [cell.encode("utf-8", "replace").decode() for cell in cells]


def columns(*, secrets: bool) -> list[str]:
    """The columns of L{csv_cells}."""
    return [name for name in COLUMNS if secrets or name != "password"]
