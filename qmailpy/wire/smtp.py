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

After a 220 to STARTTLS nothing is read until L{SmtpCore.secure}; what came behind the command in the clear ends the
session (RFC 3207 s.4.2 wants it dropped, and an honest client has sent nothing). An authentication exchange is led by
a L{sasl<qmailpy.wire.sasl>} machine; only what it cannot know is asked (L{AuthStep}).

LMTP (RFC 2033) is the same with another greeting, and a reply a recipient behind the data.

What the core refuses by itself it answers by itself: unknown, malformed and untimely commands. It bounds the length of
a line, the number of errors and of commands that lead to no mail, and what may arrive while it waits.

Which extensions there are is told by the L{Service<qmailpy.wire.smtp_service.Service>}. The parts work on one
L{state<qmailpy.wire.smtp_state.SmtpState>}, whose module tells which they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qmailpy.values import Reply, ScramSecret
from qmailpy.wire import smtp_replies as say
from qmailpy.wire.data import DataReader
from qmailpy.wire.reply import encode
from qmailpy.wire.smtp_auth import ANSWER_OCTETS, advance, auth_answer, give_up
from qmailpy.wire.smtp_commands import COMMANDS, FOREIGN, KNOWN, LMTP_COMMANDS
from qmailpy.wire.smtp_content import read_chunk, read_data, take_chunk
from qmailpy.wire.smtp_events import BadCommand, Ended, Event
from qmailpy.wire.smtp_service import Service
from qmailpy.wire.smtp_state import (
    AUTH_ASKED,
    DATA_ASKED,
    END_ASKED,
    ETRN_ASKED,
    IDLE,
    MAIL_ASKED,
    QUOTE_OCTETS,
    RCPT_ASKED,
    TLS_ASKED,
    XCLIENT_ASKED,
    SmtpState,
    no_bindings,
)

BACKLOG_OCTETS = 262144
"""
What may arrive while an answer is awaited before the session is ended. An adapter that stops reading then never gets
near: a reactor hands over 64 KiB at once.
"""

_DEFAULTS = {
    MAIL_ASKED: say.MAIL_OK,
    RCPT_ASKED: say.RCPT_OK,
    DATA_ASKED: say.DATA_OK,
    END_ASKED: say.MESSAGE_OK,
    TLS_ASKED: say.TLS_OK,
    AUTH_ASKED: say.AUTH_OK,
    ETRN_ASKED: say.ETRN_OK,
}


