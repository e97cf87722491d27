"""
DKIM signatures (RFC 6376) on mail we send: keys, the DNS record that tells of them, and the signer.

A key is a PEM file (PKCS #8 or PKCS #1, RSA or Ed25519, without a password) below HOME, made by C{qmailpy dkim make},
root's and readable for the workers' group as L{qmailpy.routing.srs_secret} is. It is read when something is to be
signed, so that another can be put in its place at any time. The DNS holds its public half, under
C{SELECTOR._domainkey.DOMAIN}.

The signing itself is dkimpy's, whose RSA is slow (some 20 ms): it runs on a thread.
"""

from __future__ import annotations

import base64
import os

import dkim
from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from qmailpy.disk.rights import read_plain
from qmailpy.errors import QmailpyError

RSA_BITS = 2048
"""Of a key made here (RFC 8301 s.3.2). Longer ones do not fit into the answers of all resolvers."""

RSA_LEAST = 1024
"""Verifiers take nothing below (RFC 8301 s.3.2)."""

_FILE_OCTETS = 65536

FIELDS = (
    *("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references"),
    *("mime-version", "content-type", "content-transfer-encoding", "auto-submitted"),
    *("list-id", "list-post", "list-unsubscribe", "list-unsubscribe-post"),
    *("tls-required", "tls-report-domain", "tls-report-submitter"),
)
"""
Header fields that are signed where they are there: who reads, answers or sorts a message goes by them
(RFC 6376 s.5.4.1), and those of TLS reports (RFC 8460 s.5.3).
"""

_ONCE = ("from", "to", "cc", "subject", "date", "message-id", "content-type")
"""Nobody may add a further one of these (RFC 6376 s.8.15)."""


class DkimError(QmailpyError):
    """A key cannot be used, or a message not be signed; the text says why."""


@frozen(kw_only=True)
class Signer:
    """Signs in the name of a domain."""

    domain: str  # in its ASCII form
    selector: str
    algorithm: str  # "rsa-sha256" or "ed25519-sha256" (RFC 8463)
    secret: bytes = field(repr=False)  # as dkimpy wants it

    def thd_sign(self, message: bytes, *, report: bool = False) -> bytes:
        """
        The DKIM-Signature field of a message, with its CRLF, to be put before it. Takes some 20 ms with RSA.

        @param message: with lines that end in CRLF, as it is sent; whole, in memory.
        @param report: it is a report on TLS, whose signatures have no C{l=} (RFC 8460 s.3).
        @raise DkimError: it is none that can be signed.
        """
        try:
            signing = dkim.DKIM(message, signature_algorithm=self.algorithm.encode(), linesep=b"\r\n", tlsrpt=report)
            signing.add_frozen([name.encode() for name in _ONCE])
            signing.should_sign = {name.encode() for name in FIELDS}
            found: bytes = signing.sign(
                self.selector.encode("ascii"),
                self.domain.encode("ascii"),
                self.secret,
                canonicalize=(b"relaxed", b"relaxed"),
                include_headers=signing.default_sign_headers(),
            )
        except (dkim.DKIMException, LookupError, ValueError) as error:
            raise DkimError(str(error) or type(error).__name__) from error
        return found


def key_path(home: str, selector: str, given: str = "") -> str:
    """
    Where a selector's key is.

    @param given: what the configuration says, relative to HOME; "" = C{etc/SELECTOR.dkim.pem}.
    """
    return os.path.join(home, given or f"etc/{selector}.dkim.pem")


def thd_signer(path: str, domain: str, selector: str) -> Signer:
    """
    The signer with the key in a file.

    @raise OSError: it cannot be read.
    @raise DkimError: it is no key.
    """
    key = thd_read_key(path)
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = "rsa-sha256"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    else:
        algorithm, secret = "ed25519-sha256", base64.b64encode(key.private_bytes_raw())
    return Signer(domain=domain, selector=selector, algorithm=algorithm, secret=secret)


Key = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def thd_read_key(path: str) -> Key:
    """
    @raise OSError: the file cannot be read.
    @raise DkimError: it is no key that DKIM knows.
    """
    try:
        key = serialization.load_pem_private_key(read_plain(path, _FILE_OCTETS), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise DkimError("is no PEM file with a private key and no password") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < RSA_LEAST:
            raise DkimError(f"has {key.key_size} bits, which nobody takes")
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    raise DkimError("is neither an RSA key nor an Ed25519 key")


def thd_make(path: str, *, kind: str = "rsa", gid: int | None = None) -> None:
    """
    Make a key; takes a moment.

    @param kind: "rsa" or "ed25519".
    @param gid: the group that reads it; C{None} = only its owner does.
    @raise FileExistsError: there is one.
    @raise OSError: it cannot be made; nothing is left.
    """
    key: Key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else rsa.generate_private_key(65537, RSA_BITS)
    octets = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if gid is not None:
            os.fchown(handle, -1, gid)
            os.fchmod(handle, 0o640)
        os.write(handle, octets)
        os.fsync(handle)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(handle)


def record_name(selector: str, domain: str) -> str:
    """Under which name the public half is in the DNS (RFC 6376 s.3.6.2.1)."""
    return f"{selector}._domainkey.{domain}"


def record(key: Key, *, service: str = "") -> str:
    """
    The text of the TXT record with the public half of a key (RFC 6376 s.3.6.1, RFC 8463 s.4).

    @param service: what may be signed with it: "tlsrpt" (RFC 8460 s.3); "" = anything.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        kind = "rsa"
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    else:
        kind, public = "ed25519", key.public_key().public_bytes_raw()
    said = f" s={service};" if service else ""
    return f"v=DKIM1; k={kind};{said} p={base64.b64encode(public).decode()}"
