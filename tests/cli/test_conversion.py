"""C{qmailpy test conversion}: what is shown, and what is written."""

from __future__ import annotations

import json
import os

from twisted.trial.unittest import SynchronousTestCase

from tests.channels.conversions.common import MULTI
from tests.cli.running import Outcome, invoke

TABLE = (
    '[[entry]]\nname = "exe"\naction = "delete"\nfile = ["*.exe"]\n'
    '[[entry]]\naction = "command"\ncommand = ["/bin/sh", "-c", "tr a-z A-Z <$0 >$1", "$INPUT", "$OUTPUT"]\n'
)


class TestConversionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        arguments = ("init", self.home, "--hostname", "mail.example.org", "--domain", "example.org", "--unprivileged")
        self.assertEqual(invoke(*arguments).status, 0)
        self.table(TABLE)
        self.message = os.path.abspath(self.mktemp())
        with open(self.message, "wb") as target:
            target.write(MULTI.replace(b"\r\n", b"\n"))

    def table(self, text: str) -> None:
        with open(os.path.join(self.home, "etc", "conversions.toml"), "w") as target:
            target.write(text)

    def run_(self, *arguments: str) -> Outcome:
        return invoke("--home", self.home, "test", "conversion", self.message, *arguments)

    def test_parts_entries_and_the_outcome_are_shown(self) -> None:
        found = self.run_()
        self.assertEqual((found.status, found.err), (0, ""))
        lines = [line.split() for line in found.out.splitlines()]
        self.assertEqual(lines[0][:5], ["from", "tcp_local", "to", "local", "it"])
        self.assertIn(["-", "multipart/mixed", "0", "-", "-"], lines)
        self.assertIn(["1", "text/plain", "8", "entry", "2", "would", "run", "/bin/sh"], lines)
        self.assertEqual(lines[-2][:2], ["2", "application/x-msdownload"])
        self.assertEqual(lines[-2][-5:], ["entry", "1", "(exe)", "left", "out"])
        self.assertEqual(lines[-1], ["outcome:", "changed"])

    def test_the_selection_is_shown(self) -> None:
        with open(os.path.join(self.home, "etc", "qmailpy.toml"), "a") as target:
            target.write('\n[[conversion]]\nsender = ["*@x.example"]\n')
        self.assertIn("goes through channel conversion on its way", self.run_("--from", "a@x.example").out)
        self.assertIn("would not be converted", self.run_("--from", "a@y.example").out)

    def test_what_it_becomes_is_written(self) -> None:
        out = os.path.abspath(self.mktemp())
        self.assertEqual(self.run_("--write", out).status, 0)
        with open(out, "rb") as source:
            octets = source.read()
        self.assertIn(b"\nCAF=E9\n", octets)
        self.assertNotIn(b"run me", octets)
        again = self.run_("--write", out)
        self.assertEqual((again.status, again.err.count("\n")), (1, 1))

    def test_json_tells_the_same(self) -> None:
        found = json.loads(self.run_("--json", "--run").out)
        self.assertEqual((found["outcome"], found["channel"], found["copies"]), ("changed", "", []))
        self.assertEqual([one["done"] for one in found["parts"]], ["", "changed", "left out"])

    def test_mistakes_are_one_line(self) -> None:
        for arguments in (("--source", "nowhere"),):
            found = self.run_(*arguments)
            self.assertEqual((found.status, found.err.count("\n")), (1, 1), found.err)
        self.table('[[entry]]\nname = "n"\naction = "command"\ncommand = ["/no/such"]\n')
        found = invoke("--home", self.home, "check")
        self.assertIn("conversions.toml: [[entry]] 1 (n) command: /no/such cannot be run; right would", found.err)
        self.table("[[entry]]\n")
        self.assertIn("conversions.toml:1: [[entry]] 1 action: is missing", self.run_().err)
        found = invoke("--home", self.home, "check")
        self.assertIn("conversions.toml:1: [[entry]] 1 action: is missing", found.err)
