"""
Where an SMTP session stands, and what each of its parts may do to it: answer, refuse, count, end.

Of the machine of L{qmailpy.wire.smtp}, whose parts work on this:

    L{SmtpCore<qmailpy.wire.smtp.SmtpCore>}     octets, lines, questions and their answers
    L{qmailpy.wire.smtp_commands}               the commands
    L{qmailpy.wire.smtp_auth}                   an authentication exchange
    L{qmailpy.wire.smtp_content}                the message, by DATA or BDAT
    L{qmailpy.wire.smtp_fronts}                 ETRN and XCLIENT
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qmailpy.values import Reply
from qmailpy.wire import sasl
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.data import ChunkReader, DataReader
from qmailpy.wire.reply import encode
from qmailpy.wire.smtp_events import BadCommand, Ended, Event
from qmailpy.wire.smtp_service import Service

QUOTE_OCTETS = 200
"""Of a bad command, kept for the log."""

_HIDDEN = b"(hidden)"

# What is asked while an answer is awaited; else nothing is.
(
    IDLE,
    MAIL_ASKED,
    RCPT_ASKED,
    DATA_ASKED,
    END_ASKED,
    TLS_ASKED,
    AUTH_ASKED,
    ETRN_ASKED,
    XCLIENT_ASKED,
) = range(9)


def no_bindings() -> Mapping[str, bytes]:
    """Without TLS there are no channel bindings."""
    return {}


class SmtpState:
    """
    The state of one session. Whoever is outside of the machine uses what L{SmtpCore<qmailpy.wire.smtp.SmtpCore>} tells
    of, and no more.
    """

    __slots__ = (
        "_errors",
        "_junk",
        "_out",
        "asked",
        "at",
        "authenticated",
        "backlog",
        "binary",
        "bindings",
        "buffer",
        "chunks",
        "closed",
        "data",
        "events",
        "exchange",
        "extended",
        "helo",
        "hide",
        "in_mail",
        "last",
        "left",
        "messages",
        "overlong",
        "recipients",
        "refused",
        "service",
        "utf8",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = b""  # what is to be parsed, from at on
        self.at = 0
        self.backlog: bytearray | None = None  # what arrived while waiting
        self._out: list[bytes] | None = None
        self.events: list[Event] | None = None  # made by answers, given out by proceed
        self.data: DataReader | None = None
        self.chunks: ChunkReader | None = None  # of a message that comes by BDAT
        self.left = 0  # octets of a chunk that are still to come
        self.last = False  # and it is the last chunk
        self.overlong: bytes | None = None  # beginning of a line that is too long, until its end
        self.asked = IDLE  # which question is out
        self.in_mail = False  # a MAIL was accepted
        self._errors = 0
        self._junk = 0
        self.messages = 0  # transactions begun
        self.refused = False  # a recipient of this transaction was refused
        self.exchange: sasl.Machine | None = None  # leads the authentication that is under way
        self.bindings: Callable[[], Mapping[str, bytes]] = no_bindings
        self.utf8 = False  # this transaction has SMTPUTF8
        self.binary = False  # and BODY=BINARYMIME
        self.hide = False  # what comes may be a password sent too early: not for the log
        self.recipients = 0
        self.authenticated = False
        self.closed = False
        self.extended = False
        self.helo = ""

    def send(self, octets: bytes) -> None:
        """Say this, behind all that was said before."""
        if self._out is None:
            self._out = [octets]
        else:
            self._out.append(octets)

    def bad(self, line: bytes, reply: Reply, events: list[Event]) -> None:
        """Refuse a command for its form, its time, or because there is none of that name."""
        self.send(encode(reply))
        events.append(BadCommand(_HIDDEN if self.hide else line[:QUOTE_OCTETS], reply))
        self.count_error()

    def end(self, reply: Reply) -> None:
        """End the session behind a reply that has been sent."""
        self.closed = True
        self.drop()
        if self.events is None:
            self.events = []
        self.events.append(Ended(reply))

    def forget(self) -> None:
        """There is no transaction now."""
        self.in_mail = False
        self.refused = False
        self.chunks = None
        self.recipients = 0

    def begin_anew(self) -> None:
        """Nothing was said yet."""
        self.forget()
        self.authenticated = self.extended = False
        self.helo = ""

    def drop(self) -> None:
        """The session is over: hold on to nothing."""
        self.buffer = b""
        self.at = 0
        self.backlog = None
        self.data = None
        self.chunks = None
        self.left = 0
        self.overlong = None
        self.exchange = None

    def count_error(self) -> None:
        """One error more; too many end the session."""
        self._errors += 1
        if self._errors > self.service.limits.errors and not self.closed:
            self.send(encode(say.TOO_MANY_ERRORS))
            self.end(say.TOO_MANY_ERRORS)

    def count_junk(self) -> None:
        """One command more that leads to no mail; too many end the session."""
        self._junk += 1
        if self._junk > self.service.limits.junk and not self.closed:
            self.send(encode(say.TOO_MUCH_JUNK))
            self.end(say.TOO_MUCH_JUNK)