class SmtpCore(SmtpState):
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

    __slots__ = ()

    @property
    def waiting(self) -> bool:
        return self.asked != IDLE

    @property
    def in_data(self) -> bool:
        return self.data is not None or self.left > 0

    @property
    def arriving(self) -> tuple[object, int] | None:
        """
        The message that is being sent, also between two of its chunks: what tells it from others, and its octets so
        far. C{None}: there is none.
        """
        reader = self.data or self.chunks
        if reader is not None:
            return reader, reader.size
        return (None, -self.left) if self.left else None  # chunks that were refused, and come all the same

    @property
    def pending(self) -> bool:
        """Whether L{take} has something."""
        return self._out is not None

    def greet(self) -> None:
        """Say hello; once, when the connection is made."""
        self.send(self.service.greeting)

    def secure(self, service: Service, bindings: Callable[[], Mapping[str, bytes]] = no_bindings) -> None:
        """
        TLS begins: behind a L{StartTls} that was accepted, or before anything else. Forgets all that was said in the
        clear (RFC 3207 s.4.2).

        @param service: what the session offers from now on.
        @param bindings: gives the channel bindings, for L{sasl.server}; called when they are needed.
        """
        self.service = service
        self.bindings = bindings
        self.begin_anew()
        self.buffer = b""
        self.at = 0
        self.backlog = None

    def secret(self, secret: ScramSecret) -> None:
        """Answer a L{AuthStep} that wants a secret; L{proceed} tells what comes of it."""
        if self.asked != AUTH_ASKED or self.exchange is None:
            raise RuntimeError("a secret nobody wants")
        self.asked = IDLE
        if self.closed:
            return
        if self.events is None:
            self.events = []
        advance(self, self.exchange.secret(secret), self.events)

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
        if self.asked != IDLE:
            return self._keep(octets)
        if self.at < len(self.buffer):
            octets = self.buffer[self.at :] + octets
        self.buffer = octets
        self.at = 0
        return self._parse([])

    def accept(self) -> None:
        """Answer the question with the usual positive reply."""
        self._settle(True, _DEFAULTS[self.asked] if self.asked != XCLIENT_ASKED else self.service.greeting)

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
            self.end(reply)
        elif reply.permanent and counted:
            self.count_error()

    def answer_each(self, replies: Sequence[Reply]) -> None:
        """
        Answer a L{DataEnded} of LMTP, one recipient differently from another (RFC 2033 s.4.2).

        @param replies: to each RCPT that was accepted, in order; not 421.
        """
        if self.asked != END_ASKED or len(replies) != self.recipients:
            raise RuntimeError("replies that nobody waits for")
        self._settle(any(reply.code < 400 for reply in replies), b"".join(map(encode, replies)), each=True)
        if not self.closed and all(reply.permanent for reply in replies):
            self.count_error()

    def proceed(self) -> list[Event]:
        """The events that follow an answered question; empty when there are none, or none yet."""
        events = self.events or []
        self.events = None
        if self.closed:
            return events
        if self.backlog is not None and self.asked == IDLE:
            self.buffer = self.buffer[self.at :] + self.backlog
            self.at = 0
            self.backlog = None
        return self._parse(events)

    def close(self, reply: Reply) -> None:
        """End the session from our side: C{reply} (421) is the last thing sent."""
        if not self.closed:
            self.send(encode(reply))
            self.closed = True
            self.drop()

    # What follows is the inside.

    def _keep(self, octets: bytes) -> list[Event]:
        if self.backlog is None:
            self.backlog = bytearray()
        self.backlog += octets
        if len(self.backlog) <= BACKLOG_OCTETS:
            return []
        self.close(say.TOO_EAGER)
        return [Ended(say.TOO_EAGER)]

    def _settle(self, accepted: bool, octets: bytes, *, each: bool = False) -> None:
        """Note the answer to the question that is out; C{each}: it has one for each recipient already."""
        asked = self.asked
        if asked == IDLE:
            raise RuntimeError("an answer without a question")
        self.asked = IDLE
        if self.closed:
            return
        if asked == DATA_ASKED and self.chunks is not None and accepted:
            if not self.left:
                if self.events is None:
                    self.events = []
                take_chunk(self, self.chunks, b"", self.events)
            return  # a chunk is answered when it is there
        if asked == END_ASKED and self.service.lmtp and not each:
            octets *= self.recipients  # RFC 2033 s.4.2: one for each that was accepted
        self.send(octets)
        if asked == RCPT_ASKED:
            if accepted:
                self.recipients += 1
            else:
                self.refused = True
        elif asked == MAIL_ASKED:
            self.in_mail = accepted
        elif asked == DATA_ASKED:
            if self.chunks is not None:
                self.forget()  # what is left of it is skipped: a message must not begin with its second chunk
            elif accepted:
                limits = self.service.limits
                self.data = DataReader(limits.message_octets, limits.received, limits.normalise)
        elif asked == END_ASKED:
            self.forget()
            if accepted:
                self._errors = self._junk = 0
        elif asked == AUTH_ASKED:
            self.exchange = None
            self.authenticated = accepted
        elif asked == XCLIENT_ASKED:
            if accepted:
                self.begin_anew()
        elif asked == TLS_ASKED and accepted and self.backlog:
            self.send(encode(say.TLS_INJECTED))
            self.end(say.TLS_INJECTED)

    def _parse(self, events: list[Event]) -> list[Event]:
        """Read on in the buffer until it is used up, a question is out or the session ends."""
        while self.asked == IDLE and not self.closed:
            line_octets = self.service.limits.line_octets if self.exchange is None else ANSWER_OCTETS
            if self.data is not None:
                if self.at >= len(self.buffer):
                    break
                read_data(self, self.data, events)
                continue
            if self.left:
                if self.at >= len(self.buffer):
                    break
                read_chunk(self, events)
                continue
            at = self.at
            end = self.buffer.find(b"\n", at)
            if end < 0:
                self._keep_part(at, line_octets)
                break
            self.at = end + 1
            if self.overlong is not None or end + 1 - at > line_octets:
                start = (
                    self.overlong
                    if self.overlong is not None
                    else self.buffer[at : at + min(QUOTE_OCTETS, line_octets)]
                )
                self.overlong = None
                if self.exchange is None:
                    self.bad(start, say.LINE_TOO_LONG, events)
                else:
                    give_up(self, say.AUTH_TOO_LONG, events)
            elif end > at and self.buffer[end - 1] == 0x0D:
                self._line(self.buffer[at : end - 1], events)
            elif self.service.limits.normalise:
                self._line(self.buffer[at:end], events)
            elif self.exchange is not None:
                give_up(self, say.BARE_LF, events)
            else:
                # Answered rather than overlooked, so that a client which never sends CRLF learns why.
                self.bad(self.buffer[at:end], say.BARE_LF, events)
        if self.events is not None:
            events += self.events
            self.events = None
        return events

    def _keep_part(self, at: int, line_octets: int) -> None:
        """No line end in the buffer: keep what there is of the line, or only its beginning when it is too long."""
        if self.overlong is None and len(self.buffer) - at >= line_octets:
            self.overlong = self.buffer[at : at + min(QUOTE_OCTETS, line_octets)]
        # Cut off what has been read: a session may be idle for long now.
        self.buffer = b"" if self.overlong is not None else self.buffer[at:]
        self.at = 0

    def _line(self, line: bytes, events: list[Event]) -> None:
        """A line that is not data: a command, or an answer in an authentication exchange."""
        if self.exchange is not None:
            auth_answer(self, line, events)
            return
        verb, _, argument = line.partition(b" ")
        parser = (LMTP_COMMANDS if self.service.lmtp else COMMANDS).get(verb.upper())
        if parser is not None:
            self.hide = False
            parser(self, line, argument, events)
            return
        verb = verb.rstrip().upper()
        if verb in FOREIGN:
            # A browser or a script made to talk to us: the rest of what it sends is no mail either.
            events.append(BadCommand(line[:QUOTE_OCTETS], say.NOT_SMTP))
            self.send(encode(say.NOT_SMTP))
            self.end(say.NOT_SMTP)
        else:
            self.bad(line, say.NOT_HERE if verb in KNOWN else say.UNKNOWN, events)
