"""
What commands print: JSON, tables and single lines, safe for a terminal.

Tables are plain and aligned when the output is no terminal, so that scripts can cut them; C{--json} is what scripts
should ask for. Rich is imported only for a terminal: it takes as long as everything else together.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

import click

_MANY = 2000  # rows that are no matter


def printable(text: object) -> str:
    """C{text} in one line, with everything that a terminal might act upon written as an escape."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in line)


def print_line(text: object = "") -> None:
    """One line on standard output."""
    click.echo(printable(text))


def print_error(text: object) -> None:
    """One line on standard error, with the name of the program."""
    click.echo(f"qmailpy: {printable(text)}", err=True)


def ending_line() -> None:
    """What comes on standard error begins a line of its own: a terminal has just shown ^C in the one before."""
    if sys.stderr.isatty():
        click.echo(err=True)


def print_interrupted() -> None:
    """That somebody pressed Ctrl-C."""
    ending_line()
    print_error("interrupted")


def print_json(value: Any) -> None:
    """A JSON document: one line, ASCII, so that it stays whole whatever the locale."""
    click.echo(json.dumps(value))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> None:
    """
    Rows under heads.

    @param heads: titles; printed even without rows.
    @param rows: cells, as many as heads.
    @param right: numbers of the columns, from 0, that are aligned to the right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(heads, cells, right)
        return
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for row in (heads, *cells):
        click.echo(_aligned(row, widths, right))


def print_long_table(
    heads: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]], right: Sequence[int] = ()
) -> None:
    """
    L{print_table} of rows that may be too many to have in memory at once.

    @param rows: the same rows each time it is called.
    """
    first = list(islice(rows(), _MANY + 1))
    if len(first) <= _MANY:
        print_table(heads, first, right)
        return
    widths = [len(head) for head in heads]
    for row in rows():
        widths = [max(width, len(printable(cell))) for width, cell in zip(widths, row, strict=True)]
    for row in chain([heads], rows()):
        click.echo(_aligned([printable(cell) for cell in row], widths, right))


def _aligned(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if number in right else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _print_rich(heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a value are no markup
    Console().print(table)
