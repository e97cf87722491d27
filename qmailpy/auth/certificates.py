"""
Clients that show a certificate: whose it is, for a login without a password (SASL EXTERNAL, RFC 4422 appendix A).

That a client has the key of its certificate TLS has proved by then. Whom it stands for is told

 1. by a line of C{client_map_file} with its SHA-256 fingerprint: any certificate will do then, self-made ones too;
 2. else by the mail address in it (subject alternative name, rfc822Name), if an authority of C{client_ca_file} has
    issued it, it is valid now, and it is not for servers alone.

Whoever issues certificates there decides who may be whom; so it should be an authority of one's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto

from qmailpy.config.schema import Config, ListenerConfig
from qmailpy.errors import ConfigError

NONE = "none"
MOST_OCTETS = 1 << 20

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_CLIENTS = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class ClientCertificates:
    """Whom a listener knows by certificate."""

    def __init__(self, authorities: Sequence[x509.Certificate], logins: Mapping[str, str]) -> None:
        """@param logins: by the SHA-256 fingerprint of a certificate, in lower-case hex."""
        self._logins = logins
        self._store: crypto.X509Store | None = None
        if authorities:
            self._store = crypto.X509Store()
            for one in authorities:
                self._store.add_cert(crypto.X509.from_cryptography(one))

    def login(self, transport: Any) -> str:
        """Who is at the other end of a transport under TLS; "" when there is no certificate, or nobody's."""
        handle = transport.getHandle()
        if not isinstance(handle, SSL.Connection):
            return ""
        found = handle.get_peer_certificate(as_cryptography=True)
        if found is None:
            return ""
        mapped = self._logins.get(found.fingerprint(hashes.SHA256()).hex())
        if mapped is not None:
            return mapped
        chain = handle.get_peer_cert_chain(as_cryptography=True) or []
        return _address(found) if self._issued(found, chain[1:]) else ""

    def _issued(self, found: x509.Certificate, chain: Sequence[x509.Certificate]) -> bool:
        """Whether an authority of ours stands for it."""
        if self._store is None:
            return False
        between = [crypto.X509.from_cryptography(one) for one in chain]
        try:
            crypto.X509StoreContext(self._store, crypto.X509.from_cryptography(found), between).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True


def _address(found: x509.Certificate) -> str:
    """The first mail address in a certificate; "" when there is none, or it is not for clients."""
    try:
        extensions = found.extensions
        usage = [one.value for one in extensions if isinstance(one.value, x509.ExtendedKeyUsage)]
        names = [one.value for one in extensions if isinstance(one.value, x509.SubjectAlternativeName)]
        if usage and not any(purpose in usage[0] for purpose in _CLIENTS):
            return ""
        addresses = names[0].get_values_for_type(x509.RFC822Name) if names else []
    except ValueError:  # not of a form that can be read
        return ""
    return addresses[0] if addresses and addresses[0].isprintable() else ""


def thd_read_clients(config: Config) -> dict[str, ClientCertificates]:
    """
    Whom the listeners know by certificate, by listener; those that ask for none are left out. Blocks.

    @raise ConfigError: a file cannot be used; names every problem.
    """
    found: dict[str, ClientCertificates] = {}
    problems: list[str] = []
    for listener in config.listeners:
        if listener.client_certificates != NONE:
            try:
                found[listener.name] = _thd_read(config.home, listener)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(tuple(problems))
    return found


def _thd_read(home: str, listener: ListenerConfig) -> ClientCertificates:
    authorities: list[x509.Certificate] = []
    logins: dict[str, str] = {}
    problems: list[str] = []
    for key in ("client_ca_file", "client_map_file"):
        if not getattr(listener, key):
            continue
        path = os.path.join(home, getattr(listener, key))
        try:
            with open(path, "rb") as source:
                octets = source.read(MOST_OCTETS)
            if key == "client_ca_file":
                authorities = x509.load_pem_x509_certificates(octets)
            else:
                logins = _lines(octets)
        except OSError as error:
            problems.append(f"[[listener]] {listener.name} {key}: {path}: cannot be read: {error.strerror or error}")
        except ValueError as error:
            said = "holds no PEM certificate" if key == "client_ca_file" else str(error)
            problems.append(f"[[listener]] {listener.name} {key}: {path}: {said}")
    if problems:
        raise ConfigError(tuple(problems))
    return ClientCertificates(authorities, logins)


def _lines(octets: bytes) -> dict[str, str]:
    """
    The lines of a map: a fingerprint and a login.

    @raise ValueError: one is none.
    """
    found = {}
    for number, line in enumerate(octets.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        mark = words[0].replace(":", "").lower()
        if len(words) != 2 or _FINGERPRINT.fullmatch(mark) is None:
            text = "is no SHA-256 fingerprint with a login behind it; see: openssl x509 -fingerprint -sha256"
            raise ValueError(f"line {number} {text}")
        found[mark] = words[1]
    return found
