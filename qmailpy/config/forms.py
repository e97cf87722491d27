"""
The forms a value of the configuration may have: each function is a check, or makes one.

A check takes the value, already of the right type, and says what is wrong with it and what would be right; "" when it
is good. Which key has which is in L{qmailpy.config.checks}.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any

from qmailpy.config.endpoint import parse_endpoint
from qmailpy.config.ldapurl import parse_ldap_url

Check = Callable[[Any], str]

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def is_domain(text: str) -> bool:
    """Whether C{text} is a host or domain name in its ASCII form (RFC 1035, RFC 1123); the case does not matter."""
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def is_address(text: str) -> bool:
    """Whether C{text} is C{local@domain} with an ordinary (dot-atom) local part."""
    local, _, domain = text.rpartition("@")
    return len(local) <= 64 and bool(_ATOM.fullmatch(local)) and is_domain(domain)


def plain_text(value: str) -> str:
    """The check of text keys that have none of their own."""
    return "holds control characters; right would be one line of text" if not value.isprintable() else ""


def plain_number(value: float) -> str:
    """The check of number keys that have none of their own."""
    return "" if math.isfinite(value) and value >= 0 else f"{value} is out of range; right would be 0 or more"


def between(low: float, high: float | None = None) -> Check:
    """A number from C{low} to C{high}, both included."""

    def check(value: float) -> str:
        if math.isfinite(value) and value >= low and (high is None or value <= high):
            return ""
        return f"{value} is out of range; right would be {low}" + (" or more" if high is None else f" to {high}")

    return check


def either(value: float, check: Check) -> Check:
    """One number, or what a check says."""
    return lambda given: "" if given == value else check(given)


def one_of(*words: str) -> Check:
    """One word of a closed set."""

    def check(value: str) -> str:
        return (
            "" if value in words else f'"{value}" is not known; right would be ' + " or ".join(f'"{w}"' for w in words)
        )

    return check


def every(check: Check, *, empty: bool = True) -> Check:
    """Each element of a list."""

    def check_all(values: tuple[Any, ...]) -> str:
        if not values and not empty:
            return "is empty; right would be one element at least"
        return next((said for said in map(check, values) if said), "")

    return check_all


def optional(check: Check) -> Check:
    """Text that may be empty."""
    return lambda value: check(value) if value else ""


def matching(pattern: str, what: str) -> Check:
    """Text that matches a regular expression as a whole."""
    compiled = re.compile(pattern)
    return lambda value: "" if compiled.fullmatch(value) else f'"{value}" is wrong; right would be {what}'


def name(value: str) -> str:
    """A short name, safe in file names and log lines."""
    return (
        "" if _NAME.fullmatch(value) else f'"{value}" is no name; right would be at most 32 letters, digits, "_", "-"'
    )


def in_dns(value: str) -> str:
    """
    What is wrong with a name in letters that the DNS has not, which addresses are compared with in its form there (RFC
    5890); empty: it is no such name.
    """
    if value.isascii() or not value.isprintable():
        return ""
    import idna  # its tables are large, and most configurations have no such name

    try:
        labels = [one if one in ("", "*") else idna.encode(one, uts46=True).decode("ascii") for one in value.split(".")]
    except (idna.IDNAError, UnicodeError):
        return ""
    return f'"{value}" is not as the DNS has it; right would be "{".".join(labels).lower()}"'


def domain(value: str) -> str:
    return (
        "" if is_domain(value) else in_dns(value) or f'"{value}" is no domain name; right would be as in "example.org"'
    )


def selector(value: str) -> str:
    """Names a DKIM key, in the DNS and in a file name."""
    good = is_domain(value) and len(value) <= 63
    return "" if good else f'"{value}" is no selector; right would be letters and digits, as in "tls2026"'


def hostname(value: str) -> str:
    if not is_domain(value):
        return f'"{value}" is no host name; right would be as in "mail.example.org"'
    return f'"{value}" is an IP address; right would be a host name' if value.replace(".", "").isdigit() else ""


def address(value: str) -> str:
    return "" if is_address(value) else f'"{value}" is no mail address; right would be as in "postmaster@example.org"'


def network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            right = str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            right = "10.0.0.0/8"
        return f'"{value}" is no network; right would be as in "{right}"'
    return ""


def host_port(value: str) -> str:
    """C{HOST:PORT}, the port optional; IPv6 addresses in brackets."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", value)
    if match and (match[2] is None or 0 < int(match[2]) < 65536):
        host = match[1]
        if host.startswith("["):
            try:
                ipaddress.IPv6Address(host[1:-1].removeprefix("IPv6:"))
            except ValueError:
                host = ""
        elif not is_domain(host):
            host = ""
        if host:
            return ""
    return f'"{value}" is no host and port; right would be as in "relay.example.org:25" or "[2001:db8::1]:25"'


