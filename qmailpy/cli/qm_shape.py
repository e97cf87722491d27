"""
How old the mail is, by destination: C{qshape}, after Postfix's program of that name; and C{flush}.

The table tells apart what looks alike in a list: much new mail for one domain (the domain is slow, or a mailing has
begun) from old mail for many (the way out is broken).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from qmailpy.cli.output import print_json, print_line
from qmailpy.cli.qm_change import changed
from qmailpy.cli.qm_choose import Progress, selecting, wanted
from qmailpy.cli.qm_session import Session, heading

COLUMNS = 10
FIRST_MIN = 5.0
NAME = 30
"""Width of a name; longer ones are cut on the left, where a domain says least."""


def edges_of(first_min: float, columns: int) -> Sequence[float]:
    """The ends of the columns in minutes, but for the last, which has none: each twice the one before."""
    return [first_min * 2**number for number in range(columns - 1)]


@click.command()
@click.argument("channel", default="")
@click.option("--sender", "by_sender", is_flag=True, help="By the sender's domain, and messages instead of recipients.")
@click.option("--held/--no-held", default=None, help="Only messages that are held; or only others.")
@click.option("--buckets", type=click.IntRange(2, 40), default=COLUMNS, show_default=True, help="So many columns.")
@click.option(
    "--first",
    type=click.FloatRange(0.1, 100_000),
    default=FIRST_MIN,
    show_default=True,
    metavar="MINUTES",
    help="The end of the first column; each has twice the age of the one before.",
)
@click.option("--top", "most", type=click.IntRange(0), default=40, show_default=True, help="So many rows; 0 = all.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@selecting
@click.pass_obj
def qshape(
    session: Session,
    /,
    by_sender: bool,
    buckets: int,
    first: float,
    most: int,
    as_json: bool,
    **options: Any,
) -> None:
    """
    Show how old the mail is, by the domains of its recipients; of all channels or of CHANNEL.

    Columns are ages in minutes: the first has what is younger than 5 minutes, the next what is younger than 10, the
    last the rest. The rows with the most come first; T is their sum.
    """
    edges = edges_of(first, buckets)
    progress = Progress()
    table: dict[str, list[int]] = {}
    seconds = [edge * 60.0 for edge in edges]
    for row in progress.over(session.view.ages(wanted(**options), seconds, by_sender, progress.add)):
        counts = table.setdefault(row.name, [0] * buckets)
        for column, count in enumerate(row.counts[:buckets]):
            counts[column] += count
    total = [sum(column) for column in zip(*table.values(), strict=True)] or [0] * buckets
    rows = sorted(table.items(), key=lambda item: (-sum(item[1]), item[0]))
    shown = rows[: most or None]
    if as_json:
        print_json(
            {
                "by": "sender" if by_sender else "destination",
                "edges_minutes": edges,
                "total": total,
                "names": len(rows),
                "rows": [{"name": name, "total": sum(counts), "counts": counts} for name, counts in shown],
            }
        )
        return
    print_line(heading(time.time()))
    print_line(f"Data gathered from {session.view.source}")
    print_line()
    widths = [max(5, len(str(count)) + 1) for count in total]
    heads = [*(f"{edge:g}" for edge in edges), f"{edges[-1]:g}+"]
    widths = [max(width, len(head) + 1) for width, head in zip(widths, heads, strict=True)]
    sum_width = max(6, len(str(sum(total))) + 1)

    def line(name: str, whole: object, cells: Sequence[object]) -> None:
        short = name if len(name) <= NAME else "*" + name[1 - NAME :]
        counts = "".join(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))
        print_line(f"{short:>{NAME}}{whole!s:>{sum_width}}{counts}")

    line("", "T", heads)
    line("TOTAL", sum(total), total)
    for name, counts in shown:
        line(name, sum(counts), counts)
    if len(rows) > len(shown):
        print_line(f"and {len(rows) - len(shown)} more (-top=0 shows all)")


@click.command()
@click.argument("what", metavar="[DESTINATION|ID...]", nargs=-1)
@click.option("--channel", default="", metavar="NAME", help="All mail of this channel; with ids: only in it.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def flush(session: Session, what: tuple[str, ...], channel: str, as_json: bool) -> None:
    """
    Try mail now, and forget that its hosts could not be reached or asked for less.

    DESTINATION is a domain or next hop, with a dot before it all below it. Instead of it: ids, numbers of the last
    listing, or a channel. Mail that is held stays so (release), and so does that of a stopped channel (start).
    """
    if not what and not channel:
        raise click.UsageError("give a destination, ids or -channel=NAME")
    if what and session.names_messages(what):
        changed(
            ("TRIED", "try", "trying now"),
            session.view.try_now,
            session.select(what, channel).targets,
            as_json,
        )
        return
    if channel and what:
        raise click.UsageError("a destination is of all channels")
    if len(what) > 1:
        raise click.UsageError("one destination at a time")
    count = session.view.run(channel, forgive=True) if channel else session.view.flush(what[0])
    if as_json:
        print_json({"channel": channel, "destination": what[0] if what else "", "waiting": count})
        return
    found = f"{count} waiting, tried now" if count else "nothing waits but what is held or in a stopped channel"
    print_line(f"%QM-I-FLUSHED, {f'channel {channel}' if channel else what[0]}: {found}")
