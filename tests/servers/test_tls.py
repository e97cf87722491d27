"""Tests of the certificates of servers, with handshakes in memory."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import shutil
import tempfile
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.cli.certificate import self_signed
from qmailpy.errors import ConfigError
from qmailpy.servers import tls
from qmailpy.servers.tls import OWN, Certificates, Pair, Secured, thd_read_pairs

NOW = datetime.datetime.now(datetime.UTC)


def pair(name: str) -> Pair:
    certificate, key = self_signed(name, NOW)
    return Pair(certificate=certificate, key=key)


PAIRS = {OWN: pair("mx.example.org"), "two": pair("mail.example.net"), "wild": pair("*.example.com")}


class Transport:
    """What TLS gives a transport."""

    def __init__(self, connection: SSL.Connection | None) -> None:
        self.getHandle = lambda: connection


def shake(server: SSL.Connection, name: bytes | None = None, *, most: int | None = None) -> SSL.Connection:
    """
    A handshake with a client in memory.

    @return: the client's side.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if most is not None:
        context.set_max_proto_version(most)
    client = SSL.Connection(context, None)
    if name is not None:
        client.set_tlsext_host_name(name)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(6):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    return client


def subject(client: SSL.Connection) -> str:
    certificate = client.get_peer_certificate()
    assert certificate is not None
    return str(certificate.get_subject().CN)


class CertificatesTests(SynchronousTestCase):
    """L{Certificates}."""

    def setUp(self) -> None:
        self.certificates = Certificates(PAIRS)

    def connect(self, name: bytes | None = None, **options: Any) -> tuple[SSL.Connection, SSL.Connection]:
        server = self.certificates.serverConnectionForTLS(None)
        return server, shake(server, name, **options)

    def test_twisted_can_use_it(self) -> None:
        verifyObject(IOpenSSLServerConnectionCreator, self.certificates)

    def test_the_client_gets_the_certificate_of_the_name_it_asks_for(self) -> None:
        """Issue 3: SNI with several certificates; who names nothing we know gets our own."""
        for name, expected in (
            (None, "mx.example.org"),
            (b"mx.example.org", "mx.example.org"),
            (b"MAIL.example.net", "mail.example.net"),
            (b"mail.example.net.", "mail.example.net"),
            (b"two", "mail.example.net"),
            (b"a.example.com", "*.example.com"),
            (b"a.b.example.com", "mx.example.org"),
            (b"other.example", "mx.example.org"),
            (b"\xff\xfe", "mx.example.org"),
        ):
            self.assertEqual(subject(self.connect(name)[1]), expected, name)

    def test_version_and_cipher_are_told_by_the_names_of_the_registry(self) -> None:
        """RFC 8314 s.4.3 wants the IANA's name."""
        server, _ = self.connect()
        found = Secured.of(Transport(server))
        assert found is not None
        self.assertEqual(found.version, "TLSv1.3")
        self.assertRegex(found.cipher, r"^TLS_(AES_\d+_GCM|CHACHA20_POLY1305)_SHA\d+$")
        server, _ = self.connect(most=SSL.TLS1_2_VERSION)
        found = Secured.of(Transport(server))
        assert found is not None
        self.assertEqual((found.version, found.cipher[:23]), ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AE"))
        self.assertIsNone(Secured.of(Transport(None)))
        self.assertIsNone(Secured.of(object()))
        self.assertIsNone(Secured.of(Transport(self.certificates.serverConnectionForTLS(None))))

    def test_old_versions_are_refused(self) -> None:
        """RFC 8996."""
        self.assertRaises(SSL.Error, self.connect, most=SSL.TLS1_1_VERSION)

    def test_the_bindings_are_those_of_the_client(self) -> None:
        """RFC 9266 and RFC 5929: both ends come to the same octets."""
        server, client = self.connect(b"mail.example.net")
        found = tls.bindings(Transport(server))
        certificate = client.get_peer_certificate()
        assert certificate is not None
        der = SSL.Connection.get_peer_certificate(client, as_cryptography=True)
        from cryptography.hazmat.primitives.serialization import Encoding

        assert der is not None
        self.assertEqual(found["tls-server-end-point"], hashlib.sha256(der.public_bytes(Encoding.DER)).digest())
        self.assertEqual(found["tls-exporter"], client.export_keying_material(b"EXPORTER-Channel-Binding", 32))
        server, _ = self.connect(most=SSL.TLS1_2_VERSION)
        self.assertEqual(list(tls.bindings(Transport(server))), ["tls-server-end-point"])
        self.assertEqual(tls.bindings(object()), {})
        self.assertEqual(tls.bindings(Transport(self.certificates.serverConnectionForTLS(None))), {})

    def test_new_certificates_are_for_new_connections(self) -> None:
        """Reload without dropping sessions: the one that is there goes on."""
        server, client = self.connect()
        self.certificates.use({OWN: pair("new.example.org")})
        client.send(b"still")
        server.bio_write(client.bio_read(65536))
        self.assertEqual(server.recv(10), b"still")
        self.assertEqual(subject(self.connect()[1]), "new.example.org")
        self.assertEqual(subject(self.connect(b"mail.example.net")[1]), "new.example.org")

    def test_what_cannot_be_used_changes_nothing(self) -> None:
        mixed = Pair(certificate=PAIRS[OWN].certificate, key=PAIRS["two"].key)
        with self.assertRaises(ConfigError) as caught:
            self.certificates.use({"a": mixed, "b": Pair(certificate=b"x", key=b"y")})
        text = str(caught.exception)
        for part in ("tls/cert.pem: there is none", "tls/a/cert.pem", "tls/b/cert.pem", "tells: qmailpy check"):
            self.assertIn(part, text)
        self.assertNotIn("https://", text)
        self.assertEqual(subject(self.connect()[1]), "mx.example.org")

    def test_a_key_does_not_show(self) -> None:
        self.assertNotIn("PRIVATE", repr(PAIRS[OWN]))


class ReadTests(SynchronousTestCase):
    """L{thd_read_pairs}."""

    def setUp(self) -> None:
        self.home = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.home)

    def put(self, name: str, made: Pair) -> None:
        place = os.path.join(self.home, "tls", name)
        os.makedirs(place, exist_ok=True)
        for file, octets in (("cert.pem", made.certificate), ("key.pem", made.key)):
            with open(os.path.join(place, file), "wb") as target:
                target.write(octets)

    def test_all_pairs_are_found(self) -> None:
        for name, made in PAIRS.items():
            self.put(name, made)
        self.assertEqual(thd_read_pairs(self.home), PAIRS)

    def test_every_problem_is_told(self) -> None:
        self.assertRaises(ConfigError, thd_read_pairs, self.home)
        os.makedirs(os.path.join(self.home, "tls", "a"))
        with self.assertRaises(ConfigError) as caught:
            thd_read_pairs(self.home)
        self.assertEqual(str(caught.exception).count("cannot be read"), 4)
