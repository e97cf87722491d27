"""
The directory, for commands: its file, with the rights of whoever serves it, or the LDAP servers that hold it instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from qmailpy.config.load import load
from qmailpy.config.schema import Config
from qmailpy.directory.operations import StoreError
from qmailpy.directory.paths import directory_path
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from qmailpy.disk.rights import acting_as, owner
from qmailpy.errors import CommandError, ConfigError
from qmailpy.interfaces import InThread


@contextmanager
def open_store(home: str) -> Iterator[Store]:
    """
    The store, closed at the end; where the configuration names LDAP servers, the first of them that answers.

    Root acts as the user the directory belongs to meanwhile: what SQLite makes beside the file must be that user's, or
    the directory process could not go on. Within the body, therefore, other parts of the home may be out of reach.

    @raise CommandError: it is not for us.
    """
    config = _config(home)
    if config is not None and config.directory.servers:
        with closing_store(remote_store(config)) as remote:
            yield remote
        return
    path = store_path(home)
    with acting_as(owner(directory_path(home))):
        try:
            with open(path, "rb"):
                pass
        except PermissionError as error:
            raise CommandError(f"{path}: {error.strerror}; run this as root or as the directory's user") from None
        except OSError:
            pass  # the store says it better
        with closing_store(Store(path)) as store:
            yield store


@contextmanager
def closing_store(store: Store) -> Iterator[Store]:
    """Close it at the end."""
    try:
        yield store
    finally:
        store.thd_close()


def _config(home: str) -> Config | None:
    """The configuration, if it can be read: whoever needs it says what is wrong with it."""
    try:
        return load(home)
    except ConfigError:
        return None


def remote_store(config: Config) -> Store:
    """
    The store of a configuration that names LDAP servers.

    @raise CommandError: none can be used.
    """
    from qmailpy.directory.remote_store import RemoteStore  # some tens of milliseconds, for those who have one

    try:
        return RemoteStore(config)
    except StoreError as error:
        raise CommandError(f"{error}; how the servers are: qmailpy directory status") from None


def store_of(config: Config) -> Store:
    """The store of a home, to be closed by the caller. @raise CommandError: as L{remote_store}."""
    return remote_store(config) if config.directory.servers else Store(store_path(config.home))


def as_keeper(home: str) -> InThread:
    """
    Runs the store's functions now, each with its owner's rights; for commands that have other rights in between.

    @return: what L{EmbeddedDirectory} takes.
    """

    def run(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        with acting_as(owner(directory_path(home))):
            return maybeDeferred(function, *arguments)

    return run
