"""The template: every key, the defaults, and a home's own text."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

import qmailpy
from qmailpy.config.load import ARRAYS, TABLES, parse
from qmailpy.config.schema import ChannelConfig
from qmailpy.config.template import HomeChoices, home_text, template_text


def defaults(shape: Any) -> dict[str, Any]:
    """The keys of a table and their defaults, in TOML's types; L{attrs.NOTHING} for those that must be given."""
    return {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in attrs.fields(shape)
    }


class TemplateTests(SynchronousTestCase):
    """L{template_text}."""

    def setUp(self) -> None:
        self.text = template_text()
        self.tree = tomllib.loads(self.text)

    def assert_defaults(self, found: dict[str, Any], shape: Any, less: frozenset[str] = frozenset()) -> None:
        wanted = defaults(shape)
        self.assertEqual(set(found), set(wanted) - less)
        for key, default in wanted.items():
            if default is not attrs.NOTHING and key not in less:
                self.assertEqual(found[key], default, (shape, key))
                self.assertEqual(type(found[key]), type(default), (shape, key))

    def test_it_is_a_configuration_that_loads(self) -> None:
        self.assertEqual(set(parse(self.text, "F", "/home").channels), set(self.tree["channel"]))

    def test_each_table_names_every_key_with_its_default(self) -> None:
        """A key added to the schema must be told here."""
        for name, shape in TABLES.items():
            self.assert_defaults(self.tree[name], shape)
        self.assert_defaults(self.tree["channel"]["tcp_local"], ChannelConfig, frozenset({"name"}))
        self.assert_defaults(self.tree["listener"][0], ARRAYS["listener"])

    def test_each_key_of_a_rule_is_told(self) -> None:
        for array in ("rewrite", "destination", "dnslist", "mail_access", "conversion"):
            for key in defaults(ARRAYS[array]).keys() - {"line"}:
                self.assertRegex(self.text, rf"(?m)^#   {key}  ")

    def test_every_key_has_a_comment_near(self) -> None:
        """In its own line, or in the paragraph above."""
        lines = self.text.splitlines()
        for number, line in enumerate(lines):
            if re.match(r"[a-z_]+ = ", line) and "#" not in line:
                start = number
                while start and lines[start - 1] and not lines[start - 1].startswith("["):
                    start -= 1
                paragraph = lines[start:number] + lines[max(0, start - 3) : start]
                self.assertTrue(any(before.startswith("#") for before in paragraph), line)

    def test_examples_in_comments_are_right(self) -> None:
        """The commented tables load when their marks are taken away."""
        arrays = "rewrite|destination|dnslist|conversion|from_access|mail_access"
        text = re.sub(rf"(?m)^# (?=\[channel\.(?:tcp_intranet|fax)|\[\[(?:{arrays})|[a-z_]+ = )", "", self.text)
        config = parse(text, "F", "/home")
        self.assertEqual(config.channels["tcp_intranet"].backoff, (60.0, 300.0, 900.0))
        self.assertEqual(config.channels["fax"].command[1:3], ("--from", "$SENDER"))
        self.assertEqual([rule.direction for rule in config.rules], ["to", "from", "to"])
        self.assertEqual([(one.source, one.destination) for one in config.selections], [("tcp_local", "local")])
        self.assertEqual([(one.pattern, one.tls) for one in config.destinations], [("bank.example", "verify")])
        self.assertEqual([one.zone for one in config.dnslists], ["zen.example"])
        self.assertEqual([one.action for one in (*config.from_access, *config.mail_access)], ["reject", "accept"])

    def test_the_copy_in_etc_is_the_same(self) -> None:
        """In a checkout etc/ shows the packaged file."""
        shown = Path(qmailpy.__file__).parent.parent / "etc" / "qmailpy.toml"
        if os.path.lexists(shown.parent):
            self.assertEqual(shown.read_text("utf-8"), self.text)
        self.assertTrue(files("qmailpy.config").joinpath("qmailpy.toml").is_file())


class HomeTextTests(SynchronousTestCase):
    """L{home_text}."""

    def test_only_what_was_asked_for_is_changed(self) -> None:
        """Comments and the order of the template stay."""
        choices = HomeChoices(hostname="mx.example.net", domain="example.net", relay="192.0.2.9:26", trust=["::1/128"])
        before, after = template_text().splitlines(), home_text(choices).splitlines()
        changes = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        self.assertEqual(
            changes,
            [
                ('hostname = "mail.example.org"', 'hostname = "mx.example.net"'),
                ('domain = ""', 'domain = "example.net"'),
                ('networks = ["127.0.0.0/8", "::1/128"]', 'networks = ["::1/128"]'),
                ('relay = ""', 'relay = "192.0.2.9:26"'),
            ],
        )

    def test_unprivileged_listens_on_loopback_at_high_ports_only(self) -> None:
        config = parse(home_text(HomeChoices(hostname="a.b", domain="b", unprivileged=True)), "F", "/home")
        self.assertEqual(
            [listener.endpoint for listener in config.listeners],
            [
                *(f"tcp:{port}:interface=127.0.0.1" for port in (10025, 10465, 10587, 10024, 10995, 10110)),
                "unix:/home/run/inject.sock",
            ],
        )
        self.assertEqual([listener.login for listener in config.listeners][:3], ["none", "required", "required"])
        self.assertEqual([listener.tls for listener in config.listeners][:3], ["starttls", "implicit", "starttls"])
        self.assertEqual(config.directory.endpoint, "tcp:10389:interface=127.0.0.1")
