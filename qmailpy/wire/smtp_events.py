"""
What an SMTP client's octets mean: the events of L{qmailpy.wire.smtp.SmtpCore}.

Those that ask a question hold the session until it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from qmailpy.values import Reply
from qmailpy.wire.sasl import CheckPassword, Failed, Proven, SecretWanted


@frozen
class Greeted:
    """EHLO, HELO or LHLO; forgets an open transaction, as L{Reset} does."""

    helo: str
    extended: bool


@frozen(kw_only=True)
class Hold:
    """RFC 4865: when a message may go. One of both."""

    seconds: int = 0  # HOLDFOR: so long after it was accepted
    until: float = 0.0  # HOLDUNTIL: seconds since the epoch


@frozen
class DeliverBy:
    """RFC 2852: how long the sender's patience lasts, and what is to be done at its end."""

    seconds: int  # may be 0 or less with mode N: it has ended already, and the sender knows
    mode: str  # "N" (tell) or "R" (return); with a "T" behind it relaying is to be told, too


@frozen(kw_only=True)
class MailFrom:
    """MAIL. Asks: may this sender begin?"""

    address: str  # "" for the null sender
    size: int = 0  # octets announced, 0 when not
    body: str = ""  # "7BIT", "8BITMIME", "BINARYMIME" or "" when not announced
    auth: str = ""  # always "": see smtp_service
    smtputf8: bool = False  # RFC 6531
    ret: str = ""  # RFC 3461: "FULL", "HDRS" or ""
    envid: str = ""  # RFC 3461, decoded
    mt_priority: int | None = None  # RFC 6710, -9 to 9; C{None}: nothing was said
    hold: Hold | None = None
    by: DeliverBy | None = None
    require_tls: bool = False  # RFC 8689


@frozen(kw_only=True)
class RcptTo:
    """RCPT. Asks: is this a recipient?"""

    address: str
    notify: int = 0  # RFC 3461: bits of Notify, 0 when absent
    orcpt: str = ""  # RFC 3461, decoded: "rfc822;joe@example.org"


@frozen
class DataBegun:
    """DATA. Asks: is there room for a message?"""


@frozen
class DataChunk:
    """Content of the message: CRLF line ends, not dot-stuffed, no bare CR or LF, no NUL."""

    octets: bytes


@frozen
class DataEnded:
    """The message is complete. Asks: has it been accepted? Either way the transaction is over."""

    size: int
    head: bytes  # the header section, at most data.HEAD_OCTETS of it


@frozen
class DataRefused:
    """The message is complete and has a fault; that has been answered. The transaction is over."""

    reply: Reply
    size: int


@frozen
class StartTls:
    """
    STARTTLS. Asks: can TLS begin? Behind an acceptance send what L{SmtpCore.take} has, begin TLS and call
    L{SmtpCore.secure<qmailpy.wire.smtp.SmtpCore.secure>}.
    """


@frozen
class AuthStep:
    """
    An authentication exchange has come to a point where others must decide. Asks: for L{SecretWanted} by
    L{SmtpCore.secret<qmailpy.wire.smtp.SmtpCore.secret>}, else is it who it says?
    """

    step: SecretWanted | CheckPassword | Proven | Failed


@frozen
class QueueRun:
    """ETRN. Asks: may the client have mail for that domain sent now?"""

    domain: str  # in lower case, A-labels
    below: bool  # and for all hosts and domains below it


@frozen
class XClient:
    """
    XCLIENT: the session is somebody else's than it seems. Asks; behind an acceptance the client is greeted anew, and
    says EHLO again.
    """

    attributes: Mapping[str, str]  # by their names in capitals; "" where the client says it does not know


@frozen
class Reset:
    """RSET: an open transaction is forgotten."""


@frozen
class BadCommand:
    """A command that was refused for its form, its time or because there is no such command; it has been answered."""

    line: bytes  # as received, at most 200 octets
    reply: Reply


@frozen
class Ended:
    """Nothing more will be read: send what L{SmtpCore.take} has, then close."""

    reply: Reply  # 221 after QUIT, else 421


Event = (
    Greeted
    | MailFrom
    | RcptTo
    | DataBegun
    | DataChunk
    | DataEnded
    | DataRefused
    | StartTls
    | AuthStep
    | QueueRun
    | XClient
    | Reset
    | BadCommand
    | Ended
)
