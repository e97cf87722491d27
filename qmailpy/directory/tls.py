"""
TLS towards LDAP servers: contexts, and the check of names (RFC 4513 s.3.1.3).

TLS 1.2 at least (RFC 8996). With C{verify} the certificate must be of an authority in C{ca_file} and for the name or
address of the configured URL (RFC 6125); what the server calls itself does not count.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any

import service_identity
from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """How a connection to one host gets its TLS: a L{Secure<qmailpy.directory.connection.Secure>}."""

    def __init__(self, host: str, *, starttls: bool, ca_file: str) -> None:
        """
        @param host: name or address in the URL.
        @param starttls: see L{Secure}.
        @param ca_file: PEM with the authorities to trust; "" = any certificate will do. Read here: blocks.
        @raise OSError: it cannot be read, or holds no certificate.
        """
        self.starttls = starttls
        self._host = host
        self._strict = bool(ca_file)
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        if ca_file:
            os.stat(ca_file)  # OpenSSL's own words for a missing file tell nobody anything
            try:
                self._context.load_verify_locations(ca_file)
            except SSL.Error:
                raise OSError(f"{ca_file}: no certificates can be read from it") from None
            self._context.set_verify(SSL.VERIFY_PEER, lambda connection, certificate, error, depth, good: bool(good))

    def creator(self) -> IOpenSSLClientConnectionCreator:
        """What C{startTLS} wants."""
        return self

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Twisted calls it."""
        connection = SSL.Connection(self._context, None)
        if not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("ascii", "replace"))
        return connection

    def mismatch(self, transport: Any) -> str:
        """What is wrong with the name of the server's certificate, "" when nothing is or it does not matter."""
        if not self._strict:
            return ""
        try:
            (verify_ip_address if _is_address(self._host) else verify_hostname)(transport.getHandle(), self._host)
        except (service_identity.VerificationError, service_identity.CertificateError, ValueError):
            return f"its certificate is not for {self._host}"
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
