"""C{qmailpy directory export}: the whole tree as LDIF, password hashes and all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO

import click

from qmailpy.cli.context import Context
from qmailpy.cli.output import print_line
from qmailpy.cli.store import open_store
from qmailpy.directory import filters, ldif, names, schema
from qmailpy.directory.operations import Scope, StoreError
from qmailpy.directory.schema import Entry
from qmailpy.directory.store import Store
from qmailpy.errors import CommandError


@click.command("export")
@click.option("--ldif", "path", metavar="FILE", help="Write there (mode 0600) instead of standard output.")
@click.pass_obj
def export(context: Context, path: str | None) -> None:
    """
    Write the whole directory as LDIF, to keep it or to move it to another LDAP server.

    Password hashes are in it: who has the file can try passwords out.
    """
    base = context.config.directory.base
    if path is None:
        if sys.stdout.isatty():
            raise CommandError("password hashes are not for a terminal: name a file with --ldif FILE")
        _export(context.home, base, sys.stdout)
        return
    with _replacing(path) as target:
        count = _export(context.home, base, target)
    print_line(
        f"wrote {count} entries to {path}; it holds password hashes: keep it closed, and remove it when it is of no use"
    )


def _export(home: str, base: str, target: IO[str]) -> int:
    count = 0
    target.write("version: 1\n\n")
    with open_store(home) as store:
        for entry in everything(store, base):
            target.write(record(entry))
            count += 1
    target.flush()
    return count


def everything(store: Store, base: str) -> Iterator[Entry]:
    """All entries, parents before what is below them."""
    after = ""
    while True:
        try:
            found, after = store.thd_search(names.parse(base), Scope.SUBTREE, filters.EVERYTHING, after, 1000)
        except StoreError as error:
            raise CommandError(str(error)) from None
        yield from found
        if not after:
            return


def record(entry: Entry) -> str:
    """An entry as LDIF, its classes first."""
    order = sorted(entry.attributes, key=lambda name: (name != "objectclass", name))
    return ldif.written(str(entry.name), {schema.spelling(name): entry.attributes[name] for name in order})


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[IO[str]]:
    """A file for us alone, that is there when all of it is."""
    temporary = f"{path}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "w", encoding="ascii", newline="\n") as target:
            yield target
            os.fsync(target.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
