"""Logins by certificate (SASL EXTERNAL) on real sockets, with an authority of our own, smtplib and openssl s_client."""

from __future__ import annotations

import datetime
import os
import smtplib
import ssl
from typing import TypeVar

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from qmailpy.auth.certificates import thd_read_clients
from qmailpy.auth.logins import Logins
from qmailpy.config.schema import Config, ListenerConfig, LogConfig, QueueConfig, ServerConfig, TrustConfig
from qmailpy.servers.smtp import SmtpFactory
from qmailpy.servers.tls import OWN, Certificates
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, remote
from tests.integration.submitting import ENVIRONMENT, made_pair, tool
from tests.integration.test_smtp_server import LaterQueue

T = TypeVar("T")
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
JOE, ANN = "joe@example.org", "ann@example.org"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Authority:
    """Issues certificates."""

    def __init__(self, name: str = "Authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self.name, self.key, NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 20 * DAY)
            .not_valid_after(until)
        )

    def issue(
        self, *addresses: str, usage: x509.ObjectIdentifier | None = CLIENT, until: datetime.datetime = NOW + DAY
    ) -> tuple[bytes, x509.Certificate]:
        """A certificate with its key as one PEM text, and by itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")]), key, until)
        if addresses:
            names = x509.SubjectAlternativeName([x509.RFC822Name(one) for one in addresses])
            builder = builder.add_extension(names, critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        made = builder.sign(self.key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        octets = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return octets + made.public_bytes(pem), made


class ClientCertificateTests(TestCase):
    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        self.authority = Authority()
        self.by_hand, listed = Authority("another").issue()  # no authority of ours, and no address
        mark = listed.fingerprint(hashes.SHA256()).hex(":").upper()
        own = made_pair("localhost")
        self.ours = self.file(own.certificate)
        listener = ListenerConfig(
            name="submission",
            kind="submission",
            endpoint="tcp:0",
            client_ca_file=self.file(self.authority.certificate.public_bytes(serialization.Encoding.PEM)),
            client_map_file=self.file(f"# by hand\n\n{mark} {ANN}\n".encode()),
        )
        listeners = [
            evolve(listener, name="ask", client_certificates="ask"),
            evolve(listener, name="require", client_certificates="require"),
            evolve(listener, name="implicit", client_certificates="ask", tls="implicit"),
            evolve(listener, name="none"),
        ]
        config = Config(home="/", server=ServerConfig(hostname="x.example"), listeners=tuple(listeners))
        clients = thd_read_clients(config)
        certificates = Certificates({OWN: own})
        self.queue = LaterQueue()
        self.queue.reactor = IReactorTime(global_reactor)
        router = ScriptedRouter()
        router.now["out@example.com"] = remote("out@example.com")
        directory = MemoryDirectory(("example.org",), (JOE, ANN), passwords={JOE: b"sesame"})
        self.ports: dict[str, int] = {}
        for one in listeners:
            asked = one.client_certificates != "none"
            factory = SmtpFactory(
                IReactorTime(global_reactor),
                hostname="mx.example.org",
                listener=one,
                enqueue=self.queue,
                router=router,
                recorder=MemoryRecorder(),
                queue=QueueConfig(),
                log=LogConfig(),
                trust=TrustConfig(networks=()),
                certificates=certificates.asking(required=one.client_certificates == "require")
                if asked
                else certificates,
                logins=Logins(IReactorTime(global_reactor), directory),
                directory=directory,
            )
            factory.site.clients = clients.get(one.name)
            port = await TCP4ServerEndpoint(IReactorTCP(global_reactor), 0, interface="127.0.0.1").listen(factory)
            self.ports[one.name] = port.getHost().port
            self.addCleanup(self.stop, factory, port)

    def stop(self, factory: SmtpFactory, port: IListeningPort) -> Deferred[None]:
        async def stop() -> None:
            await (port.stopListening() or succeed(None))
            await factory.drain(grace_s=5)

        return Deferred.fromCoroutine(stop())

    def file(self, octets: bytes) -> str:
        path: str = os.path.abspath(self.mktemp())
        with open(path, "wb") as target:
            target.write(octets)
        return path

    def context(self, pem: bytes | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ours)
        if pem is not None:
            context.load_cert_chain(self.file(pem))
        return context

    async def login(self, listener: str, pem: bytes | None, initial: str = "=") -> tuple[bool, int]:
        """Whether EXTERNAL is offered, and the reply to it."""

        def client() -> tuple[bool, int]:
            with smtplib.SMTP("localhost", self.ports[listener], "client.example.net", timeout=10) as smtp:
                smtp.ehlo()
                clear = smtp.esmtp_features.get("auth", "")
                self.assertNotIn("EXTERNAL", clear)
                smtp.starttls(context=self.context(pem))
                smtp.ehlo()
                offered = "EXTERNAL" in smtp.esmtp_features.get("auth", "").split()
                code = smtp.docmd("AUTH", f"EXTERNAL {initial}".strip())[0]
                return offered, code if code != 334 else smtp.docmd("")[0]

        return await deferToThread(client)

    async def test_who_shows_a_certificate_of_our_authority_is_who_it_says(self) -> None:
        """With an initial response, empty (RFC 4954 s.4) or a name, or on the challenge; nobody becomes another."""
        joe, _ = self.authority.issue(JOE, ANN)
        for initial, code in (("=", 235), ("am9lQGV4YW1wbGUub3Jn", 235), ("YW5uQGV4YW1wbGUub3Jn", 535), ("", 235)):
            self.assertEqual(await self.login("ask", joe, initial), (True, code))
        self.assertEqual(await self.login("require", joe), (True, 235))

    async def test_one_that_is_listed_by_hand_needs_no_authority(self) -> None:
        self.assertEqual(await self.login("ask", self.by_hand), (True, 235))
        self.assertEqual(await self.login("require", self.by_hand), (True, 235))

    async def test_others_are_nobody(self) -> None:
        """504: the mechanism is not there for them."""
        strange, _ = Authority().issue(JOE)  # an authority of the same name
        server, _ = self.authority.issue(JOE, usage=SERVER)
        old, _ = self.authority.issue(JOE, until=NOW - DAY)
        nameless, _ = self.authority.issue()
        for pem in (strange, server, old, nameless, None):
            self.assertEqual(await self.login("ask", pem), (False, 504))
        unknown, _ = self.authority.issue("nobody@example.org")
        self.assertEqual(await self.login("ask", unknown), (True, 535))
        joe, _ = self.authority.issue(JOE, usage=None)
        self.assertEqual(await self.login("none", joe), (False, 504))

    async def test_where_it_is_required_nobody_else_gets_in(self) -> None:
        strange, _ = Authority().issue(JOE)
        for pem in (strange, None):

            def client(pem: bytes | None = pem) -> int:
                try:
                    with smtplib.SMTP("localhost", self.ports["require"], "client.example.net", timeout=10) as smtp:
                        smtp.starttls(context=self.context(pem))
                        return smtp.ehlo()[0]
                except (ssl.SSLError, smtplib.SMTPException, OSError):
                    return 0

            self.assertIn(await deferToThread(client), (0, 421))

    async def test_mail_is_sent_by_who_has_logged_in_so(self) -> None:
        """Where TLS comes first, too; in one's own name only, as ever."""
        joe, _ = self.authority.issue(JOE)

        def client() -> list[int]:
            with smtplib.SMTP_SSL("localhost", self.ports["implicit"], timeout=10, context=self.context(joe)) as smtp:
                smtp.ehlo("client.example.net")
                self.assertEqual(smtp.docmd("AUTH", "EXTERNAL =")[0], 235)
                smtp.sendmail(JOE, ["out@example.com"], b"Subject: x\r\n\r\n")
                return [smtp.docmd("AUTH", "EXTERNAL =")[0], smtp.mail(ANN)[0]]

        self.assertEqual(await deferToThread(client), [503, 553])
        [message] = self.queue.messages
        self.assertEqual((message.envelope.user, message.envelope.protocol), (JOE, "ESMTPSA"))

    async def test_openssl_logs_in(self) -> None:
        """s_client, TLS 1.2 and 1.3."""
        pem = self.file(self.authority.issue(JOE)[0])
        for version in ("-tls1_2", "-tls1_3"):
            words = f"{tool('openssl')} s_client -connect 127.0.0.1:{self.ports['ask']} -starttls smtp {version}"
            script = f"printf 'EHLO x\\r\\nAUTH EXTERNAL =\\r\\nQUIT\\r\\n' | timeout 20 {words} -cert {pem} -ign_eof"
            out, err, _ = await getProcessOutputAndValue("/bin/sh", ["-c", script], env=ENVIRONMENT)
            self.assertIn(b"235 2.7.0", out, out + err)
