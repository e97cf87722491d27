"""README and docs are true to the code where that can be seen: names, packages, roles, tables, links."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from importlib.util import find_spec

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app import roles
from qmailpy.config.schema import ACCESS_KEYS
from qmailpy.config.template import template_text

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def text_of(name: str) -> str:
    """A file of the source tree."""
    with open(os.path.join(TOP, name), encoding="utf-8") as source:
        return source.read()


def pages() -> Iterator[str]:
    """README and all pages, below the source tree."""
    yield "README.md"
    for folder, _, names in os.walk(os.path.join(TOP, "docs")):
        if "api" not in os.path.relpath(folder, TOP).split(os.sep):
            yield from (os.path.relpath(os.path.join(folder, name), TOP) for name in names if name.endswith(".md"))


def links(name: str) -> set[str]:
    """What a page leads to, below the source tree."""
    base = os.path.dirname(name)
    return {os.path.normpath(os.path.join(base, one)) for one in _LINK.findall(text_of(name))}


def known(dotted: str) -> bool:
    """Whether there is a module of this name in the package, or something in one: "queue.runner.Runner._settle"."""
    parts = f"qmailpy.{dotted}".split(".")
    for length in range(len(parts), 1, -1):
        try:
            if find_spec(".".join(parts[:length])) is None:
                continue
        except ModuleNotFoundError:
            continue
        found: object = import_module(".".join(parts[:length]))
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


class ArchitectureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = text_of("docs/architecture.md")
        self.map = self.text.partition("## The map")[2].partition("\n## ")[0]

    def packages(self) -> list[list[str]]:
        """Rows of setup.cfg, the lowest first."""
        parser = ConfigParser()
        parser.read(os.path.join(TOP, "setup.cfg"))
        rows = parser["importlinter:contract:layers"]["layers"].split("\n")
        return [re.findall(r"qmailpy\.(\w+)", row) for row in reversed(rows) if row]

    def test_the_map_has_every_package_in_the_order_of_the_layers(self) -> None:
        """And none that is not there."""
        rows = [row for row in self.map.replace(r" \| ", " ").splitlines() if row.startswith("| `")]
        named = [re.findall(r"`(\w+)/?`", row.split(" | ")[0]) for row in rows]
        in_map = [name for row in named for name in row if name not in ("testing", "values", "errors")]
        layers = [name for row in self.packages() for name in row if name not in ("values", "errors")]
        self.assertEqual(sorted(in_map), sorted(layers))
        place = {name: number for number, row in enumerate(self.packages()) for name in row}
        self.assertEqual([place[name] for name in in_map], sorted(place[name] for name in in_map), in_map)

    def test_names_of_the_code_are_there(self) -> None:
        """Modules, functions and classes, as `queue.fair`; files as `app/mta.py`."""
        packages = {name for row in self.packages() for name in row}
        count = 0
        for dotted in re.findall(r"`(\w+(?:\.\w+)+)(?:\([^`]*\))?`", self.text):
            if dotted.split(".")[0] in packages and not dotted.endswith((".md", ".toml")):
                count += 1
                self.assertTrue(known(dotted), dotted)
        for path in re.findall(r"\b\w+/\w+\.py\b", self.text):
            count += 1
            self.assertTrue(os.path.exists(os.path.join(TOP, "qmailpy", path)), path)
        self.assertGreater(count, 20)

    def test_interfaces_of_the_map_are_there(self) -> None:
        row = next(row for row in self.map.splitlines() if row.startswith("| `interfaces`"))
        for name in re.findall(r"\bI[A-Z]\w+", row):
            self.assertTrue(known(f"interfaces.{name}"), name)

    def test_every_role_is_among_the_processes(self) -> None:
        shown = self.text.partition("## Processes")[2].partition("\n## ")[0]
        for name, role in inspect.getmembers(roles, inspect.isfunction):
            if role.__module__ == roles.__name__:
                self.assertIn(f"── {name}-0", shown)


class ConfigurationTests(SynchronousTestCase):
    def test_every_table_of_the_template_is_told_of(self) -> None:
        """And every access table."""
        text = text_of("docs/configuration.md").partition("## Tables")[2].partition("\n## ")[0]
        tables = set(re.findall(r"(?m)^#? ?(\[{1,2}[a-z_0-9.]+\]{1,2})$", template_text()))
        tables |= {f"[[{name}]]" for name in ACCESS_KEYS}
        for table in tables:
            self.assertIn(re.sub(r"^\[channel\..*", "[channel.NAME]", table), text)
        self.assertGreater(len(tables), 20)


class LinkTests(SynchronousTestCase):
    def test_links_lead_somewhere(self) -> None:
        for name in pages():
            for target in links(name):
                self.assertTrue(os.path.exists(os.path.join(TOP, target)), f"{name}: {target}")

    def test_every_page_is_reached_from_the_readme(self) -> None:
        """Decisions by their directory."""
        reached, ahead = set(), ["README.md"]
        while ahead:
            name = ahead.pop()
            if name not in reached and name.endswith(".md"):
                reached.add(name)
                ahead += links(name)
        left = {name for name in pages() if not name.startswith("docs/decisions/")} - reached
        self.assertEqual(left, set())
