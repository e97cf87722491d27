"""
Addresses on their way into MAIL and RCPT commands (RFC 5321 s.4.1.2): the last gate before the wire.
"""

from __future__ import annotations

import re

from qmailpy.values import Notify, Reply
from qmailpy.wire.client_events import Wish
from qmailpy.wire.orcpt import emit_orcpt

_ATOMS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*"
)
_DOMAIN = re.compile(r"[A-Za-z0-9_.:\[\]-]+")  # or a literal
_PRINTABLE = re.compile(r"[ -~]+")
_ADDRESS_LIMIT = 1000  # a command line is 512 octets (RFC 5321 s.4.5.3.1.4); many servers allow more, none needs this


def unsendable(address: str) -> Reply | None:
    """
    Why an address cannot be put into a command, or C{None}.

    Nothing that is refused here should ever have been accepted; this is the last gate before the wire, so that an
    address can never become a command of its own.
    """
    if not address:
        return None
    printable = _PRINTABLE.fullmatch(address) is not None if address.isascii() else address.isprintable()
    if not printable or len(address) > _ADDRESS_LIMIT:
        return Reply(553, "5.1.3", "Address cannot be sent")
    local, at, domain = address.rpartition("@")
    if not (at and local) or _DOMAIN.fullmatch(domain) is None:
        return Reply(553, "5.1.3", "Address cannot be sent")
    if local.startswith('"') and re.fullmatch(r'"(?:[^"\\]|\\.)*"', local) is None:
        return Reply(553, "5.1.3", "Address cannot be sent")
    return None


def wished(wish: Wish, *, utf8: bool = False) -> bytes:
    """
    The parameters of RCPT for a peer that knows DSN, with a blank before each.

    @param utf8: the transaction has SMTPUTF8.
    """
    words = (
        [b"NEVER"]
        if wish.notify & Notify.NEVER
        else [
            word.name.encode("ascii") for word in (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY) if wish.notify & word
        ]
    )
    parameters = b" NOTIFY=" + b",".join(words) if words else b""
    orcpt = emit_orcpt(wish.orcpt, utf8=utf8) if wish.orcpt else b""
    return parameters + b" ORCPT=" + orcpt if orcpt else parameters


def path(address: str) -> bytes:
    """
    C{address} in its angle brackets (RFC 5321 s.4.1.2), the local part quoted where it must be; a local part beyond
    US-ASCII in UTF-8 (RFC 6531 s.3.3), for transactions with SMTPUTF8.

    @raise ValueError: L{unsendable} was not asked.
    """
    if not address:
        return b"<>"
    local, _, domain = address.rpartition("@")
    plain = local.isascii() or local.isprintable()
    if not plain or _ATOMS.fullmatch(local) is None or _DOMAIN.fullmatch(domain) is None:
        if unsendable(address) is not None:
            raise ValueError(f"address {address!r} cannot be sent")
        if not local.startswith('"'):
            local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"<{local}@{domain}>".encode()
