"""
What every command is given: the home, and its configuration when it asks for it.

Commands get it as C{ctx.obj} (C{@click.pass_obj}).
"""

from __future__ import annotations

import os
from functools import cached_property

from qmailpy.config.load import load
from qmailpy.config.schema import Config
from qmailpy.errors import CommandError


class Context:
    """The object behind C{ctx.obj}."""

    def __init__(self, home: str) -> None:
        """@param home: absolute path of HOME; need not exist."""
        self.home = home

    @cached_property
    def config(self) -> Config:
        """
        The home's configuration, read at first use.

        @raise ConfigError: it cannot be used; L{qmailpy.cli.main} makes a line of it.
        """
        return load(self.home)


def need(home: str) -> None:
    """
    For commands that need no configuration: see that there is a home at all.

    @raise CommandError: there is none; names the remedy.
    """
    if not os.path.isdir(home):
        remedy = f"make one with: qmailpy init {home} --hostname NAME --domain NAME; or name yours with --home"
        raise CommandError(f"{home}: there is no such home; {remedy}")
