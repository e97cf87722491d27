"""The directory's file when its process is killed: at each statement of each kind of change, all of it or nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import schema
from qmailpy.directory import store as module
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.names import parse
from qmailpy.directory.operations import Login
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Store, create

_BASE = "o=qmailpy"
_PLACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def contents(path: str) -> list[tuple[Any, ...]]:
    """Everything a store holds; that its indexes say the same as its entries is seen to here."""
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        entries = database.execute("SELECT id, name, attributes FROM entries").fetchall()
        held = {table: set(database.execute(f"SELECT * FROM {table}")) for table in ("addresses", "keys")}
        logins = database.execute("SELECT entry, time FROM logins").fetchall()
    database.close()
    wanted: dict[str, set[tuple[Any, ...]]] = {"addresses": set(), "keys": set()}
    for number, name, attributes in entries:
        entry = module._entry((name, attributes))
        for kind in schema.ADDRESS_ATTRIBUTES:
            wanted["addresses"] |= {(schema.value_key(kind, one), kind, number) for one in entry.values(kind)}
        for kind in schema.INDEXED:
            wanted["keys"] |= {(kind, schema.value_key(kind, one), number) for one in entry.values(kind)}
    assert held == wanted
    assert {number for number, _ in logins} <= {number for number, _, _ in entries}
    return sorted([row[1:] for row in entries] + logins, key=str)


def _user(name: str) -> Entry:
    attributes = {"objectclass": ("inetOrgPerson", "qmailUser"), "mail": (f"{name}@example.org",), "cn": (name,)}
    return Entry(_dn(name), attributes)


def _dn(name: str) -> Any:
    return parse(f"uid={name},dc=example.org,{_BASE}")


def _changed(entry: Entry) -> Entry:
    more = {"mailalternateaddress": ("x@example.org", "y@example.org"), "mailhost": ("n.example",)}
    return evolve(entry, attributes={**entry.attributes, **more})


CHANGES: dict[str, Callable[[Store], object]] = {
    "add": lambda store: store.thd_add(_user("ann"), _user("bob")),
    "add each": lambda store: store.thd_add_each([_user("ann"), _user("joe"), _user("bob")]),
    "modify": lambda store: store.thd_modify(_dn("joe"), _changed),
    "rename": lambda store: store.thd_rename(_dn("joe"), _dn("joseph"), False),
    "delete": lambda store: store.thd_delete(parse(f"dc=example.org,{_BASE}"), subtree=True),
    "login": lambda store: store.thd_note_login(_dn("joe"), Login(5.0, "pop3", "")),
}


class StatementTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.place = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.addCleanup(shutil.rmtree, self.place)
        self.path = os.path.join(self.place, "whole")
        made = create(self.path)
        made.thd_add(Entry(parse(_BASE), {"objectclass": ("top",)}))
        accounts = Accounts(made, _BASE)
        accounts.thd_add_domain("example.org")
        accounts.thd_add_user("joe@example.org", forwards=["a@x.example"])
        made.thd_note_login(_dn("joe"), Login(1.0, "pop3", ""))
        made.thd_close()

    def copy(self, name: str) -> str:
        path = os.path.join(self.place, name)
        for one in os.listdir(self.place):
            if one.startswith(name):
                os.unlink(os.path.join(self.place, one))
        shutil.copyfile(self.path, path)
        return path

    def dies(self, path: str, change: Callable[[Store], object], at: int) -> bool:
        """Make a change in a process that is killed at its statement C{at}; whether it came so far."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] != 0
        try:
            seen = count(1)

            def opened(path: str) -> sqlite3.Connection:
                database = original(path)
                database.set_trace_callback(
                    lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(seen) == at else None
                )
                return database

            original, module._open = module._open, opened
            change(Store(path))
            os._exit(0)
        finally:
            os._exit(1)

    def test_a_change_is_whole_or_not_there_wherever_the_process_dies(self) -> None:
        before = contents(self.copy("before"))
        for name, change in CHANGES.items():
            path = self.copy("after")
            store = Store(path)
            change(store)
            store.thd_close()
            after = contents(path)
            self.assertNotEqual(after, before, name)
            seen = []
            for at in count(1):
                path = self.copy("dying")
                died = self.dies(path, change, at)
                found = contents(path)
                self.assertIn(found, (before, after), (name, at))
                seen.append(found == after)
                if not died:
                    break
            self.assertGreater(len(seen), 5, name)
            self.assertEqual(seen, sorted(seen), name)
            self.assertTrue(seen[-1], name)


class KillTests(SynchronousTestCase):
    def test_killed_again_and_again_it_keeps_what_it_told(self) -> None:
        """A real process, at moments of chance: every user it named is there, and one more at most."""
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        path = os.path.join(place, "store")
        made = create(path)
        made.thd_add(Entry(parse(_BASE), {"objectclass": ("top",)}))
        Accounts(made, _BASE).thd_add_domain("example.org")
        made.thd_close()
        chance = random.Random(5)
        told: set[str] = set()
        for turn in range(6):
            command = [sys.executable, "-m", "tests.integration.directory_writer", path, f"k{turn}x", "100000"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_PLACE)
            assert process.stdout is not None
            told |= {process.stdout.readline().strip().decode() for _ in range(chance.randint(1, 40))}
            process.kill()
            told |= set(process.communicate()[0].decode().split())
            contents(path)
        store = Store(path)
        users = {user.address for user in Accounts(store, _BASE).thd_users()}
        store.thd_close()
        self.assertLessEqual(told, users)
        self.assertLessEqual(len(users - told), 6)
