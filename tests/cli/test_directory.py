"""C{qmailpy domain}, C{user}, C{alias} and C{test rewrite}."""

from __future__ import annotations

import getpass
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import people as commands
from qmailpy.cli.main import run
from qmailpy.config.template import HomeChoices, home_text
from qmailpy.directory import password, setup
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.directory.store import Store
from qmailpy.errors import CommandError


class CommandTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = tempfile.mkdtemp(dir=os.path.abspath("."))
        os.makedirs(os.path.join(self.home, "etc"))
        choices = HomeChoices(
            hostname="mail.example.org",
            domain="example.org",
            user=getpass.getuser(),
            group=getpass.getuser(),
            unprivileged=True,
            relay="",
            trust=(),
        )
        with open(os.path.join(self.home, "etc", "qmailpy.toml"), "w") as file:
            file.write(home_text(choices))
        self.patch(password, "thd_hash", lambda word: password.ssha(word))
        setup.create(self.home, "o=qmailpy", "example.org")
        self.told: list[str] = []
        self.patch(commands, "flush_directory", lambda home, what: self.told.append(what))

    def call(self, *arguments: str, stdin: bytes = b"", status: int = 0) -> str:
        """What a command line prints: on standard output, or on standard error when it is to fail."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with redirect_stdout(out), redirect_stderr(err):
            found = run(["--home", self.home, *arguments])
        self.assertEqual(found, status, (arguments, out.getvalue(), err.getvalue()))
        if status:
            self.assertEqual(out.getvalue(), "")
            self.assertEqual(err.getvalue().count("\n"), 1, err.getvalue())
            return err.getvalue()
        return out.getvalue()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.call(*arguments, "--json"))


class DomainCommandTests(CommandTestCase):
    def domain(self, name: str) -> dict[str, Any]:
        """A domain without its settings."""
        found: dict[str, Any] = self.json("domain", "show", name)
        found.pop("settings")
        return found

    def test_domains_are_added_listed_shown_changed_and_deleted(self) -> None:
        self.assertEqual(self.call("domain", "add", "New.Example", "catch-all=joe@example.org"), "added new.example\n")
        self.assertIn("new.example", self.call("domain", "list"))
        expected = {"name": "new.example", "status": "active", "catch_all": "joe@example.org", "users": 0, "aliases": 0}
        expected.update({"groups": 0, "plan": ""})
        self.assertEqual(self.domain("new.example"), expected)
        self.assertEqual([one["name"] for one in self.json("domain", "list")], ["example.org", "new.example"])
        self.call("domain", "set", "new.example", "status=disabled", "catch-all=")
        self.assertEqual(self.domain("new.example"), {**expected, "status": "disabled", "catch_all": ""})
        self.call("domain", "delete", "new.example")
        self.call("domain", "show", "new.example", status=1)
        self.assertEqual(set(self.told), {"new.example"})

    def test_a_domain_with_users_needs_force_and_a_yes(self) -> None:
        self.assertIn("--force", self.call("domain", "delete", "example.org", status=1))
        self.assertIn("--yes", self.call("domain", "delete", "example.org", "--force", status=1))
        self.assertEqual(len(self.json("user", "list")), 1)
        self.call("domain", "delete", "example.org", "--force", "--yes")
        self.assertEqual(self.json("domain", "list"), [])

    def test_wrong_usage_is_told_apart(self) -> None:
        self.call("domain", "add", status=2)
        self.call("domain", "set", "example.org", status=2)
        self.call("domain", "add", "example.org", status=1)
        self.call("domain", "add", "not a domain", status=1)


class UserCommandTests(CommandTestCase):
    def opens(self, login: str, word: bytes) -> bool:
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        return EmbeddedDirectory(store, maybeDeferred).thd_authenticate(login, word) is not None

    def test_a_user_s_password_comes_from_standard_input(self) -> None:
        self.call("user", "add", "Joe@Example.org", "--password-stdin", "quota=2G", stdin=b"se same\r\nrest")
        self.assertTrue(self.opens("joe@example.org", b"se same"))
        shown = self.json("user", "show", "joe@example.org")
        self.assertEqual((shown["store"], shown["quota_octets"]), ("example.org/joe/Maildir", 2 << 30))
        self.assertTrue(shown["has_password"])
        self.call("user", "passwd", "joe@example.org", "--password-stdin", stdin=b"new")
        self.assertFalse(self.opens("joe@example.org", b"se same"))
        self.assertTrue(self.opens("joe@example.org", b"new"))
        self.assertEqual(set(self.told), {"joe@example.org"})

    def test_passwords_are_never_shown(self) -> None:
        self.call("user", "add", "joe@example.org", "--password-stdin", stdin=b"sesame")
        for arguments in (("user", "show", "joe@example.org"), ("user", "list"), ("user", "list", "--json")):
            shown = self.call(*arguments)
            self.assertNotIn("SSHA", shown)
            self.assertNotIn("sesame", shown)

    def test_an_empty_password_is_refused_and_none_is_told(self) -> None:
        self.call("user", "add", "joe@example.org", "--password-stdin", stdin=b"\n", status=1)
        self.call("user", "add", "joe@example.org", "--password-stdin", stdin=b"x" * 5000, status=1)
        self.assertIn("without a password", self.call("user", "add", "joe@example.org"))
        self.assertFalse(self.opens("joe@example.org", b""))

    def test_users_are_changed_suspended_and_resumed(self) -> None:
        self.call("user", "add", "joe@example.org", "forward=x@remote.example", "--password-stdin", stdin=b"sesame")
        self.call("user", "set", "joe@example.org", "name=Joe", "quota=10K", "forward=")
        shown = self.json("user", "show", "joe@example.org")
        self.assertEqual((shown["name"], shown["quota_octets"], shown["forwards"]), ("Joe", 10240, []))
        self.call("user", "suspend", "joe@example.org")
        self.assertEqual(self.json("user", "show", "joe@example.org")["status"], "disabled")
        self.assertFalse(self.opens("joe@example.org", b"sesame"))
        self.call("user", "resume", "joe@example.org")
        self.assertTrue(self.opens("joe@example.org", b"sesame"))
        self.call("user", "set", "joe@example.org", status=2)
        self.call("user", "set", "joe@example.org", "quota=lots", status=1)

    def test_deleting_needs_a_yes_and_leaves_the_mail(self) -> None:
        self.call("user", "add", "joe@example.org")
        place = os.path.join(self.home, "mail", "example.org", "joe", "Maildir")
        os.makedirs(place)
        self.assertIn("--yes", self.call("user", "delete", "joe@example.org", status=1))
        self.assertIn(place, self.call("user", "delete", "joe@example.org", "--yes"))
        self.assertTrue(os.path.isdir(place))

    def test_old_mail_is_not_given_to_a_new_user_by_accident(self) -> None:
        os.makedirs(os.path.join(self.home, "mail", "example.org", "joe", "Maildir"))
        self.assertIn("--adopt", self.call("user", "add", "joe@example.org", status=1))
        self.call("user", "add", "joe@example.org", "--adopt")

    def test_errors_are_one_line_of_what_is_wrong(self) -> None:
        for address, words in (
            ("joe", "user@domain"),
            ("joe@elsewhere.example", "no domain"),
            ("postmaster@example.org", "there already"),
            ("../../x@example.org", "not an address"),
            ("a\x1b[2J@example.org", "not an address"),
        ):
            text = self.call("user", "add", address, status=1)
            self.assertIn(words, text)
            self.assertNotIn("\x1b", text)
        self.call("user", "show", "nobody@example.org", status=1)

    def test_a_daemon_that_cannot_be_told_is_no_failure(self) -> None:
        def fails(home: str, what: str) -> None:
            raise CommandError("no answer")

        self.patch(commands, "flush_directory", fails)
        self.call("user", "add", "joe@example.org")
        self.assertEqual(len(self.json("user", "list", "example.org")), 2)

    def test_without_a_directory_it_says_so(self) -> None:
        os.unlink(setup.store_path(self.home))
        self.assertIn("no directory", self.call("user", "list", status=1))


class AliasCommandTests(CommandTestCase):
    def test_aliases_are_added_listed_and_deleted(self) -> None:
        self.call("user", "add", "joe@example.org")
        self.call("alias", "add", "j.doe@example.org", "joe@example.org")
        self.call("alias", "add", "info@example.org", "joe@example.org", "bob@remote.example")
        expected = [
            {"address": "info@example.org", "targets": ["joe@example.org", "bob@remote.example"]},
            {"address": "j.doe@example.org", "targets": ["joe@example.org"]},
        ]
        self.assertEqual(self.json("alias", "list"), expected)
        self.assertEqual(self.json("alias", "list", "example.org"), expected)
        self.assertIn("bob@remote.example", self.call("alias", "list"))
        self.call("alias", "delete", "info@example.org")
        self.call("alias", "delete", "J.Doe@example.org")
        self.assertEqual(self.json("alias", "list"), [])
        self.call("alias", "delete", "joe@example.org", status=1)
        self.call("alias", "add", "x@example.org", status=2)


class RewriteCommandTests(CommandTestCase):
    def test_it_shows_the_way_and_why(self) -> None:
        self.call("alias", "add", "info@example.org", "postmaster@example.org", "bob@remote.example")
        shown = self.call("test", "rewrite", "info@EXAMPLE.org")
        self.assertIn("<postmaster@example.org> in channel local", shown)
        self.assertIn("<bob@remote.example> in channel process", shown)
        self.assertIn("is an alias for", shown)
        self.assertIn("refused: 550 5.1.1", self.call("test", "rewrite", "nobody@example.org"))

    def test_it_prints_json(self) -> None:
        found = self.json("test", "rewrite", "bob@remote.example", "--source", "process")
        self.assertEqual(
            found["recipients"],
            [{"address": "bob@remote.example", "channel": "tcp_local", "host": "remote.example", "through": ""}],
        )
        self.assertEqual(
            (found["accepted"], found["local"], found["source"], found["reply"]), (True, False, "process", "")
        )
        self.assertTrue(found["steps"])
        refused = self.json("test", "rewrite", "x@[127.0.0.1]")
        self.assertEqual((refused["accepted"], refused["recipients"]), (False, []))
        self.assertTrue(refused["reply"].startswith("550 5.1.2"))

    def test_an_address_is_read_as_the_server_reads_it(self) -> None:
        """What the test says of an address is what becomes of mail for it."""
        for written, read in (
            ('"postmaster"@example.org', "postmaster@example.org"),
            ("<Postmaster@EXAMPLE.org>", "postmaster@example.org"),
            ("@relay.example:postmaster@example.org", "postmaster@example.org"),
            ("u@B\u00fccher.example", "u@xn--bcher-kva.example"),
            ('"a b"@remote.example', '"a b"@remote.example'),
        ):
            found = self.json("test", "rewrite", written)
            self.assertEqual([one["address"] for one in found["recipients"]], [read], written)
            told = [step for step in found["steps"] if step.startswith("it is read as")]
            self.assertEqual(len(told), written != read and written.lower() != f"<{read}>", (written, told))

    def test_what_the_server_would_not_read_is_refused_with_its_words(self) -> None:
        for bad, words in (
            ("x@remote..example", "501 5.1.3 Bad domain"),
            ("x@remote.example.", "501 5.1.3 Bad domain"),
            ("x@[1.2.3.4.5]", "501 5.1.3 Bad domain"),
            ("x" * 65 + "@remote.example", "501 5.1.3 Local part too long"),
            ("x@remote.example> <y", "501 5.1.3"),
            ("", "501 5.1.3"),
        ):
            found = self.json("test", "rewrite", bad)
            self.assertEqual((found["accepted"], found["recipients"]), (False, []), bad)
            self.assertTrue(found["reply"].startswith(words), found)
        self.call("test", "rewrite", "bob@remote.example", "--from", "x@remote..example", status=2)
        self.call("test", "rewrite", "bob@remote.example", "--from", "")

    def test_it_shows_which_channel_converts_it_before(self) -> None:
        with open(f"{self.home}/etc/qmailpy.toml", "a") as target:
            target.write('[[conversion]]\ndestination = "local"\nsender = ["*@far.example"]\nmin_octets = 10\n')
        words = ("test", "rewrite", "postmaster@example.org")
        self.assertNotIn("conversion", self.call(*words))
        shown = self.call(*words, "--from", "a@far.example", "--size", "10")
        self.assertIn("<postmaster@example.org> in channel local, through channel conversion first", shown)
        found = self.json(*words, "--from", "a@far.example", "--size", "10")
        self.assertEqual([one["through"] for one in found["recipients"]], ["conversion"])

    def test_a_source_that_is_no_channel_is_told(self) -> None:
        self.call("test", "rewrite", "bob@remote.example", "--source", "tcp_lokal", status=1)

    def test_it_shows_what_rules_make_of_a_sender(self) -> None:
        with open(f"{self.home}/etc/qmailpy.toml", "a") as target:
            target.write(
                '[[rewrite]]\npattern = ".inside.example"\ndirection = "from"\naddress = "$U@example.org"\n'
                '[channel.tcp_bank]\nkind = "smtp"\nrelay = ["a.bank.example:587", "b.bank.example"]\n'
            )
        self.call("config", "set", "rewrite.1.pattern", "other.example")
        shown = self.call("test", "rewrite", "bob@other.example", "--from", "joe@WS1.inside.example")
        self.assertIn("its sender leaves by tcp_local as <joe@example.org>, by rewrite rule 2", shown)
        found = self.json("test", "rewrite", "bob@other.example", "--from", "joe@ws1.inside.example")
        self.assertEqual(found["senders"], [{"channel": "tcp_local", "sender": "joe@example.org", "rule": 2}])
        self.assertEqual(self.json("test", "rewrite", "bob@other.example")["senders"], [])

    def test_rules_may_ask_who_sends_and_who_has_logged_in(self) -> None:
        path = f"{self.home}/etc/qmailpy.toml"
        with open(path) as source:
            text = source.read()
        with open(path, "w") as target:
            target.write(
                text.replace(
                    '[[rewrite]]\npattern = "."',
                    '[[rewrite]]\npattern = "."\nchannel = "hold"\nsender = ["*@spam.example"]\n'
                    '[[rewrite]]\npattern = "."\nchannel = "bitbucket"\nuser = ["ann@*"]\n'
                    '[[rewrite]]\npattern = "."',
                )
            )
        for arguments, channel in (
            (("--from", "x@spam.example"), "hold"),
            (("--user", "Ann@example.org"), "bitbucket"),
            (("--from", "", "--user", "bob@example.org"), "tcp_local"),
            ((), "tcp_local"),
        ):
            found = self.json("test", "rewrite", "bob@remote.example", *arguments)
            self.assertEqual([one["channel"] for one in found["recipients"]], [channel], arguments)
