"""
The language of the queue manager utility: command names and options may be abbreviated, and options may be written as
the ancestor's (C{-held}, C{-from=a@b}, C{-noconfirm}) or in GNU style (C{--held}, C{--from a@b}, C{--no-confirm}).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import click
from attrs import frozen

from qmailpy.errors import CommandError


@frozen
class Word:
    """A sub-command: where it is and what it is for."""

    target: str  # "module:attribute"
    help: str


class QmGroup(click.Group):
    """The group: its commands are imported when they are called."""

    words: Mapping[str, Word] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.words]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        The command with that name or beginning.

        @raise click.UsageError: several begin so.
        """
        name = unique(cmd_name, self.words)
        if name is None:
            return None
        module, _, attribute = self.words[name].target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise CommandError(f"{name} is not part of this installation (there is no {error.name})") from error
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the arguments brought into its own form."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            ctx.fail(f"No such command {name!r}; try help.")
        return command.name, command, rewritten(ctx, command, args[1:])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, word.help) for name, word in self.words.items()])


def unique(beginning: str, names: Mapping[str, object] | Sequence[str]) -> str | None:
    """
    The one of C{names} that is meant: the whole name, or a beginning that no other has.

    @raise click.UsageError: several begin so.
    """
    if beginning in names:
        return beginning
    found = [name for name in names if beginning and name.startswith(beginning)]
    if len(found) > 1:
        raise click.UsageError(f"{beginning!r} may be {', '.join(sorted(found))}")
    return found[0] if found else None


def rewritten(ctx: click.Context, command: click.Command, args: Sequence[str]) -> list[str]:
    """
    The arguments of a command with every option in full and in GNU style; also those of a group's commands.

    @raise click.UsageError: an abbreviation that may be several options.
    """
    if isinstance(command, click.Group):
        if not args:
            return []
        names = command.list_commands(ctx)
        name = unique(args[0], names) or args[0]
        inner = command.get_command(ctx, name) if name in names else None
        return [name, *(args[1:] if inner is None else rewritten(ctx, inner, args[1:]))]
    options, valued, perhaps = _options(ctx, command)
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            return [*result, arg, *rest]
        if len(arg) < 2 or arg[0] != "-":
            result.append(arg)
            continue
        body, equals, value = arg.partition("=")
        key = _plain(body)
        # --help has to be written out: -hel is for --held, as it was for the ancestor.
        real = options.get(key) or options.get(unique(key, [name for name in options if name != "help"]) or "")
        if real is None:
            result.append(arg)  # for click to complain about in its own words
            continue
        if real in perhaps:
            result.append(f"{real}={value}")  # what follows is no value of it
            continue
        result.append(real + equals + value)
        if real in valued and not equals:
            result += [each for each in [next(rest, None)] if each is not None]
    return result


def _plain(option: str) -> str:
    """An option as it is compared: C{--no-confirm}, C{-noconfirm} and C{-NoConfirm} are the same."""
    return option.lstrip("-").replace("-", "").replace("_", "").lower()


def _options(ctx: click.Context, command: click.Command) -> tuple[dict[str, str], set[str], set[str]]:
    """The command's options, by their compared form; which of them take a value; which may have one behind a C{=}."""
    options: dict[str, str] = {}
    valued: set[str] = set()
    perhaps: set[str] = set()
    for parameter in command.get_params(ctx):
        if isinstance(parameter, click.Option):
            for name in (*parameter.opts, *parameter.secondary_opts):
                options[_plain(name)] = name
                if parameter.metavar is not None and parameter.metavar.startswith("[="):
                    perhaps.add(name)
                elif not parameter.is_flag and not parameter.count:
                    valued.add(name)
    return options, valued, perhaps
