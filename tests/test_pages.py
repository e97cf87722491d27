"""README and docs are true to the code where that can be seen: names, packages, roles, tables, links."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import attrs
import click
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.interface import InterfaceClass

from qmailpy.app import roles
from qmailpy.cli import main
from qmailpy.cli.qm import WORDS
from qmailpy.config.load import ARRAYS, TABLES
from qmailpy.config.schema import ACCESS_KEYS, ChannelConfig, LogConfig
from qmailpy.config.template import template_text
from qmailpy.events.catalogue import CATALOGUE

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FILE = re.compile(r"\.(?:md|toml|log|json|secret|sqlite)\b")
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


def classes(name: str) -> Iterator[object]:
    """The classes of that name, whichever modules they are in."""
    for folder, _, names in os.walk(os.path.join(TOP, "qmailpy")):
        for file in names:
            path = os.path.relpath(os.path.join(folder, file), TOP)
            if file.endswith(".py") and re.search(rf"(?m)^class {name}\b", text_of(path)):
                yield getattr(import_module(path.removesuffix(".py").replace(os.sep, ".")), name)


def names_of(one: object) -> Sequence[str]:
    """What an interface has; nothing for a class."""
    return list(one) if isinstance(one, InterfaceClass) else ()


def key_known(table: str, key: str) -> bool:
    """Whether the configuration has a key of that name."""
    shape = {**TABLES, **ARRAYS, "channel": ChannelConfig}.get(table)
    return shape is not None and key in {field.name for field in attrs.fields(cast(Any, shape))}


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

    def test_the_queue_has_a_place_for_each_of_its_modules(self) -> None:
        """One, and none for what is not there."""
        shown = self.text.partition("## The modules of the queue")[2].partition("\n## ")[0]
        named = re.findall(r"`(\w+)`", shown)
        there = [name.removesuffix(".py") for name in os.listdir(os.path.join(TOP, "qmailpy", "queue"))]
        self.assertEqual(sorted(named), sorted(name for name in there if not name.startswith("__")))

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


class NameTests(SynchronousTestCase):
    """What any page names of the program is there."""

    def named(self, pattern: str) -> list[tuple[str, tuple[str, ...]]]:
        """What a pattern with groups finds, with its page."""
        found = [(page, match.groups("")) for page in pages() for match in re.finditer(pattern, text_of(page))]
        self.assertGreater(len(found), 3, pattern)
        return found

    def test_files_of_the_source_tree(self) -> None:
        for page, (path,) in self.named(r"(?<![\w/.])((?:qmailpy|tests|benchmarks|scripts)/[\w/]+\.(?:py|sh))\b"):
            self.assertTrue(os.path.exists(os.path.join(TOP, path)), f"{page}: {path}")
        for page, (path,) in self.named(r"`([a-z]+/[a-z0-9_/]+\.py)`"):
            places = (os.path.join(TOP, path), os.path.join(TOP, "qmailpy", path))
            self.assertTrue(any(map(os.path.exists, places)), f"{page}: {path}")

    def test_modules_classes_and_functions(self) -> None:
        packages = [name for name in os.listdir(os.path.join(TOP, "qmailpy")) if "." not in name]
        there = set(CATALOGUE)
        methods = text_of("docs/control.md") + text_of("qmailpy/queue/methods.py")
        for page, (dotted,) in self.named(rf"`(?:qmailpy\.)?((?:{'|'.join(packages)})\.\w+(?:\.\w+)*)`"):
            if not (_FILE.search(dotted) or dotted in there or dotted in methods):
                self.assertTrue(known(dotted) or key_known(*dotted.split(".", 1)), f"{page}: {dotted}")
        for page, (owner, name) in self.named(r"`([A-Z]\w*[a-z]\w*)\.(_?[a-z]\w+)`"):
            found = any(hasattr(one, name) or name in names_of(one) for one in classes(owner))
            self.assertTrue(found, f"{page}: {owner}.{name}")

    def test_keys_of_the_configuration(self) -> None:
        """As in `[queue] lifetime_s`."""
        for page, (table, key) in self.named(r"`\[([a-z_]+)\] (\w+)\b"):
            self.assertTrue(key_known(table, key), f"{page}: [{table}] {key}")

    def test_commands(self) -> None:
        """As in `qmailpy qm stop`: the words that begin with small letters, as far as they are groups."""
        for page, (words,) in self.named(r"(?:`|^\$ |^    )qmailpy ((?:[a-z][a-z_-]*(?: |\b))+)(?=[`\n ])"):
            if words == "is ready":  # what the daemon says
                continue
            command: click.Command = main.root
            for word in words.split():
                if not isinstance(command, click.Group):
                    break
                found = command.get_command(click.Context(command), word)
                assert found is not None, f"{page}: qmailpy {words}"
                command = found

    def test_events(self) -> None:
        there = set(CATALOGUE)
        for page, (name,) in self.named(r"[Ee]vents? `([a-z]+\.[a-z-]+)`"):
            self.assertIn(name, there, page)


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

    def test_the_names_an_imta_operator_is_sent_to_are_there(self) -> None:
        """docs/from-imta.md: options of the log, keys of channels, commands of the queue manager."""
        text = text_of("docs/from-imta.md")

        def column(head: str) -> list[str]:
            rows = text.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
            return [word for row in rows for word in re.findall(r"`([a-z_]+)(?: = [^`]*)?`", row.split("|")[2])]

        options, keys = column("| option.dat |"), column("| keyword |")
        self.assertGreater(min(len(options), len(keys)), 10)
        self.assertEqual(set(options) - {one.name for one in attrs.fields(LogConfig)} - {"logging"}, set())
        self.assertEqual(set(keys) - {one.name for one in attrs.fields(ChannelConfig)} - {"maxjobs"}, set())
        for words in re.findall(r"`qmailpy qm ([a-z]+)", text):
            self.assertIn(words, WORDS)
