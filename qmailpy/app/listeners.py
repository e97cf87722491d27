"""
The listeners of a process, from their sockets to the last of their sessions; and those of a mail worker: SMTP,
submission and LMTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger

from qmailpy.app.context import ChildContext
from qmailpy.auth.certificates import NONE, ClientCertificates, thd_read_clients
from qmailpy.config.schema import Config, ListenerConfig
from qmailpy.errors import ConfigError
from qmailpy.servers.sessions import ListenerSite
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.tls import Certificates, Pair

_KINDS = ("smtp", "submission", "lmtp")
"""Kinds of listeners that are ours."""


class ServesListener(Protocol):
    """A factory of sessions that can be ended."""

    def drain(self, grace_s: float) -> Deferred[None]:
        """End the sessions in an orderly way; fires when the last is gone."""


F = TypeVar("F", bound=ServesListener)


class OpenListeners(Generic[F]):
    """
    Those that take connections.

    @ivar factories: of their sessions.
    """

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._ports: list[IListeningPort] = []
        self.factories: list[F] = []

    def open(self, name: str, factory: F) -> None:
        """Take connections. @param name: the listener's."""
        self.factories.append(factory)
        self._ports += self._context.listen(name, cast(IProtocolFactory, factory))

    def close(self) -> Deferred[Any]:
        """Take no connections any more; fires when the ports are closed. Sessions go on."""
        ended = [port.stopListening() for port in self._ports]
        return DeferredList([each for each in ended if each is not None], consumeErrors=True)

    def drain(self, grace_s: float) -> Deferred[Any]:
        """End the sessions in an orderly way; fires when the last is gone."""
        return DeferredList([factory.drain(grace_s) for factory in self.factories], consumeErrors=True)


def thd_certificates(context: ChildContext, log: Logger) -> Certificates | None:
    """What TLS needs; without it there is none, and the log says why. May block."""
    try:
        return Certificates(context.thd_pairs())
    except ConfigError as error:
        for problem in error.problems:
            log.error("no TLS: {problem}", problem=problem)
        return None


class MailListeners:
    """What takes mail in."""

    _log = Logger()

    def __init__(self, context: ChildContext) -> None:
        """
        Reads the certificates. Without them there is no TLS, and the mail that needs none still flows.

        Small files, at the start and before there is anybody who would have to wait.
        """
        self._open: OpenListeners[SmtpFactory] = OpenListeners(context)
        self._context = context
        self._certificates = thd_certificates(context, self._log) if _wanted(context.config) else None

    def open(self, config: Config, make: Callable[[ListenerConfig, Certificates | None], SmtpFactory]) -> None:
        """
        Take connections.

        @param make: a factory for a listener; the certificates are C{None} for one without TLS.
        """
        clients = self._clients(config)
        for listener in config.listeners:
            if listener.kind in _KINDS:
                factory = make(listener, self._certificates_of(listener))
                factory.site.clients = clients.get(listener.name)
                self._open.open(listener.name, factory)

    def _clients(self, config: Config) -> Mapping[str, ClientCertificates]:
        """Whom listeners know by certificate; when that cannot be read nobody, as the log says. At the start."""
        try:
            return thd_read_clients(config)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("no logins by certificate: {problem}", problem=problem)
            asking = (listener.name for listener in config.listeners if listener.client_certificates != NONE)
            return {name: ClientCertificates((), {}) for name in asking}

    def _certificates_of(self, listener: ListenerConfig) -> Certificates | None:
        """What a listener shows, and whether it asks for those of clients."""
        if listener.tls == "none" or self._certificates is None:
            return None
        if listener.client_certificates == NONE:
            return self._certificates
        return self._certificates.asking(required=listener.client_certificates == "require")

    def thd_certificates(self, config: Config) -> dict[str, Pair] | None:
        """
        The certificates as they are now, for L{use}; C{None}: no listener wants them, or, as the log says, there are
        none, as there were before. May block.

        @raise ConfigError: they cannot be read any more.
        """
        if not _wanted(config):
            return None
        try:
            pairs = self._context.thd_pairs()
            Certificates(pairs)
        except ConfigError as error:
            if self._certificates is not None:
                raise
            for problem in error.problems:
                self._log.error("no TLS: {problem}", problem=problem)
            return None
        return pairs

    def reconfigure(self, config: Config, clients: Mapping[str, ClientCertificates]) -> None:
        """
        Take another configuration; listeners come and go at a restart only.

        @param clients: from L{thd_read_clients}.
        """
        listeners = {listener.name: listener for listener in config.listeners}
        for factory in self._open.factories:
            former = factory.site.listener
            listener = listeners.get(former.name, former)
            site = factory.site
            site.certificates = self._certificates_of(listener) or site.certificates
            site.clients = clients.get(former.name)
            factory.reconfigure(listener, config.queue, config.log, config.trust)

    def use(self, pairs: dict[str, Pair] | None) -> None:
        """
        Take other certificates, for connections to come.

        @param pairs: from L{thd_certificates}.
        """
        if pairs is None:
            return
        if self._certificates is None:
            self._certificates = Certificates(pairs)
        else:
            self._certificates.use(pairs)

    @property
    def sites(self) -> list[ListenerSite]:
        """What the sessions of each listener share."""
        return [factory.site for factory in self._open.factories]

    def close(self) -> Deferred[Any]:
        """Take no connections any more; fires when the ports are closed. Sessions go on."""
        return self._open.close()

    def drain(self, grace_s: float) -> Deferred[Any]:
        """End the sessions in an orderly way; fires when the last is gone."""
        return self._open.drain(grace_s)


def _wanted(config: Config) -> bool:
    """Whether a listener of ours has TLS."""
    return any(listener.tls != "none" for listener in config.listeners if listener.kind in _KINDS)
