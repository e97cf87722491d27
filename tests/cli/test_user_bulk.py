"""C{qmailpy user import} and C{user export}."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from twisted.internet.defer import maybeDeferred

from qmailpy.cli.main import run
from qmailpy.directory import bulk, password, setup
from qmailpy.directory.embedded import EmbeddedDirectory
from qmailpy.directory.store import Store
from qmailpy.errors import CommandError
from tests.cli.test_directory import CommandTestCase


class BulkTestCase(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(bulk, "SCHEMES", {name: lambda word: (password.ssha(word),) for name in bulk.SCHEMES})

    def file(self, content: str | bytes, name: str = "users.csv") -> str:
        path = os.path.join(self.home, name)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path

    def take(self, content: str | bytes, *options: str, name: str = "users.csv", bad: int = 0) -> dict[str, Any]:
        """Import it; the outcome, and the bad rows as (line, address, problem)."""
        errors = os.path.join(self.home, "errors.csv")
        path = self.file(content, name)
        found = self.outcome(1 if bad else 0, "user", "import", path, "--errors", errors, "--json", *options)
        self.assertEqual(found["bad"], bad, found)
        with open(errors, newline="") as file:
            found["rows"] = [tuple(row) for row in csv.reader(file)][1:]
        return found

    def outcome(self, status: int, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with redirect_stdout(out), redirect_stderr(self.err):
            self.assertEqual(run(["--home", self.home, *arguments]), status, (out.getvalue(), self.err.getvalue()))
        found: dict[str, Any] = json.loads(out.getvalue())
        return found

    def opens(self, login: str, word: bytes) -> bool:
        store = Store(setup.store_path(self.home))
        self.addCleanup(store.thd_close)
        return EmbeddedDirectory(store, maybeDeferred).thd_authenticate(login, word) is not None

    def users(self) -> list[str]:
        return [one["address"] for one in self.json("user", "list")]


class ImportTests(BulkTestCase):
    def test_users_come_with_all_a_row_says(self) -> None:
        self.call("plan", "add", "gold", "size=1M")
        hashed = password.ssha(b"hashed")
        found = self.take(
            "address,password,name,quota,plan,aliases,forward,subfolders\n"
            'Joe@Example.org,se same,"Doe, Joe",1G,gold,"j@example.org, x@example.org",a@x.example,yes\n'
            f"ann@example.org,{hashed},,,,,,\n"
            "bob@example.org,,,,,,,\n"
        )
        self.assertEqual((found["added"], found["same"]), (3, 0))
        joe = self.json("user", "show", "joe@example.org")
        self.assertEqual((joe["name"], joe["quota_octets"], joe["plan"]), ("Doe, Joe", 1 << 30, "gold"))
        self.assertEqual((joe["aliases"], joe["forwards"]), (["j@example.org", "x@example.org"], ["a@x.example"]))
        self.assertTrue(joe["settings"]["subfolders"])
        self.assertTrue(self.opens("joe@example.org", b"se same"))
        self.assertTrue(self.opens("ann@example.org", b"hashed"))
        self.assertFalse(self.json("user", "show", "bob@example.org")["has_password"])
        self.assertEqual(self.told, [""] * len(self.told))

    def test_a_bad_row_is_told_with_its_line_and_the_rest_goes_on(self) -> None:
        found = self.take(
            b"address;quota;password\n"
            b"a@example.org;1G;\n"
            b"b@elsewhere.example;;\n"
            b"c@example.org;lots;\n"
            b"no address;;\n"
            b"d@example.org;1G\n"
            b"e@example.org;;{MD5}abc\n"
            b"\xff@example.org;;\n"
            b"\n"
            b"a@example.org;2G;\n"
            b'"f@example.org\n";;\n'
            b"g@example.org;;" + b"x" * 2000 + b"\n"
            b"h@example.org;;\n",
            bad=8,
        )
        self.assertEqual(found["added"], 3)
        problems = {int(line): (what, problem) for line, what, problem in found["rows"]}
        self.assertEqual(sorted(problems), [3, 4, 5, 6, 7, 8, 10, 13])
        self.assertIn("no domain elsewhere.example", problems[3][1])
        self.assertIn("quota: 'lots'", problems[4][1])
        self.assertIn("2 cells", problems[6][1])
        self.assertIn("scheme", problems[7][1])
        self.assertIn("UTF-8", problems[8][1])
        self.assertEqual(self.users(), ["a@example.org", "f@example.org", "h@example.org", "postmaster@example.org"])

    def test_bad_rows_are_told_on_standard_error_without_a_file(self) -> None:
        path = self.file("address\n" + "".join(f"x{n}@elsewhere.example\n" for n in range(30)))
        self.assertEqual(self.outcome(1, "user", "import", path, "--json")["bad"], 30)
        lines = self.err.getvalue().splitlines()
        self.assertEqual(len(lines), 21)
        self.assertTrue(lines[0].startswith("qmailpy: line 2: x0@elsewhere.example: there is no domain"))
        self.assertIn("--errors", lines[-1])

    def test_a_second_import_leaves_alone_what_is_there(self) -> None:
        rows = "address,password,name,quota\njoe@example.org,sesame,Joe,1G\nann@example.org,,,\n"
        self.assertEqual(self.take(rows)["added"], 2)
        self.assertEqual(self.take(rows)["same"], 2)
        self.call("user", "set", "joe@example.org", "description=by hand")
        self.assertEqual(self.take(rows)["same"], 2)
        self.assertEqual(self.take("address\njoe@example.org\n")["same"], 1)

    def test_other_values_are_a_fault_unless_they_are_meant(self) -> None:
        self.take("address,name,quota\njoe@example.org,Joe,1G\n")
        other = "address,quota,password\njoe@example.org,2G,new\n"
        self.assertIn("--update", self.take(other, bad=1)["rows"][0][2])
        self.assertEqual(self.take(other, "--update")["changed"], 1)
        joe = self.json("user", "show", "joe@example.org")
        self.assertEqual((joe["quota_octets"], joe["name"]), (2 << 30, "Joe"))
        self.assertTrue(self.opens("joe@example.org", b"new"))

    def test_it_can_begin_in_the_middle(self) -> None:
        rows = "address\n" + "".join(f"u{n}@example.org\n" for n in range(10))
        self.assertEqual(self.take(rows, "--from-line", "9")["added"], 3)
        self.assertIn("u7@example.org", self.users())
        self.assertNotIn("u6@example.org", self.users())

    def test_columns_that_cannot_be_used_stop_everything(self) -> None:
        for head, told in (
            ("address,colour\n", "no column 'colour'"),
            ("name\n", "address"),
            ("address,address\n", "once"),
            ("", "no column"),
        ):
            path = self.file(head + "joe@example.org,x\n")
            self.assertIn(told, self.call("user", "import", path, status=1))
        self.assertIn("No such file", self.call("user", "import", "/nowhere", status=1))

    def test_it_reads_standard_input(self) -> None:
        found = self.outcome(0, "user", "import", "-", "--json", stdin=b"\xef\xbb\xbfaddress\r\njoe@example.org\r\n")
        self.assertEqual(found["added"], 1)

    def test_portions_are_kept_when_a_later_one_fails(self) -> None:
        """What was told durable is there when the rest is cut off; a second run makes the whole."""
        rows = "address\n" + "".join(f"u{n}@example.org\n" for n in range(1200))
        original, calls = bulk.Import.thd_take, []

        def take(self: Any, rows: Any) -> Any:
            calls.append(len(rows))
            if len(calls) == 3:
                raise CommandError("cut off")
            return original(self, rows)

        self.patch(bulk.Import, "thd_take", take)
        self.call("user", "import", self.file(rows), status=1)
        self.assertEqual(len(self.users()), 1001)
        self.patch(bulk.Import, "thd_take", original)
        found = self.take(rows)
        self.assertEqual((found["added"], found["same"]), (200, 1000))


class LdifTests(BulkTestCase):
    ENTRY = "dn: uid={0},dc=example.org,o=other\nobjectClass: inetOrgPerson\nobjectClass: qmailUser\ncn: {0}\nsn: {0}\n"

    def test_records_of_any_kind_come_below_our_base(self) -> None:
        group = (
            "dn: cn=staff,dc=example.org,o=other\nobjectClass: organizationalRole\nobjectClass: qmailGroup\n"
            "mail: staff@example.org\nrfc822member: joe@example.org\nentryUUID: 5\n"
        )
        text = f"version: 1\n\n{self.ENTRY.format('joe')}mail: joe@example.org\nuserPassword: sesame\n\n\n{group}"
        found = self.take(text, "--base", "O=Other", name="users.ldif")
        self.assertEqual(found["added"], 2)
        self.assertTrue(self.opens("joe@example.org", b"sesame"))
        self.assertEqual(self.json("group", "show", "staff@example.org")["members"], ["joe@example.org"])
        self.assertEqual(self.take(text, "--base", "o=other", name="users.ldif")["same"], 2)

    def test_a_bad_record_is_told_with_its_line(self) -> None:
        text = (
            f"{self.ENTRY.format('a')}mail: a@example.org\n\n"
            f"{self.ENTRY.format('b')}\n"
            "dn: uid=c,o=elsewhere\nmail: c@example.org\n\n"
            "no colon\n\n"
            f"{self.ENTRY.format('d')}mail: d@example.org\n"
        )
        found = self.take(text, "--base", "o=other", name="users.ldif", bad=3)
        self.assertEqual(found["added"], 2)
        self.assertEqual([int(row[0]) for row in found["rows"]], [8, 14, 17])
        self.assertIn("needs mail", found["rows"][0][2])
        self.assertIn("not below", found["rows"][1][2])


class ExportTests(BulkTestCase):
    def fill(self) -> None:
        self.take(
            "address,password,name,quota,aliases,subfolders,dot-qmail,status\n"
            'joe@example.org,sesame,"Döe, ""Joe""",1G,"j@example.org,x@example.org",yes,no,nopop\n'
            "ann@example.org,,Ann,,,,,\n"
        )
        self.call("alias", "add", "info@example.org", "a@x.example")

    def test_what_is_exported_can_be_imported(self) -> None:
        for form in ("csv", "ldif"):
            self.fill()
            path = os.path.join(self.home, f"out.{form}")
            self.call("user", "export", "--output", path, "--passwords")
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            before = [one for one in self.json("user", "list") if one["address"] != "postmaster@example.org"]
            for address in ("joe", "ann"):
                self.call("user", "delete", f"{address}@example.org", "--yes")
            self.call("alias", "delete", "info@example.org")
            with open(path, "rb") as file:
                content = file.read()
            found = self.take(content, name=f"back.{form}")
            self.assertEqual((found["added"], found["same"]), (2 if form == "csv" else 3, 1))
            after = [one for one in self.json("user", "list") if one["address"] != "postmaster@example.org"]
            self.assertEqual(after, before)
            self.assertTrue(self.opens("joe@example.org", b"sesame"))
            for address in ("joe", "ann"):
                self.call("user", "delete", f"{address}@example.org", "--yes")
            if form == "ldif":
                self.call("alias", "delete", "info@example.org")

    def test_passwords_are_left_out_unless_asked_for(self) -> None:
        self.fill()
        for form in ("csv", "ldif"):
            self.assertNotIn("SSHA", self.call("user", "export", "--format", form))
            self.assertIn("SSHA", self.call("user", "export", "--format", form, "--passwords"))

    def test_one_domain_or_all(self) -> None:
        self.call("domain", "add", "other.example")
        self.call("user", "add", "x@other.example")
        self.assertEqual(len(self.call("user", "export", "other.example").splitlines()), 2)
        self.assertEqual(len(self.call("user", "export").splitlines()), 3)
        self.call("user", "export", "nowhere.example", status=1)
