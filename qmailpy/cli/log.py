"""C{qmailpy log}: the transaction log (docs/counters-and-log.md)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable

import click
from attrs import asdict, frozen

from qmailpy.cli.account import account
from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.output import printable
from qmailpy.cli.trace import index_command
from qmailpy.config.load import load
from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.queue.entries import pattern
from qmailpy.records.archive import thd_batches, thd_open
from qmailpy.records.fields import Unreadable
from qmailpy.records.follow import Follower
from qmailpy.records.logfile import roll as roll_files
from qmailpy.records.record import Action, LogRecord
from qmailpy.records.sun import SunFormat
from qmailpy.records.text import LineFormat, fragment
from qmailpy.stats.account import Reader

_POLL_S = 0.2
_FILE = re.compile(r"(?:.*/)?[0-9A-Z]{2}([0-9A-Za-z_-]{6,})\.(?:[0-9A-Za-z]{2}\+?|[0-9]{3,}\+?|HELD)")  # as in a line
_COLOURS = {
    Action.DEQUEUED: "green",
    Action.DEFERRED: "yellow",
    Action.PARTLY: "yellow",
    Action.WARNED: "yellow",
    Action.FAILED: "red",
    Action.SILENCED: "red",
    Action.REJECTED: "red",
    Action.REFUSED: "red",
    Action.UNREACHED: "red",
}


@click.group()
def log() -> None:
    """The transaction log: one line for each recipient's event."""


log.add_command(account)
log.add_command(index_command)


@log.command(short_help="Show the last lines of the log.")
@click.option("-f", "--follow", is_flag=True, help="Go on with the lines that come, also after the log was rolled.")
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=10, show_default=True, help="So many at first.")
@click.option("--channel", help="Only lines of this channel, as source or destination.")
@click.option("--action", metavar="LETTERS", help="Only these: D, or QZR for whatever did not go through.")
@click.option("--address", metavar="PATTERN", help="Only with this sender or recipient; a part of it, or with * and ?.")
@click.option(
    "--id",
    "queue_id",
    metavar="ID",
    help="Only of the message with this queue id, as it is or as in a line, or Message-ID.",
)
@click.option("--subject", metavar="TEXT", help="Only of messages with this in their subject: the lines E.")
@click.option(
    "--format",
    "written",
    type=click.Choice(["own", "sun", "sun-times"]),
    default="own",
    help="How the lines of FILE are written; sun, sun-times: as at log account.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@click.pass_obj
def tail(
    context: Homed,
    follow: bool,
    count: int,
    channel: str | None,
    action: str | None,
    address: str | None,
    queue_id: str | None,
    subject: str | None,
    written: str,
    as_json: bool,
    file: str | None,
) -> None:
    """
    Show the last lines of the current log; on a terminal failures are red, deferrals yellow, deliveries green.

    Or those of another FILE, packed or not, which may be an iMTA's.
    """
    if file is None and written != "own":
        raise click.UsageError("only a FILE can be written in another format")
    if follow and file is not None:
        raise click.UsageError("only the log of the home can be followed")
    chosen = Chosen(channel=channel, actions=action, address=address, id=queue_id, subject=subject)
    read = _reader(context.home, written, file is not None) if as_json or not chosen.all or _colours() else None
    shown = _json_of(read) if read and as_json else _coloured(read) if read and _colours() else _text
    admits = (lambda line: chosen.admits(read(line))) if read and not chosen.all else lambda line: True
    if file is not None:
        damages: list[str] = []
        lines = (line for batch in thd_batches([thd_open(file)], damaged=damages.append) for line in batch)
        _print(list(deque(filter(admits, map(fragment, lines)), maxlen=count)), shown)
        if damages:
            raise CommandError(f"{damages[0]}; what comes behind that place is not shown")
        return
    follower = Follower(RealFiles(), os.path.join(context.home, "log"))
    try:
        try:
            _print(follower.thd_last(count, admits), shown)
        except FileNotFoundError:
            if not follow:
                need(context.home)
                raise CommandError("there is no transaction log yet: no mail since init or the last roll") from None
        while follow:
            time.sleep(_POLL_S)
            _print([line for line in follower.thd_more() if admits(line)], shown)
    except KeyboardInterrupt:  # how following ends
        return
    finally:
        follower.close()


@frozen(kw_only=True)
class Chosen:
    """Which lines are asked for; C{None} asks for nothing in particular."""

    channel: str | None = None
    actions: str | None = None  # letters
    address: str | None = None
    id: str | None = None
    subject: str | None = None

    @property
    def all(self) -> bool:
        """Whether every line is meant, also one that is no record."""
        return self == Chosen()

    def admits(self, record: LogRecord | None) -> bool:
        """Whether a line is meant, by its record."""
        if record is None:
            return False
        if self.channel is not None and self.channel not in {record.source, record.destination}:
            return False
        if self.actions is not None and record.action.value not in self.actions.upper():
            return False
        if self.address is not None:
            matches = pattern(self.address)
            if not any(map(matches, (record.sender, record.original_to, record.current_to, record.user))):
                return False
        if self.subject is not None and self.subject.casefold() not in record.subject.casefold():
            return False
        if self.id is None:
            return True
        wanted = self.id.strip("<>")
        named = _FILE.fullmatch(wanted)
        file = named[1] if named is not None else wanted
        return (record.file is not None and record.file.id == file) or record.message_id.strip("<>") == wanted


def _print(lines: list[bytes], shown: Callable[[bytes], str]) -> None:
    if lines:
        click.echo("\n".join(map(shown, lines)))
        sys.stdout.flush()


def _text(line: bytes) -> str:
    return printable(line.decode("utf-8", "replace"))


def _colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _coloured(read: Callable[[bytes], LogRecord | None]) -> Callable[[bytes], str]:
    def shown(line: bytes) -> str:
        record = read(line)
        return click.style(_text(line), fg=_COLOURS.get(record.action) if record else "magenta")

    return shown


def _reader(home: str, written: str, elsewhere: bool) -> Callable[[bytes], LogRecord | None]:
    """What makes a record of a line, or C{None} of one that is none. @param elsewhere: the home may be missing."""
    reader: Reader
    if written != "own":
        reader = SunFormat(queue_times=written == "sun-times")
    elif elsewhere and not os.path.isdir(home):
        reader = LineFormat(LogConfig())
    else:
        need(home)
        config = load(home)
        reader = LineFormat(config.log, config.server.hostname)

    def read(line: bytes) -> LogRecord | None:
        try:
            return reader.record(line)
        except Unreadable:
            return None

    return read


def _json_of(read: Callable[[bytes], LogRecord | None]) -> Callable[[bytes], str]:
    """What makes a JSON object of a line: the fields of L{LogRecord}, or C{unreadable} with the line."""

    def shown(line: bytes) -> str:
        record = read(line)
        if record is None:
            return json.dumps({"unreadable": line.decode("utf-8", "replace")})
        return json.dumps(asdict(record, value_serializer=lambda _, __, value: getattr(value, "value", value)))

    return shown


@log.command(short_help="Roll the log over now.")
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
