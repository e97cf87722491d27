"""
C{qmailpy qm counters}: the channel counters (docs/counters-and-log.md). Options as the ancestor writes them, with one
dash, and C{--json} wherever something is shown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Protocol

import click

from qmailpy.cli.context import need
from qmailpy.cli.output import print_json, print_line
from qmailpy.config.load import load
from qmailpy.control import call_all
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.stats import show as shows
from qmailpy.stats.counters import CHANNELS, CountersError, Sizes, create, thd_clear, thd_read, total
from qmailpy.stats.items import Table, zeros
from qmailpy.stats.today import thd_today
from qmailpy.stats.verify import Verdict, thd_verify


def _clear_running(home: str, keep_stored: bool) -> bool:
    """Have the running workers clear their lanes; false when nothing runs."""
    return bool(call_all(home, "mta", "counters.clear", keep_stored=keep_stored))


control_clear: Callable[[str, bool], bool] = _clear_running
"""How a running daemon is asked: (home, keep_stored) to whether one runs. Raises CommandError when it could not."""


class Homed(Protocol):
    """What C{ctx.obj} has: the command's context and the queue manager's session alike."""

    home: str


def _path(home: str) -> str:
    return os.path.join(home, "run", "counters")


def _as_json(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(command)


@click.group()
def counters() -> None:
    """Channel counters: messages, recipients and blocks by channel."""


@counters.command("show", short_help="Show the counters of channels.")
@click.argument("names", metavar="[CHANNEL]...", nargs=-1)
@click.option("-channels/-nochannels", "channels", default=True, help="The counts of messages (default).")
@click.option("-associations/-noassociations", "associations", default=True, help="Connections too (default).")
@click.option("-headers/-noheaders", "headers", default=True, help="The two lines on top (default).")
@click.option("-output", "output", type=click.Path(dir_okay=False), help="Write to a file.")
@_as_json
@click.pass_obj
def show(
    context: Homed,
    names: tuple[str, ...],
    channels: bool,
    associations: bool,
    headers: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """Show the counters of all channels, or of those named; a name may have stars: 'tcp_*'."""
    need(context.home)
    try:
        sizes, lanes = thd_read(_path(context.home))
    except CountersError as error:
        raise CommandError(str(error)) from error
    table = _chosen(total(lanes), names, context.home)
    if as_json:
        print_json(shows.as_json(sizes, lanes, table))
        return
    text = shows.text(table, channels=channels, associations=associations, headers=headers)
    if output is None:
        for line in text.splitlines():
            print_line(line)
        return
    with open(output, "w", encoding="utf-8") as file:
        file.write(text)


def _chosen(table: Table, names: tuple[str, ...], home: str) -> Table:
    """
    The rows of the channels that are named.

    @raise CommandError: a name stands for no channel, neither counted nor configured.
    """
    if not names:
        return table
    found: Table = {}
    for name in names:
        fitting = [channel for channel in table if fnmatchcase(channel, name)]
        if not fitting:
            configured = load(home).channels
            if any(fnmatchcase(channel, name) for channel in configured):
                fitting = [channel for channel in configured if fnmatchcase(channel, name)]  # nothing came there yet
            else:
                raise CommandError(f"no channel is called {name}; there are {', '.join(sorted({*configured, *table}))}")
        found |= {channel: table.get(channel) or zeros() for channel in fitting}
    return found


@counters.command("clear")
@click.option("-channels", "channels", is_flag=True, help="Set Stored to what is in the queue.")
@click.option("-associations", "associations", is_flag=True, help="Alone: set Stored to zero with all others.")
@click.pass_obj
def clear(context: Homed, channels: bool, associations: bool) -> None:
    """
    Set the counters to zero; Stored to what is in the queue.

    With -associations alone Stored is zero too and goes negative as the mail leaves that is queued now; the smallest
    value is kept, and the value less the smallest is then the true one (--json shows all three).
    """
    need(context.home)
    keep_stored = channels or not associations
    if control_clear(context.home, keep_stored):
        return
    path = _path(context.home)
    try:
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            create(path, Sizes(made=time.time()))
        thd_clear(path, keep_stored, time.time())
    except CountersError as error:
        raise CommandError(str(error)) from error


@counters.command("create")
@click.option("-max_channels", "max_channels", type=click.IntRange(1, 4096), default=None, help=f"Default {CHANNELS}.")
@click.pass_obj
def create_file(context: Homed, max_channels: int | None) -> None:
    """Make the counters file, which the daemon makes by itself too. One that is there stays."""
    need(context.home)
    path = _path(context.home)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        create(path, Sizes(channels=max_channels or CHANNELS, made=time.time()))
    try:
        sizes, _ = thd_read(path)
    except CountersError as error:
        raise CommandError(f"{error}; delete it first") from error
    if max_channels not in {None, sizes.channels}:
        raise CommandError(f"there are counters with room for {sizes.channels} channels: delete them first")


@counters.command("delete")
@click.pass_obj
def delete(context: Homed) -> None:
    """
    Remove the counters file.

    A running daemon makes it again, with its counts, when it next has something to count.
    """
    need(context.home)
    try:
        os.unlink(_path(context.home))
    except FileNotFoundError:
        raise CommandError("there are no counters") from None


@counters.command("today")
@_as_json
@click.pass_obj
def today(context: Homed, as_json: bool) -> None:
    """How many messages were processed since midnight."""
    count = thd_today(RealFiles(), os.path.join(context.home, "log"), load(context.home).log, time.time())
    if as_json:
        print_json({"messages": count})
    else:
        print_line(f"{count} messages processed so far today")


@counters.command("verify", short_help="Compare the counters with the transaction log.")
@_as_json
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Compare the counters with the transaction log since the last clear. Status 0 when they are equal."""
    context: Homed = ctx.obj
    try:
        _, lanes = thd_read(_path(context.home))
    except CountersError as error:
        raise CommandError(str(error)) from error
    verdict = thd_verify(RealFiles(), os.path.join(context.home, "log"), load(context.home).log, lanes)
    if as_json:
        print_json(_verdict_json(verdict))
    else:
        for line in (*verdict.differences, *verdict.notes):
            print_line(line)
    if not verdict.equal:
        raise CommandError("the counters and the transaction log differ")
    if not as_json:
        if verdict.whole:
            print_line(f"the counters equal the transaction log: {verdict.records} records since the last clear")
        else:
            print_line(f"the counters do not contradict what is left of the transaction log: {verdict.records} records")


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    return {
        "equal": verdict.equal,
        "whole": verdict.whole,
        "differences": list(verdict.differences),
        "notes": list(verdict.notes),
        "records": verdict.records,
        "unreadable": verdict.unreadable,
    }
