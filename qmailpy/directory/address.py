"""
Mail addresses as the directory takes them in, and the Maildir paths made of them.

Pure. An address that the outside may write to is checked once, here, when it enters the directory: RFC 5321
s.4.1.2 dot-strings (UTF-8 letters allowed, RFC 6531), no quoted strings, an IDNA domain in its ASCII form. Addresses
compare case-blind, so they are stored in lower case. B{No address reaches the file system as it stands}: L{maildir}
encodes it, and L{safe_path} judges paths that an administrator wrote himself.
"""

from __future__ import annotations

import re

import idna

POSTMASTER = "postmaster"

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a1-\U0010ffff]+"
_LOCAL = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9_+=%-][A-Za-z0-9._+=%-]*")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_+-.")


LONGEST = 1024
"""Characters of the longest name that is asked for."""


class BadAddress(ValueError):
    """Not an address (or domain) we take; the text says why, for people."""


def domain_key(text: str) -> str:
    """
    A domain as it is stored and compared: lower case, ASCII (IDNA A-labels), without a dot at its end.

    @raise BadAddress: it is not a host name (RFC 5321 s.4.1.2, RFC 5890).
    """
    name = text.strip().rstrip(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise BadAddress("the domain is not a valid international name") from None
    if not name or len(name) > 253:
        raise BadAddress("the domain is empty or longer than 253 characters")
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise BadAddress("the domain may only have letters, digits and inner hyphens between its dots")
    if len(labels) > 1 and labels[-1].isdigit():
        raise BadAddress("an IP address is not a domain")
    return name


def split(address: str) -> tuple[str, str]:
    """
    Local part as written and domain as L{domain_key} gives it.

    @raise BadAddress: not C{local@domain}.
    """
    local, at, domain = address.strip().rpartition("@")
    if not at:
        raise BadAddress("an address has the form user@domain")
    if len(local.encode("utf-8", "replace")) > 64:
        raise BadAddress("the part before the @ is longer than 64 octets")
    if not _LOCAL.fullmatch(local) or any(char.isspace() for char in local):
        raise BadAddress("the part before the @ has a character that is not allowed, or a dot at an end or doubled")
    return local, domain_key(domain)


def own(address: str) -> str:
    """An address of ours as it is stored: all lower case. @raise BadAddress: as L{split}."""
    local, domain = split(address)
    return f"{local.lower()}@{domain}"


def target(address: str) -> str:
    """An address of anybody: its local part as written. @raise BadAddress: as L{split}."""
    local, domain = split(address)
    return f"{local}@{domain}"


def key(address: str) -> str:
    """What a question for C{address} is looked up by: never raises, since peers ask for anything."""
    text = address.lower()
    if text.isascii():
        return text
    local, at, domain = text.rpartition("@")
    try:
        return f"{local}{at}{domain_key(domain)}"
    except BadAddress:
        return text


def possible(name: str) -> bool:
    """
    Whether there may be anybody, or a domain, of that name: who asks a directory asks this first.

    Servers ignore blanks around a value (RFC 4518 s.2.6.1), and slapd what comes behind a NUL: but nobody is somebody
    else. No address has so many characters (RFC 5321 s.4.5.3.1).
    """
    return len(name) <= LONGEST and name.isprintable() and " " not in name


def segment(text: str) -> str:
    """
    One safe file name made of C{text}: lower-case letters, digits and C{_+-.} stay, all else becomes C{%XX}.

    Different (case-folded) texts give different names; none begins with a dot or holds a slash.
    @raise BadAddress: it would be longer than 200 octets.
    """
    name = "".join(chr(octet) if octet in _PLAIN else f"%{octet:02x}" for octet in text.lower().encode("utf-8"))
    if name.startswith("."):
        name = "%2e" + name[1:]
    if not name or len(name) > 200:
        raise BadAddress("too long for a mailbox")
    return name


def maildir(address: str) -> str:
    """The Maildir of an address of ours, relative to HOME/mail. @raise BadAddress: as L{split} and L{segment}."""
    local, domain = split(address)
    return f"{segment(domain)}/{segment(local)}/Maildir"


def safe_path(path: str) -> bool:
    """Whether C{path} stays below HOME/mail: relative, plain segments, none of them beginning with a dot."""
    segments = path.rstrip("/").split("/")
    return len(path) <= 1000 and len(segments) <= 10 and all(_SAFE_SEGMENT.fullmatch(part) for part in segments)
