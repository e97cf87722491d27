"""C{qmailpy user quota}, and what C{user show} says of it."""

from __future__ import annotations

import os

from tests.cli.test_directory import CommandTestCase


class QuotaCommandTests(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.call("user", "add", "ann@example.org", "quota=10K")
        self.maildir = os.path.join(self.home, "mail", "example.org", "ann", "Maildir")
        for part in ("new", "cur", "tmp"):
            os.makedirs(os.path.join(self.maildir, part))
        self.put("1.a,S=5000")

    def put(self, name: str) -> None:
        with open(os.path.join(self.maildir, "new", name), "w"):
            pass

    def test_it_shows_how_full_a_mailbox_is(self) -> None:
        self.assertNotIn("in use", self.call("user", "show", "ann@example.org"))
        self.assertEqual(
            self.call("user", "quota", "ann@example.org"), "ann@example.org  4.9 KiB of 10.0 KiB, 1 message (49 %)\n"
        )
        self.assertIn("4.9 KiB, 1 message", self.call("user", "show", "ann@example.org"))
        self.assertEqual(
            self.json("user", "quota", "ann@example.org"),
            [
                {
                    "name": "ann@example.org",
                    "octets": 5000,
                    "messages": 1,
                    "quota_octets": 10240,
                    "quota_messages": 0,
                }
            ],
        )

    def test_it_counts_when_it_is_told_to(self) -> None:
        self.call("user", "quota", "ann@example.org")
        self.put("2.b,S=100")
        self.assertEqual(self.json("user", "quota", "ann@example.org")[0]["octets"], 5000)
        self.assertEqual(self.json("user", "quota", "ann@example.org", "--recount")[0]["octets"], 5100)

    def test_without_a_quota_it_is_counted_and_nothing_kept(self) -> None:
        self.call("user", "set", "ann@example.org", "quota=0")
        self.assertIn("4.9 KiB, 1 message\n", self.call("user", "quota", "ann@example.org"))
        self.assertFalse(os.path.exists(os.path.join(self.maildir, "maildirsize")))

    def test_the_domain_is_shown_where_it_has_one(self) -> None:
        self.call("domain", "set", "example.org", "total=1M")
        found = self.json("user", "quota", "ann@example.org")
        self.assertEqual(
            [(one["name"], one["octets"], one["quota_octets"]) for one in found][1:], [("example.org", 5000, 1 << 20)]
        )

    def test_who_is_nobody_is_told(self) -> None:
        self.assertIn("there is no user", self.call("user", "quota", "nobody@example.org", status=1))
