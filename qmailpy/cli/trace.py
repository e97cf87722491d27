"""
C{qmailpy trace}: what happened to a message (docs/counters-and-log.md, "Tracing").

The answer comes from the index of the transaction log, which the daemon keeps and the command first brings up to date,
so it is as good for mail of weeks ago.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

import click
from attrs import asdict, frozen

from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.indexed import asked, before_reach, clock, opened, reach, records
from qmailpy.cli.output import print_error, print_json, print_line
from qmailpy.cli.story import story
from qmailpy.cli.when import Moment
from qmailpy.config.load import load
from qmailpy.config.schema import Config
from qmailpy.errors import CommandError
from qmailpy.records.family import MOST, family
from qmailpy.records.index import Indexed, LogIndex
from qmailpy.records.record import LogRecord
from qmailpy.records.text import LineFormat
from qmailpy.wire.notice_id import kind_of

_QUEUE_ID = re.compile(r"[0-9a-v]{15}")


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
    wanted = Asked(
        what=what.strip(), limit=limit, since=since or 0.0, until=math.inf if until is None else until, subject=subject
    )
    told = asked(context.home, config, lambda index: _told(index, config, wanted))
    related = {mail.id: mail for mail, _ in told if mail.id}
    if as_json:
        print_json({"messages": [_json(mail, lines, related.get(mail.parent)) for mail, lines in told]})
        return
    for at, (mail, lines) in enumerate(told):
        if at:
            print_line()
        for line in story(mail, lines, related):
            print_line(line)
    if len(told) >= MOST:
        print_error(f"only the first {MOST} related messages are shown")


@click.command("index", short_help='Bring the index of "qmailpy trace" up to date.')
@click.option("--rebuild", is_flag=True, help="Make it anew from the log.")
@click.pass_obj
def index_command(context: Homed, rebuild: bool) -> None:
    """Bring the index of "qmailpy trace" up to date, which it does by itself; or make it anew."""
    need(context.home)
    with opened(context.home, load(context.home), rebuild) as index:
        if index.busy:
            raise CommandError("another process is reading the log into the index")
        if index.behind:
            raise CommandError("the index was not brought up to date")
        print_line(f"{index.added} lines were added to the index")


@frozen(kw_only=True)
class Asked:
    """What is looked for."""

    what: str
    limit: int
    since: float
    until: float
    subject: bool  # whatever it looks like


def _told(index: LogIndex, config: Config, wanted: Asked) -> list[tuple[Indexed, list[LogRecord]]]:
    """The messages that are meant with their lines, and those of their families."""
    found = _found(index, wanted)
    if index.busy:
        print_error("another process is reading the log: the last lines may not be known yet")
    if not found:
        raise CommandError(_nothing(index, config, wanted))
    form = LineFormat(config.log, config.server.hostname)
    return [(mail, records(form, index.lines(mail))) for mail in family(index, found)]


def _nothing(index: LogIndex, config: Config, wanted: Asked) -> str:
    """Why there is nothing: it is older than what is kept, or was never here, or is not asked for in a good way."""
    if early := before_reach(index, config, wanted.what):
        return early
    oldest = index.oldest()
    log, begins = reach(index, config)
    if oldest is not None and wanted.until <= oldest:
        return f"nothing is known of before {clock(wanted.until)}: {log} {begins}"
    hint = "" if config.log.subject else " (subjects are not in the log: [log] subject)"
    lost = [name for name in index.missing() if os.path.exists(config.path("log", name))]
    damaged = f"; but these files of the log are damaged: {', '.join(lost[:3])}" if lost else ""
    return (
        f"nothing in {log} is about {wanted.what} (it {begins}); "
        f"a queue id, a Message-ID, a whole address or words of a subject can be traced{hint}{damaged}"
    )


def _found(index: LogIndex, asked: Asked) -> list[Indexed]:
    """By what it may be, the surest first."""
    what, bounds = asked.what, (asked.limit, asked.since, asked.until)
    if asked.subject:
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


def _json(mail: Indexed, lines: list[LogRecord], parent: Indexed | None) -> dict[str, Any]:
    made = kind_of(mail.message_id) if mail.parent else None
    if parent is not None and parent.message_id == mail.message_id:
        made = None  # it was handed on
    return {
        "id": mail.id,
        "message_id": mail.message_id,
        "parent": mail.parent,
        "notice": made.value if made is not None else "",
        "subject": next((record.subject for record in lines if record.subject), ""),
        "first": clock(mail.time),
        "events": [
            asdict(record, value_serializer=lambda _, __, value: getattr(value, "value", value)) for record in lines
        ],
    }
