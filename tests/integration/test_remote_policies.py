"""
What is published of TLS, over real sockets: a sink with certificates made here, TLSA records and MTA-STS policies from
tables.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Any, ClassVar

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qmailpy.channels.parts import Security
from qmailpy.channels.smtp import SmtpChannel
from qmailpy.config.schema import ChannelConfig
from qmailpy.remote.protection import StsFound
from qmailpy.servers.tls import OWN, Certificates, Pair
from qmailpy.testing.smtp_sink import DEFAULT_EHLO, SinkFactory
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Disposition, Verdict
from qmailpy.wire.sts import Mode, StsPolicy
from qmailpy.wire.tlsa import Tlsa
from qmailpy.wire.tlsrpt import Applied, Failed
from tests.integration.test_remote_peers import SMALL
from tests.integration.test_remote_tls import MX, NOW, NoCertificate, TlsTestCase, pair

OLD = pair("mx.example", NOW - datetime.timedelta(days=365 * 20))
OTHER = pair("other.example")


def describes(made: Pair, usage: int = 3) -> Tlsa:
    der = x509.load_pem_x509_certificate(made.certificate).public_bytes(Encoding.DER)
    return Tlsa(usage, 0, 1, hashlib.sha256(der).digest())


class OneSts:
    """One policy for every domain."""

    def __init__(self, mode: Mode, *mx: str) -> None:
        self._found = StsFound(StsPolicy(mode=mode, mx=mx, max_age_s=60))

    async def find(self, domain: str) -> StsFound:
        return self._found


class Noted:
    """Remembers results."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def note(self, domain: str, applied: Applied, failed: Failed | None) -> None:
        self.said.append((applied.kind, failed.kind if failed else ""))


class PublishedTestCase(TlsTestCase):
    """Mail to x.example, whose only exchanger is mx.example."""

    def published(
        self, port: int, *, sts: OneSts | None = None, tlsas: Any = (), trust: bytes = b"", **options: Any
    ) -> SmtpChannel:
        place = f"_{port}._tcp.mx.example"
        resolver = TablesResolver(
            mx={"x.example": [(10, "mx.example")]},
            addresses={"mx.example": ["127.0.0.1"]},
            tlsas={place: tlsas},
            secure=("x.example", "mx.example", place) if tlsas else (),
        )
        self.noted = Noted()
        return self.channel_with(resolver, port, Security(sts=sts, results=self.noted), trust, options)

    def channel_with(
        self, resolver: Any, port: int, security: Security, trust: bytes, options: dict[str, Any]
    ) -> SmtpChannel:
        ca_file = self.file(trust or MX.certificate)
        table = ChannelConfig(
            name="tcp_local", kind="smtp", port=port, allow_loopback=True, tls_ca_file=ca_file, **options
        )
        return self.made(table, resolver=resolver, security=security)

    def secured(self, made: Pair = MX, **options: Any) -> tuple[SinkFactory, int]:
        return self.secure_sink(Certificates({OWN: made}), **options)

    def delivered(self, found: Disposition, how: str) -> None:
        self.assertEqual(found.verdict, Verdict.DELIVERED, found)
        self.assertIn(f"AES_256_GCM_SHA384 {how})" if how else "AES_256_GCM_SHA384)", found.diagnostic)

    def deferred(self, found: Disposition, sink: SinkFactory, words: str) -> None:
        self.assertEqual((found.verdict, found.reply.enhanced[:4]), (Verdict.DEFERRED, "4.7."), found)
        self.assertIn(words, found.reply.text)
        self.assertEqual(sink.log.messages, [])


class DaneTests(PublishedTestCase):
    """RFC 7672."""

    async def test_a_certificate_that_is_described(self) -> None:
        """Expired and for another name, but the one that is meant."""
        for made in (MX, OLD, OTHER):
            _, port = self.secured(made)
            self.delivered(await self.one(self.published(port, tlsas=[describes(made)])), "dane")
            self.assertEqual(self.noted.said, [("tlsa", "")])

    async def test_one_that_is_not(self) -> None:
        """Nothing of the message is sent."""
        sink, port = self.secured()
        found = await self.one(self.published(port, tlsas=[describes(OTHER)]))
        self.deferred(found, sink, "certificate matches no TLSA record")
        self.assertEqual(self.noted.said, [("tlsa", "certificate-not-trusted")])

    async def test_old_and_new_side_by_side(self) -> None:
        """Rollover."""
        _, port = self.secured()
        self.delivered(await self.one(self.published(port, tlsas=[describes(OTHER), describes(MX)])), "dane")

    async def test_no_tls_is_no_way_out(self) -> None:
        """STARTTLS stripped, or a handshake that fails: where opportunistic TLS would go on without."""
        for tls, script, kind in (
            (None, {"EHLO": DEFAULT_EHLO}, "starttls-not-supported"),
            (NoCertificate(), {}, "validation-failure"),
        ):
            sink, port = self.secure_sink(tls, script=script)
            found = await self.one(self.published(port, tlsas=[describes(MX)]))
            self.deferred(found, sink, "TLS")
            self.assertEqual(self.noted.said, [("tlsa", kind)])

    async def test_records_that_are_all_unusable(self) -> None:
        """Any certificate, but TLS."""
        _, port = self.secured(OTHER)
        self.delivered(await self.one(self.published(port, tlsas=[describes(OTHER, 1)])), "dane, unusable")
        sink, port = self.secure_sink(script={"EHLO": DEFAULT_EHLO})
        self.deferred(await self.one(self.published(port, tlsas=[describes(OTHER, 1)])), sink, "TLS is required")

    async def test_mail_that_would_rather_arrive(self) -> None:
        """RFC 8689 s.3; and its connection is not for mail that wants TLS."""
        sink, port = self.secured()
        channel = self.published(port, tlsas=[describes(OTHER)], connections_idle_s=60.0)
        job = self.job(content=SMALL)
        [found] = await channel.dequeue(evolve(job, envelope=evolve(job.envelope, tls_optional=True)))
        self.delivered(found, "")
        found = await self.one(channel)
        self.assertEqual((found.verdict, len(sink.log.messages)), (Verdict.DEFERRED, 1))


