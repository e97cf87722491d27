"""C{qmailpy directory}: the directory as a whole. Its commands are modules of their own, imported when called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

COMMANDS: Mapping[str, tuple[str, str]] = {
    "check": ("qmailpy.cli.directory_check:check", "Find what is wrong: dangling references, duplicates, circles."),
    "connect": ("qmailpy.cli.directory_connect:connect", "Have external LDAP servers hold the directory."),
    "export": ("qmailpy.cli.directory_export:export", "Write the whole directory as LDIF."),
    "forgive": ("qmailpy.cli.directory_status:forgive", "Forget failed logins of a client or an account."),
    "status": ("qmailpy.cli.directory_status:status", "Try each directory server, and show which one is asked."),
    "schema": ("qmailpy.cli.directory_schema:schema", "Print the schema, for other LDAP servers and for people."),
}
"""Name: where it is, and what it is for."""


class _Lazy(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy)
def directory() -> None:
    """The directory as a whole."""
