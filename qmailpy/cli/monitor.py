"""C{qmailpy monitor}: a screen that shows the server at work; it goes on while the daemon is restarted."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import click
from rich.console import Console
from rich.live import Live

from qmailpy.cli.context import Context, need
from qmailpy.cli.livequeue import live_view
from qmailpy.cli.monitor_count import Counting
from qmailpy.cli.monitor_frame import Shown, as_json, failed, render
from qmailpy.cli.status import expected
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.events.reading import Event, Tail, thd_events
from qmailpy.queue.entries import QueueFilter, ShapeRow
from qmailpy.records.fields import Unreadable
from qmailpy.records.follow import Follower
from qmailpy.records.record import LogRecord
from qmailpy.records.text import LineFormat
from qmailpy.watch.look import Look, thd_look

_KEPT = 50  # failures and events
_LINES = 2000  # of the log that are looked through at the start
_EVENTS_S = 86400.0
_PATIENCE_S = 5.0  # of one frame, with the count of what waits


@click.command()
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, metavar="SECONDS")
@click.option("--once", is_flag=True, help="One frame, as text.")
@click.option("--json-lines", is_flag=True, help="A JSON object each time instead of the screen.")
@click.pass_obj
def monitor(context: Context, interval: float, once: bool, json_lines: bool) -> None:
    """
    Show the server at work: processes, channels with their rates, destinations, failures, events.

    Ctrl-C ends it.
    """
    need(context.home)
    watching = Watching(context)
    try:
        if json_lines:
            _lines(watching, interval, once)
        elif once:
            console = Console(width=None if os.isatty(1) else 120)
            console.print(render(watching.frame(_PATIENCE_S), context.home, 1000, console.width))
        else:
            _live(watching, context.home, interval)
    except KeyboardInterrupt:
        return
    finally:
        watching.close()


def _lines(watching: Watching, interval: float, once: bool) -> None:
    while True:
        click.echo(json.dumps(as_json(watching.frame(_PATIENCE_S if once else 0.0))))
        if once:
            return
        time.sleep(interval)


def _live(watching: Watching, home: str, interval: float) -> None:
    console = Console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            size = console.size
            live.update(render(watching.frame(), home, size.height, size.width), refresh=True)
            time.sleep(interval)


class Watching:
    """Takes looks, and remembers what failed and what happened."""

    def __init__(self, context: Context) -> None:
        config = context.config
        self._config = config
        self._expected = expected(config)
        self._form = LineFormat(config.log, config.server.hostname)
        directory = config.path("log")
        self._follower = Follower(RealFiles(), directory)
        self._tail = Tail(directory)
        self._failures: deque[LogRecord] = deque(maxlen=_KEPT)
        self._events: deque[Event] = deque(thd_events(directory, time.time() - _EVENTS_S), maxlen=_KEPT)
        self._counting = Counting(self._ages)
        self._before: Look | None = None
        self._begun = False

    def frame(self, patience_s: float = 0.0) -> Shown:
        """
        What there is to show now.

        @param patience_s: how long to wait for what takes its time; that is left out then.
        @raise CommandError: the processes may not be asked by this user.
        """
        look = thd_look(self._config, self._expected, time.time())
        with suppress(FileNotFoundError):  # no mail yet
            lines = self._follower.thd_more() if self._begun else self._follower.thd_last(_LINES, lambda line: True)
            self._begun = True
            for line in lines:
                with suppress(Unreadable):
                    record = self._form.record(line)
                    if failed(record):
                        self._failures.append(record)
        known = {one.id for one in self._events}
        self._events += (one for one in self._tail.thd_more() if one.id not in known)
        if look.later():
            self._counting.wanted(patience_s)
        shown = Shown(
            look=look,
            before=self._before,
            failures=[*self._failures],
            events=[*self._events],
            counted=self._counting.counted if look.later() else None,
        )
        self._before = look
        return shown

    def _ages(self, wanted: QueueFilter, edges: Sequence[float], looked: Callable[[int], None]) -> Iterator[ShapeRow]:
        view = live_view(self._config.home)
        if view is None:
            raise CommandError("the daemon is not running")
        return view.ages(wanted, edges, False, looked)

    def close(self) -> None:
        """Let go of the log, and of the daemon."""
        self._counting.stop()
        self._follower.close()
