"""Domains, users and aliases as an administrator handles them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import password
from qmailpy.errors import CommandError
from tests.directory.parts import example


class AccountTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts = example(self)

    def refused(self, words: str, call: object, *arguments: object, **more: object) -> None:
        """Every refusal is one line that says what is wrong."""
        assert callable(call)
        text = str(self.assertRaises(CommandError, call, *arguments, **more))
        self.assertIn(words, text)
        self.assertNotIn("\n", text)

    def test_a_user_has_a_mailbox_and_a_hashed_password(self) -> None:
        user = self.accounts.thd_add_user("Joe@Example.org", secret=b"sesame", name="Joe Doe", quota_octets=1000)
        self.assertEqual((user.address, user.store), ("joe@example.org", "example.org/joe/Maildir"))
        entry = self.accounts.store.thd_by_address("joe@example.org")
        assert entry is not None
        self.assertEqual(str(entry.name), "uid=joe,dc=example.org,o=qmailpy")
        self.assertTrue(password.thd_verify(entry.values("userPassword"), b"sesame"))
        self.assertEqual((entry.value("cn"), entry.value("sn")), ("Joe Doe", "Doe"))

    def test_a_user_needs_a_domain_of_ours_and_a_free_address(self) -> None:
        self.refused("no domain elsewhere.org", self.accounts.thd_add_user, "joe@elsewhere.org")
        self.accounts.thd_add_user("joe@example.org")
        self.refused("there already", self.accounts.thd_add_user, "JOE@example.org")
        self.refused("not an address", self.accounts.thd_add_user, "../joe@example.org")
        self.refused("empty password", self.accounts.thd_add_user, "ann@example.org", secret=b"")

    def test_an_alias_of_one_user_is_his_alternate_address(self) -> None:
        self.accounts.thd_add_user("joe@example.org")
        self.accounts.thd_add_alias("J.Doe@example.org", ["joe@example.org"])
        self.assertEqual(self.accounts.thd_user("j.doe@example.org").aliases, ("j.doe@example.org",))
        self.refused("there already", self.accounts.thd_add_user, "j.doe@example.org")

    def test_any_other_alias_forwards(self) -> None:
        self.accounts.thd_add_user("joe@example.org")
        self.accounts.thd_add_alias("info@example.org", ["joe@example.org", "bob@remote.example", "joe@example.org"])
        self.accounts.thd_add_alias("out@example.org", ["Bob@Remote.example"])
        found = [(one.address, one.targets) for one in self.accounts.thd_aliases("example.org")]
        expected = [
            ("info@example.org", ("joe@example.org", "bob@remote.example")),
            ("out@example.org", ("Bob@remote.example",)),
        ]
        self.assertEqual(found, expected)
        self.refused("is an alias", self.accounts.thd_user, "info@example.org")
        self.refused("own target", self.accounts.thd_add_alias, "a@example.org", ["A@example.org"])
        self.refused("there already", self.accounts.thd_add_alias, "joe@example.org", ["x@remote.example"])

    def test_aliases_are_deleted_and_users_are_not_taken_for_them(self) -> None:
        self.accounts.thd_add_user("joe@example.org")
        self.accounts.thd_add_alias("a@example.org", ["joe@example.org"])
        self.accounts.thd_add_alias("b@example.org", ["joe@example.org", "x@remote.example"])
        self.accounts.thd_delete_alias("A@example.org")
        self.accounts.thd_delete_alias("b@example.org")
        self.assertEqual(self.accounts.thd_aliases(), [])
        self.refused("is a user", self.accounts.thd_delete_alias, "joe@example.org")
        self.refused("no alias", self.accounts.thd_delete_alias, "a@example.org")

    def test_users_change(self) -> None:
        self.accounts.thd_add_user("joe@example.org", secret=b"old", forwards=["x@remote.example"])
        changed = self.accounts.thd_set_user(
            "joe@example.org", name="Joe", quota_octets=7, forwards=[], status="disabled"
        )
        self.assertEqual(
            (changed.name, changed.quota_octets, changed.forwards, changed.status), ("Joe", 7, (), "disabled")
        )
        self.accounts.thd_set_password("joe@example.org", b"new")
        entry = self.accounts.store.thd_by_address("joe@example.org")
        assert entry is not None
        self.assertFalse(password.thd_verify(entry.values("userPassword"), b"old"))
        self.assertTrue(password.thd_verify(entry.values("userPassword"), b"new"))
        self.assertEqual(self.accounts.thd_set_user("joe@example.org", quota_octets=0, name="").quota_octets, 0)

    def test_a_user_is_deleted_with_his_aliases(self) -> None:
        self.accounts.thd_add_user("joe@example.org")
        self.accounts.thd_add_alias("a@example.org", ["joe@example.org"])
        self.accounts.thd_delete_user("joe@example.org")
        self.refused("no user", self.accounts.thd_user, "joe@example.org")
        self.assertEqual(self.accounts.thd_aliases(), [])
        self.assertFalse(self.accounts.thd_known("a@example.org"))

    def test_a_domain_with_users_is_deleted_only_by_force(self) -> None:
        self.accounts.thd_add_user("joe@example.org")
        self.refused("1 users and 0 aliases", self.accounts.thd_delete_domain, "example.org")
        self.assertEqual(self.accounts.thd_delete_domain("example.org", force=True), 1)
        self.refused("no domain", self.accounts.thd_domain, "example.org")

    def test_domains_are_listed_with_what_they_hold(self) -> None:
        self.accounts.thd_add_domain("Another.example", "all@example.org")
        self.accounts.thd_add_user("joe@example.org")
        self.accounts.thd_add_alias("x@example.org", ["y@remote.example"])
        found = [(one.name, one.catch_all, one.users, one.aliases) for one in self.accounts.thd_domains()]
        self.assertEqual(found, [("another.example", "all@example.org", 0, 0), ("example.org", "", 1, 1)])
        self.accounts.thd_set_domain("another.example", status="disabled", catch_all="")
        info = self.accounts.thd_domain("another.example")
        self.assertEqual((info.status, info.catch_all), ("disabled", ""))
        self.refused("there already", self.accounts.thd_add_domain, "EXAMPLE.org")
        self.refused("not a domain", self.accounts.thd_add_domain, "a..b")
