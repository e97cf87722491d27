"""
Tests for L{qmailpy.wire.tlsa}: the table of RFC 7671 and RFC 7672 for certificates that are right and wrong.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.wire.tlsa import Tlsa, Tlsas, is_for

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@frozen
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        return self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def made(
    common: str,
    issuer: Made | None = None,
    *,
    names: tuple[str, ...] = (),
    ca: bool = False,
    until: datetime.datetime = NOW + 30 * DAY,
    key: Any = None,
) -> Made:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 60 * DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    signer = issuer.key if issuer else key
    edwards = isinstance(signer, ed25519.Ed25519PrivateKey)
    return Made(builder.sign(signer, None if edwards else hashes.SHA256()), key)


def record(usage: int, selector: int, matching: int, of: Made) -> Tlsa:
    octets = of.spki if selector else of.der
    digest = {0: octets, 1: hashlib.sha256(octets).digest(), 2: hashlib.sha512(octets).digest()}
    return Tlsa(usage, selector, matching, digest[matching])


ROOT = made("root", ca=True)
MIDDLE = made("middle", ROOT, ca=True)
LEAF = made("mx.example", MIDDLE, names=("mx.example",))
OTHER = made("other", names=("mx.example",))
OLD = made("mx.example", MIDDLE, names=("mx.example",), until=NOW - DAY)
CHAIN = [LEAF.der, MIDDLE.der, ROOT.der]
NAMES = ("mx.example", "example.org")


class MatchTests(SynchronousTestCase):
    """Which servers a record describes."""

    def kind(self, chain: list[bytes], *records: Tlsa, names: tuple[str, ...] = NAMES) -> str:
        wrong = Tlsas.usable(records).match(chain, names)
        return "" if wrong is None else wrong.kind

    def test_the_servers_own_certificate(self) -> None:
        """DANE-EE by certificate and key, in full and by digest; names, dates and issuer do not matter."""
        for selector in (0, 1):
            for matching in (0, 1, 2):
                self.assertEqual(self.kind(CHAIN, record(3, selector, matching, LEAF)), "")
                self.assertEqual(self.kind([OLD.der], record(3, selector, matching, OLD), names=("x.example",)), "")
                self.assertEqual(self.kind(CHAIN, record(3, selector, matching, MIDDLE)), "certificate-not-trusted")

    def test_an_authority(self) -> None:
        """DANE-TA: any certificate of the chain, by each way of describing it."""
        for selector in (0, 1):
            for matching in (0, 1, 2):
                for anchor in (ROOT, MIDDLE):
                    self.assertEqual(self.kind(CHAIN, record(2, selector, matching, anchor)), "")
                self.assertEqual(self.kind(CHAIN, record(2, selector, matching, OTHER)), "certificate-not-trusted")

    def test_an_authority_that_was_not_sent(self) -> None:
        """In full it is in the record (RFC 7671 s.5.2.1, s.5.2.2); a digest has nothing to be compared with."""
        sent = [LEAF.der, MIDDLE.der]
        for selector in (0, 1):
            self.assertEqual(self.kind(sent, record(2, selector, 0, ROOT)), "")
            self.assertEqual(self.kind(sent, record(2, selector, 1, ROOT)), "certificate-not-trusted")
        for key in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
            root = made("root", ca=True, key=key)
            leaf = made("mx.example", root, names=("mx.example",))
            self.assertEqual(self.kind([leaf.der], record(2, 1, 0, root)), "")
            self.assertEqual(self.kind([OTHER.der], record(2, 1, 0, root)), "certificate-not-trusted")

    def test_an_authority_asks_for_names_and_dates(self) -> None:
        """RFC 7672 s.3.2.3: either of the reference names will do."""
        anchor = record(2, 1, 1, MIDDLE)
        self.assertEqual(self.kind(CHAIN, anchor, names=("example.org", "mx.example")), "")
        self.assertEqual(self.kind(CHAIN, anchor, names=("example.org",)), "certificate-host-mismatch")
        self.assertEqual(self.kind([OLD.der, MIDDLE.der], anchor), "certificate-expired")

    def test_a_chain_that_leads_nowhere(self) -> None:
        """The described certificate lies beside the server's own, which it has not signed."""
        self.assertEqual(self.kind([OTHER.der, MIDDLE.der], record(2, 0, 1, MIDDLE)), "certificate-not-trusted")
        self.assertEqual(self.kind([], record(3, 0, 1, LEAF)), "certificate-not-trusted")
        self.assertEqual(self.kind([b"garbage", LEAF.der], record(3, 0, 1, LEAF)), "certificate-not-trusted")

    def test_one_record_that_matches_is_enough(self) -> None:
        """Rollover (RFC 7671 s.8.1): old and new stand side by side."""
        self.assertEqual(self.kind(CHAIN, record(3, 1, 1, OTHER), record(3, 1, 1, LEAF)), "")
        self.assertEqual(self.kind(CHAIN, record(3, 1, 1, OTHER), record(2, 0, 1, ROOT)), "")

    def test_only_the_strongest_digest_counts(self) -> None:
        """RFC 7671 s.9: a weaker one that matches is no match, where the same kind has a stronger one."""
        self.assertEqual(self.kind(CHAIN, record(3, 1, 2, OTHER), record(3, 1, 1, LEAF)), "certificate-not-trusted")
        self.assertEqual(self.kind(CHAIN, record(3, 1, 2, OTHER), record(3, 0, 1, LEAF)), "")
        self.assertEqual(self.kind(CHAIN, record(3, 1, 2, OTHER), record(3, 1, 0, LEAF)), "")

    @given(st.lists(st.binary(max_size=80), max_size=3), st.binary(max_size=80))
    def test_nothing_a_server_sends_breaks_it(self, chain: list[bytes], data: bytes) -> None:
        records = [Tlsa(usage, selector, 0, data) for usage in (2, 3) for selector in (0, 1)]
        self.assertIsNotNone(Tlsas((*records, record(2, 1, 0, ROOT))).match(chain, NAMES))


