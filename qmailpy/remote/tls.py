"""
TLS towards other servers: contexts, names, and what a handshake came to.

TLS 1.2 at least (RFC 8996). Certificates are looked at only where the policy is C{verify}: in all other cases
nothing is won by refusing one, since without TLS the mail would travel in the clear (RFC 7435). To verify means a chain
to the trust store and a name: that of the exchanger, or the domain the mail is for (RFC 6125, RFC 7817 s.3).

What fails and how: a trust store that cannot be read is an L{OSError} at the start of the channel; a handshake that
fails ends the connection, and L{why} says in words what OpenSSL says in numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import service_identity
from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.remote.mx import is_address

_CERTIFICATE_TROUBLES = {
    9: "certificate is not valid yet",
    10: "certificate has expired",
    18: "certificate is self-signed",
    19: "certificate of an unknown authority",
    20: "certificate of an unknown authority",
    21: "certificate of an unknown authority",
    23: "certificate is revoked",
}
"""Results of OpenSSL's verification (X509_V_ERR_*) that are met in practice."""


class _Connection(SSL.Connection):
    """A connection that remembers why its peer's certificate was refused."""

    refused = ""


class Contexts:
    """The TLS contexts of a channel: made once, for all its connections."""

    def __init__(self, ca_file: str = "") -> None:
        """
        @param ca_file: PEM with the authorities to trust; "" when no destination is verified. Read here: blocks.
        @raise OSError: it cannot be read, or holds no certificate.
        """
        self._loose = _context()
        self._strict: SSL.Context | None = None
        if ca_file:
            os.stat(ca_file)  # OpenSSL's own words for a missing file tell nobody anything
            self._strict = _context()
            try:
                self._strict.load_verify_locations(ca_file)
            except SSL.Error as error:
                raise OSError(f"{ca_file}: no certificates can be read from it: {_words(error)}") from None
            self._strict.set_verify(SSL.VERIFY_PEER, _verified)

    def creator(self, host: str, *, verify: bool) -> IOpenSSLClientConnectionCreator:
        """
        What C{startTLS} wants.

        @param host: the peer's name, for SNI (RFC 6066 s.3); addresses are not sent.
        @param verify: whether the peer must have a certificate of a trusted authority.
        """
        context = self._strict if verify else self._loose
        if context is None:
            raise RuntimeError("verification without a trust store")
        return _Creator(context, b"" if is_address(host) else host.rstrip(".").encode("ascii", "replace"))


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, context: SSL.Context, name: bytes) -> None:
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = _Connection(self._context, None)
        if self._name:
            connection.set_tlsext_host_name(self._name)
        return connection


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # idle connections need no buffers
    return context


def _verified(connection: SSL.Connection, certificate: object, error: int, depth: int, good: int) -> bool:
    """OpenSSL asks, for each certificate of the chain; what it found stands, we only remember the reason."""
    if not good and isinstance(connection, _Connection) and not connection.refused:
        connection.refused = _CERTIFICATE_TROUBLES.get(error, f"certificate does not verify (error {error})")
    return bool(good)


def secured(transport: Any) -> str:
    """What protects a connection, as in C{TLSv1.3/TLS_AES_256_GCM_SHA384}; "" when nothing does."""
    connection = _handle(transport)
    cipher = connection.get_cipher_name() if connection is not None else None
    return f"{connection.get_protocol_version_name()}/{cipher}" if connection is not None and cipher else ""


def mismatch(transport: Any, names: Sequence[str]) -> str:
    """
    What is wrong with the name of the peer's certificate; "" when it is for one of C{names}.
    """
    connection = _handle(transport)
    if connection is None:
        return "no TLS"
    for name in names:
        try:
            (verify_ip_address if is_address(name) else verify_hostname)(connection, name)
        except (service_identity.VerificationError, service_identity.CertificateError, ValueError):
            continue
        return ""
    return f"certificate is not for {' or '.join(names)}"


def why(transport: Any, reason: Failure) -> str:
    """
    Why a connection was lost during its handshake, or "" when TLS has nothing to do with it.
    """
    connection = _handle(transport)
    if isinstance(connection, _Connection) and connection.refused:
        return connection.refused
    return _words(reason.value) if isinstance(reason.value, SSL.Error) else ""


def _words(error: BaseException) -> str:
    """OpenSSL's errors are lists of (library, function, reason)."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries[:3]) or type(error).__name__


def _handle(transport: Any) -> SSL.Connection | None:
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    return handle if isinstance(handle, SSL.Connection) else None
