"""What the commands on the directory's entries share: the store, passwords, questions, what is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error, print_json, print_line
from qmailpy.cli.store import open_store
from qmailpy.control import flush_directory
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.schema import Entry
from qmailpy.directory.settings import Key, origin, read, show
from qmailpy.errors import CommandError

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
PASSWORD = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)
SETTINGS = click.argument("settings", metavar="[KEY=VALUE...]", nargs=-1)


@contextmanager
def accounts_of(context: Context) -> Iterator[Accounts]:
    """
    The directory's entries, with the rights of whoever serves them: within the body other parts of the home may be out
    of reach.

    @raise CommandError: they are not for us.
    """
    base = context.config.directory.base
    with open_store(context.home) as store:
        yield Accounts(store, base)


def notify_directory_change(home: str, *what: str) -> None:
    """
    Tell the running processes what has changed, so that their caches forget it now and not when it expires.

    @param what: addresses, or a domain for everything in it. The change is made: not reaching somebody is no failure.
    """
    for one in what:
        try:
            flush_directory(home, one)
        except CommandError as problem:
            print_error(f"done, but the running daemon sees it only when its cache expires: {problem}")
            return


def sure(question: str, yes: bool) -> None:
    """Ask before harm is done. @raise CommandError: nobody is there to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("this cannot be undone: say --yes to do it")
    click.confirm(question, abort=True, err=True)


def secret_of(from_stdin: bool) -> bytes | None:
    """The password of the caller's choice; C{None} without one."""
    if from_stdin:
        line = sys.stdin.buffer.readline(4097)
        if len(line) > 4096:
            raise CommandError("the first line of standard input is too long for a password")
        secret = line.rstrip(b"\r\n")
        if not secret:
            raise CommandError("there is no password on standard input")
        return secret
    if not sys.stdin.isatty():
        return None
    answer: str = click.prompt("Password (empty for none)", default="", hide_input=True, show_default=False, err=True)
    if answer and click.prompt("Once more", hide_input=True, err=True) != answer:
        raise CommandError("the two passwords differ")
    return answer.encode() or None


def keys_help(keys: Sequence[Key]) -> str:
    """What a command's help says about its keys."""
    width = max(len(key.name) for key in keys)
    lines = [f"  {key.name:{width}}  {key.help}" for key in keys]
    return "\b\n" + "\n".join(["Keys; an empty value removes one:", *lines])


def with_keys(keys: Sequence[Key]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Puts the keys behind the command's own help."""

    def put(function: Callable[..., None]) -> Callable[..., None]:
        function.__doc__ = f"{function.__doc__}\n\n{keys_help(keys)}"
        return function

    return put


def read_some(keys: Sequence[Key], settings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """L{read}, for a command that is nothing without. @raise click.UsageError: there are none."""
    if not settings:
        raise click.UsageError("nothing to change: say KEY=VALUE")
    return read(keys, settings)


def print_fields(fields: dict[str, object], as_json: bool) -> None:
    """Names and values, one a line; a value that is C{None} or empty has no line but in JSON."""
    if as_json:
        print_json(fields)
        return
    shown = {key.replace("_", " "): plain(value) for key, value in fields.items() if value not in (None, "", [], ())}
    width = max(map(len, shown), default=0)
    for name, text in shown.items():
        print_line(f"{name:{width}}  {text}")


def print_entry(
    head: dict[str, object], keys: Sequence[Key], entry: Entry, inherited: Sequence[Entry], as_json: bool
) -> None:
    """What is known of an entry, values it has from others with where they come from."""
    values = show(keys, entry, inherited)
    if as_json:
        print_json({**head, "settings": values})
        return
    fields: dict[str, object] = {**head}
    for key in keys:
        value, source = values[key.name], origin(key, entry, inherited)
        if value is not None:
            fields[key.name] = f"{plain(value)}  ({source})" if source else value
    print_fields(fields, False)


def plain(value: object) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