class UsableTests(SynchronousTestCase):
    """Which records count at all."""

    def test_what_mail_does_not_know_is_unusable(self) -> None:
        """PKIX-TA and PKIX-EE (RFC 7672 s.3.1.3), unknown parameters, data of the wrong length or that is none."""
        digest = bytes(32)
        for bad in (
            Tlsa(0, 1, 1, digest),
            Tlsa(1, 1, 1, digest),
            Tlsa(4, 1, 1, digest),
            Tlsa(3, 2, 1, digest),
            Tlsa(3, 1, 3, digest),
            Tlsa(3, 1, 1, digest[1:]),
            Tlsa(3, 1, 2, digest),
            Tlsa(3, 0, 0, b"no certificate"),
            Tlsa(2, 1, 0, b"no key"),
        ):
            self.assertFalse(bad.usable, bad)
        self.assertFalse(Tlsas.usable([Tlsa(1, 1, 1, digest)]))
        self.assertTrue(Tlsas.usable([Tlsa(1, 1, 1, digest), Tlsa(3, 1, 1, digest)]))

    def test_the_order_of_the_records_does_not_matter(self) -> None:
        """Connections are kept by them."""
        records = [record(3, 1, 1, LEAF), record(2, 1, 1, ROOT), record(3, 1, 1, OTHER)]
        self.assertEqual(hash(Tlsas.usable(records)), hash(Tlsas.usable(records[::-1])))
        self.assertEqual(Tlsas.usable(records), Tlsas.usable(records[::-1]))


class NameTests(SynchronousTestCase):
    """Whose certificate it is."""

    def test_a_common_name_counts_where_there_is_no_other(self) -> None:
        """RFC 7672 s.3.2.2."""
        self.assertTrue(is_for(made("mx.example").certificate, ["x.example", "MX.example"]))
        self.assertFalse(is_for(made("mx.example", names=("other.example",)).certificate, ["mx.example"]))

    def test_a_star_stands_for_one_label(self) -> None:
        for found in (made("*.example.org"), made("x", names=("*.example.org",))):
            self.assertTrue(is_for(found.certificate, ["mx.example.org"]))
            self.assertFalse(is_for(found.certificate, ["a.mx.example.org"]))
            self.assertFalse(is_for(found.certificate, ["example.org"]))
        self.assertFalse(is_for(made("*.org").certificate, ["example.org"]))
