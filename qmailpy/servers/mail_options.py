"""
What a client asks for with a message: when it is to go, how soon, how safely. Which of it a listener offers, what is
granted to whom, and how it stands in the envelope.

    MT-PRIORITY      RFC 6710: above 0 for trusted clients and users alone; others get 0, and are told so (s.4.1)
    FUTURERELEASE    RFC 4865: at submission alone
    DELIVERBY        RFC 2852
    REQUIRETLS       RFC 8689, and C{TLS-Required: No} in the header (s.5), which counts for nothing beside it (s.4.1)
"""

from __future__ import annotations

from attrs import evolve

from qmailpy.config.schema import ListenerConfig
from qmailpy.values import Envelope, Priority, Reply
from qmailpy.wire.smtp_events import MailFrom
from qmailpy.wire.smtp_extensions import (
    BINARYMIME,
    DELIVERBY,
    FUTURERELEASE,
    MT_PRIORITY,
    REQUIRETLS,
    TOO_LATE,
)
from qmailpy.wire.smtp_fronts import ETRN
from qmailpy.wire.smtp_service import DSN, EXTENSIONS, Extension


def hold_s(listener: ListenerConfig) -> int:
    """The longest time a message may be held; 0 where that is not offered."""
    return int(listener.hold_s) if listener.kind == "submission" else 0


def extensions(listener: ListenerConfig, *, secured: bool) -> tuple[Extension, ...]:
    """What a listener announces. @param secured: under TLS."""
    return (
        *(EXTENSIONS if listener.dsn else [one for one in EXTENSIONS if one is not DSN]),
        *((BINARYMIME,) if listener.binary else ()),
        *((MT_PRIORITY,) if listener.mt_priority else ()),
        *((FUTURERELEASE,) if hold_s(listener) else ()),
        *((DELIVERBY,) if listener.deliver_by else ()),
        *((REQUIRETLS,) if listener.require_tls and secured else ()),
        *((ETRN,) if listener.etrn else ()),
    )


def granted(
    mail: MailFrom, listener: ListenerConfig, now: float, *, known: bool
) -> tuple[MailFrom, Reply | None] | Reply:
    """
    What a client gets of what it asks for.

    @param known: it is trusted, or has logged in.
    @return: the command as it is carried out, with the reply to it if that is not the usual one; or its refusal.
    """
    if mail.hold is not None and mail.hold.until > now + hold_s(listener):
        return TOO_LATE
    if mail.mt_priority is not None and mail.mt_priority > 0 and not known:
        # RFC 6710 s.4.1: the message is taken, with the priority it gets and X.3.6
        return evolve(mail, mt_priority=0), Reply(250, "2.3.6", "Sender ok, with priority 0")
    return mail, None


def with_options(envelope: Envelope, mail: MailFrom, tls_required: str) -> Envelope:
    """
    An envelope with all that the client asked for.

    @param tls_required: value of the message's TLS-Required field, "" without.
    """
    optional = bool(tls_required) and not mail.require_tls and tls_required.strip().lower() == "no"
    binary = mail.body == "BINARYMIME"
    asked = mail.mt_priority is not None or mail.hold is not None or mail.by is not None
    if not (asked or optional or mail.require_tls or binary):
        return envelope
    arrival = envelope.arrival
    begins = arrival
    if mail.hold is not None:
        begins = max(arrival, mail.hold.until or arrival + mail.hold.seconds)
    return evolve(
        envelope,
        hold_until=begins if begins > arrival else 0.0,
        # Counted from the moment it may go: before that nobody can hurry.
        deliver_by=begins + mail.by.seconds if mail.by is not None else 0.0,
        by_mode=mail.by.mode if mail.by is not None else "",
        priority=envelope.priority if mail.mt_priority is None else level(mail.mt_priority),
        mt_priority=mail.mt_priority or 0,
        require_tls=mail.require_tls,
        tls_optional=optional,
        # What was not to be seen is not sent back (RFC 8689 s.5); nor is what is no lines: a notice is.
        ret="HDRS" if binary else envelope.ret or ("HDRS" if mail.require_tls else ""),
    )


def level(mt_priority: int) -> Priority:
    """Which of the queue's three levels one of RFC 6710's nineteen is: a higher one is never behind a lower."""
    if mt_priority > 0:
        return Priority.URGENT
    return Priority.NORMAL if mt_priority == 0 else Priority.NONURGENT
