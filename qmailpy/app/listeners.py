"""
The listeners of a mail worker: SMTP, submission and LMTP, from their sockets to the last of their sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from qmailpy.app.context import ChildContext
from qmailpy.config.schema import Config, ListenerConfig
from qmailpy.errors import ConfigError
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.tls import Certificates, Pair

_KINDS = ("smtp", "submission", "lmtp")
"""Kinds of listeners that are ours."""


class MailListeners:
    """What takes mail in."""

    _log = Logger()

    def __init__(self, context: ChildContext) -> None:
        """
        Reads the certificates. Without them there is no TLS, and the mail that needs none still flows.

        Small files, at the start and before there is anybody who would have to wait.
        """
        self._context = context
        self._factories: list[SmtpFactory] = []
        self._ports: list[IListeningPort] = []
        self._certificates: Certificates | None = None
        if any(listener.tls != "none" for listener in context.config.listeners if listener.kind in _KINDS):
            try:
                self._certificates = Certificates(context.thd_pairs())
            except ConfigError as error:
                for problem in error.problems:
                    self._log.error("no TLS: {problem}", problem=problem)

    def open(self, config: Config, make: Callable[[ListenerConfig, Certificates | None], SmtpFactory]) -> None:
        """
        Take connections.

        @param make: a factory for a listener; the certificates are C{None} for one without TLS.
        """
        for listener in config.listeners:
            if listener.kind in _KINDS:
                factory = make(listener, None if listener.tls == "none" else self._certificates)
                self._factories.append(factory)
                self._ports += self._context.listen(listener.name, factory)

    @property
    def secured(self) -> bool:
        """Whether there are certificates, to be read again when the configuration is."""
        return self._certificates is not None

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; listeners come and go at a restart only."""
        listeners = {listener.name: listener for listener in config.listeners}
        for factory in self._factories:
            former = factory.site.listener
            factory.reconfigure(listeners.get(former.name, former), config.queue, config.log, config.trust)

    def use(self, pairs: dict[str, Pair]) -> None:
        """
        Take other certificates, for connections to come.

        @raise ConfigError: as L{Certificates.use}.
        """
        if self._certificates is not None:
            self._certificates.use(pairs)

    def close(self) -> Deferred[Any]:
        """Take no connections any more; fires when the ports are closed. Sessions go on."""
        ended = [port.stopListening() for port in self._ports]
        return DeferredList([each for each in ended if each is not None], consumeErrors=True)

    def drain(self, grace_s: float) -> Deferred[Any]:
        """End the sessions in an orderly way; fires when the last is gone."""
        return DeferredList([factory.drain(grace_s) for factory in self._factories], consumeErrors=True)
