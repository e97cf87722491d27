"""C{qmailpy dkim}, and what C{qmailpy check} says of the key that signs reports."""

from __future__ import annotations

import json
import os
import re
import stat

from qmailpy.cli import check as cli_check
from qmailpy.cli import dkim as cli_dkim
from qmailpy.cli.home import Owners
from qmailpy.disk.rights import Identity
from tests.cli.test_check_config import HomeCase


class DkimTests(HomeCase):
    def setUp(self) -> None:
        super().setUp()
        os.makedirs(os.path.join(self.home, "directory"), exist_ok=True)
        self.key = os.path.join(self.home, "etc", "t1.dkim.pem")

    def test_a_key_is_made_and_its_record_is_told(self) -> None:
        made = self.run_command("dkim", "make", "t1")
        self.assertEqual((made.status, made.err), (0, ""))
        lines = made.out.splitlines()
        self.assertEqual(lines[0], f"{self.key} is made. Publish this record in the DNS:")
        self.assertEqual(lines[-1], "Once it can be looked up: qmailpy config set tlsrpt.dkim_selector t1")
        name, _, rest = lines[2].partition(" IN TXT ")
        self.assertEqual(name, "t1._domainkey.example.org.")
        strings = re.findall(r'"([^"]*)"', rest)
        self.assertLessEqual(max(map(len, strings)), 255)
        self.assertEqual(stat.S_IMODE(os.stat(self.key).st_mode), 0o600)
        self.assertEqual(self.run_command("config", "set", "tlsrpt.dkim_selector", "t1").status, 0)
        shown = self.run_command("dkim", "show")
        self.assertEqual((shown.status, shown.out.splitlines()), (0, [lines[2]]))
        told = json.loads(self.run_command("dkim", "show", "t1", "--json").out)
        self.assertEqual(told["text"], "".join(strings))
        self.assertEqual((told["name"], told["used"]), ("t1._domainkey.example.org", True))

    def test_another_kind_of_key(self) -> None:
        told = json.loads(self.run_command("dkim", "make", "t2", "--type", "ed25519", "--json").out)
        self.assertRegex(told["text"], r"^v=DKIM1; k=ed25519; s=tlsrpt; p=[A-Za-z0-9+/]{43}=$")
        self.assertFalse(told["used"])

    def test_what_is_wrong_is_told_in_a_line_with_its_remedy(self) -> None:
        self.run_command("dkim", "make", "t1")
        for arguments, said in (
            (("dkim", "make", "t1"), "is there already"),
            (("dkim", "make", "../t1"), "is no selector"),
            (("dkim", "show"), "qmailpy dkim make"),
            (("dkim", "show", "t3"), "qmailpy dkim make t3"),
        ):
            found = self.run_command(*arguments)
            self.assertEqual((found.status, found.out), (1, ""))
            self.assertIn(said, found.err)
            self.assertEqual(found.err.count("\n"), 1)

    def test_check_looks_at_the_key(self) -> None:
        self.run_command("config", "set", "tlsrpt.send", "true")
        found = self.run_command("check")
        self.assertEqual(found.status, 0)
        self.assertIn("dkim_selector: reports by mail are not signed", found.err)
        self.run_command("config", "set", "tlsrpt.dkim_selector", "t1")
        found = self.run_command("check")
        self.assertEqual(found.status, 1)
        self.assertIn("No such file or directory; right would be: qmailpy dkim make t1", found.err)
        self.run_command("dkim", "make", "t1")
        self.assertEqual(self.run_command("check").err, "")
        os.chmod(self.key, 0o644)
        self.assertIn(f"chmod o-rwx {self.key}", self.run_command("check").err)
        with open(self.key, "w") as target:
            target.write("words")
        self.assertIn("is no PEM file", self.run_command("check").err)

    def test_the_mail_workers_can_read_it_and_nobody_else(self) -> None:
        """As root, whose it is; C{check} tells when somebody has put another file there."""
        self.patch(os, "geteuid", lambda: 0)
        group = os.getegid()
        others = Owners(Identity(12345, group), Identity(12346, group))
        self.patch(cli_dkim, "owners", lambda user, group, directory_user: others)
        self.run_command("dkim", "make", "t1")
        found = os.stat(self.key)
        self.assertEqual((found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)), (os.getuid(), group, 0o640))
        self.run_command("config", "set", "tlsrpt.dkim_selector", "t1")
        self.patch(cli_check, "owners", lambda user, group, directory_user: others)
        self.assertNotIn("cannot be read by", self.run_command("check").err)
        os.chmod(self.key, 0o600)
        self.assertIn(f"{self.key}: cannot be read by user", self.run_command("check").err)

    def test_check_warns_of_a_name_that_is_not_the_senders(self) -> None:
        self.run_command("dkim", "make", "t1")
        self.run_command("config", "set", "tlsrpt.dkim_selector", "t1")
        self.run_command("config", "set", "tlsrpt.dkim_domain", "else.example")
        self.assertIn("else.example is not the domain of", self.run_command("check").err)
        self.run_command("config", "set", "tlsrpt.contact", "tls@mail.else.example")
        self.assertEqual(self.run_command("check").err, "")
        self.run_command("config", "set", "tlsrpt.dkim_domain", "")
        self.assertTrue(self.run_command("dkim", "show").out.startswith("t1._domainkey.mail.else.example. "))
        found = self.run_command("config", "set", "tlsrpt.dkim_selector", "a b")
        self.assertIn("is no selector", found.err)
