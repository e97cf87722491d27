"""C{qmailpy log}: the transaction log (docs/counters-and-log.md)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import click
from attrs import asdict

from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.output import printable
from qmailpy.config.load import load
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.follow import Follower
from qmailpy.records.logfile import roll as roll_files
from qmailpy.records.text import LineFormat, Unreadable

_POLL_S = 0.2


@click.group()
def log() -> None:
    """The transaction log: one line for each recipient's event."""


@log.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with the lines that come, also after the log was rolled.")
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=10, show_default=True, help="So many at first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def tail(context: Homed, follow: bool, count: int, as_json: bool) -> None:
    """Show the last lines of the current log."""
    shown = _json_of(context.home) if as_json else _text
    follower = Follower(RealFiles(), os.path.join(context.home, "log"))
    try:
        try:
            _print(follower.thd_last(count), shown)
        except FileNotFoundError:
            if not follow:
                need(context.home)
                raise CommandError("there is no transaction log yet: no mail since init or the last roll") from None
        while follow:
            time.sleep(_POLL_S)
            _print(follower.thd_more(), shown)
    except KeyboardInterrupt:  # how following ends
        return
    finally:
        follower.close()


def _print(lines: list[bytes], shown: Callable[[bytes], str]) -> None:
    if lines:
        click.echo("\n".join(map(shown, lines)))
        sys.stdout.flush()


def _text(line: bytes) -> str:
    return printable(line.decode("utf-8", "replace"))


def _json_of(home: str) -> Callable[[bytes], str]:
    """What makes a JSON object of a line: the fields of L{LogRecord}, or C{unreadable} with the line."""
    need(home)
    config = load(home)
    reader = LineFormat(config.log, config.server.hostname)

    def shown(line: bytes) -> str:
        try:
            record = reader.record(line)
        except Unreadable:
            return json.dumps({"unreadable": line.decode("utf-8", "replace")})
        return json.dumps(asdict(record, value_serializer=lambda _, __, value: getattr(value, "value", value)))

    return shown


@log.command()
@click.pass_obj
def roll(context: Homed) -> None:
    """Roll the log over now: current to yesterday, yesterday to the end of mail.log. Running processes follow."""
    try:
        roll_files(RealFiles(), os.path.join(context.home, "log"))
    except BlockingIOError:
        raise CommandError("another process is rolling the log") from None
    except FileNotFoundError:
        need(context.home)
        raise CommandError("there is no log directory: is it a home?") from None
