"""Files of users that say what is done with their mail: which one counts, and what in it."""

from __future__ import annotations

import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.local.dotqmail import LINES, OCTETS, Does, Found, Line, NotFollowed, names, parse, thd_find

ME = (0, os.geteuid())


class ParseTests(SynchronousTestCase):
    def test_lines_do_what_their_first_character_says(self) -> None:
        """dot-qmail(5)."""
        text = (
            b"# a comment\n&joe@example.org \njoe@example.org\n9er@x\n./Maildir/\n./mbox\t\n/var/x/\n"
            b"|exit 0 # no comment\n\n  \n+unknown\n& spaced@x"
        )
        self.assertEqual(
            parse(text),
            (
                Line(Does.FORWARD, "joe@example.org"),
                Line(Does.FORWARD, "joe@example.org"),
                Line(Does.FORWARD, "9er@x"),
                Line(Does.MAILDIR, "./Maildir"),
                Line(Does.MBOX, "./mbox"),
                Line(Does.MAILDIR, "/var/x"),
                Line(Does.PROGRAM, "exit 0 # no comment"),
                Line(Does.FORWARD, "spaced@x"),
            ),
        )
        self.assertEqual(parse(b"# nothing\n"), ())

    def test_what_may_not_be_is_not_followed(self) -> None:
        for text in (
            b"\n&a@b\n",
            b" \n&a@b",
            b"+list\n./x/\n",
            b"+list\n|x\n",
            b"&a@b\n|a\0b\n",
            b"&a@b\n" * (LINES + 1),
        ):
            self.assertRaises(NotFollowed, parse, text)
        self.assertEqual(len(parse(b"./x/\n+list\n&a@b\n")), 2)
        self.assertRaises(NotFollowed, parse, b"./x/\n&a@b\n", forwards_only=True)
        self.assertEqual(len(parse(b"&a@b\n" * LINES, forwards_only=True)), LINES)


class NamesTests(SynchronousTestCase):
    def test_the_nearest_comes_first(self) -> None:
        self.assertEqual(
            list(names("a-b-c")),
            [
                (".qmail-a-b-c", ""),
                (".qmail-a-b-default", "c"),
                (".qmail-a-default", "b-c"),
                (".qmail-default", "a-b-c"),
            ],
        )
        self.assertEqual(list(names("")), [(".qmail", "")])
        self.assertEqual([name for name, _ in names("A.b")], [".qmail-a:b", ".qmail-default"])

    def test_none_leads_elsewhere(self) -> None:
        self.assertEqual([name for name, _ in names("../x-y/z")], [".qmail-default"])
        self.assertEqual([name for name, _ in names("a-b/c-d")], [".qmail-a-default", ".qmail-default"])
        self.assertEqual(list(names("a\0b")), [])


class FindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.mkdir(self.home, 0o700)

    def write(self, name: str, text: bytes = b"&a@b\n", mode: int = 0o600) -> str:
        path = os.path.join(self.home, name)
        with open(path, "wb") as target:
            target.write(text)
        os.chmod(path, mode)
        return path

    def find(self, extension: str = "") -> Found | None:
        return thd_find(self.home, extension, ME)

    def why(self, extension: str = "") -> str:
        return str(self.assertRaises(NotFollowed, self.find, extension))

    def test_none_and_an_empty_one(self) -> None:
        self.assertIsNone(self.find())
        self.assertIsNone(thd_find(f"{self.home}/gone", "", ME))
        self.assertIsNone(self.find("x" * 300))
        self.write(".qmail", b"")
        found = self.find()
        assert found is not None
        self.assertTrue(found.empty)

    def test_default_and_owner(self) -> None:
        self.write(".qmail-a-default")
        found = self.find("a-b-c")
        assert found is not None
        self.assertEqual((found.default, found.owner, found.verp), ("b-c", False, False))
        self.write(".qmail-a-b-c-owner")
        found = self.find("a-b-c")
        assert found is not None
        self.assertEqual((found.owner, found.verp), (True, False))
        self.write(".qmail-a-b-c-owner-default")
        found = self.find("a-b-c")
        assert found is not None
        self.assertTrue(found.verp)

    def test_what_others_may_write_is_not_followed(self) -> None:
        self.write(".qmail", mode=0o602)
        self.assertIn("written by others", self.why())
        self.write(".qmail")
        self.assertIsNotNone(self.find())
        os.chmod(self.home, 0o703)
        self.assertIn("written by others", self.why())
        os.chmod(self.home, 0o700 | stat.S_ISVTX)
        self.assertIn("sticky", self.why())

    def test_what_is_somebody_elses_is_not_followed(self) -> None:
        self.write(".qmail")
        self.assertRaises(NotFollowed, thd_find, self.home, "", (12345,))

    def test_the_x_bit_is_for_forwards(self) -> None:
        self.write(".qmail", b"./Maildir/\n", 0o700)
        self.assertIn("x bit", self.why())

    def test_what_is_no_file_or_too_large_is_not_followed(self) -> None:
        os.mkfifo(os.path.join(self.home, ".qmail"), 0o600)
        self.assertIn("no file", self.why())
        os.mkdir(os.path.join(self.home, ".qmail-x"))
        self.assertIn("no file", self.why("x"))
        self.write(".qmail-y", b"#" * (OCTETS + 1))
        self.assertIn("larger", self.why("y"))
