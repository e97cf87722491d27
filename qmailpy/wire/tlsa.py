"""
TLSA records and what they say of a server's certificates, without I/O (RFC 6698, RFC 7671, RFC 7672 s.3).

A record has a usage (who is described), a selector (the whole certificate, or its key alone) and a matching type (in
full, or a digest). For mail only two usages count: DANE-TA(2), an authority that must have signed, and DANE-EE(3), the
server's own certificate. The others are unusable (RFC 7672 s.3.1.3), as are records with parameters nobody knows, or
with data that cannot be right.

L{Tlsas.match} decides with the chain as the server sent it:

  - DANE-EE: the server's certificate is the one described; its name and dates do not matter (RFC 7671 s.5.1).
  - DANE-TA: a certificate of the chain is the one described, or signed by the key described; the chain leads to it, its
    dates are right, and the server's certificate is for one of the names (RFC 7672 s.3.2.3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import service_identity
from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID
from OpenSSL import crypto
from service_identity.cryptography import verify_certificate_hostname

TRUST_ANCHOR = 2
END_ENTITY = 3

LIMIT = 32
"""Records of a name that are looked at; real ones are a handful."""

CHAIN_LIMIT = 10
"""Certificates of a chain that are looked at (RFC 7671 s.4.6 has clients bound their work)."""

_DIGESTS: dict[int, Callable[[bytes], bytes]] = {
    1: lambda octets: hashlib.sha256(octets).digest(),
    2: lambda octets: hashlib.sha512(octets).digest(),
}
_LENGTHS = {1: 32, 2: 64}


@frozen
class Tlsa:
    """A record."""

    usage: int
    selector: int  # 0: the certificate, 1: its SubjectPublicKeyInfo
    matching: int  # 0: in full, 1: SHA-256, 2: SHA-512
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()[:160]}"

    @property
    def usable(self) -> bool:
        """Whether mail can do something with it (RFC 7672 s.3.1, RFC 7671 s.10.3)."""
        if self.usage not in (TRUST_ANCHOR, END_ENTITY) or self.selector not in (0, 1):
            return False
        if self.matching in _LENGTHS:
            return len(self.data) == _LENGTHS[self.matching]
        return self.matching == 0 and (_certificate if self.selector == 0 else _key)(self.data) is not None


def _certificate(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _key(der: bytes) -> object | None:
    try:
        return load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        return None


@frozen(cache_hash=True)
class Tlsas:
    """The usable records of one host, the strongest digest of each kind alone (RFC 7671 s.9)."""

    records: tuple[Tlsa, ...]

    @classmethod
    def usable(cls, found: Iterable[Tlsa]) -> Tlsas:
        """The usable ones of C{found}; none may be left."""
        usable = [record for record in found if record.usable][:LIMIT]
        strongest: dict[tuple[int, int], int] = {}
        for record in usable:
            key = record.usage, record.selector
            strongest[key] = max(strongest.get(key, 0), record.matching)
        kept = (r for r in usable if r.matching == 0 or r.matching == strongest[r.usage, r.selector])
        return cls(tuple(sorted(set(kept), key=lambda r: (-r.usage, r.selector, r.matching, r.data))))

    def __bool__(self) -> bool:
        return bool(self.records)

    def match(self, chain: Sequence[bytes], names: Sequence[str]) -> Mismatch | None:
        """
        Whether a server is the one described.

        @param chain: its certificates as sent, its own first, in DER.
        @param names: host names of which its certificate must have one, for DANE-TA.
        @return: what is wrong, or C{None}.
        """
        sent = [found for der in chain[:CHAIN_LIMIT] if (found := _certificate(der)) is not None]
        if not sent or _certificate(chain[0]) is None:
            return Mismatch("certificate-not-trusted", "server sent no certificate that can be read")
        leaf = sent[0]
        if any(_describes(record, leaf) for record in self.records if record.usage == END_ENTITY):
            return None
        anchors = [record for record in self.records if record.usage == TRUST_ANCHOR]
        wrong = Mismatch("certificate-not-trusted", "certificate matches no TLSA record")
        for record in anchors:
            for anchor in _anchors(record, sent):
                said = _leads_to(leaf, sent, anchor)
                if said is not None:
                    wrong = said
                elif not is_for(leaf, names):
                    wrong = Mismatch("certificate-host-mismatch", f"certificate is not for {' or '.join(names)}")
                else:
                    return None
        return wrong


@frozen
class Mismatch:
    """Why a server is not the one described."""

    kind: str  # the result type of RFC 8460 s.4.3
    why: str


def _selected(certificate: x509.Certificate, selector: int) -> bytes:
    if selector == 0:
        return certificate.public_bytes(Encoding.DER)
    return _spki(certificate.tbs_certificate_bytes)


def _spki(tbs: bytes) -> bytes:
    """
    The SubjectPublicKeyInfo of a TBSCertificate, octet for octet: written anew, as a library does it, it may differ.

    @raise ValueError: there is none.
    """
    at, _ = _element(tbs, 0)
    if tbs[at : at + 1] == b"\xa0":  # version, which is optional
        at = sum(_element(tbs, at))
    for _ in range(5):  # serialNumber, signature, issuer, validity, subject
        at = sum(_element(tbs, at))
    inside, length = _element(tbs, at)
    return tbs[at : inside + length]


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Where the contents of the element at C{at} begin, and how long they are (X.690 s.8.1)."""
    if at + 2 > len(der):
        raise ValueError("cut short")
    length = der[at + 1]
    begin = at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[begin : begin + size], "big")
        begin += size
    if begin + length > len(der):
        raise ValueError("cut short")
    return begin, length


