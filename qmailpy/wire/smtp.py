"""
The server side of SMTP (RFC 5321) without I/O, in the manner of h11.

L{SmtpCore.receive} takes octets and gives events; L{SmtpCore.take} gives the octets to send. Some events ask a question
(L{MailFrom}, L{RcptTo}, L{DataBegun}, L{DataEnded}). Behind one of these the core stops parsing, keeps what else has
arrived, and waits for L{SmtpCore.accept} or L{SmtpCore.answer}; then L{SmtpCore.proceed} gives the events that follow.
So replies keep the order of the commands however long an answer takes (RFC 2920), and nothing ever recurses.

    connected --EHLO/HELO--> ready --MAIL--> mail --RCPT--> recipients --DATA/354--> data --CRLF.CRLF--> ready
    recipients --BDAT--> chunks --BDAT n LAST--> ready
    RSET, EHLO and HELO lead to ready from everywhere but data; QUIT, or a reply of 421, ends it.
    ready --STARTTLS/220--> L{SmtpCore.secure} --> connected
    ready --AUTH/334--> exchange, of which every line is an answer --235--> ready

Octets behind a DATA command that was answered 354 are message data even if they came before the answer; behind a DATA
that was refused they are commands (RFC 2920 s.3.1 has the client wait, so both are its own doing).

The octets behind a BDAT command are read whatever the answer to it (RFC 3030 s.2): to take them for commands would let
whoever wrote the message speak for the client. A BDAT whose size cannot be read ends the session for that reason.

After a 220 to STARTTLS nothing is read until L{SmtpCore.secure}; what came behind the command in the clear ends the
session (RFC 3207 s.4.2 wants it dropped, and an honest client has sent nothing). An authentication exchange is led by
a L{sasl<qmailpy.wire.sasl>} machine; only what it cannot know is asked (L{AuthStep}).

LMTP (RFC 2033) is the same with another greeting, and a reply a recipient behind the data.

What the core refuses by itself it answers by itself: unknown, malformed and untimely commands. It bounds the length of
a line, the number of errors and of commands that lead to no mail, and what may arrive while it waits.

Which extensions there are is told by the L{Service<qmailpy.wire.smtp_service.Service>}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qmailpy.values import Reply, ScramSecret
from qmailpy.wire import sasl
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.data import TOO_LARGE, ChunkReader, DataReader
from qmailpy.wire.reply import encode
from qmailpy.wire.smtp_arguments import parameters, path
from qmailpy.wire.smtp_events import (
    AuthStep,
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
    StartTls,
)
from qmailpy.wire.smtp_service import Service

BACKLOG_OCTETS = 262144
"""
What may arrive while an answer is awaited before the session is ended. An adapter that stops reading then never gets
near: a reactor hands over 64 KiB at once.
"""

_QUOTE_OCTETS = 200  # of a bad command, kept for the log
_HELO_OCTETS = 255

_IDLE, _MAIL_ASKED, _RCPT_ASKED, _DATA_ASKED, _END_ASKED, _TLS_ASKED, _AUTH_ASKED = range(7)
# _waiting has one of the others while a question is out, and _IDLE else.
_DEFAULTS = {
    _MAIL_ASKED: say.MAIL_OK,
    _RCPT_ASKED: say.RCPT_OK,
    _DATA_ASKED: say.DATA_OK,
    _END_ASKED: say.MESSAGE_OK,
    _TLS_ASKED: say.TLS_OK,
    _AUTH_ASKED: say.AUTH_OK,
}
_SASL_LINE = sasl.LINE_OCTETS + 2
_HIDDEN = b"(hidden)"


def _no_bindings() -> Mapping[str, bytes]:
    return {}


class SmtpCore:
    """
    One session.

    @ivar helo: what the client called itself, "" before it did.
    @ivar extended: it said EHLO.
    @ivar in_data: between a 354 and the end of data.
    @ivar waiting: an event has asked a question that is still to be answered.
    @ivar authenticated: an AUTH was accepted.
    @ivar closed: nothing more is read.
    @ivar recipients: recipients accepted in this transaction.
    @ivar service: what is offered now.
    """

    __slots__ = (
        "_at",
        "_backlog",
        "_bindings",
        "_buffer",
        "_chunks",
        "_data",
        "_errors",
        "_events",
        "_hide",
        "_in_mail",
        "_junk",
        "_last",
        "_left",
        "_messages",
        "_out",
        "_overlong",
        "_refused",
        "_sasl",
        "_utf8",
        "_waiting",
        "authenticated",
        "closed",
        "extended",
        "helo",
        "recipients",
        "service",
    )

    def __init__(self, service: Service) -> None:
        self.service = service
        self._buffer = b""  # what is to be parsed, from _at on
        self._at = 0
        self._backlog: bytearray | None = None  # what arrived while waiting
        self._out: list[bytes] | None = None
        self._events: list[Event] | None = None  # made by answers, given out by proceed
        self._data: DataReader | None = None
        self._chunks: ChunkReader | None = None  # of a message that comes by BDAT
        self._left = 0  # octets of a chunk that are still to come
        self._last = False  # and it is the last chunk
        self._overlong: bytes | None = None  # beginning of a line that is too long, until its end
        self._waiting = _IDLE
        self._in_mail = False
        self._errors = 0
        self._junk = 0
        self._messages = 0
        self._refused = False  # a recipient of this transaction was refused
        self._sasl: sasl.Machine | None = None  # its exchange is under way
        self._bindings: Callable[[], Mapping[str, bytes]] = _no_bindings
        self._utf8 = False  # this transaction has SMTPUTF8
        self._hide = False  # what comes may be a password sent too early: not for the log
        self.recipients = 0
        self.authenticated = False
        self.closed = False
        self.extended = False
        self.helo = ""

    @property
    def waiting(self) -> bool:
        return self._waiting != _IDLE

    @property
    def in_data(self) -> bool:
        return self._data is not None or self._left > 0

    @property
    def pending(self) -> bool:
        """Whether L{take} has something."""
        return self._out is not None

    def greet(self) -> None:
        """Say hello; once, when the connection is made."""
        self._send(self.service.greeting)

    def secure(self, service: Service, bindings: Callable[[], Mapping[str, bytes]] = _no_bindings) -> None:
        """
        TLS begins: behind a L{StartTls} that was accepted, or before anything else. Forgets all that was said in the
        clear (RFC 3207 s.4.2).

        @param service: what the session offers from now on.
        @param bindings: gives the channel bindings, for L{sasl.server}; called when they are needed.
        """
        self.service = service
        self._bindings = bindings
        self._forget()
        self._buffer = b""
        self._at = 0
        self._backlog = None
        self.authenticated = self.extended = False
        self.helo = ""

    def secret(self, secret: ScramSecret) -> None:
        """Answer a L{AuthStep} that wants a secret; L{proceed} tells what comes of it."""
        if self._waiting != _AUTH_ASKED or self._sasl is None:
            raise RuntimeError("a secret nobody wants")
        self._waiting = _IDLE
        if self.closed:
            return
        if self._events is None:
            self._events = []
        self._advance(self._sasl.secret(secret), self._events)

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
        self.close(say.TOO_EAGER)
        return [Ended(say.TOO_EAGER)]

    def _settle(self, accepted: bool, octets: bytes) -> None:
        """Note the answer to the question that is out."""
        asked = self._waiting
        if asked == _IDLE:
            raise RuntimeError("an answer without a question")
        self._waiting = _IDLE
        if self.closed:
            return
        if asked == _DATA_ASKED and self._chunks is not None and accepted:
            if not self._left:
                if self._events is None:
                    self._events = []
                self._take_chunk(self._chunks, b"", self._events)
            return  # a chunk is answered when it is there
        if asked == _END_ASKED and self.service.lmtp:
            octets *= self.recipients  # RFC 2033 s.4.2: one for each that was accepted
        self._send(octets)
        if asked == _RCPT_ASKED:
            if accepted:
                self.recipients += 1
            else:
                self._refused = True
        elif asked == _MAIL_ASKED:
            self._in_mail = accepted
        elif asked == _DATA_ASKED:
            if self._chunks is not None:
                self._forget()  # what is left of it is skipped: a message must not begin with its second chunk
            elif accepted:
                limits = self.service.limits
                self._data = DataReader(limits.message_octets, limits.received, limits.normalise)
        elif asked == _END_ASKED:
            self._forget()
            if accepted:
                self._errors = self._junk = 0
        elif asked == _AUTH_ASKED:
            self._sasl = None
            self.authenticated = accepted
        elif accepted and self._backlog:  # STARTTLS
            self._send(encode(say.TLS_INJECTED))
            self._end(say.TLS_INJECTED)

    def _forget(self) -> None:
        """There is no transaction now."""
        self._in_mail = False
        self._refused = False
        self._chunks = None
        self.recipients = 0

    def _drop(self) -> None:
        """The session is over: hold on to nothing."""
        self._buffer = b""
        self._at = 0
        self._backlog = None
        self._data = None
        self._chunks = None
        self._left = 0
        self._overlong = None
        self._sasl = None

    def _end(self, reply: Reply) -> None:
        """End the session behind a reply that has been sent."""
        self.closed = True
        self._drop()
        if self._events is None:
            self._events = []
        self._events.append(Ended(reply))

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors > self.service.limits.errors and not self.closed:
            self._send(encode(say.TOO_MANY_ERRORS))
            self._end(say.TOO_MANY_ERRORS)

    def _parse(self, events: list[Event]) -> list[Event]:
        """Read on in the buffer until it is used up, a question is out or the session ends."""
        while self._waiting == _IDLE and not self.closed:
            line_octets = self.service.limits.line_octets if self._sasl is None else _SASL_LINE
            if self._data is not None:
                if self._at >= len(self._buffer):
                    break
                self._read_data(self._data, events)
                continue
            if self._left:
                if self._at >= len(self._buffer):
                    break
                self._read_chunk(events)
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
                if self._sasl is None:
                    self._bad(start, say.LINE_TOO_LONG, events)
                else:
                    self._give_up_auth(say.AUTH_TOO_LONG, events)
            elif end > at and self._buffer[end - 1] == 0x0D:
                self._line(self._buffer[at : end - 1], events)
            elif self.service.limits.normalise:
                self._line(self._buffer[at:end], events)
            elif self._sasl is not None:
                self._give_up_auth(say.BARE_LF, events)
            else:
                # Answered rather than overlooked, so that a client which never sends CRLF learns why.
                self._bad(self._buffer[at:end], say.BARE_LF, events)
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
            self._send(encode(fault) * (self.recipients if self.service.lmtp else 1))
            self._forget()
            events.append(DataRefused(fault, data.size))
            self._count_error()

    def _read_chunk(self, events: list[Event]) -> None:
        """Octets of a chunk are there, some or all of them."""
        end = min(self._at + self._left, len(self._buffer))
        octets = self._buffer[self._at : end]
        self._left -= len(octets)
        if end < len(self._buffer):
            self._at = end
        else:
            self._buffer = b""
            self._at = 0
        if self._chunks is not None:
            self._take_chunk(self._chunks, octets, events)

    def _take_chunk(self, chunks: ChunkReader, octets: bytes, events: list[Event]) -> None:
        ended = not self._left
        content = chunks.take(octets, ended and self._last)
        if content:
            events.append(DataChunk(content))
        if not ended:
            return
        if not self._last:
            self._send(say.CHUNK_OK)
        elif chunks.fault is None:
            self._waiting = _END_ASKED
            events.append(DataEnded(chunks.size, chunks.head))
        else:
            self._refuse_chunks(chunks.fault, chunks.size, events)

    def _refuse_chunks(self, fault: Reply, size: int, events: list[Event]) -> None:
        """The message that comes by BDAT is refused, and the transaction over."""
        self._send(encode(fault) * (self.recipients if self.service.lmtp and self._last else 1))
        self._forget()
        events.append(DataRefused(fault, size))
        self._count_error()

    def _bad(self, line: bytes, reply: Reply, events: list[Event]) -> None:
        self._send(encode(reply))
        events.append(BadCommand(_HIDDEN if self._hide else line[:_QUOTE_OCTETS], reply))
        self._count_error()

    def _line(self, line: bytes, events: list[Event]) -> None:
        """A line that is not data: a command, or an answer in an authentication exchange."""
        if self._sasl is not None:
            self._auth_answer(line, events)
            return
        verb, _, argument = line.partition(b" ")
        parser = (_LMTP_COMMANDS if self.service.lmtp else _COMMANDS).get(verb.upper())
        if parser is not None:
            self._hide = False
            parser(self, line, argument, events)
            return
        verb = verb.rstrip().upper()
        if verb in _FOREIGN:
            # A browser or a script made to talk to us: the rest of what it sends is no mail either.
            events.append(BadCommand(line[:_QUOTE_OCTETS], say.NOT_SMTP))
            self._send(encode(say.NOT_SMTP))
            self._end(say.NOT_SMTP)
        else:
            self._bad(line, say.NOT_HERE if verb in _KNOWN else say.UNKNOWN, events)

    def _ehlo(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._hello(line, argument, events, True)

    def _helo(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._hello(line, argument, events, False)

    def _hello(self, line: bytes, argument: bytes, events: list[Event], extended: bool) -> None:
        """RFC 5321 s.4.1.1.1. The name is a claim and goes to log and trace only: any visible ASCII will do."""
        name = argument.strip(b" ")
        if not name or len(name) > _HELO_OCTETS or name.translate(None, _VISIBLE):
            self._bad(line, say.HELO_NAME, events)
            return
        if self.helo:
            self._count_junk()
        self.helo = name.decode("ascii")
        self.extended = extended
        self._forget()
        self._send(self.service.ehlo if extended else self.service.helo)
        events.append(Greeted(self.helo, extended))

    def _mail(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if not self.helo:
            self._bad(line, say.LHLO_FIRST if self.service.lmtp else say.HELO_FIRST, events)
            return
        if self._in_mail:
            self._bad(line, say.MAIL_TWICE, events)
            return
        service = self.service
        if self._messages >= service.limits.messages:
            self._send(encode(say.TOO_MANY_MESSAGES))
            self._end(say.TOO_MANY_MESSAGES)
            return
        utf8 = service.utf8 and not argument.isascii()
        found = path(argument, b"FROM:", sender=True, utf8=utf8)
        if found is None or isinstance(found, Reply):
            self._bad(line, found or say.MAIL_SYNTAX, events)
            return
        address, end = found
        if end == len(argument):
            event = MailFrom(address=address)
        else:
            fields = parameters(argument[end:], service.mail, service.limits)
            if isinstance(fields, Reply):
                self._bad(line, fields, events)
                return
            event = MailFrom(address=address, **fields)
        if utf8 and not event.smtputf8:
            self._bad(line, say.NEEDS_UTF8, events)
            return
        self._utf8 = event.smtputf8
        self._messages += 1
        self._waiting = _MAIL_ASKED
        events.append(event)

    def _rcpt(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if not self._in_mail:
            self._bad(line, say.MAIL_FIRST if self.helo else say.HELO_FIRST, events)
            return
        if self._chunks is not None:
            self._bad(line, say.NOT_NOW_BDAT, events)
            return
        found = path(argument, b"TO:", sender=False, utf8=self._utf8)
        if found is None or isinstance(found, Reply):
            self._refused = True
            self._bad(line, found or say.RCPT_SYNTAX, events)
            return
        address, end = found
        if end == len(argument):
            event = RcptTo(address=address)
        else:
            fields = parameters(argument[end:], self.service.rcpt, self.service.limits)
            if isinstance(fields, Reply):
                self._refused = True
                self._bad(line, fields, events)
                return
            event = RcptTo(address=address, **fields)
        self._waiting = _RCPT_ASKED
        events.append(event)

    def _data_command(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if argument.strip(b" "):
            self._bad(line, say.NO_ARGUMENT, events)
        elif self._chunks is not None:
            self._bad(line, say.NOT_NOW_BDAT, events)
        elif self.recipients:
            self._waiting = _DATA_ASKED
            events.append(DataBegun())
        elif self._refused:
            # A client that pipelines could not know (RFC 2920 s.3.1): no error of its.
            self._send(encode(say.NO_RECIPIENTS_LMTP if self.service.lmtp else say.NO_RECIPIENTS))
        else:
            self._bad(line, say.RCPT_FIRST if self._in_mail else say.MAIL_FIRST, events)

    def _bdat(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        """RFC 3030 s.2."""
        size, _, last = argument.strip(b" ").partition(b" ")
        last = last.strip(b" ").upper()
        if not size.isdigit() or len(size) > 20 or last not in (b"", b"LAST"):
            self._bad(line, say.BDAT_SYNTAX, events)
            if not self.closed:
                self._end(say.BDAT_SYNTAX)
            return
        self._left = int(size)
        self._last = bool(last)
        limits = self.service.limits
        chunks = self._chunks
        if chunks is None and not self.recipients:
            if self._refused:
                self._send(encode(say.NO_RECIPIENTS_LMTP if self.service.lmtp else say.NO_RECIPIENTS))
            else:
                self._bad(line, say.RCPT_FIRST if self._in_mail else say.MAIL_FIRST, events)
        elif (chunks.size if chunks is not None else 0) + self._left > limits.message_octets:
            self._refuse_chunks(TOO_LARGE, self._left, events)  # known before it has come
        elif chunks is None:
            self._chunks = ChunkReader(limits.message_octets, limits.received, limits.normalise)
            self._waiting = _DATA_ASKED
            events.append(DataBegun())
        elif not self._left:
            self._take_chunk(chunks, b"", events)

    def _starttls(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        """RFC 3207 s.4. Not only behind EHLO: clients that do not ask first exist, and the state is lost anyway."""
        service = self.service
        if not service.starttls:
            self._bad(line, say.TLS_TWICE if service.secured else say.NOT_HERE, events)
        elif argument.strip(b" "):
            self._bad(line, say.NO_ARGUMENT, events)
        elif self._at < len(self._buffer):
            self._bad(line, say.TLS_INJECTED, events)
            self._end(say.TLS_INJECTED)
        else:
            self._forget()
            self._waiting = _TLS_ASKED
            events.append(StartTls())

    def _auth(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        """RFC 4954 s.4. The line is logged without what may be a password."""
        service = self.service
        name, sign, text = argument.strip(b" ").partition(b" ")
        line = b"AUTH " + name if name.isalnum() or b"-" in name else b"AUTH"
        initial = sasl.decode_initial(text) if sign else None
        machine: sasl.Machine | None = None
        if not service.mechanisms:
            refusal = say.TLS_FIRST if service.auth_secured else say.NOT_HERE
        elif not self.extended:
            refusal = say.LHLO_FIRST if service.lmtp else say.EHLO_FIRST
        elif self.authenticated:
            refusal = say.AUTH_TWICE
        elif self._in_mail:
            refusal = say.NOT_NOW
        elif not name:
            refusal = say.AUTH_SYNTAX
        elif name.decode("ascii", "replace").upper() not in service.mechanisms:
            refusal = say.AUTH_UNKNOWN
        elif sign and initial is None:
            refusal = say.AUTH_BASE64
        else:
            machine = sasl.server(name.decode("ascii"), self._bindings())
            refusal = say.AUTH_UNKNOWN
        if machine is None:
            self._bad(line, refusal, events)
        else:
            self._sasl = machine
            self._advance(machine.start(initial), events)
        self._hide = True  # a client that does not listen may send its password as if it were a command

    def _auth_answer(self, line: bytes, events: list[Event]) -> None:
        octets = sasl.decode(line)
        if line == b"*":
            self._give_up_auth(say.AUTH_CANCELLED, events)
        elif octets is None:
            self._give_up_auth(say.AUTH_BASE64, events)
        elif self._sasl is not None:
            self._advance(self._sasl.respond(octets), events)

    def _give_up_auth(self, reply: Reply, events: list[Event]) -> None:
        self._sasl = None
        self._hide = False
        self._bad(b"AUTH", reply, events)
        self._hide = True

    def _advance(self, step: sasl.Step, events: list[Event]) -> None:
        if isinstance(step, sasl.Challenge):
            self._send(b"334 %b\r\n" % sasl.encode(step.octets))
        else:
            self._waiting = _AUTH_ASKED
            events.append(AuthStep(step))

    def _rset(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if argument.strip(b" "):
            self._bad(line, say.NO_ARGUMENT, events)
            return
        self._forget()
        self._send(say.RESET_OK)
        events.append(Reset())
        self._count_junk()

    def _quit(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if argument.strip(b" "):
            self._bad(line, say.NO_ARGUMENT, events)
            return
        self._send(encode(say.BYE))
        self._end(say.BYE)

    def _noop(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(say.NOOP_OK)
        self._count_junk()

    def _vrfy(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(say.VRFY)
        self._count_junk()

    def _help(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(say.HELP)
        self._count_junk()

    def _count_junk(self) -> None:
        self._junk += 1
        if self._junk > self.service.limits.junk and not self.closed:
            self._send(encode(say.TOO_MUCH_JUNK))
            self._end(say.TOO_MUCH_JUNK)


CommandParser = Callable[[SmtpCore, bytes, bytes, list[Event]], None]

_COMMANDS: dict[bytes, CommandParser] = {
    b"EHLO": SmtpCore._ehlo,
    b"HELO": SmtpCore._helo,
    b"MAIL": SmtpCore._mail,
    b"RCPT": SmtpCore._rcpt,
    b"DATA": SmtpCore._data_command,
    b"BDAT": SmtpCore._bdat,
    b"RSET": SmtpCore._rset,
    b"NOOP": SmtpCore._noop,
    b"QUIT": SmtpCore._quit,
    b"VRFY": SmtpCore._vrfy,
    b"HELP": SmtpCore._help,
    b"STARTTLS": SmtpCore._starttls,
    b"AUTH": SmtpCore._auth,
}
_LMTP_COMMANDS: dict[bytes, CommandParser] = {
    **{verb: parser for verb, parser in _COMMANDS.items() if verb not in (b"EHLO", b"HELO")},
    b"LHLO": SmtpCore._ehlo,
}
# Commands of SMTP that we know of and do not have.
_KNOWN = frozenset((b"EXPN", b"TURN", b"SEND", b"SOML", b"SAML"))
# First words of other protocols.
_FOREIGN = frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS"))
_VISIBLE = bytes(range(0x21, 0x7F))
