"""C{qmailpy user import} and C{user export}: many users from and to a file."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import IO, Any

import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_error, print_json, print_line
from qmailpy.cli.people import accounts_of, notify_directory_change
from qmailpy.directory import bulk, ldif, schema
from qmailpy.directory.bulk import COLUMNS, PORTION, SCHEMES, Bad, Outcome, Row

_SHOWN = 20  # bad rows told when they are not written to a file

_FORMAT = click.option(
    "--format", "form", type=click.Choice(("csv", "ldif")), help="csv, or ldif when FILE ends so, unless given."
)


@click.command(
    "import",
    help=f"""
    Add the users in FILE (- = standard input).

    A CSV file names its columns in the first line: {", ".join(COLUMNS)}; only address must be there. LDIF may hold
    whatever belongs into the directory. Passwords may be in clear or in their stored form, as {{ARGON2}}, {{SSHA}} or
    {{SCRAM-SHA-256}}. Users that are there with the same values are left alone: an import that was cut off is simply
    begun again.
    """,
)
@click.argument("path", metavar="FILE")
@_FORMAT
@click.option(
    "--password-scheme",
    "scheme",
    type=click.Choice(tuple(SCHEMES)),
    default="argon2",
    show_default=True,
    help="What passwords in clear become; argon2 takes 20 ms each, ssha is for long random ones alone.",
)
@click.option("--update", is_flag=True, help="Change users that are there with other values.")
@click.option("--from-line", type=click.IntRange(1), default=1, metavar="N", help="Leave out what comes before line N.")
@click.option("--base", default="", metavar="DN", help="LDIF: what the names in it end with, if not with our base.")
@click.option("--errors", "errors_path", metavar="FILE", help="Write bad rows there: line, address, problem.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def import_(
    context: Context,
    path: str,
    form: str | None,
    scheme: str,
    update: bool,
    from_line: int,
    base: str,
    errors_path: str | None,
    as_json: bool,
) -> int:
    form = form or ("ldif" if path.lower().endswith((".ldif", ".ldf")) else "csv")
    with ExitStack() as held:
        # Files first, with our own rights; the store has those of the directory's user.
        file = sys.stdin.buffer if path == "-" else held.enter_context(open(path, "rb"))
        errors = _Errors(
            held.enter_context(open(errors_path, "w", newline="", errors="backslashreplace")) if errors_path else None
        )
        hashing = held.enter_context(ThreadPoolExecutor(os.cpu_count() or 1))
        accounts = held.enter_context(accounts_of(context))
        show = held.enter_context(_progress(_size(file)))
        taking = bulk.Import(accounts.tree, hashing, scheme=scheme, update=update)
        rows: Iterator[Row | Bad]
        if form == "csv":
            text = _Text(file)
            rows = bulk.csv_rows(text, accounts.tree, from_line)
        else:
            text = None
            counted = _Counted(file)
            rows = bulk.ldif_rows(counted, accounts.tree, from_line, base)
        total = Outcome()
        try:
            while portion := list(islice(rows, PORTION)):
                found = taking.thd_take(portion)
                errors.add(found.bad)
                total = Outcome(
                    added=total.added + found.added, changed=total.changed + found.changed, same=total.same + found.same
                )
                show(text.octets if text is not None else counted.octets)
        finally:
            if total.added or total.changed:
                held.callback(notify_directory_change, context.home, "")
    return _told(total, errors, as_json)


def _writable(path: str) -> IO[str]:
    return open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")


def _told(total: Outcome, errors: _Errors, as_json: bool) -> int:
    if as_json:
        print_json({"added": total.added, "changed": total.changed, "same": total.same, "bad": errors.count})
    else:
        changed = f"{total.changed} changed, " if total.changed else ""
        print_line(f"{total.added} added, {changed}{total.same} there already, {errors.count} bad")
    return 1 if errors.count else 0


class _Errors:
    """Where bad rows are told."""

    def __init__(self, file: IO[str] | None) -> None:
        self.count = 0
        self._file = file
        self._writer: Any = None
        if file is not None:
            self._writer = csv.writer(file, lineterminator="\n")
            self._writer.writerow(("line", "address", "problem"))

    def add(self, bad: tuple[Bad, ...]) -> None:
        for one in bad:
            self.count += 1
            if self._writer is not None:
                self._writer.writerow((one.line, one.what, one.problem))
            elif self.count <= _SHOWN:
                what = f"{one.what}: " if one.what else ""
                print_error(f"line {one.line}: {what}{one.problem}")
            elif self.count == _SHOWN + 1:
                print_error("more bad rows are only counted; --errors FILE keeps them")
        if self._file is not None:
            self._file.flush()


class _Counted:
    """The lines of a file, and how many octets have been read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.octets = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self._file.readline(1 << 20):
            self.octets += len(line)
            yield line


class _Text(_Counted):
    """The same as text."""

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        for line in super().__iter__():
            yield line.decode("utf-8", "surrogateescape")


def _size(file: IO[bytes]) -> int:
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0  # a pipe, or no file at all


@contextmanager
def _progress(size: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; what it is told are the octets read so far."""
    if not sys.stderr.isatty():
        yield lambda octets: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing", total=size or None)
        yield lambda octets: bar.update(task, completed=octets)


@click.command("export", short_help='Write users as "user import" reads them.')
@click.argument("name", metavar="[DOMAIN]", required=False, default="")
@_FORMAT
@click.option("--output", "path", metavar="FILE", help="Write there, readable for us alone; else to standard output.")
@click.option("--passwords", is_flag=True, help="With passwords, in their stored form.")
@click.pass_obj
def export(context: Context, name: str, form: str | None, path: str | None, passwords: bool) -> None:
    """Write the users of one DOMAIN, or of all, so that "user import" can read them."""
    form = form or ("ldif" if path and path.lower().endswith((".ldif", ".ldf")) else "csv")
    with ExitStack() as held:
        out: IO[str] = sys.stdout
        if path:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            out = held.enter_context(open(handle, "w", encoding="utf-8", newline=""))
        accounts = held.enter_context(accounts_of(context))
        found = accounts.thd_members(name)
        writer = csv.writer(out, lineterminator="\n")
        if form == "csv":
            writer.writerow(bulk.columns(secrets=passwords))
        for entry in found:
            if schema.forwards_only(entry.attributes) and form == "csv":
                continue  # an alias, which has no row
            if form == "csv":
                writer.writerow(bulk.csv_cells(entry, secrets=passwords))
                continue
            attributes = {
                schema.spelling(kind): values
                for kind, values in entry.attributes.items()
                if passwords or kind != "userpassword"
            }
            out.write(ldif.written(str(entry.name), attributes))
        if path:
            out.flush()
            os.fsync(out.fileno())
