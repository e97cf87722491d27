"""
Mail addresses as RFC 5321 s.4.1.2 writes them: Path, Mailbox, local part, domain and address literal.

Inside qmailpy an address is a C{str} in one canonical form, which is at the same time the right form on the wire:
C{"<" + address + ">"} is always a valid path. A local part is quoted only when it must be, and the domain is in lower
case and ASCII: an international one by its A-labels. The null path is the empty string; C{postmaster} alone is the one
address without a domain (RFC 5321 s.4.1.1.3).

A refusal is a L{Reply}: 501 with 5.1.7 for a sender and 5.1.3 for a recipient, 553 5.6.7 for an address that would
need SMTPUTF8. Everything here is linear in the length of its input.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from qmailpy.values import Reply

# RFC 5321 s.4.5.3.1.1 to s.4.5.3.1.3, in octets as written on the wire.
LOCAL_OCTETS = 64
DOMAIN_OCTETS = 255
PATH_OCTETS = 256

_ALNUM = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DOT_ATOM = _ALNUM + b"!#$%&'*+-/=?^_`{|}~."
_DOT_ATOM_SET = frozenset(_DOT_ATOM.decode())
# The underscore is no letter of RFC 5321's domains, but names that have one exist and take mail.
_HOST = _ALNUM + b"-._"
_HIGH = bytes(range(0x80, 0x100))
# Neither alternative can match what the other does, so that a failure costs one walk back at most.
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_SPECIAL = re.compile(r'(["\\])')


def parse_path(line: bytes, at: int, *, sender: bool, utf8: bool = False) -> tuple[str, int] | Reply:
    """
    Read the path of a MAIL or RCPT command.

    @param line: the command without its line end.
    @param at: where in C{line} the path starts.
    @param sender: a reverse-path, which may be null but must otherwise have a domain; else a forward-path.
    @param utf8: whether the transaction has SMTPUTF8 (RFC 6531), so that UTF-8 is allowed.
    @return: the address and the position behind C{">"}, or the refusal.
    """
    # Nearly every path is a dot-atom and a host name; that form costs a few scans in C.
    end = line.find(b">", at)
    if end > 0 and line[at] == 0x3C:
        local, sign, domain = line[at + 1 : end].partition(b"@")
        if (
            sign
            and len(local) <= LOCAL_OCTETS
            and not local.translate(None, _DOT_ATOM)
            and _dots_are_inside(local)
            and _is_host(domain)
            and end + 1 - at <= PATH_OCTETS
        ):
            return f"{local.decode('ascii')}@{domain.lower().decode('ascii')}", end + 1
    return _parse_rare_path(line, at, sender=sender, utf8=utf8)


def parse_mailbox(text: str, *, utf8: bool = False) -> str | Reply:
    """
    An address that stands alone, as on a command line or in a configuration: C{local@domain}, no brackets.

    @return: its canonical form, or the refusal (as for a recipient).
    """
    line = f"<{text}>".encode("utf-8", "replace")
    found = parse_path(line, 0, sender=False, utf8=utf8)
    if isinstance(found, Reply):
        return found
    address, end = found
    if end != len(line) or text.startswith("@"):
        return _bad(False, "Bad address syntax")
    return address


def split(address: str) -> tuple[str, str]:
    """
    Local part and domain of a canonical address; ("", "") for the null one, ("postmaster", "") for that.

    The local part stays as written, quoted when it must be; see L{unquote}.
    """
    local, sign, domain = address.rpartition("@")
    return (local, domain) if sign else (address, "")


def unquote(local: str) -> str:
    """The characters a local part stands for, without quotes and backslashes."""
    if not local.startswith('"'):
        return local
    return _PAIR.sub(r"\1", local[1:-1])


def join(local: str, domain: str) -> str:
    """
    The canonical address of an unquoted local part (see L{unquote}) and a domain.

    @raise ValueError: C{local} holds a control character, which no address can.
    """
    if not local.isprintable():
        raise ValueError("control character in a local part")
    return f"{_quote(local)}@{domain.lower()}" if domain else _quote(local)


def valid_domain(text: str, *, utf8: bool = False) -> bool:
    """Whether C{text} is a domain name or an address literal that may stand behind the C{@}."""
    return _domain(text, utf8) is not None


def canonical_domain(text: str) -> str:
    """The one form of a domain name or address literal, U-labels as A-labels; "" when it is none."""
    return _domain(text, True) or ""


def _parse_rare_path(line: bytes, at: int, *, sender: bool, utf8: bool) -> tuple[str, int] | Reply:
    """L{parse_path} for every form, a character at a time where it must be."""
    rest = line[at:]
    if not utf8 and rest.translate(None, _HIGH) != rest:
        return Reply(553, "5.6.7", "Address is not ASCII and SMTPUTF8 was not asked for")
    try:
        text = rest.decode("utf-8")
    except UnicodeDecodeError:
        return _bad(sender, "Address is not UTF-8")
    if not text.startswith("<"):
        return _bad(sender, "Address must be in angle brackets")
    start = 1
    if text.startswith("<@"):  # source routes are obsolete: read over, RFC 5321 s.3.6.1 and appendix C
        colon = text.find(":")
        if colon < 0 or not all(_is_route_step(step, utf8) for step in text[1:colon].split(",")):
            return _bad(sender, "Bad source route")
        start = colon + 1
    elif text.startswith("<>"):
        return ("", at + 2) if sender else _bad(sender, "The null address is no recipient")
    quoted = _QUOTED.match(text, start)
    if quoted:
        local, stop = _PAIR.sub(r"\1", quoted[1]), quoted.end()
        if not local.isprintable():
            return _bad(sender, "Control character in address")
        written = _quote(local)
    else:
        stop = start
        while stop < len(text) and text[stop] not in '@>"<':
            stop += 1
        written = local = text[start:stop]
        if not _is_dot_atom(local):
            return _bad(sender, "Bad local part")
    if text[stop : stop + 1] == "@":
        end = text.find(">", stop)
        domain = _domain(text[stop + 1 : end], utf8) if end >= 0 else None
        if domain is None:
            return _bad(sender, "Bad domain")
        address = f"{written}@{domain}"
    elif text[stop : stop + 1] == ">" and not sender and start == 1 and written.lower() == "postmaster":
        end, address = stop, "postmaster"
    else:
        return _bad(sender, "Address has no domain")
    taken = len(text[: end + 1].encode())
    if len(text[start:stop].encode()) > LOCAL_OCTETS or len(written.encode()) > LOCAL_OCTETS:
        return _bad(sender, "Local part too long")
    if taken > PATH_OCTETS:
        return _bad(sender, "Path too long")
    return address, at + taken


def _bad(sender: bool, text: str) -> Reply:
    """RFC 3463 s.3.2: X.1.7 speaks of the sender's address, X.1.3 of the recipient's."""
    return Reply(501, "5.1.7" if sender else "5.1.3", text)


def _dots_are_inside(name: bytes) -> bool:
    return bool(name) and b".." not in name and name[0] != 0x2E and name[-1] != 0x2E


def _is_host(name: bytes) -> bool:
    """Whether C{name} has the form of a domain name in ASCII, RFC 5321 s.2.3.5 and RFC 1035 s.2.3.4."""
    if not _dots_are_inside(name) or name.translate(None, _HOST) or len(name) > DOMAIN_OCTETS:
        return False
    if b"-" in name and (name[0] == 0x2D or name[-1] == 0x2D or b"-." in name or b".-" in name):
        return False
    return len(name) <= 63 or max(map(len, name.split(b"."))) <= 63


def _is_dot_atom(text: str) -> bool:
    if not text or text[0] == "." or text[-1] == "." or ".." in text:
        return False
    return all(char in _DOT_ATOM_SET or (char > "\x7f" and char.isprintable() and not char.isspace()) for char in text)


def _quote(local: str) -> str:
    return local if _is_dot_atom(local) else '"' + _SPECIAL.sub(r"\\\1", local) + '"'


def _is_route_step(text: str, utf8: bool) -> bool:
    return text.startswith("@") and _domain(text[1:], utf8) is not None


def _domain(text: str, utf8: bool) -> str | None:
    """The canonical form of a domain or address literal, C{None} when it is neither."""
    if text.startswith("["):
        return _literal(text)
    if text.isascii():
        return text.lower() if _is_host(text.encode()) else None
    return _a_labels(text) if utf8 and len(text) <= DOMAIN_OCTETS else None


def _a_labels(text: str) -> str | None:
    """
    A domain with U-labels by its A-labels (RFC 5890, RFC 6531 s.3.2: the two are equal): so everything behind us
    compares and looks up one form, and an address that is international in its domain alone can go everywhere.
    """
    import idna  # its tables are large, and most servers never see such a name

    try:
        domain = idna.encode(text, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        return None
    return domain if _is_host(domain.encode()) else None


def _literal(text: str) -> str | None:
    """RFC 5321 s.4.1.3; general address literals are refused, as no tag but IPv6 was ever registered."""
    if not text.endswith("]") or "%" in text:
        return None
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return f"[ipv6:{IPv6Address(inner[5:]).compressed}]"
        return f"[{IPv4Address(inner)}]"
    except (AddressValueError, ValueError):
        return None
