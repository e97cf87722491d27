"""
What every command is given: the home, and its configuration when it asks for it.

Commands get it as C{ctx.obj} (C{@click.pass_obj}).
"""

from __future__ import annotations

from functools import cached_property

from qmailpy.config.load import load
from qmailpy.config.schema import Config


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
