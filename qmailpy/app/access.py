"""
The process users fetch their mail from: POP3 over the mail store and the directory.

Mailboxes of other nodes it has those serve (L{qmailpy.servers.pop3_nodes}). It knows nothing of the queue, and starts
when the mail workers have taken theirs up: deliveries that an unclean stop cut short are in their mailboxes by then.
Stop: connections end, then the threads that read mailboxes, then the directory's connections.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from qmailpy.app import figures
from qmailpy.app.alarm import Alarm
from qmailpy.app.context import ChildContext
from qmailpy.app.listeners import OpenListeners, thd_certificates
from qmailpy.app.lookups import Lookups
from qmailpy.app.sockets import ROLES
from qmailpy.app.tracing import Tracing
from qmailpy.config.schema import Config, ListenerConfig
from qmailpy.control.client import Json
from qmailpy.disk.files import RealFiles
from qmailpy.events import log as events
from qmailpy.events.log import EventLog
from qmailpy.local.mailstore import MailStore
from qmailpy.remote.dns_wire import resolver, servers
from qmailpy.remote.pop3_node import Nodes, NodeSecrets, thd_read_secrets
from qmailpy.servers.pop3 import Pop3Factory
from qmailpy.servers.pop3_nodes import Elsewhere

THREADS = {"mailboxes": 4, "messages": 2}
"""
Those that open and empty mailboxes and read large messages, which may take long; and, apart, those that read small
ones. More of these would only wait for each other: 20,000 messages/s of 4 KiB with two, 12,000 with four.
"""

SWITCH_S = 0.0005
"""
How long a thread that has read a message waits for its turn. With Python's own 5 ms sessions mostly waited for that:
12,700 messages/s of 4 KiB against 21,000 (20 sessions).
"""


class MailAccess(Service):
    """The service of the C{access} role."""

    _log = Logger()

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._reactor = context.reactor
        self._config = context.config
        self._alarm = Alarm(self._reactor, context.config)
        self._events = EventLog(
            context.config.path("log", events.FILE_NAME), context.name, time.time, told=self._alarm.told
        )
        self._pools = {name: ThreadPool(0, most, name) for name, most in THREADS.items()}
        self._listeners: OpenListeners[Pop3Factory] = OpenListeners(context)
        self._tracing = Tracing(context, context.config)
        context.hooks.reload.append(self._reload)

    def _in_thread(self, function: Any, *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._pools["mailboxes"], function, *arguments)

    def _reading(self, function: Any, *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._pools["messages"], function, *arguments)

    # --- start -----------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        context, config = self._context, self._config
        sys.setswitchinterval(SWITCH_S)
        for pool in self._pools.values():
            pool.start()
        self._lookups = Lookups(context, self._events)
        context.control.add("figures", self._figures)
        self._store = MailStore(RealFiles(), config.path("mail"), self._in_thread, reading=self._reading)
        Deferred.fromCoroutine(self._open()).addErrback(self._cannot_open)

    async def _open(self) -> None:
        self._resolver = resolver(self._reactor, self._config.dns)
        self._certificates = await self._in_thread(thd_certificates, self._context, self._log)
        self._elsewhere = Elsewhere(
            Nodes(self._reactor, self._resolver),
            self._config,
            await self._in_thread(self._thd_secrets, self._config),
        )
        for listener in self._config.listeners:
            if ROLES.get(listener.kind) == "access":
                self._listen(listener)
        self._context.ready()

    def _thd_secrets(self, config: Config) -> NodeSecrets:
        """What other nodes are shown; without it passwords of users are, and the log says why."""
        try:
            return thd_read_secrets(config)
        except OSError as error:
            self._log.error("no account to log in with at other nodes: {error}", error=str(error))
            return thd_read_secrets(evolve(config, pop3=evolve(config.pop3, node_password_file="")))

    def _listen(self, listener: ListenerConfig) -> None:
        certificates = None if listener.tls == "none" else self._certificates
        if listener.tls == "implicit" and certificates is None:
            self._log.error("listener {name} stays closed: there is no TLS", name=listener.name)
            return
        factory = Pop3Factory(
            self._reactor,
            hostname=self._config.server.hostname,
            listener=listener,
            trust=self._config.trust,
            logins=self._lookups.logins,
            store=self._store,
            certificates=certificates,
            elsewhere=self._elsewhere,
            traces=self._tracing.traces,
        )
        self._listeners.open(listener.name, factory)

    def _cannot_open(self, failure: Failure) -> None:
        self._log.failure("{name} cannot start", failure, name=self._context.name)
        self._reactor.callLater(0, self._give_up)

    def _give_up(self) -> None:
        if self._reactor.running:
            self._reactor.stop()

    # --- while it runs ---------------------------------------------------------------------------------------

    async def _figures(self) -> Json:
        return figures.of_servers([factory.site for factory in self._listeners.factories], self._lookups.logins)

    async def _reload(self, config: Config) -> None:
        if self._certificates is not None:  # first: what may be refused
            self._certificates.use(await self._in_thread(self._context.thd_pairs))
        self._lookups.reconfigure(config)
        self._alarm.reconfigure(config)
        self._elsewhere.use(config, await self._in_thread(self._thd_secrets, config))
        named = await self._in_thread(servers, config.dns)
        self._resolver.use(named, config.dns.timeout_s, trusted=config.dns.trusted)
        self._config = config
        listeners = {listener.name: listener for listener in config.listeners}
        for factory in self._listeners.factories:
            factory.reconfigure(listeners.get(factory.site.listener.name, factory.site.listener), config.trust)

    # --- stop ------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        await self._listeners.close()
        await self._listeners.drain(max(1.0, self._config.server.drain_s / 4))
        self._tracing.traces.close()
        await self._store.idle()
        for pool in self._pools.values():
            pool.stop()
        await self._lookups.stop()
        self._alarm.stop()

    def stopService(self) -> Deferred[None]:
        """Fires when no mailbox is held any more."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())
