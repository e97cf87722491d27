"""
The lines of the transaction log that an SMTP session causes by itself: refusals, bad commands, connections, logins.
"""

from __future__ import annotations

from typing import Any

from qmailpy.records.record import Action, LogRecord
from qmailpy.servers.site import Site
from qmailpy.values import Reply


def modifiers(*, extended: bool, secured: bool, authenticated: bool, lmtp: bool) -> str:
    """The letters behind an action: E S A L, in that order."""
    return "E" * (extended and not lmtp) + "S" * secured + "A" * authenticated + "L" * lmtp


def protocol(*, extended: bool, secured: bool, authenticated: bool, lmtp: bool, utf8: bool = False) -> str:
    """The keyword of RFC 3848, or with C{utf8} of RFC 6531 s.3.7.3; plain SMTP has none for TLS."""
    if not extended:
        return "SMTP"
    name = ("UTF8LMTP" if lmtp else "UTF8SMTP") if utf8 else "LMTP" if lmtp else "ESMTP"
    return name + "S" * secured + "A" * authenticated


def ends(host: Any, peer: Any, unix: bool, ip: str, ours: str) -> str:
    """The transport field of a connection's records."""
    return "UNIX" if unix else f"TCP|{ours}|{getattr(host, 'port', 0)}|{ip}|{getattr(peer, 'port', 0)}"


def connection_record(site: Site, action: Action, transport: str, *, user: str = "", diagnostic: str = "") -> None:
    """An O, C, X or U record, when connections are to be logged."""
    if not site.log.connections:
        return
    record = LogRecord(
        action=action,
        time=site.reactor.seconds(),
        source=site.listener.channel,
        direction="+",
        transport=transport,
        application="LMTP" if site.listener.kind == "lmtp" else "SMTP",
        user=user,
        diagnostic=diagnostic,
    )
    site.recorder.write([record])


def why_ended(reply: Reply | None, handshake: str) -> str:
    """The diagnostic of a C record: "" when the client has said goodbye, or nothing."""
    if handshake:
        return f"TLS handshake failed: {handshake}"
    return str(reply) if reply is not None and reply.code != 221 else ""