def relays(value: str) -> str:
    """C{HOST:PORT} or C{unix:PATH}, several separated by commas, in the order to try."""
    return next((said for said in map(_relay, (part.strip() for part in value.split(","))) if said), "")


def _relay(value: str) -> str:
    if value.startswith("unix:"):
        good = value.isprintable() and len(value) > 5
        return "" if good else f'"{value}" is no socket; right would be as in "unix:/run/dovecot/lmtp"'
    return host_port(value)


def own_addresses(values: tuple[str, ...]) -> str:
    """Where connections come from: at most an address of each family."""
    try:
        versions = [ipaddress.ip_address(value).version for value in values]
    except ValueError as error:
        return f'{error}; right would be as in ["192.0.2.5", "2001:db8::5"]'
    if len(versions) != len(set(versions)):
        return "has several addresses of a family; right would be one for IPv4, one for IPv6"
    return ""


def server_address(value: str) -> str:
    """An IP address of a name server, with C{:PORT} or without."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        host, _, port = value.rpartition(":")
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            if port.isdigit() and 0 < int(port) < 65536:
                return ""
        except ValueError:
            pass
        return f'"{value}" is no name server; right would be as in "192.0.2.53" or "127.0.0.1:5353"'
    return ""


def endpoint(value: str) -> str:
    try:
        parse_endpoint(value, "/")
    except ValueError as error:
        return str(error)
    return ""


def ldap_server(value: str) -> str:
    try:
        parse_ldap_url(value)
    except ValueError as error:
        return str(error)
    return ""


def clock(value: str) -> str:
    match = re.fullmatch(r"([0-9]{2}):([0-9]{2})", value)
    good = match and int(match[1]) < 24 and int(match[2]) < 60
    return "" if good else f'"{value}" is no time of day; right would be as in "00:00"'


def pattern(value: str) -> str:
    """What a rewrite rule matches. A star stands for a whole label, never for a part of one."""
    if value in {".", "*", "[]"} or is_domain(value.removeprefix(".")):
        return ""
    if value.startswith("[") and value.endswith("]"):
        try:
            ipaddress.ip_network(value[1:-1].removeprefix("IPv6:"))
        except ValueError:
            pass
        else:
            return ""
    labels = value.split(".")
    if "*" in labels and is_domain(".".join("x" if label == "*" else label for label in labels)):
        return ""
    return in_dns(value) or (
        f'"{value}" matches nothing; right would be "host.example", ".example" (hosts below it), "*.example" (one name '
        'for the star), "[]", "[192.0.2.0/24]", "." or "*"'
    )


def destination_pattern(value: str) -> str:
    """What a destination table is for."""
    if value == "." or is_domain(value.removeprefix(".")):
        return ""
    return in_dns(value) or (
        f'"{value}" matches nothing; right would be "host.example", ".example" (hosts below it) or "."'
    )


def absolute(value: str) -> str:
    """The path of a file outside of HOME."""
    return plain_text(value) or ("" if value.startswith("/") else f'"{value}" is no path from "/" on')


def next_host(value: str) -> str:
    """A next hop: a domain, a host with a port or an address literal."""
    if value.startswith("[") and value.endswith("]"):
        try:
            ipaddress.ip_address(value[1:-1].removeprefix("IPv6:"))
        except ValueError:
            pass
        else:
            return ""
    return host_port(value)


def next_hosts(value: str) -> str:
    """A next hop, or several separated by commas, in the order to try."""
    parts = [part.strip() for part in value.split(",")]
    return next((said for said in map(next_host, parts) if said), "")


SUBSTITUTIONS = ("U", "0U", "1U", "D", "H", "L", "$")
"""What may follow a dollar in the address of a rewrite rule."""


def rewritten(value: str) -> str:
    """The address of a rewrite rule, with its substitutions (L{qmailpy.routing.rules})."""
    for word in re.findall(r"\$([0-9]?[A-Za-z])", value.replace("$$", "")):
        if word.upper() not in SUBSTITUTIONS:
            return (
                f'"${word}" in "{value}" stands for nothing; there are {", ".join("$" + one for one in SUBSTITUTIONS)}'
            )
    filled = re.sub(r"\$[0-9]?[A-Za-z]", "x", value)
    if value.count("@") == 1 and is_address(filled.lstrip(".")):
        return ""
    return f'"{value}" is no address; right would be as in "$U@other.example"'


def ascending(values: tuple[float, ...]) -> str:
    """Times, each later than the one before."""
    good = all(math.isfinite(v) and v > 0 for v in values) and list(values) == sorted(set(values))
    return "" if good else "is out of order; right would be rising numbers above 0, as in [14400, 86400]"


def access_text(value: str) -> str:
    """An entry of an access rule, for whatever it is compared with."""
    if not value or value == "list:" or not value.isprintable() or value != value.strip():
        return f'"{value}" matches nothing; right would be as in "joe@example.org", ".example.org" or "list:FILE"'
    return ""


def access_client(value: str) -> str:
    """The same for clients."""
    if value == "*":
        return ""
    return access_text(value) if value.startswith("list:") else network(value)


def reply_text(value: str) -> str:
    """What we say to a client: it must fit into a reply (RFC 5321 s.4.5.3.1.5)."""
    if not value.isprintable() or not value.isascii() or len(value) > 400:
        return "is no text for a reply; right would be a line of at most 400 ASCII characters"
    return ""


def glob(value: str) -> str:
    """A pattern as file names have it."""
    if not value or len(value) > 200:
        return 'is empty or too long; right would be as in "*.example"'
    return plain_text(value)


def program(values: tuple[str, ...]) -> str:
    """A program and its arguments."""
    if values and not values[0].startswith("/"):
        return f'"{values[0]}" is no path from "/" on; right would be as in ["/usr/bin/scan", "$INPUT_FILE"]'
    return next((said for said in map(plain_text, values) if said), "")


def text(value: str) -> str:
    """Text of several lines."""
    bad = [character for character in value if not character.isprintable() and character not in "\n\t"]
    return "holds control characters; right would be text" if bad else ""


def media_type(value: str) -> str:
    """A type that a part may get."""
    if re.fullmatch(r"(text|image|audio|video|font|model|application)/[A-Za-z0-9!#$&^_.+-]+", value):
        return ""
    return f'"{value}" is no type a part may get; right would be as in "application/pdf"'


base_name = matching(
    r"[A-Za-z][A-Za-z0-9-]*=[^,+=\"\\<>;#\x00-\x1f]+(?:,[A-Za-z][A-Za-z0-9-]*=[^,+=\"\\<>;#\x00-\x1f]+)*",
    'a distinguished name, as in "o=qmailpy"',
)
"""The name of a tree's root."""


def entry_name(example: str) -> Check:
    """The name of an entry in a directory."""
    return matching(r"[A-Za-z][A-Za-z0-9.-]*=[^\x00-\x1f]+", f'a distinguished name, as in "{example}"')
