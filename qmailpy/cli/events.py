"""C{qmailpy events}: what happened that an operator may want to know of (docs/events.md)."""

from __future__ import annotations

import json
import os
import time
from collections import deque

import click
from attrs import asdict

from qmailpy.cli.context import need
from qmailpy.cli.counters import Homed
from qmailpy.cli.output import print_line, printable
from qmailpy.cli.when import Moment
from qmailpy.events.catalogue import Severity
from qmailpy.events.reading import Event, Tail, thd_events

_POLL_S = 0.3
_COLOURS = {Severity.WARNING: "yellow", Severity.CRITICAL: "red"}
_MOST = 1_000_000


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come.")
@click.option("-n", "--lines", "count", type=click.IntRange(0, _MOST), help="The last so many.  [default: 20]")
@click.option("--since", type=Moment(), help="Those since then: 2h, today, 2026-03-01.")
@click.option(
    *("--severity", "least"),
    type=click.Choice([one.value for one in Severity]),
    default=Severity.NOTICE.value,
    show_default=True,
    help="As grave as this, or graver.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--catalogue", is_flag=True, help="Which events there are, as the page of the documentation.")
@click.pass_obj
def events(
    context: Homed,
    follow: bool,
    count: int | None,
    since: float | None,
    least: str,
    as_json: bool,
    catalogue: bool,
) -> None:
    """Show what happened that an operator may want to know of, and what to do about it."""
    if catalogue:
        from qmailpy.events.document import markdown

        click.echo(markdown(), nl=False)
        return
    need(context.home)
    severity = Severity(least)
    directory = os.path.join(context.home, "log")
    tail = Tail(directory)  # before the others are read: what comes meanwhile may be shown twice, never left out
    most = (_MOST if since is not None else 20) if count is None else count
    seen: set[str] = set()
    for event in deque(thd_events(directory, since or 0.0, severity), maxlen=most):
        seen.add(event.id)
        _show(event, as_json)
    try:
        while follow:
            time.sleep(_POLL_S)
            for event in tail.thd_more():
                if event.severity.rank >= severity.rank and event.id not in seen:
                    _show(event, as_json)
    except KeyboardInterrupt:  # how following ends
        return


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(event), "severity": event.severity.value}))
        return
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    often = f" ({event.times} times)" if event.times > 1 else ""
    line = f"{clock}  {event.severity.value:<8}  {event.event:<16}  {event.text}{often}"
    click.secho(printable(line), fg=_COLOURS.get(event.severity))
    if event.severity is not Severity.NOTICE:
        print_line(f"{'':21}-> {event.remedy}")
