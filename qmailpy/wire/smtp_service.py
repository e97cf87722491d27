"""
What the SMTP sessions of a listener have in common: limits, extensions and the replies that never change.

Extensions are rows of a table (L{EXTENSIONS}): what EHLO announces and which parameters MAIL and RCPT take, each with
the parser of its value and the field of the event it fills. A new extension is a new row and a field of
L{MailFrom<qmailpy.wire.smtp_events.MailFrom>} or L{RcptTo<qmailpy.wire.smtp_events.RcptTo>}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from qmailpy.values import Notify, Reply
from qmailpy.wire.data import TOO_LARGE
from qmailpy.wire.orcpt import parse_orcpt
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
    recipients: int = 1000  # of a message; kept by whoever answers RCPT, told here (RFC 9422)
    normalise: bool = False  # a CR or LF alone is a line end to be corrected, not a fault
    hold_s: int = 0  # longest time a message may be held before it goes (RFC 4865)


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
    dated: Callable[[Limits, float], str] | None = None  # as C{argument}, where that depends on the time
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


def _flag(value: str | None, limits: Limits) -> bool | Reply:
    """A parameter without a value."""
    return True if value is None else Reply(501, "5.5.4", "Parameter takes no value")


def _ret(value: str | None, limits: Limits) -> str | Reply:
    """RFC 3461 s.4.3."""
    ret = (value or "").upper()
    return ret if ret in ("FULL", "HDRS") else Reply(501, "5.5.4", "RET is FULL or HDRS")


def _envid(value: str | None, limits: Limits) -> str | Reply:
    """RFC 3461 s.4.4: up to 100 characters as written."""
    return xtext(value or "", 100) or Reply(501, "5.5.4", "ENVID needs xtext of at most 100 characters")


def _notify(value: str | None, limits: Limits) -> int | Reply:
    """RFC 3461 s.4.1: NEVER alone, or a list of the others."""
    words = (value or "").upper().split(",")
    bits = {"NEVER": Notify.NEVER, "SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}
    if not all(word in bits for word in words) or len(set(words)) != len(words) or ("NEVER" in words and words[1:]):
        return Reply(501, "5.5.4", "NOTIFY is NEVER, or some of SUCCESS, FAILURE and DELAY")
    return sum(bits[word] for word in words)


def _orcpt(value: str | None, limits: Limits) -> str | Reply:
    """RFC 3461 s.4.2, RFC 6533 s.3: UTF-8 comes here only where the transaction has SMTPUTF8."""
    return parse_orcpt(value or "", utf8=True) or Reply(
        501, "5.5.4", "ORCPT needs a type and an address, as in rfc822;joe@example.org"
    )


DSN = Extension(
    keyword="DSN",
    mail={"RET": ("ret", _ret), "ENVID": ("envid", _envid)},
    rcpt={"NOTIFY": ("notify", _notify), "ORCPT": ("orcpt", _orcpt)},
)
"""RFC 3461."""

EXTENSIONS: tuple[Extension, ...] = (
    Extension(keyword="PIPELINING"),
    Extension(keyword="SIZE", argument=lambda limits: str(limits.message_octets), mail={"SIZE": ("size", _size)}),
    Extension(keyword="8BITMIME", mail={"BODY": ("body", _body)}),
    Extension(keyword="ENHANCEDSTATUSCODES"),
    Extension(keyword="CHUNKING"),
    Extension(
        keyword="LIMITS", argument=lambda limits: f"MAILMAX={limits.messages} RCPTMAX={limits.recipients}"
    ),  # RFC 9422 s.4
    Extension(keyword="SMTPUTF8", mail={"SMTPUTF8": ("smtputf8", _flag)}),
    DSN,
)


def _auth(value: str | None, limits: Limits) -> str | Reply:
    """
    RFC 4954 s.5: who had submitted it, by the word of the client. Nobody's word is taken for that here, so it is looked
    at for its form alone and gone, as s.5 allows.
    """
    found = xtext(value or "", limits.line_octets)
    return Reply(501, "5.5.4", "AUTH needs an address or <>") if not found else ""


def xtext(value: str, most: int) -> str | None:
    """
    RFC 3461 s.4: printable ASCII, with C{+} and two upper-case hexadecimal digits for anything else.

    @param most: characters it may have.
    @return: the decoded text; C{None} when it is not of that form, or holds a control character.
    """
    if len(value) > most or _XTEXT.fullmatch(value) is None:
        return None
    text = _HEXCHAR.sub(lambda found: chr(int(found[1], 16)), value)
    return text if text.isascii() and text.isprintable() else None


_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")


@frozen(kw_only=True)
class Service:
    """
    What the sessions of one listener have in common; replies that never change are encoded once, here.

    A listener with TLS has two: what is offered in the clear, and what is offered inside.
    """

    hostname: str
    limits: Limits = Limits()
    extensions: tuple[Extension, ...] = EXTENSIONS
    lmtp: bool = False  # RFC 2033
    starttls: bool = False  # it may be asked for (RFC 3207)
    secured: bool = False  # inside TLS
    mechanisms: tuple[str, ...] = ()  # SASL mechanisms that may be used now, the strongest first (RFC 4954)
    auth_secured: bool = False  # there would be some inside TLS
    seconds: Callable[[], float] = lambda: 0.0  # the time, for extensions that are L{dated<Extension>}
    greeting: bytes = field(init=False)
    helo: bytes = field(init=False)
    ehlo: bytes = field(init=False)  # b"" where it depends on the time; see L{hello}
    utf8: bool = field(init=False)  # addresses may be international, where MAIL says so
    mail: Mapping[str, tuple[str, ParameterParser]] = field(init=False)
    rcpt: Mapping[str, tuple[str, ParameterParser]] = field(init=False)
    _latest: dict[int, bytes] = field(init=False, factory=dict, eq=False, repr=False)  # of one second

    @greeting.default
    def _greeting(self) -> bytes:
        return encode(Reply(220, "", f"{self.hostname} {'LMTP' if self.lmtp else 'ESMTP'} qmailpy"))

    @helo.default
    def _helo(self) -> bytes:
        return encode(Reply(250, "", self.hostname))

    @ehlo.default
    def _ehlo(self) -> bytes:
        return b"" if any(row.dated is not None for row in self.extensions) else self._announced()

    def hello(self) -> bytes:
        """The answer to EHLO or LHLO."""
        if self.ehlo:
            return self.ehlo
        second = int(self.seconds())
        answer = self._latest.get(second)
        if answer is None:
            self._latest.clear()
            answer = self._latest[second] = self._announced()
        return answer

    def _announced(self) -> bytes:
        lines = [self.hostname]
        for row in self.extensions:
            said = row.keyword
            if row.argument is not None:
                said += " " + row.argument(self.limits)
            elif row.dated is not None:
                said += " " + row.dated(self.limits, self.seconds())
            lines.append(said)
        if self.starttls:
            lines.append("STARTTLS")
        if self.mechanisms:
            lines.append(" ".join(("AUTH", *self.mechanisms)))
        return encode(Reply(250, "", "\n".join(lines)))

    @utf8.default
    def _utf8(self) -> bool:
        return any("SMTPUTF8" in row.mail for row in self.extensions)

    @mail.default
    def _mail(self) -> Mapping[str, tuple[str, ParameterParser]]:
        table = {name: parser for row in self.extensions for name, parser in row.mail.items()}
        if self.mechanisms:
            table["AUTH"] = ("auth", _auth)
        return table

    @rcpt.default
    def _rcpt(self) -> Mapping[str, tuple[str, ParameterParser]]:
        return {name: parser for row in self.extensions for name, parser in row.rcpt.items()}
