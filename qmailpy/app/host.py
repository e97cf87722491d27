"""A role at work in this process: its service, its control socket, what reaches it from the supervisor."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

import qmailpy
from qmailpy.app.context import BoundSocket, ChildContext
from qmailpy.config.schema import Config
from qmailpy.control.client import Json
from qmailpy.control.commands import RemoteError
from qmailpy.errors import CommandError, ConfigError
from qmailpy.servers.control import ControlServer, Registry
from qmailpy.servers.keys import Pair

ROLES = "qmailpy.app.roles"
"""Module the roles are looked up in."""


class RoleHost(Service):
    """
    Builds a role and runs it with the control methods every process has.

    @ivar context: what the role was given.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        *,
        role: str,
        index: int,
        shards: tuple[str, ...],
        sockets: Mapping[str, tuple[BoundSocket, ...]],
        session: str,
        ready: Callable[[], None],
        stop: Callable[[], None],
        reload: Callable[[], None],
        reopen_log: Callable[[], None] = lambda: None,
        roles: str = ROLES,
        secret: bytes | None = None,
        changed: Callable[[list[str]], None] = lambda what: None,
        control: int | None = None,
        keys: Callable[[], dict[str, Pair]] | None = None,
    ) -> None:
        """
        @param stop: ends the daemon in an orderly way, as SIGTERM does (the control method C{stop}).
        @param reload: has the configuration read anew, as SIGHUP does (the control method C{reload}).
        @param reopen_log: opens the daemon's own log again.
        @param roles: name of the module that has the role.
        @param secret: what the workers show the directory; C{None} = they read it themselves.
        @param changed: tells the mail workers what has changed in the directory.
        @param keys: gives the certificates and keys for TLS; C{None} = the role reads them itself.
        @param control: descriptor of the control socket; C{None} = it is made here.
        """
        self._ready = ready
        # Reloads, one at a time, and none before the role is open: until then it has parts that are not there yet.
        self._turn = DeferredLock()
        self._turn.acquire()
        self.context = ChildContext(
            reactor=reactor,
            config=config,
            home=config.home,
            role=role,
            index=index,
            shards=shards,
            sockets=sockets,
            session=session,
            ready=self._is_ready,
            control=Registry(whole=False),
            secret=secret,
            keys=keys,
            changed=changed,
        )
        self._clock: IReactorTime = reactor
        self._started = self._clock.seconds()
        self._stop = stop
        self._reload = reload
        self._reopen_log = reopen_log
        self._roles = roles
        self._server = ControlServer(reactor, config.home, self.context.name, self.context.control, control)

    def startService(self) -> None:
        """@raise Exception: whatever keeps the role from starting."""
        super().startService()
        control = self.context.control
        control.add("status", self._status)
        control.add("reload", self._reload_asked)
        control.add("log.reopen", self._reopen_asked)
        control.add("stop", self._stop_asked)
        self._service = getattr(importlib.import_module(self._roles), self.context.role)(self.context)
        self._server.startService()
        self._service.privilegedStartService()
        self._service.startService()

    def _is_ready(self) -> None:
        self.context.control.complete()
        self._ready()
        self._turn.release()

    async def _halt(self) -> None:
        # The control socket last: while mail drains, people may want to look.
        try:
            if getattr(self, "_service", None) is not None:
                await self._done(self._service.stopService())
        finally:
            await self._done(self._server.stopService())

    async def _done(self, result: Deferred[Any] | None) -> None:
        if result is not None:
            await result

    def stopService(self) -> Deferred[None]:
        """Fires when what was in flight is recorded."""
        super().stopService()
        return Deferred.fromCoroutine(self._halt())

    async def reload(self, config: Config) -> None:
        """
        Give the role a new configuration, as soon as it is open and has taken those before.

        @raise CommandError: a part could not take it; the others have it.
        """
        await self._turn.acquire()
        try:
            await self._take(config)
        finally:
            self._turn.release()

    async def _take(self, config: Config) -> None:
        failed: list[str] = []
        for hook in self.context.hooks.reload:
            try:
                await hook(config)
            except ConfigError as error:  # a file it names, and no bug: the supervisor tells it
                failed += error.problems
            except Exception as error:
                self.log.failure("{name}: new configuration not taken", name=self.context.name)
                failed.append(f"{type(error).__name__}: {error}")
        if failed:
            raise CommandError("; ".join(failed))

    def reopen(self) -> None:
        """Open log files again."""
        self._reopen_log()
        for hook in self.context.hooks.reopen:
            try:
                hook()
            except Exception:
                self.log.failure("{name}: a log could not be opened again", name=self.context.name)

    async def flush(self, what: list[str]) -> None:
        """Have the role's cache of the directory, if it has one by now, forget addresses and domains ("" = all)."""
        for one in what:
            try:
                await self.context.control.call("directory.flush", {"address": one})
            except RemoteError:
                return

    async def _status(self) -> Json:
        return {
            "pid": os.getpid(),
            "role": self.context.role,
            "index": self.context.index,
            "shards": [*self.context.shards],
            "uptime": round(self._clock.seconds() - self._started, 3),
            "version": qmailpy.__version__,
            "session": self.context.session,
            "ready": self.context.control.whole,
        }

    async def _reload_asked(self) -> Json:
        self._reload()
        return None

    async def _reopen_asked(self) -> Json:
        self.reopen()
        return None

    async def _stop_asked(self) -> Json:
        self._clock.callLater(0.05, self._stop)  # after the answer is out
        return None
