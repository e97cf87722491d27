"""
The lists of the queue manager: C{directory}, C{held}, C{messages}, C{summarize}.

Sizes are blocks of 1,024 octets, as in the log and the counters. A name in a listing is that of the queue file in the
log: two digits for the failed attempts (ZZ none, ZY one), the queue id, and the recipients left or HELD.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, TypeVar

import click

from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_choose import Progress, ancestors, selecting, wanted
from qmailpy.cli.qm_session import LISTED, Session, heading, warn, when
from qmailpy.cli.said import answer, way
from qmailpy.queue.entries import QueueEntry, QueueFilter, Target, to_json
from qmailpy.records.fields import attempts_code
from qmailpy.values import blocks

RULE = "-" * 62
F = TypeVar("F", bound=Callable[..., Any])


def _listing(command: F) -> F:
    """The options that directory and held share."""
    options = (
        click.argument("channel", default=""),
        click.option("--envelope/--no-envelope", help="Also the sender and the recipients; -from and -to imply it."),
        click.option("--file-info/--no-file-info", default=True, help="Size and date (the default)."),
        click.option("--total/--no-total", default=True, help="Total sizes (the default)."),
        click.option("--json", "as_json", is_flag=True, help="As JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return selecting(ancestors(command))


@click.command()
@click.option("--held/--no-held", default=None, help="Only messages that are held; or only others.")
@_listing
@click.pass_obj
def directory(session: Session, /, held: bool | None, **options: Any) -> None:
    """
    List the messages in the queue, of all channels or of CHANNEL (which may hold * and ?).

    The numbers can be used as ids until the next listing.
    """
    _directory(session, held=held, **options)


@click.command()
@click.option("--held/--no-held", default=True, hidden=True, help="That is what this command is for.")
@_listing
@click.pass_obj
def held(session: Session, /, held: bool, **options: Any) -> None:
    """List the messages that are held, each with the reason."""
    if not held:
        raise click.UsageError("held lists held messages; directory -noheld lists the others")
    _directory(session, held=True, reasons=True, **options)


def _directory(
    session: Session,
    *,
    file_info: bool,
    total: bool,
    as_json: bool,
    reasons: bool = False,
    **options: Any,
) -> None:
    asked = wanted(**options)
    listed: list[Target] = []
    progress = Progress()
    entries = _remembered(progress.over(session.view.entries(asked, progress.add)), listed)
    try:
        if as_json:
            _print_json_list({"number": at, **to_json(entry)} for at, entry in enumerate(entries, 1))
            return
        print_line(heading(time.time()))
        print_line(f"Data gathered from {session.view.source}")
        print_line()
        number = grand = 0
        for channel, group in groupby(entries, lambda entry: entry.channel):
            size = 0
            title = f"Channel: {channel}"
            print_line(f"{title:<34}Size Queued since" if file_info else title)
            print_line(RULE)
            for entry in group:
                number += 1
                size += blocks(entry.size_octets)
                _print_entry(number, entry, file_info, reasons)
                if asked.envelope:
                    _print_envelope(entry)
            print_line(RULE)
            if total:
                print_line(f"Total size: {size:>26}")
            print_line()
            grand += size
        if not number:
            print_line("No messages.")
            _no_channel(session, asked.channel)
        elif total:
            print_line(f"Grand total size: {grand:>20}")
    finally:
        session.remember(listed)


def _no_channel(session: Session, pattern: str) -> None:
    """Tell of a name, or pattern, that no channel has: that nothing was found may be for a slip of the pen."""
    if pattern and not any(fnmatchcase(one.channel, pattern) for one in session.view.summary()):
        warn(f"there is no channel {pattern}")


def _print_json_list(items: Iterable[object]) -> None:
    """As print_json with a list, an element at a time: the queue may be long."""
    separator = "["
    for item in items:
        click.echo(separator + json.dumps(item), nl=False)
        separator = ", "
    click.echo("[]" if separator == "[" else "]")


def _remembered(entries: Iterator[QueueEntry], listed: list[Target]) -> Iterator[QueueEntry]:
    for entry in entries:
        if len(listed) < LISTED:
            listed.append(Target(entry.id, entry.channel))
        yield entry


def file_name(entry: QueueEntry) -> str:
    """The entry as a queue file: C{ZZ0123456789abcde.01}."""
    left = "HELD" if entry.held else f"{entry.remaining:02d}"
    return f"{attempts_code(entry.attempts)}{entry.id}.{left}"


def _print_entry(number: int, entry: QueueEntry, file_info: bool, reasons: bool) -> None:
    line = f"{number} {file_name(entry)}"
    if file_info:
        line = f"{line:<32} {blocks(entry.size_octets):>5} {when(entry.arrival)}"
    print_line(f"{line}  {entry.reason}" if reasons and entry.reason else line)


def _print_envelope(entry: QueueEntry) -> None:
    print_line(f"     From: <{entry.sender}>")
    for recipient in entry.recipients:
        print_line(f"     To:   <{recipient}>")
    if entry.remaining > len(entry.recipients) > 0:
        print_line(f"     and {entry.remaining - len(entry.recipients)} more")


@click.command()
@click.argument("channel", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@ancestors
@selecting
@click.pass_obj
def messages(session: Session, /, as_json: bool, **options: Any) -> None:
    """List the messages that are not held, of all channels or of CHANNEL, with their attempts and next attempt."""
    progress = Progress()
    entries = progress.over(session.view.entries(wanted(held=False, **options), progress.add))
    if as_json:
        _print_json_list(map(to_json, entries))
        return
    print_line(f"{'Id':<15}  {'Channel':<16}  Recipients  Attempts  {'Next attempt':<20}  Last error")
    for entry in entries:
        tried = f"{entry.remaining:>10}  {entry.attempts:>8}  {_next(entry):<20}"
        print_line(f"{entry.id:<15}  {entry.channel:<16}  {tried}  {answer(entry.last_error)}".rstrip())


def _next(entry: QueueEntry) -> str:
    if entry.busy:
        return "being tried"
    if entry.hold_until and not entry.attempts and entry.next_attempt is not None:
        return f"waiting until {when(entry.next_attempt)}"
    return "at once" if entry.next_attempt is None else when(entry.next_attempt)


@click.command()
@click.argument("channel", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def jobs(session: Session, channel: str, as_json: bool) -> None:
    """List the attempts under way, of all channels or of CHANNEL (which may hold * and ?): which message goes where."""
    asked = QueueFilter(channel=channel)
    found = [job for job in session.view.jobs() if asked.admits_channel(job.channel)]
    if as_json:
        print_json([to_json(job) for job in found])
        return
    for name, group in groupby(found, lambda job: job.channel):
        print_line(f"channel {name}")
        for host, some in groupby(group, lambda job: job.host):
            print_line(f"  host {way(host)}" if host else "  this node")
            for job in some:
                count = f"{job.recipients} recipient{'s' * (job.recipients != 1)}"
                print_line(f"    message {job.id}, attempt {job.attempt}, {count}, {blocks(job.size_octets)} blocks")
    print_line(f"{len(found)} job{'s' * (len(found) != 1)} under way.")


@click.command()
@click.argument("what", type=click.Choice(["database", "directory_tree"], case_sensitive=False), required=False)
@click.pass_obj
def view(session: Session, what: str | None) -> None:
    """
    Tell where listings come from.

    The ancestor could be told to take them from its database or from the directory tree. Here there is one source,
    which is always right: the daemon's memory, or the files when it does not run; so WHAT changes nothing.
    """
    print_line(f"%QM-I-VIEW, listings are gathered from {session.view.source}")


@click.command()
@click.option("--heading/--no-heading", "head", default=True, help="The heading (the default).")
@click.option("--trailing/--no-trailing", default=True, help="The totals (the default).")
@click.option("--held/--no-held", "show_held", default=False, help="Also how many are held.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@ancestors
@click.pass_obj
def summarize(
    session: Session,
    head: bool,
    trailing: bool,
    show_held: bool,
    as_json: bool,
) -> None:
    """One line a channel: messages, their size in blocks, and since when the oldest is queued."""
    progress = Progress()
    found = session.view.summary(progress.add)
    progress.clear()
    if as_json:
        print_json([to_json(one) for one in found])
        return

    def row(name: str, count: int, size: int, held_count: int, oldest: float | None, note: str = "") -> None:
        line = f"{name:<24} {count:>10} {size:>12}" + (f" {held_count:>8}" if show_held else "")
        print_line(f"{line}  {when(oldest) if oldest is not None else '':<20}  {note}".rstrip())

    if head:
        title = f"{'Channel':<24} {'Messages':>10} {'Size':>12}" + (f" {'Held':>8}" if show_held else "")
        print_line(f"{title}  Oldest")
        print_line(
            ("-" * 24 + " " + "-" * 10 + " " + "-" * 12) + (" " + "-" * 8 if show_held else "") + "  " + "-" * 20
        )
    for one in found:
        note = "stopped" if one.stopped else ""
        row(one.channel, one.messages, blocks(one.size_octets), one.held, one.oldest, note)
    if trailing:
        ages = [one.oldest for one in found if one.oldest is not None]
        print_line()
        row(
            "Totals",
            sum(one.messages for one in found),
            sum(blocks(one.size_octets) for one in found),
            sum(one.held for one in found),
            min(ages, default=None),
        )
