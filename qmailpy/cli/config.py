"""
C{qmailpy config show|get|set}.
"""

from __future__ import annotations

import os
from typing import Any

import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.load import config_path, parse
from qmailpy.disk.files import RealFiles, replace
from qmailpy.errors import CommandError, ConfigError


@click.group()
def config() -> None:
    """
    Show and change the configuration.

    A KEY is as in server.hostname, channel.tcp_local.relay, listener.smtp.endpoint (by its name) or rewrite.1.channel
    (by its number, from 1).
    """


@config.command(short_help="Show all keys as they are in effect.")
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of TOML.")
@click.pass_obj
def show(context: Context, as_json: bool) -> None:
    """Show all keys as they are in effect, those that the file leaves out with their defaults."""
    import tomlkit

    from qmailpy.config.edit import tree

    found = tree(context.config)
    if as_json:
        print_json(found)
    else:
        click.echo(tomlkit.dumps(found), nl=False)


@config.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def get(context: Context, key: str, as_json: bool) -> None:
    """Print what KEY is in effect: a value, or a whole table."""
    from qmailpy.config.edit import lookup

    found = lookup(context.config, key)
    if as_json:
        print_json(found)
    else:
        _print_value(found)


def _print_value(value: Any) -> None:
    """Text as it is, a list one element a line, a table as TOML."""
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        import tomlkit

        click.echo(tomlkit.dumps(value if isinstance(value, dict) else {"list": value}), nl=False)
    elif isinstance(value, list):
        for element in value:
            print_line(element)
    else:
        print_line(str(value).lower() if isinstance(value, bool) else value)


@config.command(name="set", context_settings={"ignore_unknown_options": True})
@click.argument("key")
@click.argument("value")
@click.argument("more", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Tell the old and the new value as JSON.")
@click.pass_obj
def set_(context: Context, key: str, value: str, more: tuple[str, ...], as_json: bool) -> None:
    """
    Set KEY to VALUE in the configuration file; its comments stay.

    A list is written with commas, as in 127.0.0.0/8,::1/128. The file is replaced only when all of it is right with the
    new value; keys that are nothing without each other are set in one go: KEY VALUE KEY VALUE.
    """
    from qmailpy.config.edit import changed, lookup, value_from_text
    from qmailpy.config.template import needs_restart

    if len(more) % 2:
        raise click.UsageError(f"there is no value for {more[-1]}")
    wanted = {key: value, **dict(zip(more[::2], more[1::2], strict=True))}

    path = os.path.realpath(config_path(context.home))  # what a link stands for is replaced, not the link
    before = context.config
    with open(path, encoding="utf-8") as source:
        text = source.read()
    after = changed(text, {name: value_from_text(name, said) for name, said in wanted.items()})
    try:
        new = parse(after, path, context.home)
    except ConfigError as error:
        raise CommandError(f"{error.problems[0]}; nothing was changed") from None
    told = [
        {"key": name, "old": lookup(before, name), "new": lookup(new, _renamed(name, said))}
        for name, said in wanted.items()
    ]
    _replace(path, after)
    if as_json:
        print_json(told if more else told[0])
        return
    for name in wanted:
        if needs_restart(name):
            when = "at its next start (systemctl restart qmailpy)"
        else:
            when = "on SIGHUP (systemctl reload qmailpy), or at its next start"
        print_line(f"{name} is set; the daemon takes it up {when}")


def _renamed(key: str, value: str) -> str:
    """The key after it has been set: that of a listener's name changes with it."""
    parts = key.split(".")
    return f"{parts[0]}.{value}.name" if parts[0] == "listener" and parts[-1] == "name" else key


def _replace(path: str, text: str) -> None:
    """Replace the file, durably, with the owner and mode it had."""
    found = os.stat(path)
    temporary = path + ".tmp"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)  # what replace() then writes to
    try:
        os.fchmod(handle, found.st_mode & 0o777)
        if os.geteuid() == 0:
            os.fchown(handle, found.st_uid, found.st_gid)
    finally:
        os.close(handle)
    replace(RealFiles(), path, text.encode())
