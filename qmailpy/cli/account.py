"""C{qmailpy log account}: who sent and got how much (docs/counters-and-log.md, "Accounting")."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.output import print_error, print_long_table
from qmailpy.cli.when import Moment
from qmailpy.config.load import load
from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.archive import thd_batches, thd_open, thd_sources
from qmailpy.records.follow import Follower
from qmailpy.records.sun import SunFormat
from qmailpy.stats.account import Account, By, Line
from qmailpy.stats.handed import PASSING

_AGAIN_S = 2.0
_HEADS = (
    *("sent", "to", "KiB", "delivered", "to", "KiB", "failed", "deferred", "rejected", "removed"),
    *("avg s", "50% s", "95% s", "99% s"),
)
_SENT_HEADS = 3
_COLUMNS = (
    *("sent_messages", "sent_recipients", "sent_octets"),
    *("delivered_messages", "delivered_recipients", "delivered_octets"),
    *("failed", "deferred", "rejected", "removed", "queue_time_s", "p50_s", "p95_s", "p99_s"),
)


@click.command(short_help="Add the log up: messages, sizes, failures, times.")
@click.option(
    "--by",
    type=click.Choice([by.value for by in By]),
    multiple=True,
    default=("domain",),
    show_default=True,
    help="What a line is for; several times: for what occurs together, as --by day --by domain.",
)
@click.option("--since", type=Moment(), help="From then on: 2026-03-01, '2026-03-01 14:30', today, yesterday, 12h, 7d.")
@click.option("--until", type=Moment(), help="Before then.")
@click.option("--top", type=click.IntRange(1), help="Only so many lines.")
@click.option("--csv", "form", flag_value="csv", help="For spreadsheets: octets and seconds, with a head.")
@click.option("--json", "form", flag_value="json", help="One JSON object.")
@click.option("-f", "--follow", is_flag=True, help="Show it again as mail goes on.")
@click.option(
    "--format",
    "written",
    type=click.Choice(["own", "sun", "sun-times"]),
    default="own",
    help="sun: lines of an iMTA's log, LOG_FORMAT 1 to 4; sun-times: written with LOG_QUEUE_TIME.",
)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.pass_obj
def account(
    context: Homed,
    by: tuple[str, ...],
    since: float | None,
    until: float | None,
    top: int | None,
    form: str | None,
    follow: bool,
    written: str,
    files: tuple[str, ...],
) -> None:
    """
    Add the log up: messages, recipients, sizes, failures and time in the queue.

    Reads the whole log of the home (current, yesterday, mail.log and mail.log*.gz), or the FILES that are named.
    """
    if follow and (files or written != "own"):
        raise click.UsageError("only the log of the home can be followed")
    options, kinds = (LogConfig(), PASSING) if written != "own" else _options(context.home, bool(files))
    foreign = None if written == "own" else SunFormat(queue_times=written == "sun-times")
    by = tuple(dict.fromkeys(by))
    made = Account([By(one) for one in by], options, since=since, until=until, foreign=foreign, kinds=kinds)
    if follow:
        _follow(context.home, made, by, top, form)
        return
    sources = [thd_open(path) for path in files] if files else thd_sources(_log(context.home))
    damages: list[str] = []
    for batch in thd_batches(sources, damaged=damages.append):
        made.feed(batch)
    _show(made, by, top, form)
    if made.unreadable:
        print_error(f"{made.unreadable} lines are no records (torn, or written with other options)")
    for damage in damages:
        print_error(damage)
    if damages:
        raise CommandError("the figures lack what comes behind the damage")


def _options(home: str, optional: bool) -> tuple[LogConfig, Mapping[str, str]]:
    """The log's options and the kinds of channels of the home; the default ones for files where there is no home."""
    if optional and not os.path.isdir(home):
        return LogConfig(), PASSING
    need(home)
    config = load(home)
    return config.log, {name: channel.kind for name, channel in config.channels.items()}


def _log(home: str) -> str:
    directory = os.path.join(home, "log")
    if not os.path.isdir(directory):
        need(home)
        raise CommandError("there is no log directory: is it a home?")
    return directory


def _follow(home: str, made: Account, by: tuple[str, ...], top: int | None, form: str | None) -> None:
    follower = Follower(RealFiles(), _log(home))
    try:
        follower.thd_open()  # first: what is rolled meanwhile is followed, not read twice
        past = [one for one in thd_sources(_log(home)) if not one.current and one.identity != follower.identity]
        for batch in thd_batches(past, damaged=print_error):
            made.feed(batch)
        shown = -1
        while True:
            for batch in follower.thd_batches():
                made.feed(batch)
            if made.records != shown:
                shown = made.records
                if sys.stdout.isatty():
                    click.clear()
                _show(made, by, top, form)
                sys.stdout.flush()
            time.sleep(_AGAIN_S)
    except KeyboardInterrupt:  # how following ends
        return
    finally:
        follower.close()


def _show(made: Account, by: tuple[str, ...], top: int | None, form: str | None) -> None:
    order = made.order(top)

    def lines() -> Iterator[Line]:  # one at a time: there may be a million
        return map(made.line, order)

    if form == "json":
        head = json.dumps({"records": made.records, "unreadable": made.unreadable, "lines": []})
        click.echo(head.removesuffix("]}"), nl=False)
        for number, line in enumerate(lines()):
            click.echo(f"{', ' if number else ''}{json.dumps(_json(by, line))}", nl=False)
        click.echo("]}")
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow((*by, *_COLUMNS))
        writer.writerows((*map(_cell, line.keys), *_values(line)) for line in lines())
    else:
        first = _SENT_HEADS if By.DESTINATION.value in by else 0  # who sends has no destination yet
        heads = (*by, *_HEADS[first:])
        print_long_table(
            heads, lambda: ((*line.keys, *_words(line)[first:]) for line in lines()), tuple(range(len(by), len(heads)))
        )


def _cell(text: str) -> str:
    """A key as a spreadsheet may have it: one that begins like a formula would be run by it."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _values(line: Line) -> list[Any]:
    found: list[Any] = []
    for volume in (line.sent, line.delivered):
        found += (volume.messages, volume.recipients, volume.octets)
    found += (line.failed, line.deferred, line.rejected, line.removed)
    if line.queue_time_s is None or line.percentiles_s is None:
        return found + [None] * 4
    return found + [round(one, 3) for one in (line.queue_time_s, *line.percentiles_s)]


def _words(line: Line) -> list[str]:
    values = _values(line)
    values[2] //= 1024
    values[5] //= 1024
    return [*map(str, values[:10]), *map(_seconds, values[10:])]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def _json(by: tuple[str, ...], line: Line) -> dict[str, Any]:
    keys = dict(zip(by, line.keys, strict=True))
    return {
        "key": line.keys[0],
        **({"keys": keys} if len(by) > 1 else {}),
        **dict(zip(_COLUMNS, _values(line), strict=True)),
    }
