"""
What L{qmailpy.wire.smtp_client} takes and gives: a transaction in, stages and events out; values without behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from attrs import evolve, frozen

from qmailpy.values import Reply
from qmailpy.wire.sasl_client import Derive


class Tls(Enum):
    """What a destination's connections must have; the value is the word of the configuration."""

    NONE = "none"  # never
    MAY = "may"  # when the peer offers it (RFC 7435); a handshake that fails is followed by a connection without
    MUST = "must"  # always, with any certificate
    VERIFY = "verify"  # always, with a certificate of a trusted authority for the peer's name
    DANE = "dane"  # always, with a certificate that the DNS describes (RFC 7672)


class Stage(Enum):
    """What is being waited for; the value is how a diagnostic says it."""

    CONNECT = "connecting"
    GREETING = "waiting for the greeting"
    EHLO = "waiting for the reply to EHLO"  # or LHLO
    HELO = "waiting for the reply to HELO"
    STARTTLS = "waiting for the reply to STARTTLS"
    TLS = "beginning TLS"
    AUTH = "logging in"
    IDLE = "waiting for mail"
    RSET = "waiting for the reply to RSET"
    MAIL = "waiting for the reply to MAIL FROM"
    RCPT = "waiting for the reply to RCPT TO"
    DATA = "waiting for the reply to DATA"
    CONTENT = "sending the message"
    FINAL = "waiting for the reply to the end of the message"
    QUIT = "waiting for the reply to QUIT"
    CLOSED = "closed"


@frozen
class Wish:
    """What a recipient's sender wants to be told (RFC 3461 s.4.1, s.4.2)."""

    notify: int = 0  # bits of L{qmailpy.values.Notify}; 0 = nothing was said
    orcpt: str = ""  # decoded: "rfc822;a@b"


@frozen(kw_only=True)
class Transaction:
    """One message to one peer."""

    sender: str  # "" for the null sender
    recipients: tuple[str, ...]  # at least one; each passed L{client_path.unsendable}
    size: int  # octets of the content as queued, which is what SIZE means (RFC 1870 s.5)
    eight_bit: bool = True  # announce BODY=8BITMIME where the peer knows it
    wishes: tuple[Wish, ...] = ()  # one a recipient, or none at all
    envid: str = ""  # RFC 3461 s.4.4, decoded
    ret: str = ""  # RFC 3461 s.4.3: "FULL", "HDRS" or ""
    binary: bool = False  # content that is no lines: BODY=BINARYMIME, for peers that take it alone (RFC 3030)
    mt_priority: int = 0  # RFC 6710, for peers that know it
    deliver_by: float = 0.0  # RFC 2852: end of the sender's patience, in seconds since the epoch
    by_mode: str = ""  # "N", "R", "NT", "RT"; "" without
    by_seconds: int = 0  # what is left of it now; set as it is sent
    utf8: bool = False  # SMTPUTF8 for peers that know it (RFC 6531): a local part or the header is not US-ASCII
    require_tls: bool = False  # RFC 8689: the peer must promise to pass it on over verified TLS alone

    def only(self, indexes: Sequence[int]) -> Transaction:
        """The same for some of the recipients, by their positions."""
        return evolve(
            self,
            recipients=tuple([self.recipients[index] for index in indexes]),
            wishes=tuple([self.wishes[index] for index in indexes]) if self.wishes else (),
        )


@frozen(kw_only=True)
class Outcome:
    """How far a transaction got: each reply that was received."""

    mail: Reply | None = None
    recipients: tuple[Reply | None, ...] = ()  # in the order of the transaction
    data: Reply | None = None  # set only when DATA was refused
    final: Reply | None = None  # to the whole message; also an early refusal while it was being sent
    finals: tuple[Reply | None, ...] = ()  # LMTP: to the message for each recipient that was taken, in order
    stage: Stage = Stage.IDLE  # what was being waited for when it ended; IDLE: the transaction came to its end


@frozen
class Ready:
    """The peer may be given a transaction now: after the greeting and EHLO, once a session."""


@frozen
class Secure:
    """The peer awaits the handshake: begin it, and call C{SmtpClient.secured} once it is complete."""


@frozen
class KeyWanted:
    """The login needs a key: make it with C{thd_derive}, and give it to C{SmtpClient.derived}."""

    derive: Derive


@frozen
class GoAhead:
    """354: send the content."""


@frozen
class Finished:
    """A transaction is over; the session is ready for the next when C{SmtpClient.stage} is IDLE."""

    outcome: Outcome


@frozen
class Broken:
    """
    The session cannot be used (any more): its greeting or EHLO was refused, there is no TLS where it must be, our
    login was refused, the peer said 421, or speaks no SMTP.

    During a transaction, C{SmtpClient.outcome} tells how far that had come.
    """

    stage: Stage  # what was being waited for
    reply: Reply | None  # the peer's, C{None} when it broke the protocol
    why: str = ""  # what was wrong with the protocol
    insecure: bool = False  # nothing but the want of TLS


@frozen
class Goodbye:
    """QUIT was answered; close."""


Event = Ready | Secure | KeyWanted | GoAhead | Finished | Broken | Goodbye
