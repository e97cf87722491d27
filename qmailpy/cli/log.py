"""C{qmailpy log}: the transaction log (docs/counters-and-log.md)."""

from __future__ import annotations

import os
import sys
import time

import click

from qmailpy.cli.counters import Homed
from qmailpy.cli.output import printable
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.follow import Follower
from qmailpy.records.logfile import roll as roll_files

_POLL_S = 0.2


@click.group()
def log() -> None:
    """The transaction log: one line for each recipient's event."""


@log.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with the lines that come, also after the log was rolled.")
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=10, show_default=True, help="So many at first.")
@click.pass_obj
def tail(context: Homed, follow: bool, count: int) -> None:
    """Show the last lines of the current log."""
    follower = Follower(RealFiles(), os.path.join(context.home, "log"))
    try:
        try:
            _print(follower.thd_last(count))
        except FileNotFoundError:
            if not follow:
                raise CommandError("there is no transaction log yet") from None
        while follow:
            time.sleep(_POLL_S)
            _print(follower.thd_more())
    except KeyboardInterrupt:  # how following ends
        return
    finally:
        follower.close()


def _print(lines: list[bytes]) -> None:
    if lines:
        click.echo("\n".join(printable(line.decode("utf-8", "replace")) for line in lines))
        sys.stdout.flush()


@log.command()
@click.pass_obj
def roll(context: Homed) -> None:
    """Roll the log over now: current to yesterday, yesterday to the end of mail.log. Running processes follow."""
    try:
        roll_files(RealFiles(), os.path.join(context.home, "log"))
    except BlockingIOError:
        raise CommandError("another process is rolling the log") from None
    except FileNotFoundError:
        raise CommandError("there is no log directory: is it a home?") from None
