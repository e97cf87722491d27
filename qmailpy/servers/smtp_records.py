"""
The lines of the transaction log that an SMTP session causes by itself: refusals, bad commands, connections, logins;
and what they, and Received, tell of where mail comes from.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from qmailpy.records.record import Action, LogRecord
from qmailpy.servers.clients import ReverseNames
from qmailpy.servers.site import Site
from qmailpy.servers.tls import Secured
from qmailpy.values import Reply
from qmailpy.wire.headers import source_system


@frozen(kw_only=True)
class Origin:
    """Where mail comes from: who is connected, and how. The same from MAIL to the end of a transaction."""

    ip: str  # "" over a UNIX socket
    helo: str  # what the client calls itself
    user: str  # address of the mailbox that has logged in, or ""
    extended: bool  # it said EHLO or LHLO
    lmtp: bool
    secured: Secured | None  # none: no TLS
    names: ReverseNames | None
    given: str | None = None  # its name by the word of a front

    @property
    def name(self) -> str:
        """The client's name, "" as long as it is not known."""
        if self.given is not None:
            return self.given
        return self.names.get(self.ip) if self.names is not None else ""

    @property
    def system(self) -> str:
        """All that is known of the client, in one word."""
        return source_system(self.helo, self.name, self.ip)

    @property
    def tls(self) -> str:
        """For Received, "" without TLS."""
        return f"{self.secured.cipher} ({self.secured.version})" if self.secured is not None else ""

    @property
    def modifiers(self) -> str:
        """The letters behind an action: E S A L, in that order."""
        return (
            "E" * (self.extended and not self.lmtp)
            + "S" * (self.secured is not None)
            + "A" * bool(self.user)
            + "L" * self.lmtp
        )

    def protocol(self, *, utf8: bool = False) -> str:
        """The keyword of RFC 3848, or with C{utf8} of RFC 6531 s.3.7.3; plain SMTP has none for TLS."""
        if not self.extended:
            return "SMTP"
        name = ("UTF8LMTP" if self.lmtp else "UTF8SMTP") if utf8 else "LMTP" if self.lmtp else "ESMTP"
        return name + "S" * (self.secured is not None) + "A" * bool(self.user)


def session_record(site: Site, origin: Origin, action: Action, **fields: Any) -> None:
    """A J, V or B record. @param fields: more of L{LogRecord}."""
    record = LogRecord(
        action=action,
        time=site.wall(),
        source=site.listener.channel,
        modifiers=origin.modifiers,
        user=origin.user,
        source_system=origin.system if site.log.connection else "",
        **fields,
    )
    site.recorder.write([record])


def ends(host: Any, peer: Any, unix: bool, ip: str, ours: str) -> str:
    """The transport field of a connection's records."""
    return "UNIX" if unix else f"TCP|{ours}|{getattr(host, 'port', 0)}|{ip}|{getattr(peer, 'port', 0)}"


def connection_record(site: Site, action: Action, transport: str, diagnostic: str = "", user: str = "") -> None:
    """An O, C, X or U record, when connections are to be logged."""
    if not site.log.connections:
        return
    listener = site.listener
    application = "LMTP" if listener.kind == "lmtp" else "SMTP"
    # By place, as the two of a message: see LogRecord. These two are as many where each message has a connection.
    nothing = ""
    site.recorder.write(
        (
            LogRecord(
                action,
                site.wall(),
                listener.channel,
                nothing,
                nothing,
                0,
                nothing,
                nothing,
                nothing,
                0,
                None,
                nothing,
                nothing,
                user,
                nothing,
                nothing,
                nothing,
                diagnostic,
                None,
                "+",
                transport,
                application,
            ),
        )
    )


def why_ended(reply: Reply | None, handshake: str) -> str:
    """The diagnostic of a C record: "" when the client has said goodbye, or nothing."""
    if handshake:
        return f"TLS handshake failed: {handshake}"
    return str(reply) if reply is not None and reply.code != 221 else ""
