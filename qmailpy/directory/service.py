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

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from qmailpy.config.ldapurl import LdapUrl, parse_ldap_url
from qmailpy.config.schema import Config, DirectoryConfig
from qmailpy.control.client import short_path
from qmailpy.directory import setup
from qmailpy.directory.cache import CachedDirectory
from qmailpy.directory.client import LdapDirectory
from qmailpy.directory.paths import socket_path
from qmailpy.directory.pool import Pool
from qmailpy.directory.servers import Servers
from qmailpy.directory.tls import ClientTls
from qmailpy.disk.rights import read_plain
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IDirectory, IEvents


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
        """An L{qmailpy.interfaces.InThread} for lookups."""
        return self._run(self._pools["lookup"], function, *arguments)

    def hash(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """An L{qmailpy.interfaces.InThread} for passwords."""
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


def ldap_directory(
    reactor: Any, config: Config, secret: bytes | None = None, events: IEvents | None = None
) -> LdapDirectory:
    """
    The home's directory: over its UNIX socket, or at the servers the configuration names.

    @param secret: the service identity's at the embedded directory; C{None} = read from its file now.
    @param events: told when servers come and go.
    @raise OSError: the secret, or the file with the authorities for TLS, cannot be read.
    """
    if config.directory.servers:
        return _external(reactor, config, events or NoEvents())
    known = setup.thd_read_secret(config.home, setup.SERVICE) if secret is None else secret
    pool = Pool(
        reactor,
        _SocketEndpoint(reactor, socket_path(config.home)),
        service=str(setup.identity_name(config.directory.base, setup.SERVICE)),
        secret=lambda: succeed(known),
        name="embedded",
        timeout_s=config.directory.timeout_s,
    )
    servers = Servers(reactor, [pool], events or NoEvents(), timeout_s=config.directory.timeout_s)
    return LdapDirectory(reactor, servers, config.directory.base, events=events)


def _external(reactor: Any, config: Config, events: IEvents) -> LdapDirectory:
    options = config.directory
    in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    each_s = options.timeout_s / min(2, len(options.servers))
    pools = []
    for text in options.servers:
        url = parse_ldap_url(text)
        pools.append(
            Pool(
                reactor,
                _endpoint(reactor, url, each_s),
                service=options.bind_dn,
                # In a thread, and for each connection: a new password needs no reload.
                secret=partial(in_thread, thd_read_password, config, options.bind_password_file),
                name=str(url),
                secure=secure(options, url),
                timeout_s=each_s,
            )
        )
    servers = Servers(reactor, pools, events, timeout_s=options.timeout_s)
    compare = in_thread if options.logins == "compare" else None
    return LdapDirectory(reactor, servers, options.base, ours=False, compare=compare, events=events)


def _endpoint(reactor: Any, url: LdapUrl, timeout_s: float) -> IStreamClientEndpoint:
    if url.scheme == "ldapi":
        return _SocketEndpoint(reactor, url.path)
    return HostnameEndpoint(reactor, url.host, url.port, timeout=timeout_s)


def secure(options: DirectoryConfig, url: LdapUrl) -> ClientTls | None:
    """
    How connections to a server get their TLS; C{None} = they have none.

    @raise OSError: C{ca_file} cannot be read.
    """
    if url.scheme == "ldapi" or (url.scheme == "ldap" and options.starttls == "none"):
        return None
    trusted = "" if options.starttls == "must" else options.ca_file
    return ClientTls(url.host, starttls=url.scheme == "ldap", ca_file=trusted)


def thd_read_password(config: Config, file: str) -> bytes:
    """
    The password in the first line of a file.

    @param file: relative to HOME.
    @raise OSError: it cannot be read.
    """
    return read_plain(config.path(file) if not file.startswith("/") else file, 4096).partition(b"\n")[0].strip()


def reconfigured(reactor: Any, config: Config, before: Config, directory: LdapDirectory, secret: bytes) -> None:
    """
    Have a directory of L{ldap_directory} follow a new configuration.

    @raise OSError: as L{ldap_directory}; then nothing has changed.
    """
    if _asked_where(config) != _asked_where(before):
        directory.use(ldap_directory(reactor, config, secret, directory.events), before.directory.timeout_s)


def _asked_where(config: Config) -> DirectoryConfig:
    """The part of the configuration that says where to ask, the rest at its defaults."""
    plain = DirectoryConfig()
    cache = ("endpoint", "positive_s", "embedded_s", "negative_s", "login_s", "stale_s", "cache_entries")
    return evolve(config.directory, **{key: getattr(plain, key) for key in cache})


def cached(reactor: Any, config: Config, directory: IDirectory) -> CachedDirectory:
    """What the parts that handle mail ask."""
    options = config.directory
    made = CachedDirectory(reactor, directory, _positive_s(options), options.negative_s, options.cache_entries)
    follow(made, config)
    return made


def _positive_s(options: DirectoryConfig) -> float:
    return options.positive_s if options.servers else options.embedded_s


def follow(cache: CachedDirectory, config: Config) -> None:
    """Have a cache follow a new configuration."""
    options = config.directory
    cache.reconfigure(
        _positive_s(options),
        options.negative_s,
        options.cache_entries,
        login_s=options.login_s,
        stale_s=options.stale_s,
        realm=f"{options.base} {' '.join(options.servers)}",
    )
