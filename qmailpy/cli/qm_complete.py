"""What may be completed at the prompt: commands, their options, channels, and files for C{run}."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence

import click

from qmailpy.cli.qm_session import Session
from qmailpy.cli.qm_words import QmGroup, Word, unique
from qmailpy.config.load import load
from qmailpy.errors import CommandError, ConfigError

CHANNEL_WORDS = frozenset(
    {
        *("clean", "directory", "held", "jobs", "messages", "qshape", "run", "start", "stop", "top"),
        *("counters show", "trace off", "trace on"),
    }
)
"""Commands whose argument is a channel."""


def candidates(words: Mapping[str, Word], session: Session, before: str, text: str) -> Sequence[str]:
    """
    What C{text} may become, each with a blank behind it when it is whole.

    @param words: the commands.
    @param before: the line before C{text}.
    """
    earlier = before.replace("=", " = ").split()
    if not earlier:
        return [f"{word} " for word in words if word.startswith(text)]
    try:
        name = unique(earlier[0], words)
    except click.UsageError:
        name = None
    if name is None:
        return []
    command = _command(words, earlier[1] if name == "help" and len(earlier) > 1 else name)
    if name == "help":
        if len(earlier) == 1:
            return [f"{word} " for word in words if word.startswith(text)]
        return _inner(command, text) if len(earlier) == 2 else []
    if isinstance(command, click.Group):
        if len(earlier) == 1:
            return _inner(command, text)
        name, command = _within(name, command, earlier[1])
    if text.startswith("-"):
        return [option for option in _options(command) if option.startswith(text)]
    if earlier[-1] == "=" and earlier[-2].strip("-") != "channel":
        return []
    if earlier[-1] == "=" or name in CHANNEL_WORDS:
        found = [f"{channel} " for channel in _channels(session) if channel.startswith(text)]
        return found + (_files(text) if name == "run" else [])
    return []


def _within(name: str, group: click.Group, word: str) -> tuple[str, click.Command | None]:
    """A command of a group, with both names."""
    try:
        inner = unique(word, group.commands) or ""
    except click.UsageError:
        inner = ""
    return f"{name} {inner}", group.commands.get(inner)


def _command(words: Mapping[str, Word], name: str) -> click.Command | None:
    """The command; C{None} of what is none, or may be several."""

    class Group(QmGroup):
        """The same words."""

    Group.words = words
    try:
        return Group("qm").get_command(click.Context(click.Command("qm")), name)
    except (click.UsageError, CommandError):
        return None


def _inner(command: click.Command | None, text: str) -> list[str]:
    """The commands of a group, as C{trace} is one."""
    if not isinstance(command, click.Group):
        return []
    return [f"{name} " for name in sorted(command.commands) if name.startswith(text)]


def _options(command: click.Command | None) -> list[str]:
    """In the ancestor's style, as they are taken at the prompt: C{-from=}."""
    found = []
    for parameter in command.params if command is not None else ():
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for option in (*parameter.opts, *parameter.secondary_opts):
                bare = option.lstrip("-").replace("-", "_")
                found.append(f"-{bare} " if parameter.is_flag else f"-{bare}=")
    return sorted(found)


def _channels(session: Session) -> Sequence[str]:
    try:
        return sorted(load(session.home).channels)
    except (ConfigError, OSError):
        return ()


def _files(text: str) -> list[str]:
    found = glob.glob(f"{glob.escape(text)}*") if text else []
    return [f"{name}/" if os.path.isdir(name) else f"{name} " for name in sorted(found)[:100]]
