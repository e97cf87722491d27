"""
The demonstration's outside world: an SMTP server for one domain that throws away what it takes.

It stands on the same core as the real server (L{qmailpy.wire.smtp}), takes mail for everybody of its domain but
C{nobody}, and tells whoever made it of every message. Only for C{make run}: it bounds nothing beside what the core
bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from qmailpy.values import Reply
from qmailpy.wire.smtp import SmtpCore
from qmailpy.wire.smtp_events import DataEnded, Ended, Event, MailFrom, RcptTo
from qmailpy.wire.smtp_service import Service

UNKNOWN = "nobody"
"""The user the sink knows nothing of."""


@frozen(kw_only=True)
class Taken:
    """A message the sink took."""

    sender: str
    recipients: tuple[str, ...]
    size: int  # octets


class Sink(Protocol):
    """One connection."""

    def __init__(self, service: Service, domain: str, took: Callable[[Taken], None]) -> None:
        self._core = SmtpCore(service)
        self._domain = domain
        self._took = took
        self._sender = ""
        self._recipients: list[str] = []

    def connectionMade(self) -> None:
        self._core.greet()
        self._send()

    def dataReceived(self, data: bytes) -> None:
        events = self._core.receive(data)
        while events:
            for event in events:
                self._on(event)
            events = self._core.proceed()
        self._send()
        if self._core.closed and self.transport is not None:
            self.transport.loseConnection()

    def _on(self, event: Event) -> None:
        if isinstance(event, MailFrom):
            self._sender, self._recipients = event.address, []
        elif isinstance(event, RcptTo):
            local, _, domain = event.address.rpartition("@")
            if domain.lower() != self._domain:
                self._core.answer(Reply(550, "5.7.1", f"Only mail for {self._domain} here"))
                return
            if local.lower() == UNKNOWN:
                self._core.answer(Reply(550, "5.1.1", "There is nobody of that name"))
                return
            self._recipients.append(event.address)
        elif isinstance(event, DataEnded):
            self._took(Taken(sender=self._sender, recipients=tuple(self._recipients), size=event.size))
        if self._core.waiting and not isinstance(event, Ended):
            self._core.accept()

    def _send(self) -> None:
        octets = self._core.take()
        if octets and self.transport is not None:
            self.transport.write(octets)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nothing is kept."""


class SinkFactory(ServerFactory[Sink]):
    """Sinks for one domain."""

    noisy = False

    def __init__(self, domain: str, took: Callable[[Taken], None]) -> None:
        self._service = Service(hostname=f"mx.{domain}")
        self._domain = domain
        self._took = took

    def buildProtocol(self, addr: object) -> Sink:
        return Sink(self._service, self._domain, self._took)


def listen(reactor: Any, port: int, domain: str, took: Callable[[Taken], None]) -> IListeningPort:
    """
    Open the sink on 127.0.0.1.

    @param port: 0 = any.
    @param took: called with every message.
    @raise twisted.internet.error.CannotListenError: the port is taken.
    """
    listening: IListeningPort = reactor.listenTCP(port, SinkFactory(domain, took), interface="127.0.0.1")
    return listening
