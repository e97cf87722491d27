"""
Where an LDAP server is, as C{[directory] servers} writes it (RFC 4516, of which only scheme, host and port count here).

    ldap://host[:389]    ldaps://host[:636]    ldapi://%2Fpath%2Fof%2Fsocket    ldapi:///path/of/socket
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

from attrs import frozen

PORTS = {"ldap": 389, "ldaps": 636}
_URL = re.compile(r"(ldaps?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_LOCAL = re.compile(r"ldapi://([!-~]+)", re.IGNORECASE)
_EXAMPLE = 'right would be as in "ldap://ldap.example.org", "ldaps://[2001:db8::1]:636" or "ldapi:///run/slapd/ldapi"'


@frozen(kw_only=True)
class LdapUrl:
    """A server."""

    scheme: str  # "ldap", "ldaps" or "ldapi"
    host: str = ""  # a name, or an address without brackets; "" for a socket
    port: int = 0
    path: str = ""  # of a socket, absolute

    def __str__(self) -> str:
        if self.scheme == "ldapi":
            return f"ldapi://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def here(self) -> bool:
        """Whether what is said to it cannot be heard outside of this machine."""
        try:
            return self.scheme == "ldapi" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_ldap_url(text: str) -> LdapUrl:
    """
    A server of the configuration.

    @raise ValueError: it is none; the text says what would be right.
    """
    local = _LOCAL.fullmatch(text)
    if local is not None:
        path = unquote(local[1])
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f'"{text}" names no socket; {_EXAMPLE}')
        return LdapUrl(scheme="ldapi", path=path)
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is no LDAP server; {_EXAMPLE}')
    scheme, host = found[1].lower(), found[2].lower()
    port = int(found[3]) if found[3] else PORTS[scheme]
    if not 0 < port < 65536:
        raise ValueError(f'"{text}" has no port; {_EXAMPLE}')
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f'"{text}" has no IPv6 address; {_EXAMPLE}') from None
    return LdapUrl(scheme=scheme, host=host, port=port)
