"""TLS between a transport and a session, with a client in memory."""

from __future__ import annotations

import contextlib
import datetime

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.cli.certificate import self_signed
from qmailpy.remote.secure import SecureLayer
from qmailpy.servers.tls import OWN, Certificates, Pair, Secured

_CERTIFICATE, _KEY = self_signed("mx.example.org", datetime.datetime.now(datetime.UTC))


class Session:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard = b""
        self.heard_by_then = b""  # when TLS was over
        self.wire = b""
        self.told: list[str] = []
        self.reason: Failure | None = None
        self.times = 0

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self.times += 1

    def connectionLost(self, reason: Failure) -> None:
        self.reason = reason

    def handshakeCompleted(self) -> None:
        self.told.append("up")

    def send_sealed(self, octets: bytes) -> None:
        self.wire += octets

    def tls_over(self) -> None:
        self.told.append("over")
        self.heard_by_then = self.heard


class LayerTests(SynchronousTestCase):
    """L{SecureLayer}."""

    def setUp(self) -> None:
        self.certificates = Certificates({OWN: Pair(certificate=_CERTIFICATE, key=_KEY)})
        self.begin()

    def begin(self, most: int | None = None) -> None:
        self.session = Session()
        self.layer = SecureLayer(self.session, self.certificates.serverConnectionForTLS(None))
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if most is not None:
            context.set_max_proto_version(most)
        self.client = SSL.Connection(context, None)
        self.client.set_connect_state()

    def out(self) -> bytes:
        """What the client wants sent."""
        with contextlib.suppress(SSL.WantReadError):
            return self.client.bio_read(1 << 20)
        return b""

    def give(self) -> None:
        """The client gets what the server has sent."""
        octets, self.session.wire = self.session.wire, b""
        if octets:
            self.client.bio_write(octets)

    def shake(self, size: int = 1 << 20) -> None:
        """A handshake; the client's octets come in pieces of C{size}."""
        for _ in range(4):
            with contextlib.suppress(SSL.WantReadError):
                self.client.do_handshake()
            self.feed(self.out(), size)
            self.give()

    def feed(self, octets: bytes, size: int = 1 << 20) -> None:
        for at in range(0, len(octets), size):
            self.layer.dataReceived(octets[at : at + size])

    def read(self) -> bytes:
        """All that the client understands."""
        self.give()
        found = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                found += self.client.recv(65536)
        return found

    def test_it_is_a_protocol(self) -> None:
        verifyObject(IProtocol, self.layer)

    def test_both_sides_hear_each_other(self) -> None:
        """With TLS 1.3, and with 1.2, whose last word in the handshake is ours and leaves at once."""
        for most in (None, SSL.TLS1_2_VERSION):
            self.begin(most)
            self.shake()
            self.assertEqual(self.session.told, ["up"])
            self.assertTrue(self.layer.up)
            self.client.do_handshake()
            self.client.send(b"EHLO client.example\r\n")
            self.feed(self.out())
            self.assertEqual(self.session.heard, b"EHLO client.example\r\n")
            self.session.send_sealed(self.layer.seal(b"250 mx.example.org\r\n"))
            self.assertEqual(self.read(), b"250 mx.example.org\r\n")
        found = Secured.of(self.layer)
        assert found is not None
        self.assertEqual(found.version, "TLSv1.2")

    def test_tickets_wake_nobody(self) -> None:
        """They leave with the next words of the session, and a client can make use of them."""
        self.shake()
        self.assertEqual(self.session.wire, b"")
        self.session.send_sealed(self.layer.seal(b"220 mx\r\n"))
        self.assertGreater(len(self.session.wire), 300)
        self.assertEqual(self.read(), b"220 mx\r\n")
        session = self.client.get_session()
        assert session is not None
        context = self.client.get_context()
        self.session = Session()
        self.layer = SecureLayer(self.session, self.certificates.serverConnectionForTLS(None))
        self.client = SSL.Connection(context, None)
        self.client.set_connect_state()
        self.client.set_session(session)
        self.shake()
        self.session.send_sealed(self.layer.seal(b"220 again\r\n"))
        self.assertEqual(self.read(), b"220 again\r\n")

    def test_the_wire_may_be_cut_anywhere(self) -> None:
        """Octets come one by one, in pieces of all sizes, several records at once: the session hears the same."""
        words = [b"MAIL FROM:<a@example.net>\r\n", b"x" * 40_000, b"\r\n", b"QUIT\r\n"]
        for size in (1, 2, 3, 4, 5, 6, 7, 100, 1000, 16_406, 65_536):
            self.begin()
            self.shake(size)
            for word in words:
                self.client.sendall(word)
                self.feed(self.out(), size)
            for word in words:
                self.client.sendall(word)
            self.feed(self.out(), size)
            self.assertEqual(self.session.heard, b"".join(words) * 2, size)

    def test_what_comes_with_the_end_of_the_handshake_is_heard(self) -> None:
        """In the same segment, behind it."""
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.feed(self.out())
        self.give()
        self.client.do_handshake()
        self.client.send(b"EHLO x\r\n")
        self.client.send(b"NOOP\r\n")
        self.feed(self.out())
        self.assertEqual((self.session.told, self.session.heard), (["up"], b"EHLO x\r\nNOOP\r\n"))
        self.assertEqual(self.session.times, 1)

    def test_much_is_sealed_whole(self) -> None:
        """OpenSSL takes a record at a time."""
        self.shake()
        octets = bytes(range(256)) * 4000
        self.session.send_sealed(self.layer.seal(octets))
        self.assertEqual(self.read(), octets)

    def test_nothing_is_said_in_the_clear(self) -> None:
        """Before the handshake is done, and behind the last word."""
        self.assertEqual(self.layer.seal(b"220 mx\r\n"), b"")
        self.shake()
        self.session.send_sealed(self.layer.seal(b"221 bye\r\n", last=True))
        self.give()
        self.assertEqual(self.client.recv(100), b"221 bye\r\n")
        self.assertRaises(SSL.ZeroReturnError, self.client.recv, 100)
        self.assertEqual(self.layer.seal(b"more", last=True), b"")
        self.assertEqual(self.session.told, ["up"])

    def test_a_record_alone_is_known_wherever_octets_are_cut(self) -> None:
        """Pieces of records that look like whole ones are none; the account is right again behind them."""
        inner = b"\x17\x03\x03\x00\x02ab"
        outer = b"\x17\x03\x03" + len(inner + b"!").to_bytes(2, "big")
        alone = self.layer._alone
        self.assertTrue(alone(inner))
        self.assertFalse(alone(outer))
        self.assertFalse(alone(inner))
        self.assertFalse(alone(b"!"))
        self.assertTrue(alone(inner))
        self.assertFalse(alone(outer[:4]))
        self.assertFalse(alone(outer[4:] + inner + b"!" + inner[:3]))
        self.assertFalse(alone(inner[3:]))
        self.assertTrue(alone(inner))
        self.assertFalse(alone(b"\x17"))
        self.assertFalse(alone(b"\x03\x03\x00\x07"))
        self.assertFalse(alone(inner))
        self.assertTrue(alone(inner))

    def test_the_client_says_goodbye(self) -> None:
        """What it said before counts, what follows does not; the reason is the connection's."""
        self.shake()
        self.client.send(b"QUIT\r\n")
        self.client.shutdown()
        self.feed(self.out() + b"GET / HTTP/1.0\r\n")
        self.feed(b"more")
        self.assertEqual((self.session.heard, self.session.told), (b"QUIT\r\n", ["up", "over"]))
        self.assertEqual(self.session.heard_by_then, b"QUIT\r\n")  # else it is carried out by a session that has ended
        self.layer.connectionLost(Failure(ConnectionDone()))
        assert self.session.reason is not None
        self.session.reason.trap(ConnectionDone)

    def test_what_is_no_tls_ends_it(self) -> None:
        """In the handshake and behind it; the session is told what OpenSSL says."""
        for shaken in (False, True):
            self.begin()
            if shaken:
                self.shake()
            self.feed(b"EHLO client.example\r\nMAIL FROM:<>\r\n")
            self.assertEqual(self.session.told[-1:], ["over"])
            if shaken:  # what does not even look like TLS is not answered in it
                self.assertEqual(self.session.wire[:1], b"\x17")
            self.layer.connectionLost(Failure(ConnectionDone()))
            assert self.session.reason is not None
            self.session.reason.trap(SSL.Error)
            self.assertEqual(self.session.heard, b"")

    def test_an_octet_that_was_changed_is_never_heard(self) -> None:
        self.shake()
        self.client.send(b"MAIL FROM:<a@example.net>\r\n")
        octets = bytearray(self.out())
        octets[-1] ^= 1
        self.feed(bytes(octets))
        self.assertEqual((self.session.heard, self.session.told), (b"", ["up", "over"]))


