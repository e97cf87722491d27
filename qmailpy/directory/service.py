"""
The directory put together from the configuration, for those who build processes.

Whoever handles mail asks L{ldap_directory} through L{cached}, in one process with the server too; the server itself is
put together by C{qmailpy.app.directory}, on sockets it was handed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from qmailpy.config.schema import Config
from qmailpy.control.client import short_path
from qmailpy.directory import setup
from qmailpy.directory.cache import CachedDirectory
from qmailpy.directory.client import LdapDirectory
from qmailpy.directory.paths import socket_path
from qmailpy.interfaces import IDirectory


class DirectoryThreads(Service):
    """Threads for the store's lookups and, apart from them, for password hashing (19 MiB and one core each)."""

    def __init__(self, reactor: Any, lookups: int = 2, hashing: int = 2) -> None:
        """@param reactor: needs callFromThread."""
        self._sizes = {"lookup": lookups, "hash": hashing}
        self._pools: dict[str, ThreadPool] = {}
        self._run: Callable[..., Deferred[Any]] = partial(deferToThreadPool, reactor)

    def startService(self) -> None:
        super().startService()
        for name, size in self._sizes.items():
            self._pools[name] = ThreadPool(0, size, f"directory {name}")  # a pool cannot be started twice
            self._pools[name].start()

    def stopService(self) -> None:
        """Returns when what was under way is done: tens of milliseconds at most."""
        super().stopService()
        for pool in self._pools.values():
            pool.stop()

    def lookup(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """An L{InThread} for lookups."""
        return self._run(self._pools["lookup"], function, *arguments)

    def hash(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """An L{InThread} for passwords."""
        return self._run(self._pools["hash"], function, *arguments)


@implementer(IStreamClientEndpoint)
class _SocketEndpoint:
    """L{UNIXClientEndpoint} for paths of any length."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fires with the protocol."""
        # Twisted connects in a later turn of the reactor: the short name must live until then.
        held = ExitStack()
        try:
            name = held.enter_context(short_path(self._path))
        except OSError as error:
            return fail(error)
        connecting: Deferred[IProtocol] = UNIXClientEndpoint(self._reactor, name).connect(protocolFactory)

        def release(result: Any) -> Any:
            held.close()
            return result

        return connecting.addBoth(release)


def ldap_directory(reactor: Any, config: Config, secret: bytes | None = None) -> LdapDirectory:
    """
    The home's directory over its UNIX socket.

    @param secret: the service identity's; C{None} = read from its file now.
    @raise OSError: the secret cannot be read.
    """
    known = setup.thd_read_secret(config.home, setup.SERVICE) if secret is None else secret
    return LdapDirectory(
        reactor,
        _SocketEndpoint(reactor, socket_path(config.home)),
        config.directory.base,
        service=str(setup.identity_name(config.directory.base, setup.SERVICE)),
        secret=lambda: known,
        timeout_s=config.directory.timeout_s,
    )


def cached(reactor: Any, config: Config, directory: IDirectory) -> CachedDirectory:
    """What the parts that handle mail ask."""
    options = config.directory
    return CachedDirectory(reactor, directory, options.positive_s, options.negative_s, options.cache_entries)
