"""
What is published of TLS, for all channels of a worker: MTA-STS policies, and the results that reports are made of.
"""

from __future__ import annotations

import os
from functools import partial

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.logger import Logger

from qmailpy.channels.parts import Security
from qmailpy.clocks import wall
from qmailpy.config.schema import Config
from qmailpy.disk.files import Files
from qmailpy.interfaces import IResolver
from qmailpy.remote.https import Https, HttpsReactor
from qmailpy.remote.sts import StsPolicies
from qmailpy.remote.sts_file import StsFile
from qmailpy.remote.tls_results import TlsResults
from qmailpy.rounds import Rounds
from qmailpy.threads import in_pool

SYNC_S = 3600.0
"""How often policies are looked through, and exchanged between processes."""

WRITE_S = 60.0
"""How often results are written; a crash loses as much."""


class IPublishedReactor(HttpsReactor, IReactorThreads, IReactorFromThreads):
    """What this needs of a reactor."""


class Published(Service):
    """The part of one worker; the first worker also has old policies fetched anew."""

    _log = Logger()

    def __init__(
        self,
        reactor: IPublishedReactor,
        config: Config,
        files: Files,
        resolver: IResolver,
        process: str,
        *,
        first: bool,
    ) -> None:
        """@param process: the worker's name."""
        self._first = first
        self._in_thread = in_pool(reactor)
        self.https = Https(reactor, resolver, config.mta_sts.ca_file, self._in_thread)
        file = StsFile(files, config.path("queue", "tls-policies"))
        self.sts = StsPolicies(resolver, self.https.get, wall(reactor), self._in_thread, file)
        unique = f"{process}.{os.getpid()}.{int(wall(reactor)())}"
        self.results = TlsResults(files, config.path("queue", "tls-results"), unique, wall(reactor))
        self._rounds = [
            (Rounds(reactor, "policies of TLS", self._sync), SYNC_S),
            (Rounds(reactor, "results of TLS", self._write), WRITE_S),
        ]

    def security(self, config: Config) -> Security:
        """What channels get."""
        return Security(sts=self.sts, results=self.results if config.tlsrpt.send else None)

    def reconfigure(self, config: Config) -> None:
        """Another configuration counts from now on."""
        self.https.use(config.mta_sts.ca_file)

    def startService(self) -> None:
        super().startService()
        self.sts.thd_load()  # before there is any mail to wait for it
        for rounds, seconds in self._rounds:
            rounds.start(seconds, now=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        for rounds, _ in self._rounds:
            rounds.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.sts.sync()
        await self._write()

    async def _sync(self) -> None:
        await (self.sts.refresh() if self._first else self.sts.sync())

    async def _write(self) -> None:
        pending = self.results.pending()
        if pending:
            await self._in_thread(partial(self.results.thd_write, pending))
