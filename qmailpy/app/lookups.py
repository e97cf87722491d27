"""
Who is here and who may log in, put together for a process: the directory, its cache, logins and the brake on guessing.

Mail workers and the access process have one each. Control methods: C{directory.flush}, C{directory.figures} and
C{logins.forgive}.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.logger import Logger

from qmailpy.app.context import ChildContext
from qmailpy.auth.logins import Logins
from qmailpy.auth.marks import SharedMarks, thd_open
from qmailpy.auth.throttle import Throttle
from qmailpy.config.schema import Config
from qmailpy.control.client import Json
from qmailpy.directory.service import cached, follow, ldap_directory, reconfigured
from qmailpy.directory.setup import SERVICE, thd_read_secret
from qmailpy.interfaces import IEvents
from qmailpy.policy import present
from qmailpy.policy.present import SharedPresent
from qmailpy.policy.shared import FILE_NAME, SharedCounts

MARKS = "logins"
"""What the brake counts, below HOME/run."""


class Lookups:
    """
    What a process asks about people.

    @ivar directory: the cache; what everybody asks.
    @ivar logins: for the servers.
    """

    _log = Logger()

    def __init__(self, context: ChildContext, events: IEvents) -> None:
        """
        Called when the process starts, before it serves anybody: files are read here.

        @raise OSError: a secret, or the file with the authorities for TLS, cannot be read.
        """
        config, reactor = context.config, context.reactor
        self._reactor = reactor
        self._config = config
        self._events = events
        self._secret = context.secret if context.secret is not None else thd_read_secret(context.home, SERVICE)
        self._server = ldap_directory(reactor, config, self._secret, events)
        self.directory = cached(reactor, config, self._server)
        # The same in all processes and after a restart, and nothing a stranger can know.
        self._derived = partial(_derived, self._secret)
        self._throttle = self._brake(context)
        self.logins = Logins(
            reactor,
            self.directory,
            domain=config.server.domain,
            key=self._derived(b"imagined secrets "),
            throttle=self._throttle,
        )
        context.control.add("directory.flush", self._flush)
        context.control.add("directory.figures", self._figures)
        context.control.add("logins.forgive", self._forgive)

    def _brake(self, context: ChildContext) -> Throttle:
        lanes = 1 + max(1, self._config.server.workers)
        mine = 0 if context.role == "access" else 1 + context.index
        try:
            area = thd_open(self._config.path("run", MARKS), lanes)
        except OSError as error:
            self._log.error("{name} counts failed logins by itself: {error}", name=context.name, error=str(error))
            return Throttle(self._reactor.seconds, told=self._banned)
        marks = [SharedMarks(area, lane, self._derived(b"marks ")) for lane in range(lanes)]
        own = marks.pop(mine)
        return Throttle(self._reactor.seconds, own=own, others=marks, told=self._banned)

    def shared_counts(self, index: int) -> SharedCounts:
        """
        Where mail workers count together what clients and users do.

        @param index: which worker this one is.
        """
        path = self._config.path("run", FILE_NAME)
        return SharedCounts(path, index, max(1, self._config.server.workers), self._derived(b"limits "))

    def shared_present(self, index: int) -> Callable[[], SharedPresent]:
        """The same for who is here at once: makes what counts networks, and what counts users."""
        path = self._config.path("run", present.FILE_NAME)
        lanes, key = max(1, self._config.server.workers), self._derived(b"present ")
        return partial(SharedPresent, path, index, lanes, key, time.time_ns())

    def _banned(self, kind: str, client: str, account: str, failures: int) -> None:
        if kind == "client":
            self._events.happened("auth.banned", address=client, login=account, failures=failures)
        else:
            self._events.happened("auth.attack", login=account, failures=failures)

    async def _flush(self, address: str = "") -> Json:
        self.directory.flush(address)
        return None

    async def _figures(self) -> Json:
        cache = self.directory
        servers: Any = self._server.figures()
        return {
            "hits": cache.hits,
            "misses": cache.misses,
            "stale": cache.stale,
            "entries": len(cache),
            "servers": servers,
            "away": self._server.away,
        }

    async def _forgive(self, name: str) -> Json:
        self._throttle.forgive(name)
        return None

    def reconfigure(self, config: Config) -> None:
        """
        Take another configuration, and forget what is remembered.

        @raise OSError: it cannot be taken; then nothing has changed.
        """
        reconfigured(self._reactor, config, self._config, self._server, self._secret)
        self._config = config
        follow(self.directory, config)
        self.directory.flush("")

    async def stop(self) -> None:
        """End the connections."""
        await self._server.stop()


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.sha256(purpose + secret).digest()
