"""
Two commands for those a listener knows: ETRN (RFC 1985), by which a host that was away has its mail sent now, and
XCLIENT, by which a filter or proxy in front of us tells who is behind it (as Postfix's XCLIENT_README describes it).

Parts of L{qmailpy.wire.smtp}; both ask, since only others can say who may.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from qmailpy.values import Reply
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.address import canonical_domain
from qmailpy.wire.smtp_events import Event, QueueRun, XClient
from qmailpy.wire.smtp_service import Extension, xtext
from qmailpy.wire.smtp_state import ETRN_ASKED, XCLIENT_ASKED, SmtpState

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT", "REVERSE_NAME")

ETRN = Extension(keyword="ETRN")
XCLIENT = Extension(keyword="XCLIENT", argument=lambda limits: " ".join(ATTRIBUTES))

_UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
_VALUE_OCTETS = 255
_PORT = re.compile(r"[0-9]{1,5}")


def etrn(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    """RFC 1985 s.5.2: C{ETRN domain}, or C{ETRN @domain} for it and all below it."""
    text = argument.strip(b" ")
    if ETRN not in core.service.extensions:
        core.bad(line, say.NOT_HERE, events)
    elif not core.extended:
        core.bad(line, say.EHLO_FIRST, events)
    elif core.in_mail:
        core.bad(line, say.NOT_NOW, events)
    elif not text:
        core.bad(line, say.ETRN_SYNTAX, events)
    elif text.startswith(b"#"):
        core.bad(line, say.ETRN_QUEUE, events)
    else:
        below = text.startswith(b"@")
        domain = canonical_domain(text[below:].decode("utf-8", "replace"))
        if not domain or domain.startswith("["):
            core.bad(line, say.ETRN_DOMAIN, events)
            return
        core.count_junk()
        if not core.closed:
            core.asked = ETRN_ASKED
            events.append(QueueRun(domain, below))


def xclient(core: SmtpState, line: bytes, argument: bytes, events: list[Event]) -> None:
    """XCLIENT. A session that is not offered it may be anybody's: its word counts for nothing."""
    if XCLIENT not in core.service.extensions:
        core.bad(line, say.XCLIENT_DENIED, events)
    elif core.in_mail:
        core.bad(line, say.NOT_NOW, events)
    else:
        found = _attributes(argument)
        if isinstance(found, Reply):
            core.bad(line, found, events)
        else:
            core.asked = XCLIENT_ASKED
            events.append(found)


def _attributes(argument: bytes) -> XClient | Reply:
    """The event of a command, or its refusal."""
    values: dict[str, str] = {}
    for word in argument.split(b" "):
        if not word:
            continue
        name, sign, text = word.decode("ascii", "replace").partition("=")
        name = name.upper()
        value = xtext(text, 3 * _VALUE_OCTETS)
        if name not in ATTRIBUTES or not sign or not value or len(value) > _VALUE_OCTETS or name in values:
            return say.XCLIENT_SYNTAX
        values[name] = "" if value.upper() in _UNKNOWN else value
    if not values:
        return say.XCLIENT_SYNTAX
    addresses = {name: _address(values[name]) for name in ("ADDR", "DESTADDR") if values.get(name)}
    ports = [values[name] for name in ("PORT", "DESTPORT") if values.get(name)]
    if "" in addresses.values() or not all(_PORT.fullmatch(port) and int(port) < 65536 for port in ports):
        return say.XCLIENT_SYNTAX
    if values.get("PROTO", "").upper() not in ("", "SMTP", "ESMTP") or not all(map(str.isprintable, values.values())):
        return say.XCLIENT_SYNTAX
    values |= addresses
    return XClient({name: value.upper() if name == "PROTO" else value for name, value in values.items()})


def _address(text: str) -> str:
    """An IP address in the form people write, IPv6 with the tag of RFC 5321 s.4.1.3 or without; "" when it is none."""
    try:
        if text[:5].upper() == "IPV6:" or ":" in text:
            address = IPv6Address(text[5:] if text[:5].upper() == "IPV6:" else text)
            return str(address.ipv4_mapped or address)
        return str(IPv4Address(text))
    except (AddressValueError, ValueError):
        return ""
