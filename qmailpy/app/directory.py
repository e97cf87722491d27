"""The directory process: the embedded LDAP server on the socket of our own workers and on the configured endpoint."""

from __future__ import annotations

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.app.context import ChildContext
from qmailpy.app.sockets import LDAP
from qmailpy.directory.server import LdapServerFactory
from qmailpy.directory.service import DirectoryThreads, socket_path
from qmailpy.directory.setup import store_path
from qmailpy.directory.store import Store


class DirectoryServer(Service):
    """The service of the C{directory} role."""

    _log = Logger()

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._threads = MultiService()
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:
        super().startService()
        context = self._context
        threads = DirectoryThreads(context.reactor)
        threads.setServiceParent(self._threads)
        self._threads.startService()
        factory = LdapServerFactory(
            context.reactor,
            Store(store_path(context.home)),
            context.config.directory.base,
            threads.lookup,
            threads.hash,
        )
        self._ports += context.listen(LDAP, factory)
        own = UNIXServerEndpoint(context.reactor, socket_path(context.home), mode=0o600, wantPID=True)
        own.listen(factory).addCallbacks(self._opened, self._cannot_open)

    def _opened(self, port: IListeningPort) -> None:
        self._ports.append(port)
        self._context.ready()

    def _cannot_open(self, failure: Failure) -> None:
        self._log.failure("the directory cannot listen", failure)
        self._context.reactor.callLater(0, self._context.reactor.stop)

    async def _stop(self) -> None:
        ended = [port.stopListening() for port in self._ports]
        await DeferredList([each for each in ended if each is not None], consumeErrors=True)
        await DeferredList([done] if (done := self._threads.stopService()) is not None else [], consumeErrors=True)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())
