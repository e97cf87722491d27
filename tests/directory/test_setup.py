"""The directory of a new home."""

from __future__ import annotations

import os
import stat

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.directory import setup
from qmailpy.directory.access import Access
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.directory.rights import Role
from qmailpy.directory.store import Store
from qmailpy.errors import CommandError


class SetupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = self.mktemp()
        os.makedirs(self.home)

    def test_the_postmaster_of_the_first_domain_can_log_in(self) -> None:
        generated = setup.create(self.home, "o=qmailpy", "Example.org")
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        directory = EmbeddedDirectory(store, maybeDeferred)
        self.assertIsNotNone(directory.thd_domain("example.org"))
        found = directory.thd_authenticate("postmaster@example.org", generated.encode())
        assert found is not None
        self.assertEqual(found.path, "example.org/postmaster/Maildir")

    def test_the_identities_have_secrets_that_only_the_owner_reads(self) -> None:
        setup.create(self.home, "ou=mail,o=Example Inc", "example.org")
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        access = Access(store, "ou=mail,o=Example Inc")
        for identity, role in ((setup.ADMIN, Role.ADMIN), (setup.SERVICE, Role.SERVICE)):
            path = setup.secret_path(self.home, identity)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            secret = setup.thd_read_secret(self.home, identity)
            self.assertGreaterEqual(len(secret), 43)
            name = str(setup.identity_name("ou=mail,o=Example Inc", identity))
            self.assertIs(access.thd_bind(name, secret).role, role)

    def test_it_is_never_made_twice(self) -> None:
        setup.create(self.home, "o=qmailpy", "example.org")
        self.assertRaises(CommandError, setup.create, self.home, "o=qmailpy", "example.org")

    def test_what_cannot_be_made_is_told_in_a_line(self) -> None:
        for base, domain in (("junk", "example.org"), ("o=qmailpy", "a..b")):
            text = str(self.assertRaises(CommandError, setup.create, self.mktemp(), base, domain))
            self.assertNotIn("\n", text)
