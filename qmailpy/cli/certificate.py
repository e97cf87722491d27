"""
The self-made TLS certificate of a new home.

ECDSA on P-256, the name in the subject alternative names (RFC 6125 s.6.4), valid for ten years: nothing renews it by
itself, mail servers do not check each other's certificates unless told to, and one that has run out would only break
the clients that were told to trust it. Whoever wants a public one puts it in its place.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEARS = 10

SOON_DAYS = 14
"""So long before its end a certificate is warned of."""

CERTIFICATE = "tls/cert.pem"
KEY = "tls/key.pem"
"""Where they are below HOME."""


def self_signed(hostname: str, now: datetime.datetime) -> tuple[bytes, bytes]:
    """
    Make a key and a certificate for it.

    @param hostname: the name clients connect to.
    @param now: with its time zone; the certificate is valid from an hour before, for clocks that differ.
    @return: the certificate and the key (PKCS #8, not encrypted), both PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS + YEARS // 4))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def examine_pair(certificate: bytes, key: bytes, hostname: str, now: datetime.datetime) -> tuple[list[str], list[str]]:
    """
    What is wrong with a certificate and its key.

    @param certificate: PEM, perhaps with the chain behind it.
    @return: errors and warnings, a line each; the reader knows which files it is about.
    """
    try:
        found = x509.load_pem_x509_certificates(certificate)[0]
    except ValueError:
        return ["the certificate is no PEM file; right would be -----BEGIN CERTIFICATE-----"], []
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        return ["the key is no PEM file without a password; right would be -----BEGIN PRIVATE KEY-----"], []
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != found.public_key().public_bytes(*form):
        return ["the key is not that of the certificate; right would be the pair that was made together"], []
    warnings = []
    if found.not_valid_after_utc < now:
        warnings.append(f"the certificate has run out on {found.not_valid_after_utc:%Y-%m-%d}")
    elif found.not_valid_after_utc < now + datetime.timedelta(days=SOON_DAYS):
        warnings.append(f"the certificate runs out on {found.not_valid_after_utc:%Y-%m-%d}; a new one is due")
    elif found.not_valid_before_utc > now:
        warnings.append(f"the certificate is valid only from {found.not_valid_before_utc:%Y-%m-%d} on")
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [name.lower() for name in alternative.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        names = []
    wild = "*." + hostname.partition(".")[2]
    if hostname.lower() not in names and wild.lower() not in names:
        warnings.append(f"the certificate is not for {hostname}, but for {', '.join(names) or 'no name'}")
    return [], warnings