def _describes(record: Tlsa, certificate: x509.Certificate) -> bool:
    try:
        octets = _selected(certificate, record.selector)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return record.data == (octets if record.matching == 0 else _DIGESTS[record.matching](octets))


def _anchors(record: Tlsa, sent: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """
    The certificates a DANE-TA record makes an anchor: those of the chain it describes, itself where it is a whole one,
    and what a bare key has signed (RFC 7671 s.5.2.1: the server need not send what the record holds).
    """
    found = [certificate for certificate in sent if _describes(record, certificate)]
    if found or record.matching != 0:
        return found
    if record.selector == 0:
        whole = _certificate(record.data)
        return [] if whole is None else [whole]
    key = _key(record.data)
    return [certificate for certificate in sent if _signed_by(certificate, key)]


def _signed_by(certificate: x509.Certificate, key: object) -> bool:
    """Whether C{key} has signed the certificate."""
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    algorithm = certificate.signature_hash_algorithm
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            parameters = certificate.signature_algorithm_parameters
            scheme = parameters if isinstance(parameters, padding.PSS) else padding.PKCS1v15()
            key.verify(signature, signed, scheme, algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _leads_to(leaf: x509.Certificate, sent: Sequence[x509.Certificate], anchor: x509.Certificate) -> Mismatch | None:
    """Whether the chain leads from the server's certificate to C{anchor}, wherever in a larger chain that stands."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    others = [crypto.X509.from_cryptography(certificate) for certificate in sent]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), others).verify_certificate()
    except crypto.X509StoreContextError as error:
        # pyOpenSSL gives [number, depth, words]
        number = error.errors[0] if error.errors and isinstance(error.errors[0], int) else 0
        if number in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
            return Mismatch("certificate-expired", "certificate is not valid at this time")
        return Mismatch("certificate-not-trusted", f"certificate does not lead to the authority of the record: {error}")
    except (crypto.Error, ValueError) as error:
        return Mismatch("certificate-not-trusted", f"chain cannot be checked: {error}")
    return None


def is_for(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    """
    Whether a certificate is for one of C{names}: by its subjectAltName, and where that has no DNS name by its common
    name (RFC 7672 s.3.2.2).
    """
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        has_names = bool(alternatives.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        has_names = False
    except ValueError:  # malformed extensions
        return False
    if not has_names:
        common = [str(entry.value).lower() for entry in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        return any(_fits(pattern, name.lower()) for pattern in common for name in names)
    for name in names:
        try:
            verify_certificate_hostname(certificate, name)
        except (service_identity.VerificationError, service_identity.CertificateError, ValueError):
            continue
        return True
    return False


def _fits(pattern: str, name: str) -> bool:
    """Whether a host name is C{pattern}, whose first label may be a star (RFC 6125 s.6.4.3)."""
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:] and pattern.count(".") > 1
    return name == pattern