class StsTests(PublishedTestCase):
    """RFC 8461 s.4 and s.5."""

    async def test_a_host_that_fits(self) -> None:
        _, port = self.secured()
        channel = self.published(port, sts=OneSts(Mode.ENFORCE, "mx.example"))
        self.delivered(await self.one(channel), "mta-sts")
        self.assertEqual(self.noted.said, [("sts", "")])

    async def test_hosts_that_do_not(self) -> None:
        """Certificates that are bad in each way, no TLS, and a host that is not named."""
        for made, trust, words, kind in (
            (MX, OTHER.certificate, "self-signed", "certificate-not-trusted"),
            (OLD, OLD.certificate, "expired", "certificate-expired"),
            (OTHER, OTHER.certificate, "not for mx.example", "certificate-host-mismatch"),
        ):
            sink, port = self.secured(made)
            for mode, outcome in ((Mode.ENFORCE, Verdict.DEFERRED), (Mode.TESTING, Verdict.DELIVERED)):
                channel = self.published(port, sts=OneSts(mode, "mx.example"), trust=trust)
                found = await self.one(channel)
                self.assertEqual(found.verdict, outcome, found)
                self.assertEqual("S" in found.modifiers, mode is Mode.TESTING)  # not given up for a certificate
                self.assertEqual(self.noted.said, [("sts", kind)])
                if mode is Mode.ENFORCE:
                    self.deferred(found, sink, words)
        sink, port = self.secure_sink(script={"EHLO": DEFAULT_EHLO})
        found = await self.one(self.published(port, sts=OneSts(Mode.ENFORCE, "mx.example")))
        self.deferred(found, sink, "TLS is required")
        sink, port = self.secured()
        found = await self.one(self.published(port, sts=OneSts(Mode.ENFORCE, "*.example.org")))
        self.deferred(found, sink, "not in the MTA-STS policy of x.example")
        self.assertEqual((self.noted.said, sink.log.connections), ([("sts", "validation-failure")], 0))

    async def test_it_can_be_left_undone(self) -> None:
        """mta_sts = false; nobody is asked."""
        _, port = self.secured(OTHER)
        self.delivered(await self.one(self.published(port, sts=OneSts(Mode.ENFORCE, "mx.example"), mta_sts=False)), "")


class RequireTests(PublishedTestCase):
    """REQUIRETLS (RFC 8689)."""

    PROMISE: ClassVar = {
        "EHLO": [DEFAULT_EHLO.replace("-PIP", f"-{word}\n250-PIP", 1) for word in ("STARTTLS", "REQUIRETLS")],
    }

    async def required(self, channel: SmtpChannel) -> Disposition:
        job = self.job(content=SMALL)
        [found] = await channel.dequeue(evolve(job, envelope=evolve(job.envelope, require_tls=True)))
        return found

    async def test_it_goes_on_where_it_is_promised(self) -> None:
        """Over verified TLS; by MTA-STS, and by DANE."""
        for options in ({"sts": OneSts(Mode.ENFORCE, "mx.example")}, {"tlsas": [describes(MX)]}):
            sink, port = self.secured(script=self.PROMISE)
            found = await self.required(self.published(port, **options))
            self.assertEqual(found.verdict, Verdict.DELIVERED, found)
            self.assertIn("REQUIRETLS", sink.log.messages[0].mail_parameters.split())

    async def test_without_the_promise_it_comes_back(self) -> None:
        """Once, and again over a connection that is kept; other mail is not concerned."""
        sink, port = self.secured()
        channel = self.published(port, sts=OneSts(Mode.ENFORCE, "mx.example"), connections_idle_s=60.0)
        for _ in range(3):
            found = await self.required(channel)
            self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.FAILED, "5.7.30"), found)
            self.assertEqual((await self.one(channel)).verdict, Verdict.DELIVERED)
        self.assertEqual([message.mail_parameters.count("REQUIRETLS") for message in sink.log.messages], [0, 0, 0])
        sink, port = self.secure_sink(script={"EHLO": DEFAULT_EHLO})
        found = await self.required(self.published(port, sts=OneSts(Mode.TESTING, "mx.example")))
        self.assertEqual((found.verdict, found.reply.enhanced), (Verdict.FAILED, "5.7.30"), found)

    async def test_a_host_that_cannot_be_verified_makes_it_wait(self) -> None:
        """Any name will not do where anybody may have made the MX record."""
        sink, port = self.secured(script=self.PROMISE)
        self.deferred(await self.required(self.published(port)), sink, "certificate is not for x.example")
