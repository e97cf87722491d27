"""The store: entries, indexes and transactions."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory.filters import And, Equal, Filter, Not, Or, Present, Substrings
from qmailpy.directory.names import parse
from qmailpy.directory.operations import Change, Login, Modification, Scope, StoreError, Trouble, modified
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Store, create
from tests.directory.parts import BASE, example, new_store


def _user(name: str, *, domain: str = "example.org", **more: tuple[str, ...]) -> Entry:
    attributes = {"objectclass": ("qmailUser",), "mail": (f"{name}@{domain}",), **more}
    return Entry(parse(f"uid={name},dc={domain},{BASE}"), attributes)


def _domain(name: str = "example.org") -> Entry:
    return Entry(parse(f"dc={name},{BASE}"), {"objectclass": ("qmailDomain",), "associateddomain": (name,)})


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = new_store(self)
        self.store.thd_add(_domain(), _user("joe"), _user("ann", mailalternateaddress=("info@example.org",)))

    def refused(self, kind: Trouble, call: object, *arguments: object, **more: object) -> None:
        assert callable(call)
        problem = self.assertRaises(StoreError, call, *arguments, **more)
        self.assertIs(problem.kind, kind)

    def test_entries_are_found_by_name_address_and_key(self) -> None:
        joe = self.store.thd_get(parse("UID=Joe, dc=example.org," + BASE))
        assert joe is not None
        self.assertEqual(joe.value("mail"), "joe@example.org")
        self.assertEqual(str(joe.name), "uid=joe,dc=example.org," + BASE)
        ann = self.store.thd_by_address("info@example.org")
        assert ann is not None
        self.assertEqual(ann.value("uid"), "ann")
        self.assertEqual(
            [one.value("dc") for one in self.store.thd_by_key("associateddomain", "example.org")], ["example.org"]
        )
        self.assertIsNone(self.store.thd_by_address("nobody@example.org"))
        self.assertIsNone(self.store.thd_by_address("\udcff@example.org"))

    def test_an_address_belongs_to_one_entry_only(self) -> None:
        self.refused(Trouble.CONFLICT, self.store.thd_add, _user("bob", mailalternateaddress=("JOE@example.org",)))
        self.assertIsNone(self.store.thd_get(parse("uid=bob,dc=example.org," + BASE)))

    def test_adding_needs_a_parent_and_a_free_name(self) -> None:
        self.refused(Trouble.NO_SUCH, self.store.thd_add, _user("x", domain="elsewhere.org"))
        self.refused(Trouble.EXISTS, self.store.thd_add, _user("joe", mail=("other@example.org",)))
        self.refused(Trouble.INVALID, self.store.thd_add, _user("x", accountstatus=("odd",)))

    def test_several_are_added_all_or_none(self) -> None:
        self.refused(Trouble.EXISTS, self.store.thd_add, _domain("new.org"), _user("joe"))
        self.assertEqual(self.store.thd_by_key("associateddomain", "new.org"), [])

    def test_a_change_moves_the_indexes(self) -> None:
        name = parse("uid=joe,dc=example.org," + BASE)
        self.store.thd_modify(
            name, lambda entry: modified(entry, [Modification(Change.REPLACE, "mail", ("joseph@example.org",))])
        )
        self.assertIsNone(self.store.thd_by_address("joe@example.org"))
        self.assertIsNotNone(self.store.thd_by_address("joseph@example.org"))

    def test_a_change_that_is_refused_changes_nothing(self) -> None:
        name = parse("uid=joe,dc=example.org," + BASE)
        steps = [Modification(Change.REPLACE, "mail", ("ann@example.org",))]
        self.refused(Trouble.CONFLICT, self.store.thd_modify, name, lambda entry: modified(entry, steps))
        self.assertIsNotNone(self.store.thd_by_address("joe@example.org"))

    def test_only_leaves_are_deleted_unless_the_subtree_is_meant(self) -> None:
        name = parse("dc=example.org," + BASE)
        self.refused(Trouble.NOT_LEAF, self.store.thd_delete, name)
        self.assertEqual(self.store.thd_delete(name, subtree=True), 3)
        self.assertIsNone(self.store.thd_by_address("info@example.org"))
        self.assertEqual(self.store.thd_by_key("uid", "joe"), [])
        self.refused(Trouble.NO_SUCH, self.store.thd_delete, name)

    def test_a_subtree_is_not_its_neighbour(self) -> None:
        """A name that begins with the same letters is somebody else's."""
        self.store.thd_add(_domain("example.org.uk"), _user("joe", domain="example.org.uk"))
        self.store.thd_delete(parse("dc=example.org," + BASE), subtree=True)
        self.assertIsNotNone(self.store.thd_by_address("joe@example.org.uk"))

    def test_an_entry_is_renamed_with_its_indexes(self) -> None:
        old, new = parse("uid=joe,dc=example.org," + BASE), parse("uid=joseph,dc=example.org," + BASE)
        self.store.thd_rename(old, new, keep=False)
        found = self.store.thd_by_address("joe@example.org")
        assert found is not None
        self.assertEqual((str(found.name), found.values("uid")), (str(new), ("joseph",)))
        self.refused(Trouble.EXISTS, self.store.thd_rename, new, parse("uid=ann,dc=example.org," + BASE), keep=False)
        self.refused(Trouble.NOT_LEAF, self.store.thd_rename, new.parent, parse("dc=x," + BASE), keep=False)
        self.store.thd_rename(new, old, keep=True)
        self.assertEqual([e.values("uid") for e in self.store.thd_by_key("uid", "joseph")], [("joseph", "joe")])

    def test_searches_see_what_their_scope_holds_in_batches(self) -> None:
        self.store.thd_add(*(_user(f"u{number:03}") for number in range(25)))
        base = parse("dc=example.org," + BASE)
        for scope, expected in ((Scope.BASE, 1), (Scope.ONE, 27), (Scope.SUBTREE, 28)):
            for what in (
                Present("objectclass"),
                Or((Equal("objectclass", "qmailUser"), Equal("objectclass", "qmailDomain"))),
            ):
                seen, after, batches = [], "", 0
                while True:
                    found, after = self.store.thd_search(base, scope, what, after, 10)
                    seen += [str(entry.name) for entry in found]
                    batches += 1
                    if not after:
                        break
                self.assertEqual((len(seen), len(set(seen))), (expected, expected), (scope, what))
                self.assertLessEqual(batches, 4)

    def test_a_filter_finds_the_same_with_an_index_and_without(self) -> None:
        everything = Present("objectclass")
        for what, expected in (
            (Equal("mail", "joe@example.org"), {"joe"}),
            (And((Equal("objectclass", "qmailUser"), Substrings("mail", "a"))), {"ann"}),
            (Or((Equal("uid", "joe"), Equal("mailalternateaddress", "info@example.org"))), {"joe", "ann"}),
            (And((Equal("objectclass", "qmailUser"), Not(Equal("uid", "joe")))), {"ann"}),
        ):
            for form in (what, And((everything, what)), Not(Not(what))):
                self.assertEqual(self.found(form), expected, form)

    def found(self, what: Filter) -> set[str]:
        return {entry.value("uid") for entry in self.store.thd_search(parse(BASE), Scope.SUBTREE, what)[0]}

    def test_an_indexed_search_does_not_walk_the_tree(self) -> None:
        sql, values = self.store._plan(parse(BASE), Scope.SUBTREE, Equal("mail", "joe@example.org"))
        plan = self.store._read("EXPLAIN QUERY PLAN " + sql + " ORDER BY tree LIMIT ?", (*values, "", 10))
        self.assertTrue(any("SEARCH e USING INTEGER PRIMARY KEY" in row[3] for row in plan), plan)

    def test_any_octets_survive_in_values(self) -> None:
        name = parse("uid=joe,dc=example.org," + BASE)
        photo = bytes(range(256)).decode("utf-8", "surrogateescape")
        self.store.thd_modify(name, lambda e: modified(e, [Modification(Change.ADD, "jpegphoto", (photo,))]))
        found = self.store.thd_get(name)
        assert found is not None
        self.assertEqual(found.value("jpegPhoto").encode("utf-8", "surrogateescape"), bytes(range(256)))

    def test_other_threads_and_processes_see_a_change_at_once(self) -> None:
        other = Store(self.store._path)
        self.addCleanup(other.thd_close)
        self.assertIsNotNone(other.thd_by_address("joe@example.org"))
        self.store.thd_delete(parse("uid=joe,dc=example.org," + BASE))
        self.assertIsNone(other.thd_by_address("joe@example.org"))
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(self.store.thd_by_address("ann@example.org")))
        thread.start()
        thread.join()
        self.assertEqual(len(seen), 1)
        self.assertIsNotNone(seen[0])

    def test_the_file_is_private_and_made_once(self) -> None:
        path = self.store._path
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.refused(Trouble.EXISTS, create, path)

    def test_commits_reach_the_disk(self) -> None:
        """synchronous=FULL in write-ahead mode syncs the log at every commit."""
        database = self.store._connection()
        self.assertEqual(database.execute("PRAGMA synchronous").fetchone(), (2,))
        self.assertEqual(database.execute("PRAGMA journal_mode").fetchone(), ("wal",))

    def test_a_store_that_is_missing_broken_or_of_another_time_is_unavailable(self) -> None:
        place = self.mktemp()
        os.makedirs(place)
        self.refused(Trouble.UNAVAILABLE, Store(os.path.join(place, "none")).thd_by_address, "joe@example.org")
        broken = os.path.join(place, "broken")
        with open(broken, "wb") as file:
            file.write(b"not a database at all" * 100)
        self.refused(Trouble.UNAVAILABLE, Store(broken).thd_by_address, "joe@example.org")
        newer = create(os.path.join(place, "newer"))
        self.addCleanup(newer.thd_close)
        with sqlite3.connect(newer._path) as database:
            database.execute("PRAGMA user_version = 3")
        database.close()
        self.refused(Trouble.UNAVAILABLE, newer.thd_by_address, "joe@example.org")

    def test_a_store_of_the_first_version_is_taken_over(self) -> None:
        """Version 1 had no logins."""
        place = self.mktemp()
        os.makedirs(place)
        older = create(os.path.join(place, "older"))
        self.addCleanup(older.thd_close)
        older.thd_add(Entry(parse(BASE), {"objectclass": ("top",)}))
        older.thd_close()
        with sqlite3.connect(older._path) as database:
            database.execute("DROP TABLE logins")
            database.execute("PRAGMA user_version = 1")
        database.close()
        self.assertIsNotNone(older.thd_get(parse(BASE)))
        older.thd_note_login(parse(BASE), Login(5.0, "pop3", "192.0.2.1"))
        self.assertEqual(older.thd_logins([parse(BASE)]), {parse(BASE).key: Login(5.0, "pop3", "192.0.2.1")})

    def test_logins_go_with_their_entry_and_move_with_it(self) -> None:
        accounts = example(self)
        accounts.thd_add_user("joe@example.org")
        store, name = accounts.store, parse(f"uid=joe,dc=example.org,{BASE}")
        store.thd_note_login(name, Login(5.0, "pop3", ""))
        store.thd_note_login(name, Login(9.0, "submission", ""))
        other = parse(f"uid=joseph,dc=example.org,{BASE}")
        store.thd_rename(name, other, False)
        self.assertEqual(store.thd_logins([name, other]), {other.key: Login(9.0, "submission", "")})
        store.thd_delete(other)
        with sqlite3.connect(store._path) as database:
            self.assertEqual(database.execute("SELECT count(*) FROM logins").fetchone(), (0,))
        database.close()
        self.refused(Trouble.NO_SUCH, store.thd_note_login, name, Login(5.0, "pop3", ""))

    def test_of_many_those_are_added_that_can_be_and_of_the_others_nothing(self) -> None:
        accounts = example(self)
        accounts.thd_add_user("joe@example.org")
        taken = _user("ann", mailalternateaddress=("x@example.org", "joe@example.org"))
        refused = accounts.store.thd_add_each(
            [
                _user("bob"),
                taken,
                _user("joe"),
                _user("c", mail=("no address",)),
                _user("dan"),
                _user("e", domain="no.example"),
            ]
        )
        kinds = [problem and problem.kind for problem in refused]
        missing = Trouble.NO_SUCH
        self.assertEqual(kinds, [None, Trouble.CONFLICT, Trouble.EXISTS, Trouble.INVALID, None, missing])
        self.assertIsNone(accounts.store.thd_get(taken.name))
        self.assertIsNone(accounts.store.thd_by_address("x@example.org"))
        self.assertEqual(len(accounts.thd_users()), 3)
