"""
TLS towards other servers: contexts, names, and what a handshake came to.

TLS 1.2 at least (RFC 8996). Certificates are looked at only where a policy asks for it: in all other cases nothing is
won by refusing one, since without TLS the mail would travel in the clear (RFC 7435). To verify means a chain to the
trust store and a name: that of the exchanger, or the domain the mail is for (RFC 6125, RFC 7817 s.3); with DANE it is
what L{qmailpy.wire.tlsa} says, and the trust store has no part in it.

What fails and how: a trust store that cannot be read is an L{OSError} at the start of the channel; a handshake that
fails ends the connection, and L{why} says in words what OpenSSL says in numbers.
"""

from __future__ import annotations

import os
from typing import Any

import service_identity
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.remote.mx import is_address
from qmailpy.remote.peers import Peer
from qmailpy.wire.client_events import Tls
from qmailpy.wire.tlsa import CHAIN_LIMIT, Mismatch

_EXPIRED = "certificate-expired"
_UNTRUSTED = "certificate-not-trusted"

_CERTIFICATE_TROUBLES = {
    9: Mismatch(_EXPIRED, "certificate is not valid yet"),
    10: Mismatch(_EXPIRED, "certificate has expired"),
    18: Mismatch(_UNTRUSTED, "certificate is self-signed"),
    19: Mismatch(_UNTRUSTED, "certificate of an unknown authority"),
    20: Mismatch(_UNTRUSTED, "certificate of an unknown authority"),
    21: Mismatch(_UNTRUSTED, "certificate of an unknown authority"),
    23: Mismatch(_UNTRUSTED, "certificate is revoked"),
}
"""Results of OpenSSL's verification (X509_V_ERR_*) that are met in practice."""


class _Connection(SSL.Connection):
    """A connection that remembers why its peer's certificate was refused."""

    refused: Mismatch | None = None
    watched = False  # remember only


class Contexts:
    """The TLS contexts of a channel: made once, for all its connections."""

    def __init__(self, ca_file: str = "", *, needed: bool = True) -> None:
        """
        @param ca_file: PEM with the authorities to trust; "" when no destination is verified. Read here: blocks.
        @param needed: what is in the configuration cannot be done without.
        @raise OSError: it cannot be read, or holds no certificate, and is needed.
        """
        self._loose = _context()
        self._strict: SSL.Context | None = None
        self.missing = ""  # why nobody can be verified
        if not ca_file:
            self.missing = "no trust store"
            return
        try:
            self._strict = _strict(ca_file)
        except OSError as error:
            if needed:
                raise
            self.missing = str(error)

    def connection(self, peer: Peer) -> SSL.Connection:
        """A new connection, as L{creator} makes them."""
        return self._creator(peer).clientConnectionForTLS(None)

    def creator(self, peer: Peer) -> IOpenSSLClientConnectionCreator:
        """
        What C{startTLS} wants.

        The name for SNI (RFC 6066 s.3) is the peer's, or with DANE that of its records; addresses are not sent.
        """
        return self._creator(peer)

    def _creator(self, peer: Peer) -> _Creator:
        context = self._strict if peer.tls is Tls.VERIFY or peer.watched else self._loose
        if context is None:
            raise RuntimeError("verification without a trust store")
        name = peer.sni or peer.host
        return _Creator(context, b"" if is_address(name) else name.rstrip(".").encode("ascii", "replace"), peer.watched)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    def __init__(self, context: SSL.Context, name: bytes, watched: bool) -> None:
        self._context = context
        self._name = name
        self._watched = watched

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = _Connection(self._context, None)
        connection.watched = self._watched
        if self._name:
            connection.set_tlsext_host_name(self._name)
        return connection


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # idle connections need no buffers
    return context


def _strict(ca_file: str) -> SSL.Context:
    """
    @raise OSError: there are no certificates in it.
    """
    os.stat(ca_file)  # OpenSSL's own words for a missing file tell nobody anything
    context = _context()
    try:
        context.load_verify_locations(ca_file)
    except SSL.Error as error:
        raise OSError(f"{ca_file}: no certificates can be read from it: {_words(error)}") from None
    context.set_verify(SSL.VERIFY_PEER, _verified)
    return context


def _verified(connection: SSL.Connection, certificate: object, error: int, depth: int, good: int) -> bool:
    """OpenSSL asks, for each certificate of the chain; what it found stands, we only remember the reason."""
    ours = connection if isinstance(connection, _Connection) else None
    if not good and ours is not None and ours.refused is None:
        other = Mismatch(_UNTRUSTED, f"certificate does not verify (error {error})")
        ours.refused = _CERTIFICATE_TROUBLES.get(error, other)
    return bool(good) or (ours is not None and ours.watched)


def secured(transport: Any) -> str:
    """What protects a connection, as in C{TLSv1.3/TLS_AES_256_GCM_SHA384}; "" when nothing does."""
    connection = _handle(transport)
    cipher = connection.get_cipher_name() if connection is not None else None
    return f"{connection.get_protocol_version_name()}/{cipher}" if connection is not None and cipher else ""


def mismatch(transport: Any, peer: Peer) -> Mismatch | None:
    """
    What is wrong with the peer's certificate, as far as its policy has it looked at; C{None} when it is right.
    """
    if not peer.names and peer.tlsas is None:
        return None
    connection = _handle(transport)
    if connection is None:
        return Mismatch("validation-failure", "no TLS")
    if peer.tlsas is not None:
        chain = connection.get_peer_cert_chain(as_cryptography=True) or ()
        return peer.tlsas.match([each.public_bytes(Encoding.DER) for each in chain[:CHAIN_LIMIT]], peer.names)
    if isinstance(connection, _Connection) and connection.refused is not None:
        return connection.refused
    for name in peer.names:
        try:
            (verify_ip_address if is_address(name) else verify_hostname)(connection, name)
        except (service_identity.VerificationError, service_identity.CertificateError, ValueError):
            continue
        return None
    return Mismatch("certificate-host-mismatch", f"certificate is not for {' or '.join(peer.names)}")


def why(transport: Any, reason: Failure) -> Mismatch:
    """
    Why a connection was lost during its handshake; without words when TLS has nothing to do with it.
    """
    connection = _handle(transport)
    if isinstance(connection, _Connection) and connection.refused is not None:
        return connection.refused
    return Mismatch("validation-failure", _words(reason.value) if isinstance(reason.value, SSL.Error) else "")


def _words(error: BaseException) -> str:
    """OpenSSL's errors are lists of (library, function, reason)."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries[:3]) or type(error).__name__


def _handle(transport: Any) -> SSL.Connection | None:
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    return handle if isinstance(handle, SSL.Connection) else None
