"""The directory's file, for commands: with the rights of whoever serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from qmailpy.directory.embedded import InThread
from qmailpy.directory.paths import directory_path
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError


@contextmanager
def open_store(home: str) -> Iterator[Store]:
    """
    The store, closed at the end.

    Root acts as the user the directory belongs to meanwhile: what SQLite makes beside the file must be that user's, or
    the directory process could not go on. Within the body, therefore, other parts of the home may be out of reach.

    @raise CommandError: it is not for us.
    """
    path = store_path(home)
    with acting_as(owner(directory_path(home))):
        try:
            with open(path, "rb"):
                pass
        except PermissionError as error:
            raise CommandError(f"{path}: {error.strerror}; run this as root or as the directory's user") from None
        except OSError:
            pass  # the store says it better
        store = Store(path)
        try:
            yield store
        finally:
            store.thd_close()


def as_keeper(home: str) -> InThread:
    """
    Runs the store's functions now, each with its owner's rights; for commands that have other rights in between.

    @return: what L{EmbeddedDirectory} takes.
    """

    def run(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        with acting_as(owner(directory_path(home))):
            return maybeDeferred(function, *arguments)

    return run
