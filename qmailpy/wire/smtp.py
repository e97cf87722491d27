"""
The server side of SMTP (RFC 5321) without I/O, in the manner of h11.

L{SmtpCore.receive} takes octets and gives events; L{SmtpCore.take} gives the octets to send. Some events ask a question
(L{MailFrom}, L{RcptTo}, L{DataBegun}, L{DataEnded}). Behind one of these the core stops parsing, keeps what else has
arrived, and waits for L{SmtpCore.accept} or L{SmtpCore.answer}; then L{SmtpCore.proceed} gives the events that follow.
So replies keep the order of the commands however long an answer takes (RFC 2920), and nothing ever recurses.

    connected --EHLO/HELO--> ready --MAIL--> mail --RCPT--> recipients --DATA/354--> data --CRLF.CRLF--> ready
    RSET, EHLO and HELO lead to ready from everywhere but data; QUIT, or a reply of 421, ends it.

Octets behind a DATA command that was answered 354 are message data even if they came before the answer; behind a DATA
that was refused they are commands (RFC 2920 s.3.1 has the client wait, so both are its own doing).

What the core refuses by itself it answers by itself: unknown, malformed and untimely commands. It bounds the length of
a line, the number of errors and of commands that lead to no mail, and what may arrive while it waits.

Which extensions there are is told by the L{Service<qmailpy.wire.smtp_service.Service>}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qmailpy.values import Reply
from qmailpy.wire.address import parse_path
from qmailpy.wire.data import DataReader
from qmailpy.wire.reply import encode
from qmailpy.wire.smtp_events import (
    BadCommand,
    DataBegun,
    DataChunk,
    DataEnded,
    DataRefused,
    Ended,
    Event,
    Greeted,
    MailFrom,
    RcptTo,
    Reset,
)
from qmailpy.wire.smtp_service import Limits, ParameterParser, Service

BACKLOG_OCTETS = 262144
"""
What may arrive while an answer is awaited before the session is ended. An adapter that stops reading then never gets
near: a reactor hands over 64 KiB at once.
"""

_QUOTE_OCTETS = 200  # of a bad command, kept for the log
_HELO_OCTETS = 255

_MAIL_OK = b"250 2.1.0 Sender ok\r\n"
_RCPT_OK = b"250 2.1.5 Recipient ok\r\n"
_DATA_OK = b"354 End data with <CR><LF>.<CR><LF>\r\n"
_MESSAGE_OK = b"250 2.0.0 Message accepted\r\n"
_RESET_OK = b"250 2.0.0 Reset\r\n"
_NOOP_OK = b"250 2.0.0 Ok\r\n"
_VRFY = b"252 2.0.0 Cannot verify, but will take mail for it and try\r\n"
_HELP = b"214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT: see RFC 5321\r\n"
_BYE = Reply(221, "2.0.0", "Bye")
_LINE_TOO_LONG = Reply(500, "5.5.2", "Command line too long")
_BARE_LF = Reply(500, "5.5.2", "A command ends with CR LF")
_UNKNOWN = Reply(500, "5.5.1", "Unknown command")
_NOT_HERE = Reply(502, "5.5.1", "Command not implemented")
_NO_ARGUMENT = Reply(501, "5.5.4", "Command takes no argument")
_HELO_FIRST = Reply(503, "5.5.1", "EHLO or HELO first")
_HELO_NAME = Reply(501, "5.5.4", "EHLO and HELO need your host name")
_MAIL_FIRST = Reply(503, "5.5.1", "MAIL first")
_MAIL_TWICE = Reply(503, "5.5.1", "A transaction is open already")
_MAIL_SYNTAX = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address>")
_RCPT_FIRST = Reply(503, "5.5.1", "RCPT first")
_RCPT_SYNTAX = Reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
_NO_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
_TWICE = Reply(501, "5.5.4", "Parameter given twice")
_PARAMETER = Reply(555, "5.5.4", "Unknown parameter")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
_TOO_MUCH_JUNK = Reply(421, "4.7.0", "Too many commands without a message")
_TOO_MANY_MESSAGES = Reply(421, "4.7.0", "Too many messages in this session")
_TOO_EAGER = Reply(421, "4.7.0", "Too much sent without waiting for replies")
_NOT_SMTP = Reply(421, "4.7.0", "This is SMTP")

_IDLE, _MAIL_ASKED, _RCPT_ASKED, _DATA_ASKED, _END_ASKED = range(5)
# _waiting has one of the last four while a question is out, and _IDLE else.
_DEFAULTS = {_MAIL_ASKED: _MAIL_OK, _RCPT_ASKED: _RCPT_OK, _DATA_ASKED: _DATA_OK, _END_ASKED: _MESSAGE_OK}


class SmtpCore:
    """
    One session.

    @ivar helo: what the client called itself, "" before it did.
    @ivar extended: it said EHLO.
    @ivar in_data: between a 354 and the end of data.
    @ivar waiting: an event has asked a question that is still to be answered.
    @ivar closed: nothing more is read.
    @ivar recipients: recipients accepted in this transaction.
    """

    __slots__ = (
        "_at",
        "_backlog",
        "_buffer",
        "_data",
        "_errors",
        "_events",
        "_in_mail",
        "_junk",
        "_messages",
        "_out",
        "_overlong",
        "_refused",
        "_service",
        "_waiting",
        "closed",
        "extended",
        "helo",
        "recipients",
    )

    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = b""  # what is to be parsed, from _at on
        self._at = 0
        self._backlog: bytearray | None = None  # what arrived while waiting
        self._out: list[bytes] | None = None
        self._events: list[Event] | None = None  # made by answers, given out by proceed
        self._data: DataReader | None = None
        self._overlong: bytes | None = None  # beginning of a line that is too long, until its end
        self._waiting = _IDLE
        self._in_mail = False
        self._errors = 0
        self._junk = 0
        self._messages = 0
        self._refused = False  # a recipient of this transaction was refused
        self.recipients = 0
        self.closed = False
        self.extended = False
        self.helo = ""

    @property
    def waiting(self) -> bool:
        return self._waiting != _IDLE

    @property
    def in_data(self) -> bool:
        return self._data is not None

    def greet(self) -> None:
        """Say hello; once, when the connection is made."""
        self._send(self._service.greeting)

    def take(self) -> bytes:
        """What is to be sent since the last call, oldest first."""
        out = self._out
        if out is None:
            return b""
        self._out = None
        return out[0] if len(out) == 1 else b"".join(out)

    def receive(self, octets: bytes) -> list[Event]:
        """
        Take octets from the client.

        @return: what they mean, up to the first event that asks a question. Empty while one is unanswered.
        """
        if self.closed:
            return []
        if self._waiting != _IDLE:
            return self._keep(octets)
        if self._at < len(self._buffer):
            octets = self._buffer[self._at :] + octets
        self._buffer = octets
        self._at = 0
        return self._parse([])

    def accept(self) -> None:
        """Answer the question with the usual positive reply."""
        self._settle(True, _DEFAULTS[self._waiting])

    def answer(self, reply: Reply, *, counted: bool = True) -> None:
        """
        Answer the question.

        @param reply: 2yz accepts (a DATA command is accepted by L{accept} alone), 421 ends the session, others refuse.
        @param counted: whether a 5yz counts as one of the errors the client may make.
        """
        self._settle(reply.code < 400, encode(reply))
        if self.closed:
            return
        if reply.code == 421:
            self._end(reply)
        elif reply.permanent and counted:
            self._count_error()

    def proceed(self) -> list[Event]:
        """The events that follow an answered question; empty when there are none, or none yet."""
        events = self._events or []
        self._events = None
        if self.closed:
            return events
        if self._backlog is not None and self._waiting == _IDLE:
            self._buffer = self._buffer[self._at :] + self._backlog
            self._at = 0
            self._backlog = None
        return self._parse(events)

    def close(self, reply: Reply) -> None:
        """End the session from our side: C{reply} (421) is the last thing sent."""
        if not self.closed:
            self._send(encode(reply))
            self.closed = True
            self._drop()

    # What follows is the inside.

    def _send(self, octets: bytes) -> None:
        if self._out is None:
            self._out = [octets]
        else:
            self._out.append(octets)

    def _keep(self, octets: bytes) -> list[Event]:
        if self._backlog is None:
            self._backlog = bytearray()
        self._backlog += octets
        if len(self._backlog) <= BACKLOG_OCTETS:
            return []
        self.close(_TOO_EAGER)
        return [Ended(_TOO_EAGER)]

    def _settle(self, accepted: bool, octets: bytes) -> None:
        """Note the answer to the question that is out."""
        asked = self._waiting
        if asked == _IDLE:
            raise RuntimeError("an answer without a question")
        self._waiting = _IDLE
        if self.closed:
            return
        self._send(octets)
        if asked == _RCPT_ASKED:
            if accepted:
                self.recipients += 1
            else:
                self._refused = True
        elif asked == _MAIL_ASKED:
            self._in_mail = accepted
        elif asked == _DATA_ASKED:
            if accepted:
                limits = self._service.limits
                self._data = DataReader(limits.message_octets, limits.received, limits.normalise)
        else:
            self._forget()
            if accepted:
                self._errors = self._junk = 0

    def _forget(self) -> None:
        """There is no transaction now."""
        self._in_mail = False
        self._refused = False
        self.recipients = 0

    def _drop(self) -> None:
        """The session is over: hold on to nothing."""
        self._buffer = b""
        self._at = 0
        self._backlog = None
        self._data = None
        self._overlong = None

    def _end(self, reply: Reply) -> None:
        """End the session behind a reply that has been sent."""
        self.closed = True
        self._drop()
        if self._events is None:
            self._events = []
        self._events.append(Ended(reply))

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors > self._service.limits.errors and not self.closed:
            self._send(encode(_TOO_MANY_ERRORS))
            self._end(_TOO_MANY_ERRORS)

    def _parse(self, events: list[Event]) -> list[Event]:
        """Read on in the buffer until it is used up, a question is out or the session ends."""
        line_octets = self._service.limits.line_octets
        while self._waiting == _IDLE and not self.closed:
            if self._data is not None:
                if self._at >= len(self._buffer):
                    break
                self._read_data(self._data, events)
                continue
            at = self._at
            end = self._buffer.find(b"\n", at)
            if end < 0:
                self._keep_part(at, line_octets)
                break
            self._at = end + 1
            if self._overlong is not None or end + 1 - at > line_octets:
                start = (
                    self._overlong
                    if self._overlong is not None
                    else self._buffer[at : at + min(_QUOTE_OCTETS, line_octets)]
                )
                self._overlong = None
                self._bad(start, _LINE_TOO_LONG, events)
            elif end > at and self._buffer[end - 1] == 0x0D:
                self._command(self._buffer[at : end - 1], events)
            elif self._service.limits.normalise:
                self._command(self._buffer[at:end], events)
            else:
                # Answered rather than overlooked, so that a client which never sends CRLF learns why.
                self._bad(self._buffer[at:end], _BARE_LF, events)
        if self._events is not None:
            events += self._events
            self._events = None
        return events

    def _keep_part(self, at: int, line_octets: int) -> None:
        """No line end in the buffer: keep what there is of the line, or only its beginning when it is too long."""
        if self._overlong is None and len(self._buffer) - at >= line_octets:
            self._overlong = self._buffer[at : at + min(_QUOTE_OCTETS, line_octets)]
        # Cut off what has been read: a session may be idle for long now.
        self._buffer = b"" if self._overlong is not None else self._buffer[at:]
        self._at = 0

    def _read_data(self, data: DataReader, events: list[Event]) -> None:
        content, rest = data.feed(self._buffer[self._at :] if self._at else self._buffer)
        if content:
            events.append(DataChunk(content))
        self._at = 0
        if rest is None:
            self._buffer = b""
            return
        self._buffer = rest
        self._data = None
        fault = data.fault
        if fault is None:
            self._waiting = _END_ASKED
            events.append(DataEnded(data.size, data.head))
        else:
            self._forget()
            self._send(encode(fault))
            events.append(DataRefused(fault, data.size))
            self._count_error()

    def _bad(self, line: bytes, reply: Reply, events: list[Event]) -> None:
        self._send(encode(reply))
        events.append(BadCommand(line[:_QUOTE_OCTETS], reply))
        self._count_error()

    def _command(self, line: bytes, events: list[Event]) -> None:
        verb, _, argument = line.partition(b" ")
        parser = _COMMANDS.get(verb.upper())
        if parser is not None:
            parser(self, line, argument, events)
            return
        verb = verb.rstrip().upper()
        if verb in _FOREIGN:
            # A browser or a script made to talk to us: the rest of what it sends is no mail either.
            events.append(BadCommand(line[:_QUOTE_OCTETS], _NOT_SMTP))
            self._send(encode(_NOT_SMTP))
            self._end(_NOT_SMTP)
        else:
            self._bad(line, _NOT_HERE if verb in _KNOWN else _UNKNOWN, events)

    def _ehlo(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._hello(line, argument, events, True)

    def _helo(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._hello(line, argument, events, False)

    def _hello(self, line: bytes, argument: bytes, events: list[Event], extended: bool) -> None:
        """RFC 5321 s.4.1.1.1. The name is a claim and goes to log and trace only: any visible ASCII will do."""
        name = argument.strip(b" ")
        if not name or len(name) > _HELO_OCTETS or name.translate(None, _VISIBLE):
            self._bad(line, _HELO_NAME, events)
            return
        if self.helo:
            self._count_junk()
        self.helo = name.decode("ascii")
        self.extended = extended
        self._forget()
        self._send(self._service.ehlo if extended else self._service.helo)
        events.append(Greeted(self.helo, extended))

    def _mail(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if not self.helo:
            self._bad(line, _HELO_FIRST, events)
            return
        if self._in_mail:
            self._bad(line, _MAIL_TWICE, events)
            return
        service = self._service
        if self._messages >= service.limits.messages:
            self._send(encode(_TOO_MANY_MESSAGES))
            self._end(_TOO_MANY_MESSAGES)
            return
        found = _path(argument, b"FROM:", sender=True)
        if found is None or isinstance(found, Reply):
            self._bad(line, found or _MAIL_SYNTAX, events)
            return
        address, end = found
        if end == len(argument):
            event = MailFrom(address=address)
        else:
            fields = _parameters(argument[end:], service.mail, service.limits)
            if isinstance(fields, Reply):
                self._bad(line, fields, events)
                return
            event = MailFrom(address=address, **fields)
        self._messages += 1
        self._waiting = _MAIL_ASKED
        events.append(event)

    def _rcpt(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if not self._in_mail:
            self._bad(line, _MAIL_FIRST if self.helo else _HELO_FIRST, events)
            return
        found = _path(argument, b"TO:", sender=False)
        if found is None or isinstance(found, Reply):
            self._refused = True
            self._bad(line, found or _RCPT_SYNTAX, events)
            return
        address, end = found
        if end == len(argument):
            event = RcptTo(address=address)
        else:
            fields = _parameters(argument[end:], self._service.rcpt, self._service.limits)
            if isinstance(fields, Reply):
                self._refused = True
                self._bad(line, fields, events)
                return
            event = RcptTo(address=address, **fields)
        self._waiting = _RCPT_ASKED
        events.append(event)

    def _data_command(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if argument.strip(b" "):
            self._bad(line, _NO_ARGUMENT, events)
        elif self.recipients:
            self._waiting = _DATA_ASKED
            events.append(DataBegun())
        elif self._refused:
            # A client that pipelines could not know (RFC 2920 s.3.1): no error of its.
            self._send(encode(_NO_RECIPIENTS))
        else:
            self._bad(line, _RCPT_FIRST if self._in_mail else _MAIL_FIRST, events)

    def _rset(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if argument.strip(b" "):
            self._bad(line, _NO_ARGUMENT, events)
            return
        self._forget()
        self._send(_RESET_OK)
        events.append(Reset())
        self._count_junk()

    def _quit(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if argument.strip(b" "):
            self._bad(line, _NO_ARGUMENT, events)
            return
        self._send(encode(_BYE))
        self._end(_BYE)

    def _noop(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(_NOOP_OK)
        self._count_junk()

    def _vrfy(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(_VRFY)
        self._count_junk()

    def _help(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(_HELP)
        self._count_junk()

    def _count_junk(self) -> None:
        self._junk += 1
        if self._junk > self._service.limits.junk and not self.closed:
            self._send(encode(_TOO_MUCH_JUNK))
            self._end(_TOO_MUCH_JUNK)


CommandParser = Callable[[SmtpCore, bytes, bytes, list[Event]], None]

_COMMANDS: dict[bytes, CommandParser] = {
    b"EHLO": SmtpCore._ehlo,
    b"HELO": SmtpCore._helo,
    b"MAIL": SmtpCore._mail,
    b"RCPT": SmtpCore._rcpt,
    b"DATA": SmtpCore._data_command,
    b"RSET": SmtpCore._rset,
    b"NOOP": SmtpCore._noop,
    b"QUIT": SmtpCore._quit,
    b"VRFY": SmtpCore._vrfy,
    b"HELP": SmtpCore._help,
}
# Commands of SMTP that we know of and do not have.
_KNOWN = frozenset((b"EXPN", b"TURN", b"SEND", b"SOML", b"SAML"))
# First words of other protocols.
_FOREIGN = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS"))
_VISIBLE = bytes(range(0x21, 0x7F))


def _path(argument: bytes, word: bytes, *, sender: bool) -> tuple[str, int] | Reply | None:
    """
    C{FROM:<path>} or C{TO:<path>}; C{None} when it is not of that form. A blank before the path is forgiven: many
    clients send one.
    """
    at = len(word)
    if argument[:at] != word and argument[:at].upper() != word:
        return None
    while argument[at : at + 1] == b" ":
        at += 1
    found = parse_path(argument, at, sender=sender)
    if not isinstance(found, Reply) and argument[found[1] : found[1] + 1] not in (b"", b" "):
        return None
    return found


def _parameters(
    text: bytes, table: Mapping[str, tuple[str, ParameterParser]], limits: Limits
) -> dict[str, Any] | Reply:
    """
    RFC 5321 s.4.1.2 C{Mail-parameters}, by C{table}.

    @return: fields of the event by name, or the refusal.
    """
    fields: dict[str, Any] = {}
    for word in text.split(b" "):
        if not word:
            continue
        name, sign, value = word.decode("ascii", "replace").partition("=")
        row = table.get(name.upper())
        if row is None:
            return _PARAMETER
        target, parse = row
        if target in fields:
            return _TWICE
        found = parse(value if sign else None, limits)
        if isinstance(found, Reply):
            return found
        fields[target] = found
    return fields
