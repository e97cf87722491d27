"""
The resolver over real sockets, against a name server in the same process.
"""

from __future__ import annotations

import errno
from typing import Any, cast

import dns.flags
import dns.message
import dns.rrset
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.trial.unittest import TestCase

from qmailpy.config.schema import DnsConfig
from qmailpy.errors import Temporary
from qmailpy.remote.dns_wire import IDnsReactor, resolver
from qmailpy.remote.resolver import Resolver

reactor = cast(IDnsReactor, global_reactor)
MANY = [f"192.0.2.{number}" for number in range(20)]


def answer(octets: bytes, *, tcp: bool) -> bytes:
    """One zone: m.example has an address, big.example many, which need TCP."""
    query = dns.message.from_wire(octets)
    response = dns.message.make_response(query)
    [question] = query.question
    if question.name.to_text() == "big.example." and not tcp:
        response.flags |= dns.flags.TC
    elif question.rdtype == 1:
        addresses = MANY if question.name.to_text() == "big.example." else ["192.0.2.1"]
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", *addresses))
    return response.to_wire()


class Udp(DatagramProtocol):
    """Over UDP; before the answer comes a forged one with another id."""

    transport: IUDPTransport
    silent = False

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if self.silent:
            return
        self.transport.write(bytes([datagram[0] ^ 255]) + answer(datagram, tcp=False)[1:], addr)
        self.transport.write(answer(datagram, tcp=False), addr)


class Tcp(Protocol):
    """Over TCP, in two pieces."""

    def dataReceived(self, data: bytes) -> None:
        response = answer(data[2:], tcp=True)
        assert self.transport is not None
        self.transport.write((len(response).to_bytes(2, "big") + response)[:7])
        self.transport.write(response[5:])


class DnsWireTests(TestCase):
    """Questions and answers on their way."""

    def setUp(self) -> None:
        factory: Any = Factory.forProtocol(Tcp)
        factory.noisy = False
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.port = cast(IPv4Address, listening.getHost()).port
        self.udp = Udp()
        self.addCleanup(reactor.listenUDP(self.port, self.udp, "127.0.0.1", 8192).stopListening)

    def resolver(self, timeout_s: float = 5.0) -> Resolver:
        return resolver(reactor, DnsConfig(servers=(f"127.0.0.1:{self.port}",), timeout_s=timeout_s))

    async def test_an_answer_over_udp(self) -> None:
        """The one with our id."""
        self.assertEqual(await self.resolver().addresses("m.example"), ("192.0.2.1",))

    async def test_an_answer_over_tcp(self) -> None:
        """When it was too large for UDP."""
        self.assertEqual(sorted(await self.resolver().addresses("big.example")), sorted(MANY))

    async def test_a_silent_server_is_given_up(self) -> None:
        """After timeout_s, with nothing left behind."""
        self.udp.silent = True
        with self.assertRaises(Temporary):
            await self.resolver(0.05).mx("m.example")

    async def test_no_socket_to_ask_from(self) -> None:
        """As when there are no descriptors left: temporary, and no bug."""

        def none_left(*_: object, **__: object) -> None:
            raise CannotListenError("", 0, OSError(errno.EMFILE, "Too many open files"))

        self.patch(reactor, "listenUDP", none_left)
        with self.assertRaises(Temporary):
            await self.resolver().mx("m.example")

    async def test_a_port_nobody_listens_on(self) -> None:
        """Told at once by the operating system."""
        refused = resolver(reactor, DnsConfig(servers=("127.0.0.1:1",), timeout_s=5.0))
        with self.assertRaises(Temporary):
            await refused.mx("m.example")
