"""
What the SMTP sessions of a listener have in common: limits, extensions and the replies that never change.

Extensions are rows of a table (L{EXTENSIONS}): what EHLO announces and which parameters MAIL and RCPT take, each with
the parser of its value and the field of the event it fills. A new extension is a new row and a field of
L{MailFrom<qmailpy.wire.smtp_events.MailFrom>} or L{RcptTo<qmailpy.wire.smtp_events.RcptTo>}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from qmailpy.values import Reply
from qmailpy.wire.data import TOO_LARGE
from qmailpy.wire.reply import encode


@frozen(kw_only=True)
class Limits:
    """What a session may do."""

    message_octets: int = 52428800
    received: int = 100  # Received fields
    line_octets: int = 2048  # a command with its line end; RFC 5321 s.4.5.3.1.4 asks for 512 and more with parameters
    errors: int = 20  # bad or refused commands before the session is ended; a message that is accepted forgives them
    junk: int = 200  # commands since the last message that bring no mail (NOOP, RSET, VRFY ...)
    messages: int = 1000  # transactions
    normalise: bool = False  # a CR or LF alone is a line end to be corrected, not a fault


ParameterParser = Callable[[str | None, Limits], Any]
"""
Takes the value of a parameter (C{None}: it had none) and gives what goes into the event's field, or the L{Reply} that
refuses it.
"""


@frozen(kw_only=True)
class Extension:
    """A row of the table: one keyword of the answer to EHLO and the parameters that come with it."""

    keyword: str
    argument: Callable[[Limits], str] | None = None
    mail: Mapping[str, tuple[str, ParameterParser]] = field(factory=dict)  # parameter: (field of MailFrom, parser)
    rcpt: Mapping[str, tuple[str, ParameterParser]] = field(factory=dict)  # parameter: (field of RcptTo, parser)


def _size(value: str | None, limits: Limits) -> int | Reply:
    """RFC 1870 s.3: up to 20 digits."""
    if value is None or not (value.isascii() and value.isdigit()) or len(value) > 20:
        return Reply(501, "5.5.4", "SIZE needs a number")
    size = int(value)
    return size if size <= limits.message_octets else TOO_LARGE


def _body(value: str | None, limits: Limits) -> str | Reply:
    """RFC 6152 s.2."""
    body = (value or "").upper()
    return body if body in ("7BIT", "8BITMIME") else Reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME")


EXTENSIONS: tuple[Extension, ...] = (
    Extension(keyword="PIPELINING"),
    Extension(keyword="SIZE", argument=lambda limits: str(limits.message_octets), mail={"SIZE": ("size", _size)}),
    Extension(keyword="8BITMIME", mail={"BODY": ("body", _body)}),
    Extension(keyword="ENHANCEDSTATUSCODES"),
)


@frozen(kw_only=True)
class Service:
    """What the sessions of one listener have in common; replies that never change are encoded once, here."""

    hostname: str
    limits: Limits = Limits()
    extensions: tuple[Extension, ...] = EXTENSIONS
    greeting: bytes = field(init=False)
    helo: bytes = field(init=False)
    ehlo: bytes = field(init=False)
    mail: Mapping[str, tuple[str, ParameterParser]] = field(init=False)
    rcpt: Mapping[str, tuple[str, ParameterParser]] = field(init=False)

    @greeting.default
    def _greeting(self) -> bytes:
        return encode(Reply(220, "", f"{self.hostname} ESMTP qmailpy"))

    @helo.default
    def _helo(self) -> bytes:
        return encode(Reply(250, "", self.hostname))

    @ehlo.default
    def _ehlo(self) -> bytes:
        lines = [self.hostname]
        for row in self.extensions:
            lines.append(row.keyword if row.argument is None else f"{row.keyword} {row.argument(self.limits)}")
        return encode(Reply(250, "", "\n".join(lines)))

    @mail.default
    def _mail(self) -> Mapping[str, tuple[str, ParameterParser]]:
        return {name: parser for row in self.extensions for name, parser in row.mail.items()}

    @rcpt.default
    def _rcpt(self) -> Mapping[str, tuple[str, ParameterParser]]:
        return {name: parser for row in self.extensions for name, parser in row.rcpt.items()}
