"""
C{qmailpy trace}: what happened to a message (docs/counters-and-log.md, "Tracing").

The answer comes from the index of the transaction log, which the daemon keeps and the command first brings up to date,
so it is as good for mail of weeks ago.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from attrs import asdict, frozen

from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.output import print_error, print_json, print_line
from qmailpy.cli.story import stamp, story
from qmailpy.cli.when import Moment
from qmailpy.config.load import load
from qmailpy.config.schema import Config
from qmailpy.disk.files import RealFiles
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError
from qmailpy.records.family import MOST, family
from qmailpy.records.index import Indexed, LogIndex, thd_index
from qmailpy.records.record import LogRecord
from qmailpy.records.text import LineFormat, Unreadable
from qmailpy.wire.notice_id import kind_of

_PATIENCE_S = 3.0  # with the daemon's indexer
_QUEUE_ID = re.compile(r"[0-9a-v]{15}")


@contextmanager
def opened(home: str, config: Config, rebuild: bool = False) -> Iterator[LogIndex]:
    """
    The index of a home, up to date; with progress on a terminal.

    Root acts as the log's owner meanwhile, whose file it is to be.
    """
    directory = os.path.join(home, "log")
    if not os.path.isdir(directory):
        raise CommandError("there is no log directory: is it a home?")
    terminal = sys.stderr.isatty()
    told: list[int] = []

    def progress(records: int) -> None:
        if terminal:
            told.append(records)
            click.echo(f"\rreading the log: {records} lines", nl=False, err=True)

    with acting_as(owner(directory)):
        index = thd_index(
            RealFiles(), directory, config.log, time.time(), rebuild=rebuild, progress=progress, wait_s=_PATIENCE_S
        )
        try:
            if told:
                click.echo("\r" + " " * 40 + "\r", nl=False, err=True)
            yield index
        finally:
            index.close()


@click.command()
@click.argument("what", metavar="MESSAGE-ID|QUEUE-ID|ADDRESS|SUBJECT")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Messages of an address or a subject, the last ones.",
)
@click.option("--since", type=Moment(), help="Messages that came then or later: 2026-03-01, yesterday, 12h, 7d.")
@click.option("--until", type=Moment(), help="Messages that came before.")
@click.option("--subject", is_flag=True, help="It is a subject, whatever it looks like.")
@click.option("--json", "as_json", is_flag=True, help="For programs: the records of each message.")
@click.pass_obj
def trace(
    context: Homed, what: str, limit: int, since: float | None, until: float | None, subject: bool, as_json: bool
) -> None:
    """
    Tell the whole story of a message, or of the last messages from and to an address, or with a subject.

    Across channels, forwards and notices, with the replies of other servers. Of a subject some words are enough.
    """
    need(context.home)
    config = load(context.home)
    with opened(context.home, config) as index:
        asked = Asked(what=what.strip(), limit=limit, since=since or 0.0, until=math.inf if until is None else until)
        found = _found(index, asked, subject)
        if index.busy:
            print_error("another process is reading the log: the last lines may not be known yet")
        if not found:
            raise CommandError(
                f"nothing in the log of the last {config.log.index_days} days is about {what}; "
                f"a queue id, a Message-ID, a whole address or words of a subject can be traced{_hint(config)}"
            )
        members = family(index, found)
        form = LineFormat(config.log, config.server.hostname)
        told = [(mail, _records(form, index.lines(mail))) for mail in members]
    related = {mail.id: mail for mail, _ in told if mail.id}
    if as_json:
        print_json({"messages": [_json(mail, records, related.get(mail.parent)) for mail, records in told]})
        return
    for at, (mail, records) in enumerate(told):
        if at:
            print_line()
        for line in story(mail, records, related):
            print_line(line)
    if len(members) >= MOST:
        print_error(f"only the first {MOST} related messages are shown")


@click.command("index", short_help='Bring the index of "qmailpy trace" up to date.')
@click.option("--rebuild", is_flag=True, help="Make it anew from the log.")
@click.pass_obj
def index_command(context: Homed, rebuild: bool) -> None:
    """Bring the index of "qmailpy trace" up to date, which it does by itself; or make it anew."""
    need(context.home)
    try:
        with opened(context.home, load(context.home), rebuild) as index:
            if index.busy:
                raise BlockingIOError
            print_line(f"{index.added} lines were added to the index")
    except BlockingIOError:
        raise CommandError("another process is reading the log into the index") from None


@contextmanager
def lines_of(home: str) -> Iterator[Callable[[str], list[LogRecord]]]:
    """What gives the lines of the log about a message by its id, none when there are none; the index up to date."""
    config = load(home)
    form = LineFormat(config.log, config.server.hostname)
    with opened(home, config) as index:
        yield lambda queue_id: [
            record for mail in index.by_id(queue_id)[:1] for record in _records(form, index.lines(mail))
        ]


def found_lines(home: str, queue_id: str) -> tuple[Indexed, list[LogRecord]] | None:
    """What the log has about one message, the index brought up to date before; C{None} when it has nothing."""
    config = load(home)
    with opened(home, config) as index:
        found = index.by_id(queue_id)
        if not found:
            return None
        return found[0], _records(LineFormat(config.log, config.server.hostname), index.lines(found[0]))


@frozen(kw_only=True)
class Asked:
    """What is looked for."""

    what: str
    limit: int
    since: float
    until: float


def _found(index: LogIndex, asked: Asked, subject: bool) -> list[Indexed]:
    """By what it may be, the surest first."""
    what, bounds = asked.what, (asked.limit, asked.since, asked.until)
    if subject:
        return index.by_subject(what, *bounds)
    if _QUEUE_ID.fullmatch(what) and (found := index.by_id(what)):
        return found
    bare = what.strip("<>")
    return (
        index.by_message_id(f"<{bare}>")
        or index.by_message_id(bare)
        or index.by_address(bare, *bounds)
        or index.by_subject(what, *bounds)
    )


def _hint(config: Config) -> str:
    return "" if config.log.subject else " (subjects are not in the log: [log] subject)"


def _records(form: LineFormat, lines: list[str]) -> list[LogRecord]:
    found: list[LogRecord] = []
    for line in lines:
        try:
            found.append(form.record(line.encode()))
        except Unreadable:
            continue  # written with other options than now
    return found


def _json(mail: Indexed, records: list[LogRecord], parent: Indexed | None) -> dict[str, Any]:
    made = kind_of(mail.message_id) if mail.parent else None
    if parent is not None and parent.message_id == mail.message_id:
        made = None  # it was handed on
    return {
        "id": mail.id,
        "message_id": mail.message_id,
        "parent": mail.parent,
        "notice": made.value if made is not None else "",
        "subject": next((record.subject for record in records if record.subject), ""),
        "first": stamp(mail.time),
        "events": [
            asdict(record, value_serializer=lambda _, __, value: getattr(value, "value", value)) for record in records
        ],
    }
