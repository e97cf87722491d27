"""
What is wrong with the name a client gives itself in EHLO or HELO. Pure; RFC 5321 s.4.1.1.1 and s.4.1.4.
"""

from __future__ import annotations

from ipaddress import ip_address

from qmailpy.config.forms import is_domain

SYNTAX, OURS, LITERAL = "helo_syntax", "helo_ours", "helo_literal"


def fault(helo: str, hostname: str, client: str, ours: str) -> str:
    """
    The first of these that holds: L{SYNTAX}, it is no full host name and no address literal; L{OURS}, it is ours;
    L{LITERAL}, it is the address of another. "" when none does.

    @param helo: as it was given.
    @param hostname: our name.
    @param client: the client's IP address.
    @param ours: the IP address it is connected to.
    """
    if helo.startswith("["):
        if not helo.endswith("]"):
            return SYNTAX
        text = helo[1:-1]
        try:
            literal = str(ip_address(text[5:] if text[:5].lower() == "ipv6:" else text))
        except ValueError:
            return SYNTAX
        if literal == client:
            return ""
        return OURS if literal == ours else LITERAL
    name = helo.lower().rstrip(".")
    if name in (hostname.lower(), "localhost"):
        return OURS
    if "." not in name or not is_domain(name) or name.rpartition(".")[2].isdigit():
        return SYNTAX
    return ""
