"""
TLS for servers: the certificates of a home, and how a connection gets one by the name the client asks for (SNI).

    HOME/tls/cert.pem, key.pem          the certificate of the server's own name: who names no other gets this
    HOME/tls/NAME/cert.pem, key.pem     further ones, for the names in them and for NAME

A L{Certificates} is what the sessions of all listeners share, and all that a protocol needs of this module::

    transport.startTLS(certificates)            begin TLS, at any time of the connection
    Secured.of(transport)                       what came of it, once something was received

L{Certificates.use} changes the certificates of connections to come; those there are go on with what they have.

TLS 1.2 with forward secrecy and AEAD, and TLS 1.3 (RFC 8996, RFC 9325); no compression, no renegotiation.

What fails and how: a pair that cannot be used is a L{ConfigError} with a line for each, and nothing changes. A
handshake that fails ends the connection, whose protocol is told by its connectionLost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from qmailpy.errors import ConfigError
from qmailpy.servers.keys import OWN, Pair, thd_read_pairs
from qmailpy.wire.sasl import TLS_EXPORTER, TLS_SERVER_END_POINT

__all__ = ["OWN", "Certificates", "Pair", "Secured", "bindings", "thd_read_pairs"]

# RFC 9325 s.4.2: ephemeral keys and AEAD only. With OpenSSL's names and the registry's, which Received is to show.
_SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305": "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 s.2


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """The certificates connections are made with; give it to C{startTLS}, or to C{TLSMemoryBIOFactory}."""

    def __init__(self, pairs: Mapping[str, Pair], verify: int = SSL.VERIFY_NONE) -> None:
        """
        @param verify: OpenSSL's mode: whether clients are asked for certificates. See L{asking}.
        @raise ConfigError: as L{use}.
        """
        self._pairs = pairs
        self._verify = verify
        self._asking: dict[bool, Certificates] = {}
        self._named = _contexts(pairs, self._named_by_client, verify)

    def asking(self, *, required: bool) -> Certificates:
        """
        The same for connections whose clients are asked for a certificate; they change together.

        Any is taken: whose it is, and whether that is to be believed, is for others to say.

        @param required: without one there is no connection.
        """
        found = self._asking.get(required)
        if found is None:
            more = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if required else 0
            found = self._asking[required] = Certificates(self._pairs, SSL.VERIFY_PEER | more)
        return found

    def use(self, pairs: Mapping[str, Pair]) -> None:
        """
        Take these from now on; for each name the first pair that has it.

        @param pairs: by name, as L{thd_read_pairs} gives them.
        @raise ConfigError: one is unusable, or there is no L{OWN}; then nothing changes.
        """
        everybody = (self, *self._asking.values())
        made = [_contexts(pairs, one._named_by_client, one._verify) for one in everybody]
        for one, named in zip(everybody, made, strict=True):
            one._pairs, one._named = pairs, named

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Twisted asks: the OpenSSL side of a connection."""
        return SSL.Connection(self._named[OWN], None)

    def _named_by_client(self, connection: SSL.Connection) -> None:
        """RFC 6066 s.3: the client names a host. One we have nothing for gets our own certificate, not an error."""
        context = self._look_up(connection.get_servername())
        if context is not None:
            connection.set_context(context)

    def _look_up(self, octets: bytes | None) -> SSL.Context | None:
        name = (octets or b"").decode("ascii", "replace").lower().rstrip(".")
        return self._named.get(name) or self._named.get("*." + name.partition(".")[2]) if name else None


class _Context(SSL.Context):
    """A context, with what L{bindings} needs of its certificate."""

    end_point = b""


def _contexts(
    pairs: Mapping[str, Pair], named_by_client: Callable[[SSL.Connection], None], verify: int
) -> dict[str, _Context]:
    """
    A context for each name.

    @raise ConfigError: as L{Certificates.use}.
    """
    problems = [] if OWN in pairs else ["tls/cert.pem: there is none"]
    named: dict[str, _Context] = {}
    for name, pair in pairs.items():
        where = f"tls/{name}/cert.pem" if name else "tls/cert.pem"
        try:
            context, names = _context(pair)
        except (ValueError, TypeError, SSL.Error) as error:
            said = " ".join(str(error).split()).partition(". See http")[0][:200]
            why = said or type(error).__name__
            problems.append(f"{where} and its key cannot be used ({why}); what would be right tells: qmailpy check")
            continue
        context.set_tlsext_servername_callback(named_by_client)
        if verify != SSL.VERIFY_NONE:
            context.set_verify(verify, lambda *_: True)
            # A resumed session would come without the certificates it began with.
            context.set_options(SSL.OP_NO_TICKET)
            context.set_session_id(b"qmailpy")
        for each in (name, *names):
            named.setdefault(each.lower(), context)
    if problems:
        raise ConfigError(tuple(problems))
    return named


def _context(pair: Pair) -> tuple[_Context, Sequence[str]]:
    """
    A context for a pair, and the names it is for.

    @raise ValueError: and others: it is none.
    """
    chain = x509.load_pem_x509_certificates(pair.certificate)
    certificate = chain[0]
    key = serialization.load_pem_private_key(pair.key, None)
    context = _Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    # Thousands of connections are idle: OpenSSL need not keep its buffers (32 KiB each) for them.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets resume sessions without memory of ours
    context.set_cipher_list(":".join(_SUITES).encode())
    context.use_certificate(certificate)
    for above in chain[1:]:
        context.add_extra_chain_cert(above)
    context.use_privatekey(key)  # type: ignore[arg-type]
    context.check_privatekey()
    context.end_point = _end_point(certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return context, names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        return context, ()


def _end_point(certificate: x509.Certificate) -> bytes:
    """The C{tls-server-end-point} binding (RFC 5929 s.4.1), b"" where it is not defined."""
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        return b""
    weak = isinstance(algorithm, hashes.MD5 | hashes.SHA1)
    return hashlib.new(
        "sha256" if weak else algorithm.name.replace("-", "_"), certificate.public_bytes(serialization.Encoding.DER)
    ).digest()


@frozen(kw_only=True)
class Secured:
    """What a handshake came to."""

    version: str  # "TLSv1.3"
    cipher: str  # by the IANA's registry: "TLS_AES_256_GCM_SHA384"

    @classmethod
    def of(cls, transport: Any) -> Secured | None:
        """
        What protects a transport, C{None} when nothing does (yet).

        @param transport: one that L{Certificates} were given to.
        """
        connection = _connection(transport)
        name = connection.get_cipher_name() if connection is not None else None
        if connection is None or name is None:
            return None
        return cls(version=connection.get_protocol_version_name(), cipher=_SUITES.get(name, name))


def bindings(transport: Any) -> Mapping[str, bytes]:
    """The channel bindings of a transport under TLS, for L{qmailpy.wire.sasl.server}; empty without TLS."""
    connection = _connection(transport)
    if connection is None or connection.get_cipher_name() is None:
        return {}
    context = connection.get_context()
    found = {TLS_SERVER_END_POINT: context.end_point if isinstance(context, _Context) else b""}
    if connection.get_protocol_version_name() == "TLSv1.3":
        found[TLS_EXPORTER] = connection.export_keying_material(_EXPORTER_LABEL, 32)
    return {name: data for name, data in found.items() if data}


def _connection(transport: Any) -> SSL.Connection | None:
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    return handle if isinstance(handle, SSL.Connection) else None
