"""C{qmailpy plan}, C{server}, C{group}, C{role}; settings of users; automatic answers; the schema."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout

from attrs import evolve
from twisted.internet.defer import maybeDeferred

from qmailpy.cli.main import run
from qmailpy.directory import setup, subschema
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.directory.names import parse
from qmailpy.directory.operations import Login
from qmailpy.directory.store import Store
from qmailpy.values import AutoReply, Group, Mailbox
from tests.cli.test_directory import CommandTestCase


class EstateTestCase(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.call("user", "add", "joe@example.org")
        self.told.clear()

    def lookup(self, address: str) -> object:
        """What mail sees."""
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        return EmbeddedDirectory(store, maybeDeferred).thd_lookup(address)

    def mailbox(self, address: str = "joe@example.org") -> Mailbox:
        found = self.lookup(address)
        assert isinstance(found, Mailbox)
        return found


class PlanTests(EstateTestCase):
    def test_plans_are_added_listed_shown_changed_and_deleted(self) -> None:
        self.assertEqual(self.call("plan", "add", "Gold", "quota=1G", "features=pop3,imap"), "added gold\n")
        settings = {"quota": 1 << 30, "features": ["pop3", "imap"]}
        absent = {"messages": None, "size": None, "sends": None, "subfolders": None, "description": None}
        expected = {"name": "gold", "settings": {**settings, **absent}}
        self.assertEqual(self.json("plan", "show", "GOLD"), expected)
        self.assertEqual(self.json("plan", "list"), [expected])
        self.assertIn("pop3, imap", self.call("plan", "list"))
        self.call("plan", "set", "gold", "size=10M", "features=none")
        self.assertIn("10485760", self.call("plan", "show", "gold"))
        self.call("plan", "add", "gold", status=1)
        self.call("plan", "delete", "gold")
        self.assertIn("plan add", self.call("plan", "show", "gold", status=1))
        self.assertEqual(set(self.told), {""})

    def test_a_plan_counts_for_its_users_and_is_not_deleted_under_them(self) -> None:
        self.call("user", "set", "joe@example.org", "plan=gold", status=1)
        self.call("plan", "add", "gold", "quota=1G", "sends=50")
        self.call("plan", "add", "silver", "size=5M")
        self.call("user", "set", "joe@example.org", "plan=gold")
        self.call("domain", "set", "example.org", "plan=silver", "messages=9", "host=node2.example")
        found = self.mailbox()
        self.assertEqual((found.quota_octets, found.sends_a_day, found.size_octets), (1 << 30, 50, 5 << 20))
        self.assertEqual((found.quota_messages, found.host, found.plan), (9, "node2.example", "gold"))
        shown = self.call("user", "show", "joe@example.org")
        for line in ("1073741824  (plan gold)", "5242880  (plan silver)", "9  (domain example.org)"):
            self.assertIn(line, shown)
        self.assertEqual(self.json("user", "show", "joe@example.org")["settings"]["sends"], 50)
        self.assertIn("joe@example.org still has", self.call("plan", "delete", "gold", status=1))
        self.assertIn("example.org still has", self.call("plan", "delete", "silver", status=1))
        self.assertIn("--yes", self.call("plan", "delete", "gold", "--force", status=1))
        self.call("plan", "delete", "gold", "--force", "--yes")
        self.assertEqual(self.mailbox().quota_octets, 0)

    def test_nought_lifts_a_plan_s_limit_and_nothing_brings_it_back(self) -> None:
        self.call("plan", "add", "gold", "quota=1G")
        self.call("user", "set", "joe@example.org", "plan=gold", "quota=0")
        self.assertEqual(self.mailbox().quota_octets, 0)
        self.call("user", "set", "joe@example.org", "quota=")
        self.assertEqual(self.mailbox().quota_octets, 1 << 30)

    def test_names_are_words(self) -> None:
        for name in ("two words", "", "a,b", "x" * 70, "a\nb"):
            self.call("plan", "add", name, status=1)

    def test_servers_are_kept_likewise(self) -> None:
        self.call("server", "add", "Node2.Example", "roles=store,pop")
        self.assertEqual(self.json("server", "list")[0]["settings"]["roles"], ["store", "pop"])
        self.call("user", "set", "joe@example.org", "host=node2.example")
        self.call("server", "delete", "node2.example", status=1)


class SettingTests(EstateTestCase):
    def test_a_user_has_many(self) -> None:
        self.call(
            *("user", "set", "joe@example.org", "quota=1G", "messages=100", "size=2M", "subfolders=yes"),
            *(
                "dot-qmail=yes",
                "host=node2.example:2424",
                "pop-host=pop.example",
                "aliases=j@example.org,x.y@example.org",
            ),
        )
        found = self.mailbox("j@example.org")
        self.assertEqual((found.quota_octets, found.quota_messages, found.size_octets), (1 << 30, 100, 2 << 20))
        self.assertEqual((found.subfolders, found.dot_qmail, found.host), (True, True, "node2.example:2424"))
        self.assertEqual(set(self.told), {"joe@example.org", "j@example.org", "x.y@example.org"})
        self.call("user", "set", "joe@example.org", "aliases=")
        self.assertIsNone(self.lookup("j@example.org"))

    def test_what_is_wrong_is_told_with_what_would_be_right(self) -> None:
        for word, told in (
            ("quota", "KEY=VALUE"),
            ("colour=red", "the keys: name, status"),
            ("quota=lots", "quota: 'lots' is no size"),
            ("status=asleep", "one of active, nopop"),
            ("features=flying", "there are autoreply"),
            ("subfolders=perhaps", "yes nor no"),
            ("forward=nobody", "not an address"),
            ("aliases=x@elsewhere", ""),
            ("store=/etc", "mailMessageStore"),
            ("host=a b", "mailHost"),
        ):
            if told:
                self.assertIn(told, self.call("user", "set", "joe@example.org", word, status=1), word)
        self.assertEqual(self.mailbox().quota_octets, 0)

    def test_help_names_the_keys(self) -> None:
        self.assertIn("subfolders", self.call("user", "set", "--help"))
        self.assertIn("catch-all", self.call("domain", "add", "--help"))

    def test_the_last_login_is_shown(self) -> None:
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        store.thd_note_login(parse("uid=joe,dc=example.org,o=qmailpy"), Login(1795507200.0, "pop3", "192.0.2.1"))
        self.assertIn("2026-11-24T08:00:00Z pop3 192.0.2.1", self.call("user", "show", "joe@example.org"))
        self.assertIn("2026-11-24 08:00", self.call("user", "list"))
        self.assertEqual(self.json("user", "show", "joe@example.org")["last_login"], "2026-11-24T08:00:00Z")
        self.assertIn("never", self.call("user", "show", "postmaster@example.org"))

    def test_the_schema_is_printed(self) -> None:
        self.assertEqual(self.call("directory", "schema"), subschema.ldif())
        self.assertEqual(self.call("directory", "schema", "--format", "table"), subschema.markdown())


class GroupTests(EstateTestCase):
    def test_groups_are_added_listed_shown_changed_and_deleted(self) -> None:
        self.call("group", "add", "Staff@example.org", "joe@example.org", "x@remote.example", "posters=members")
        found = self.lookup("staff@example.org")
        members = ("joe@example.org", "x@remote.example")
        self.assertEqual(found, Group(address="staff@example.org", members=members, posters="members"))
        expected = {"address": "staff@example.org", "posters": "members", "members": list(members)}
        self.assertEqual(self.json("group", "list"), [expected])
        self.assertEqual(self.json("group", "list", "example.org"), [expected])
        self.call("group", "set", "staff@example.org", "owner=joe@example.org", "listed=boss@remote.example")
        shown = self.call("group", "show", "staff@example.org")
        for word in ("members", "owner", "boss@remote.example", "  x@remote.example"):
            self.assertIn(word, shown)
        self.assertIn("--yes", self.call("group", "delete", "staff@example.org", status=1))
        self.call("group", "delete", "staff@example.org", "--yes")
        self.assertIsNone(self.lookup("staff@example.org"))
        self.assertEqual(set(self.told), {"staff@example.org"})

    def test_members_come_and_go(self) -> None:
        self.call("group", "add", "staff@example.org")
        self.assertIn("added 2", self.call("group", "member", "add", "staff@example.org", "a@x.example", "b@x.example"))
        again = ("a@x.example", "c@x.example")
        self.assertIn("added 1", self.call("group", "member", "add", "staff@example.org", *again))
        self.call("group", "member", "delete", "staff@example.org", "A@X.example")
        self.assertEqual(self.json("group", "show", "staff@example.org")["members"], ["b@x.example", "c@x.example"])
        self.assertIn("no member", self.call("group", "member", "delete", "staff@example.org", "z@x.example", status=1))
        self.assertIn(
            "its own", self.call("group", "member", "add", "staff@example.org", "Staff@example.org", status=1)
        )

    def test_members_that_are_entries_are_shown_and_taken_away_by_their_address(self) -> None:
        self.call("group", "add", "staff@example.org")
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        dn = "uid=joe,dc=example.org,o=qmailpy"
        staff = parse("cn=staff,dc=example.org,o=qmailpy")
        store.thd_modify(staff, lambda entry: evolve(entry, attributes={**entry.attributes, "dnmember": (dn,)}))
        self.assertEqual(self.json("group", "show", "staff@example.org")["members"], ["joe@example.org"])
        self.call("group", "member", "delete", "staff@example.org", "joe@example.org")
        self.assertEqual(self.json("group", "show", "staff@example.org")["members"], [])

    def test_a_group_is_no_user_and_no_alias(self) -> None:
        self.call("group", "add", "staff@example.org")
        self.assertIn("is a group", self.call("user", "show", "staff@example.org", status=1))
        self.assertIn("no alias", self.call("alias", "delete", "staff@example.org", status=1))
        self.assertIn("no group", self.call("group", "show", "joe@example.org", status=1))
        self.assertIn("there already", self.call("group", "add", "joe@example.org", status=1))
        self.assertNotIn("staff", self.call("user", "list"))
        self.assertIn("1 groups", self.call("domain", "delete", "example.org", status=1))

    def test_an_alias_for_a_group_is_an_entry_of_its_own(self) -> None:
        self.call("group", "add", "staff@example.org", "joe@example.org")
        self.call("alias", "add", "all@example.org", "staff@example.org")
        self.assertEqual(self.json("alias", "show", "all@example.org")["targets"], ["staff@example.org"])


class AliasTests(EstateTestCase):
    def test_an_alias_is_led_elsewhere(self) -> None:
        self.call("alias", "add", "j@example.org", "joe@example.org")
        self.assertEqual(self.json("alias", "show", "j@example.org")["targets"], ["joe@example.org"])
        self.call("alias", "set", "j@example.org", "a@x.example", "b@x.example")
        self.assertEqual(self.call("alias", "show", "j@example.org"), "a@x.example\nb@x.example\n")
        self.call("alias", "set", "j@example.org", "c@x.example")
        self.assertEqual(self.call("alias", "show", "j@example.org"), "c@x.example\n")
        self.assertEqual(self.json("user", "show", "joe@example.org")["aliases"], [])
        self.call("alias", "set", "j@example.org", "J@example.org", status=1)
        self.call("alias", "set", "joe@example.org", "c@x.example", status=1)


class RoleTests(EstateTestCase):
    def test_roles_are_given_and_taken(self) -> None:
        self.call("domain", "add", "other.example")
        self.assertEqual(
            self.call("role", "add", "joe@example.org", "example.org"),
            "joe@example.org: domain administrator of example.org\n",
        )
        self.call("role", "add", "joe@example.org", "other.example")
        expected = {
            "address": "joe@example.org",
            "role": "domain administrator",
            "domains": ["example.org", "other.example"],
        }
        self.assertEqual(self.json("role", "list"), [expected])
        self.assertEqual(self.json("role", "show", "joe@example.org"), expected)
        self.call("role", "delete", "joe@example.org", "other.example")
        self.assertIn("does not", self.call("role", "delete", "joe@example.org", "other.example", status=1))
        self.call("role", "set", "joe@example.org", "operator")
        self.assertIn("operator", self.call("role", "show", "joe@example.org"))
        self.call("role", "delete", "joe@example.org")
        self.assertEqual(self.json("role", "list"), [])
        self.assertIn("anything", self.call("role", "delete", "joe@example.org", status=1))
        self.assertIn("no domain", self.call("role", "add", "joe@example.org", "elsewhere.example", status=1))


class VacationTests(EstateTestCase):
    def text(self, octets: bytes) -> str:
        path = os.path.join(self.home, "text")
        with open(path, "wb") as file:
            file.write(octets)
        return path

    def test_answers_are_switched_on_and_off(self) -> None:
        path = self.text("Bin im Büro\r\nam Montag\r\n".encode())
        self.call(
            *("user", "vacation", "joe@example.org", "--text-file", path, "--subject", "Weg", "--days", "3"),
            *("--from", "2026-12-24", "--to", "2026-12-26T12:30"),
        )
        expected = AutoReply(
            text="Bin im Büro\nam Montag", subject="Weg", days=3, begins=1798070400.0, ends=1798288200.0
        )
        self.assertEqual(self.mailbox().auto_reply, expected)
        self.assertEqual(self.json("user", "vacation", "joe@example.org")["days"], 3)
        self.assertIn("answers     yes", self.call("user", "show", "joe@example.org"))
        self.call("user", "vacation", "joe@example.org", "--from", "2026-12-24T18:00", "--to", "2027-01-02")
        self.assertEqual(self.json("user", "vacation", "joe@example.org")["to"], "20270102235959Z")
        shown = self.call("user", "vacation", "joe@example.org")
        self.assertIn("2026-12-24 18:00 UTC", shown)
        self.assertIn("2027-01-02 23:59 UTC", shown)
        self.call("user", "vacation", "joe@example.org", "--off")
        self.assertIsNone(self.mailbox().auto_reply)
        self.assertFalse(self.json("user", "vacation", "joe@example.org")["answers"])
        self.call("user", "vacation", "joe@example.org", "--to", "")
        found = self.mailbox().auto_reply
        assert found is not None
        self.assertEqual(found.ends, 0.0)
        self.assertEqual(set(self.told), {"joe@example.org"})

    def test_what_cannot_be_is_told(self) -> None:
        vacation = ("user", "vacation", "joe@example.org")
        self.assertIn("--text-file", self.call(*vacation, "--days", "3", status=1))
        self.assertIn("not UTF-8", self.call(*vacation, "--text-file", self.text(b"\xff"), status=1))
        self.assertIn("no text", self.call(*vacation, "--text-file", self.text(b"\n"), status=1))
        self.assertIn("octets", self.call(*vacation, "--text-file", self.text(b"x" * 40000), status=1))
        text = ("--text-file", self.text(b"Away"))
        self.assertIn("before", self.call(*vacation, *text, "--from", "2026-12-24", "--to", "2026-12-23", status=1))
        self.assertIn("no time", self.call(*vacation, *text, "--to", "soon", status=1))
        self.call(*vacation, "--off", "--days", "3", status=2)
        self.call(*vacation, "--text-file", "-", stdin=b"From standard input\n")
        self.assertIn("standard input", self.call(*vacation))


class CheckTests(EstateTestCase):
    def test_what_is_wrong_is_told_with_what_helps(self) -> None:
        self.assertEqual(self.call("directory", "check"), "0 problems, 0 notes\n")
        self.call("alias", "add", "info@example.org", "nobody@example.org")
        self.call("group", "add", "staff@example.org")
        for arguments, shown in (((), "info@example.org: leads to nobody@example.org"), (("--json",), '"dangling"')):
            out = io.StringIO()
            with redirect_stdout(out):
                self.assertEqual(run(["--home", self.home, "directory", "check", *arguments]), 1)
            self.assertIn(shown, out.getvalue())
        self.call("alias", "delete", "info@example.org")
        text = self.call("directory", "check")
        self.assertIn("note: staff@example.org: is a group without members; qmailpy group member add", text)
        self.assertTrue(text.endswith("0 problems, 1 note\n"))

    def test_users_without_a_maildir_are_told_when_asked_for(self) -> None:
        os.makedirs(os.path.join(self.home, "mail", "example.org", "joe", "Maildir"))
        text = self.call("directory", "check", "--homes")
        self.assertIn("note: postmaster@example.org: there is no", text)
        self.assertNotIn("joe@", text)
