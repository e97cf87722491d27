"""The line of every key of a TOML text."""

from __future__ import annotations

import time
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.locate import Path, locate, locate_nearest

TRICKY = r'''
# [not.a.table]
top = 1 # x = 2
"quoted \u0061.key" = "[no] # table"
'literal' = ["a ] # b", # inner = 1
  "c",
  [1, 2],
]
inline = { a = 1, b = { c = "}" } }
multi = """
fake = 1
[fake]
quote \""" and ""more"""""
raw = """a\\"""
lit = \'\'\'
fake2 = 2
it's\'\'\'\'
after = true
dotted . name = 3

[ table . "sub.x" ]
key=1
  indented = 2
[[array]]
k = 1
[[array]]
k = 2
[array.inner]
deep = 1
[[array.list]]
z = 9
[[array.list]]
z = 10
'''.replace("\\'", "'")


def paths(tree: Any, path: Path = ()) -> list[Path]:
    """Every path of a parsed document that the locator should know: not what is inside inline values."""
    found: list[Path] = []
    if isinstance(tree, dict):
        for key, value in tree.items():
            found.append((*path, key))
            found += paths(value, (*path, key))
    elif isinstance(tree, list) and tree and all(isinstance(element, dict) for element in tree):
        for number, element in enumerate(tree):
            found.append((*path, number))
            found += paths(element, (*path, number))
    return found


class LocateTests(SynchronousTestCase):
    """L{locate}."""

    def test_every_key_is_found_on_the_line_that_defines_it(self) -> None:
        """Strings, arrays and inline tables over several lines hide nothing and invent nothing."""
        lines = TRICKY.split("\n")
        found = locate(TRICKY)
        expected = {path for path in paths(tomllib.loads(TRICKY)) if path[0] != "inline" or len(path) == 1}
        self.assertEqual(set(found), expected)
        for path, line in found.items():
            name = next(part for part in reversed(path) if isinstance(part, str))
            self.assertIn(name.split(".")[0].split(" ")[0], lines[line - 1], path)
        self.assertEqual(found["array", 1, "k"], lines.index("k = 2") + 1)
        self.assertEqual(found["array", 1, "list", 1, "z"], lines.index("z = 10") + 1)
        self.assertEqual(found[("after",)], lines.index("after = true") + 1)

    def test_what_has_no_line_gets_that_of_what_holds_it(self) -> None:
        """A key that is missing is reported at its table."""
        found = locate("\n[a]\nb = 1\n")
        self.assertEqual(locate_nearest(found, ("a", "missing")), 2)
        self.assertEqual(locate_nearest(found, ("z",)), 0)

    def test_a_large_text_takes_linear_time(self) -> None:
        """Twice the text takes about twice the time, also for one value of many lines."""
        for unit in ("k{} = 1\n", '"""x\n'):
            durations = []
            for count in (20000, 80000):
                body = "".join(unit.format(number) for number in range(count))
                text = body if unit[0] == "k" else "v = [\n" + "'a', # b\n" * count + "]\n"
                start = time.process_time()
                locate(text)
                durations.append(time.process_time() - start)
            self.assertLess(durations[1], durations[0] * 16 + 0.1)

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="ab.=[]{}\"'#\\\n ,1", max_size=60))
    def test_no_text_makes_it_fail(self, text: str) -> None:
        """Whatever is no TOML yields some lines, and neither an exception nor an endless loop."""
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            valid = False
        else:
            valid = True
        found = locate(text)
        if valid:
            self.assertTrue(all(1 <= line <= text.count("\n") + 1 for line in found.values()))
