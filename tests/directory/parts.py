"""What the directory's tests share: a store in a temporary place, and LDAP without sockets."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from argon2 import PasswordHasher
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from qmailpy.directory import password
from qmailpy.directory.accounts import Accounts
from qmailpy.directory.client import LdapDirectory
from qmailpy.directory.names import Name, parse
from qmailpy.directory.pool import Pool
from qmailpy.directory.schema import Entry
from qmailpy.directory.server import LdapServer, LdapServerFactory
from qmailpy.directory.servers import Servers
from qmailpy.directory.store import FILE, Store, create
from qmailpy.testing.memory_events import MemoryEvents

BASE = "o=qmailpy"
_MEMORY = "/dev/shm"
T = TypeVar("T")


def new_store(case: SynchronousTestCase) -> Store:
    """An empty store but for its base, gone after the test; its passwords are hashed cheaply."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    case.patch(password, "_HASHER", cheap)
    case.patch(password, "_DUMMY", password._nobodys())
    # In memory where there is such a place: hundreds of stores are made, and the disk is not what is tested.
    place = tempfile.mkdtemp(dir=_MEMORY if os.path.isdir(_MEMORY) else os.path.abspath("."))
    case.addCleanup(shutil.rmtree, place)
    made = create(os.path.join(place, FILE))
    case.addCleanup(made.thd_close)
    made.thd_add(Entry(parse(BASE), {"objectclass": ("top", "organization")}))
    return made


def example(case: SynchronousTestCase) -> Accounts:
    """Accounts with the domain example.org."""
    accounts = Accounts(new_store(case), BASE)
    accounts.thd_add_domain("example.org")
    return accounts


def identity(store: Store, name: str, hashed: str) -> Name:
    """Add C{cn=NAME} with that stored password."""
    dn = parse(BASE).child("cn", name)
    store.thd_add(Entry(dn, {"objectclass": ("applicationProcess",), "userpassword": (hashed,)}))
    return dn


@implementer(IStreamClientEndpoint)
class PumpedEndpoint:
    """Connects clients to an L{LdapServerFactory} in memory; C{refuse} makes connecting fail."""

    def __init__(self, factory: LdapServerFactory) -> None:
        self.factory = factory
        self.refuse = False
        self.silent = False  # what is sent goes nowhere
        self.pumps: list[IOPump] = []  # of the connections that are not broken
        self.servers: list[LdapServer] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        if self.refuse:
            return fail(ConnectError())
        client = protocolFactory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 389))
        server = self.factory.buildProtocol(None)
        assert client is not None
        assert server is not None
        self.servers.append(server)
        self.pumps.append(
            connect(server, FakeTransport(server, True), client, FakeTransport(client, False), greet=False)
        )
        return succeed(client)

    def flush(self) -> None:
        """Carry everything both ways until nothing moves."""
        if not self.silent:
            while any(pump.pump() for pump in list(self.pumps)):
                pass

    def cut(self) -> None:
        """Every connection breaks; what was on its way is lost."""
        broken, self.pumps = self.pumps, []
        for pump in broken:
            pump.client.connectionLost(Failure(ConnectionLost()))
            pump.server.connectionLost(Failure(ConnectionLost()))
        self.flush()


def served(store: Store, clock: Clock) -> PumpedEndpoint:
    """An LDAP server over C{store}, in memory and in this thread."""
    return PumpedEndpoint(LdapServerFactory(clock, store, BASE, maybeDeferred))


def client(
    clock: Clock, endpoint: IStreamClientEndpoint, service: object, secret: Callable[[], bytes], timeout_s: float = 5
) -> LdapDirectory:
    """The embedded directory's client over one endpoint."""
    pool = Pool(
        clock, endpoint, service=str(service), secret=lambda: succeed(secret()), name="embedded", timeout_s=timeout_s
    )
    return LdapDirectory(clock, Servers(clock, [pool], MemoryEvents(), timeout_s=timeout_s), BASE)


class AskingTestCase(SynchronousTestCase):
    """A test case that asks coroutines."""

    def step(self) -> None:
        """Let what is under way go on; for connections in memory."""

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer to a question that needs nothing from outside."""
        answer = Deferred.fromCoroutine(question)
        self.step()
        return self.successResultOf(answer)