class Talker(Session):
    """A client's session: says its first word when TLS is up, if it has one."""

    layer: SecureLayer

    def __init__(self, first: bytes = b"") -> None:
        super().__init__()
        self.first = first
        self.writes: list[bytes] = []
        self.forsakes = False

    def send_sealed(self, octets: bytes) -> None:
        super().send_sealed(octets)
        self.writes.append(octets)

    def handshakeCompleted(self) -> None:
        super().handshakeCompleted()
        if self.forsakes:
            self.layer.forsake()
        elif self.first:
            self.send_sealed(self.layer.seal(self.first))


class ClientTests(SynchronousTestCase):
    """L{SecureLayer} of a client, against that of a server."""

    def begin(self, first: bytes = b"", most: int = SSL.TLS1_3_VERSION, size: int = 1 << 20) -> None:
        certificates = Certificates({OWN: Pair(certificate=_CERTIFICATE, key=_KEY)})
        self.there = Session()
        self.server = SecureLayer(self.there, certificates.serverConnectionForTLS(None))
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(most)
        self.here = Talker(first)
        self.client = self.here.layer = SecureLayer(self.here, SSL.Connection(context, None), client=True)
        self.size = size

    def pump(self) -> None:
        """Until nothing is on its way."""
        while self.here.wire or self.there.wire:
            out, self.here.wire = self.here.wire, b""
            back, self.there.wire = self.there.wire, b""
            for octets, layer in ((out, self.server), (back, self.client)):
                for at in range(0, len(octets), self.size):
                    layer.dataReceived(octets[at : at + self.size])

    def test_both_sides_hear_each_other(self) -> None:
        """Whatever the version, and wherever the octets are cut."""
        for most in (SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION):
            for size in (1, 7, 1000, 1 << 20):
                self.begin(b"EHLO us.example\r\n", most, size)
                self.client.begin()
                self.pump()
                self.assertEqual((self.here.told, self.there.told), (["up"], ["up"]))
                self.assertEqual(self.there.heard, b"EHLO us.example\r\n")
                self.there.send_sealed(self.server.seal(b"250 mx\r\n" * 9000))
                self.here.send_sealed(self.client.seal(b"x" * 70_000))
                self.pump()
                self.assertEqual(self.here.heard, b"250 mx\r\n" * 9000)
                self.assertEqual(self.there.heard[17:], b"x" * 70_000)

    def test_its_last_word_of_the_handshake_leaves_with_its_first_command(self) -> None:
        """In one write; with TLS 1.2 it had to leave before."""
        self.begin(b"EHLO us.example\r\n")
        self.client.begin()
        self.pump()
        self.assertEqual(len(self.here.writes), 2)  # ClientHello; Finished and EHLO

    def test_it_leaves_by_itself_where_the_server_speaks_first(self) -> None:
        """RFC 8314 s.3."""
        for most in (SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION):
            self.begin(most=most)
            self.client.begin()
            self.pump()
            self.assertEqual((self.here.told, self.there.told), (["up"], ["up"]))
            self.there.send_sealed(self.server.seal(b"220 mx\r\n"))
            self.pump()
            self.assertEqual(self.here.heard, b"220 mx\r\n")

    def test_one_whose_certificate_is_wrong_is_neither_told_anything_nor_heard(self) -> None:
        self.begin(most=SSL.TLS1_2_VERSION)
        self.here.forsakes = True
        self.client.begin()
        self.pump()
        self.there.send_sealed(self.server.seal(b"220 mx\r\n"))
        self.pump()
        self.assertEqual((self.here.told, self.here.heard), (["up"], b""))
        self.assertEqual(self.client.seal(b"EHLO us.example\r\n"), b"")

    def test_what_is_no_tls_is_told_of_as_such(self) -> None:
        self.begin()
        self.client.begin()
        self.client.dataReceived(b"220 mx.example ESMTP\r\n")
        self.assertEqual(self.here.told, ["over"])
        self.client.connectionLost(Failure(ConnectionDone()))
        assert self.here.reason is not None
        self.assertIsInstance(self.here.reason.value, SSL.Error)

    def test_goodbye_is_said_and_heard(self) -> None:
        """RFC 8446 s.6.1."""
        self.begin(b"QUIT\r\n")
        self.client.begin()
        self.pump()
        self.here.send_sealed(self.client.seal(b"", last=True))
        self.pump()
        self.assertEqual(self.there.told, ["up", "over"])
        self.begin(b"NOOP\r\n")
        self.client.begin()
        self.pump()
        self.there.send_sealed(self.server.seal(b"421 bye\r\n", last=True))
        self.pump()
        self.assertEqual((self.here.told, self.here.heard), (["up", "over"], b"421 bye\r\n"))
