"""
How messages are chosen: the options that the lists and the changes of the queue manager share.

C{-from} and C{-to} are one choice between them, as with the ancestor (C{-match}); each of the others narrows it.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import click
from attrs import frozen

from qmailpy.cli.when import Moment
from qmailpy.queue.entries import QueueFilter

F = TypeVar("F", bound=Callable[..., Any])
UNUSED = ("database", "directory_tree", "threads")
T = TypeVar("T")

PROGRESS_S = 0.5
"""How often progress is told, and from when on."""

_SIZE = re.compile(r"([0-9]{1,15})([kmg]?)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


class Size(click.ParamType[int]):
    """The type of an option with a size: 10000, 64k, 2M."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size: 10000 (octets), 64k, 2M", param, ctx)
        return int(match[1]) * _FACTORS[match[2].lower()]


@frozen
class Span:
    """A part of a text, in characters."""

    start: int = 1  # the first one
    length: int = (1 << 31) - 1

    @property
    def end(self) -> int:
        """The last one."""
        return self.start + self.length - 1

    def of(self, value: str) -> str:
        """That part of a text."""
        return value[self.start - 1 : self.end]


WHOLE = Span()


class Range(click.ParamType[Span]):
    """The type of an option with the ancestor's range: C{(START=1,LENGTH=20)}, either of them may be left out."""

    name = "RANGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        given: dict[str, int] = {}
        text = str(value).strip()
        for one in text.removeprefix("(").removesuffix(")").split(",") if text else ():
            name, _, number = one.strip().lower().partition("=")
            if name not in ("start", "length") or not number.isdecimal() or not 0 < int(number[:10]) < 1 << 31:
                self.fail(f"{value!r} is no range: (START=1,LENGTH=20)", param, ctx)
            given[name] = int(number[:10])
        return Span(**given)


def selecting(command: F) -> F:
    """The options; see L{wanted}."""
    options = (
        click.option("--from", "sender", default="", metavar="ADDRESS", help="Only from ADDRESS (with * and ?)."),
        click.option("--to", "recipient", default="", metavar="ADDRESS", help="Only to ADDRESS."),
        click.option(
            "--match",
            type=click.Choice(["and", "or"], case_sensitive=False),
            default="or",
            help="Whether both -from and -to must match, or one (the default).",
        ),
        click.option("--owner", default="", metavar="LOGIN", help="Only submitted with LOGIN."),
        click.option(
            "--domain",
            "destination",
            default="",
            metavar="DOMAIN",
            help="Only for recipients of DOMAIN, or whose next hop it is; .DOMAIN: all below it.",
        ),
        click.option(
            "--subject", default="", metavar="TEXT", help="Only with TEXT in the subject (with * and ?: all)."
        ),
        click.option(
            "--content", default="", metavar="TEXT", help="Only with TEXT in the first 256 octets of the body."
        ),
        click.option("--older", type=Moment(), help="Only queued before TIME, or for so long: 2h, 3d, 2026-03-01."),
        click.option("--newer", type=Moment(), help="Only queued since TIME, or for no longer than that."),
        click.option("--larger", type=Size(), default=0, help="Only of SIZE and more: 10000 (octets), 64k, 2M."),
        click.option("--smaller", type=Size(), default=0, help="Only up to SIZE."),
        click.option("--min-attempts", type=click.IntRange(0), default=0, help="Only with so many failed attempts."),
        click.option("--max-attempts", type=click.IntRange(0), help="Only with no more failed attempts than that."),
        click.option("--ignore-zz", is_flag=True, help="Not those that were never tried yet."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def ancestors(command: F) -> F:
    """
    Options of the ancestor that change nothing here: there is one source of a listing, and walks need no threads.
    The command does not see them.
    """
    options = (
        click.option("--database", is_flag=True, hidden=True),
        click.option("--directory-tree", is_flag=True, hidden=True),
        click.option("--threads", type=click.IntRange(1), hidden=True),
        click.option("--no-threads", "threads", flag_value=1, type=click.IntRange(1), hidden=True),
    )
    for option in options:
        command = option(command)

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **{name: value for name, value in kwargs.items() if name not in UNUSED})

    return cast(F, called)


def wanted(
    *,
    channel: str,
    held: bool | None,
    sender: str,
    recipient: str,
    match: str,
    owner: str,
    destination: str,
    subject: str,
    content: str,
    older: float | None,
    newer: float | None,
    larger: int,
    smaller: int,
    min_attempts: int,
    max_attempts: int | None,
    ignore_zz: bool,
    envelope: bool = False,
) -> QueueFilter:
    """The filter that the options stand for."""
    return QueueFilter(
        channel=channel,
        held=held,
        failed=ignore_zz,
        sender=sender,
        recipient=recipient,
        owner=owner,
        match_all=match.lower() == "and",
        destination=destination,
        subject=subject,
        content=content,
        arrived_until=older or 0.0,
        arrived_from=newer or 0.0,
        least_octets=larger,
        most_octets=smaller,
        least_attempts=min_attempts,
        most_attempts=max_attempts,
        envelope=envelope or bool(sender or recipient),
    )


def chosen_by(options: Mapping[str, Any]) -> bool:
    """Whether any of the options was given."""
    return any(value not in (None, "", 0, False) for name, value in options.items() if name != "match")


class Progress:
    """
    Tells on a terminal how far long work has come, in one line of standard error that goes away again.

    Nothing is told where that is no terminal, or of work that is over soon.
    """

    def __init__(self, what: str = "messages looked at", seconds: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._seconds = seconds
        self._terminal = sys.stderr.isatty()
        self._told = seconds()
        self._shown = False
        self.count = 0

    def add(self, count: int) -> None:
        """So many more."""
        self.count += count
        if self._terminal and self._seconds() - self._told >= PROGRESS_S:
            self._told = self._seconds()
            self._shown = True
            click.echo(f"\r{self.count:,} {self._what}", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away: something else is printed."""
        if self._shown:
            self._shown = False
            click.echo("\r\x1b[K", nl=False, err=True)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the line is out of the way whenever one of them is worked on."""
        try:
            for item in items:
                self.clear()
                yield item
        finally:
            self.clear()


__all__ = ["WHOLE", "Progress", "Range", "Size", "Span", "ancestors", "chosen_by", "selecting", "wanted"]
