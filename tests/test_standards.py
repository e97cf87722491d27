"""docs/rfc.md and the code, beside each other."""

from __future__ import annotations

import glob
import os
import re

from twisted.trial.unittest import SynchronousTestCase

import qmailpy

TOP = os.path.dirname(qmailpy.__file__)
TABLE = os.path.join(os.path.dirname(TOP), "docs", "rfc.md")
_CITED = re.compile(r"RFCs?\s+(\d{3,5}(?:\s*(?:,|and|or|to|-)\s+\d{3,5})*)")
_NUMBER = re.compile(r"\d{3,5}")

NAMED = frozenset({
    *("3207", "4954", "3030", "3461", "3463", "3464", "6531", "6533", "8689", "9422", "4865", "2852", "6710", "8314"),
    *("5321", "8461", "7672", "8460", "2033", "1985", "7505", "6152", "1870", "2920", "5802", "7677", "9266", "5929"),
    *("1939", "2449", "5034", "6856", "2595", "3206", "3062", "4511", "4513", "2696", "2849", "3834", "6522", "6409"),
})  # fmt: skip
"""What the server is made of: these have a row whatever the code says."""


def cited(text: str) -> set[str]:
    """Numbers of RFCs."""
    return {number for found in _CITED.finditer(text) for number in _NUMBER.findall(found[1])}


def in_code() -> dict[str, str]:
    """By number, a module that cites it."""
    found = {}
    for path in sorted(glob.glob(os.path.join(TOP, "**", "*.py"), recursive=True)):
        with open(path, encoding="utf-8") as source:
            for number in cited(source.read()):
                found[number] = os.path.relpath(path, TOP)
    return found


def rows() -> list[list[str]]:
    """The cells of each row: document, what is followed, where."""
    with open(TABLE, encoding="utf-8") as source:
        lines = [line for line in source if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines[1:]]


class StandardsTests(SynchronousTestCase):
    """The table of standards."""

    def test_every_rfc_the_code_cites_has_a_row(self) -> None:
        """Whoever implements another one writes down what of it is followed, what is left and why."""
        named = {number for row in rows() for number in cited(row[0])}
        self.assertEqual({number: path for number, path in in_code().items() if number not in named}, {})
        self.assertEqual(NAMED - named, set())

    def test_every_row_is_of_something_the_code_cites(self) -> None:
        """But for those that are only mentioned, in brackets."""
        code = in_code()
        for row in rows():
            numbers = cited(re.sub(r"\([^)]*\)", "", row[0]))
            self.assertEqual({number for number in numbers if number not in code}, set(), row[0])

    def test_every_row_says_where(self) -> None:
        """By modules that are there."""
        for row in rows():
            self.assertEqual(len(row), 3, row)
            self.assertTrue(row[1], row)
            places = re.findall(r"`([^`]+)`", row[2])
            self.assertTrue(places, row)
            for place in places:
                self.assertTrue(glob.glob(os.path.join(TOP, place)), f"{place} of {row[0]}")
