"""
The directory process: the embedded LDAP server on the socket of our own workers and on the configured endpoint.

The supervisor makes both sockets: while this process is restarted, workers wait instead of being refused.
"""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from qmailpy.app.changes import Changes
from qmailpy.app.context import ChildContext
from qmailpy.app.sockets import LDAP, LDAPS, OWN
from qmailpy.config.schema import Config
from qmailpy.directory.server import LdapServerFactory
from qmailpy.directory.service import DirectoryThreads
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store
from qmailpy.errors import ConfigError
from qmailpy.servers.tls import Certificates


class DirectoryServer(Service):
    """The service of the C{directory} role."""

    _log = Logger()

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._threads = DirectoryThreads(context.reactor)
        self._store = Store(store_path(context.home))
        self._changes = Changes(context.reactor, context.changed)
        self._ports: list[IListeningPort] = []
        self._certificates: Certificates | None = None
        context.hooks.reload.append(self._reload)

    def startService(self) -> None:
        super().startService()
        context = self._context
        self._threads.startService()
        # Small files, at the start and before there is anybody who would have to wait.
        self._certificates = self._read_certificates()
        plain = self._factory(implicit=False)
        self._ports += context.listen(OWN, plain)
        self._ports += context.listen(LDAP, plain)
        if self._certificates is not None:
            self._ports += context.listen(LDAPS, self._factory(implicit=True))
        context.ready()

    def _factory(self, *, implicit: bool) -> LdapServerFactory:
        return LdapServerFactory(
            self._context.reactor,
            self._store,
            self._context.config.directory.base,
            self._threads.lookup,
            self._threads.hash,
            self._changes.add,
            self._certificates,
            implicit,
        )

    def _read_certificates(self) -> Certificates | None:
        """What TLS needs; without it there is none."""
        try:
            return Certificates(self._context.thd_pairs())
        except ConfigError as error:
            if self._context.config.directory.tls_endpoint:
                for problem in error.problems:
                    self._log.error("no ldaps: {problem}", problem=problem)
            return None

    async def _reload(self, config: Config) -> None:
        if self._certificates is not None:
            self._certificates.use(await self._threads.lookup(self._context.thd_pairs))

    async def _stop(self) -> None:
        ended = [port.stopListening() for port in self._ports]  # with the last one, all connections end
        await DeferredList([each for each in ended if each is not None], consumeErrors=True)
        self._threads.stopService()  # no call is under way any more
        reactor = self._context.reactor
        await deferToThreadPool(reactor, reactor.getThreadPool(), self._store.thd_close)
        self._changes.stop()

    def stopService(self) -> Deferred[None]:
        """Fires when the store is closed."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())
