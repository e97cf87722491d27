"""The examples of docs/ load, as they stand there."""

from __future__ import annotations

import os
import re

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.load import examine
from qmailpy.config.template import template_text

DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs")
_BLOCK = re.compile(r"(?ms)^```\n(\[.*?)^```$")
_ADDED = {
    "tcp_intranet": '[channel.tcp_intranet]\nkind = "smtp"\n',
    "tcp_partner": '[channel.tcp_partner]\nkind = "smtp"\n',
}
"""Channels that examples name and others make."""


class DocumentTests(SynchronousTestCase):
    def test_examples_of_configuration_load(self) -> None:
        """Each block that begins with a table, put behind the template; a channel of the template gives way."""
        count = 0
        for name in ("channels.md", "configuration.md"):
            with open(os.path.join(DOCS, name), encoding="utf-8") as source:
                text = source.read()
            for block in _BLOCK.findall(text):
                count += 1
                whole = template_text()
                for channel in re.findall(r"(?m)^\[channel\.([a-z_]+)\]", block):
                    whole = re.sub(rf"(?ms)^\[channel\.{channel}\]\n.*?(?=^\[|\Z)", "", whole)
                added = "".join(
                    table
                    for channel, table in _ADDED.items()
                    if f'"{channel}"' in block and f"[channel.{channel}]" not in block
                )
                config, problems = examine(f"{whole}\n{added}{block}", name, "/home")
                self.assertEqual([str(one) for one in problems], [], block)
                self.assertIsNotNone(config)
        self.assertGreaterEqual(count, 5)
