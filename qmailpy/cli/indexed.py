"""
What commands ask of the index of the transaction log: brought up to date first, made again when it is broken, and
asked as it is when it cannot be written. What it does not know is told by how far back it reaches.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TypeVar

import click

from qmailpy.cli.output import print_error
from qmailpy.config.load import load
from qmailpy.config.schema import Config
from qmailpy.disk.files import RealFiles
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError
from qmailpy.queue.ids import born, is_id, to_number
from qmailpy.records.fields import Unreadable
from qmailpy.records.index import INDEX, IndexBroken, Indexed, LogIndex, reach_days, thd_index
from qmailpy.records.record import LogRecord
from qmailpy.records.text import LineFormat

T = TypeVar("T")

_PATIENCE_S = 3.0  # with the daemon's indexer


@contextmanager
def opened(home: str, config: Config, rebuild: bool = False) -> Iterator[LogIndex]:
    """
    The index of a home, up to date; with progress on a terminal, and a line about what of the log cannot be read.

    Root acts as the log's owner meanwhile, whose file it is to be. Where it cannot be written, as on a full disk, what
    it holds is better than nothing.

    @raise CommandError: there is none, or another process makes it anew.
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

    def tell(problem: str) -> None:
        if told:
            click.echo("\r" + " " * 40 + "\r", nl=False, err=True)
            told.clear()
        if problem:
            print_error(problem)

    path = f"{directory}/{INDEX}"
    with acting_as(owner(directory)):
        try:
            index = thd_index(
                RealFiles(), directory, config.log, time.time(), rebuild=rebuild, progress=progress, wait_s=_PATIENCE_S
            )
        except (BlockingIOError, IndexBroken):
            raise CommandError("another process is reading the log into the index; ask again when it is done") from None
        except OSError as error:
            if rebuild or not os.path.exists(path):
                raise
            index = LogIndex(path)
            index.behind = True
            why = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
            tell(f"the last lines of the log may not be known, the index cannot be brought up to date: {why}")
        try:
            tell("")
            for problem in index.damaged:
                tell(f"{problem}; what comes behind that place is not known")
            yield index
        finally:
            index.close()


def asked(home: str, config: Config, question: Callable[[LogIndex], T]) -> T:
    """
    What the index answers. One that turns out to be damaged is made again, and asked again.

    @raise CommandError: see L{opened}; or what the question raises.
    """
    with Asking(home, config) as asking:
        return asking(question)


class Asking:
    """Asks the index of a home, several times; a context manager."""

    def __init__(self, home: str, config: Config) -> None:
        self._home = home
        self._config = config
        self._opened: AbstractContextManager[LogIndex] = opened(home, config)

    def __enter__(self) -> Asking:
        self._index = self._opened.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(None, None, None)

    def __call__(self, question: Callable[[LogIndex], T]) -> T:
        """See L{asked}."""
        try:
            return question(self._index)
        except IndexBroken:
            self._opened.__exit__(None, None, None)
            print_error("the index of the log was damaged; it is made anew from the log")
            self._opened = opened(self._home, self._config, rebuild=True)
            self._index = self._opened.__enter__()
        return question(self._index)


@contextmanager
def lines_of(home: str) -> Iterator[Callable[[str], list[LogRecord]]]:
    """What gives the lines of the log about a message by its id, none when there are none; the index up to date."""
    config = load(home)
    form = LineFormat(config.log, config.server.hostname)

    def lines(index: LogIndex, queue_id: str) -> list[LogRecord]:
        return [record for mail in index.by_id(queue_id)[:1] for record in records(form, index.lines(mail))]

    with Asking(home, config) as asking:
        yield lambda queue_id: asking(lambda index: lines(index, queue_id))


def found_lines(home: str, queue_id: str, *, sure: bool = False) -> tuple[Indexed, list[LogRecord]] | str:
    """
    What the log has about one message, the index brought up to date before; or why it has nothing, "" = that is so.

    @param sure: the newest lines are needed.
    @raise CommandError: and cannot be had; or see L{opened}.
    """
    config = load(home)
    form = LineFormat(config.log, config.server.hostname)

    def look(index: LogIndex) -> tuple[Indexed, list[LogRecord]] | str:
        if sure and (index.busy or index.behind):
            raise CommandError("the newest lines of the log are needed for this, and cannot be read now")
        found = index.by_id(queue_id)
        if not found:
            return before_reach(index, config, queue_id)
        return found[0], records(form, index.lines(found[0]))

    return asked(home, config, look)


def records(form: LineFormat, lines: list[str]) -> list[LogRecord]:
    """What lines of the index say."""
    found: list[LogRecord] = []
    for line in lines:
        try:
            found.append(form.record(line.encode()))
        except Unreadable:
            continue  # written with other options than now
    return found


def reach(index: LogIndex, config: Config) -> tuple[str, str]:
    """What there is of the log, and where it begins, in words."""
    days = reach_days(config.log)
    oldest = index.oldest()
    begins = "has no mail" if oldest is None else f"begins at {clock(oldest)}"
    return f"the log of the last {days} day{'s' * (days != 1)}", begins


def before_reach(index: LogIndex, config: Config, queue_id: str) -> str:
    """Where an id is older than what is known, by the time it holds: a sentence about that; else ""."""
    oldest = index.oldest()
    if oldest is None or not is_id(queue_id) or born(to_number(queue_id)) >= oldest:
        return ""
    log, begins = reach(index, config)
    return f"message {queue_id} is of {clock(born(to_number(queue_id)))}: older than {log}, which {begins}"


def clock(at: float) -> str:
    """A time for people, in local time, as C{trace} writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
