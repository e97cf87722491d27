"""Roles for the daemon's own tests: an echo server on every listener, and what the tests ask about."""

from __future__ import annotations

import asyncio  # noqa: F401 - a worker's usual share of imports
import os

from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol

from qmailpy.app.context import ChildContext
from qmailpy.config.schema import Config
from qmailpy.control import Json
from qmailpy.errors import CommandError


class Echo(Protocol):
    """Sends back what it gets, with the process id in front."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"%d\n" % os.getpid())

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class EchoFactory(Factory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Echo:
        return Echo()


class EchoService(Service):
    """Serves the role's listeners; C{linger} makes its stop last."""

    def __init__(self, context: ChildContext) -> None:
        self.context = context
        self.ports: list[IListeningPort] = []
        self.linger_s = 0.0
        self.drain_s = context.config.server.drain_s
        context.hooks.reload.append(self.reload)
        context.control.add("test.drain_s", self.tell_drain_s)
        context.control.add("test.linger", self.linger)
        context.control.add("test.long", self.long)
        context.control.add("test.user", self.user)
        context.control.add("test.port", self.port)

    async def reload(self, config: Config) -> None:
        if config.server.drain_s == 13.0:  # what the test does not want
            raise ValueError("not that name")
        self.drain_s = config.server.drain_s

    async def tell_drain_s(self) -> Json:
        return self.drain_s

    async def linger(self, seconds: float) -> Json:
        self.linger_s = seconds
        return None

    async def long(self, octets: int, refuse: bool = False) -> Json:
        if refuse:
            raise CommandError("refused as asked")
        return "x" * octets

    async def user(self) -> Json:
        return [os.getuid(), os.getgid(), len(os.getgroups())]

    async def port(self) -> Json:
        for port in self.ports:
            host = port.getHost()
            if isinstance(host, IPv4Address):
                return host.port
        return None

    def startService(self) -> None:
        super().startService()
        for name in self.context.sockets:
            self.ports += self.context.listen(name, EchoFactory())
        self.context.ready()

    def stopService(self) -> Deferred[None]:
        for port in self.ports:
            port.stopListening()
        done: Deferred[None] = Deferred()
        self.context.reactor.callLater(self.linger_s, done.callback, None)
        return done


def mta(context: ChildContext) -> IService:
    service: IService = EchoService(context)
    return service


def directory(context: ChildContext) -> IService:
    service: IService = EchoService(context)
    return service
