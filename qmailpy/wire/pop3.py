"""
The server side of POP3 (RFC 1939) without I/O, in the manner of L{qmailpy.wire.smtp}.

L{Pop3Core.receive} takes octets and gives events; L{Pop3Core.take} gives the octets to send. Some events ask a question
(L{qmailpy.wire.pop3_events}). Behind one of these the core stops parsing, keeps what else has arrived, and waits for
the answer; then L{Pop3Core.proceed} gives the events that follow, so that responses keep the order of the commands
(PIPELINING, RFC 2449 s.6.6).

    AUTHORIZATION --USER PASS / AUTH, enter--> TRANSACTION --QUIT, left--> UPDATE, ended
        STLS leads back to the beginning of AUTHORIZATION, under TLS; once

Besides RFC 1939: CAPA, RESP-CODES, PIPELINING, EXPIRE, LOGIN-DELAY, IMPLEMENTATION (RFC 2449), AUTH (RFC 5034) with the
mechanisms of L{qmailpy.wire.sasl}, STLS (RFC 2595), UTF8 and LANG (RFC 6856), SYS and AUTH response codes (RFC 3206).
APOP is not: it wants passwords kept in clear.

Octets that follow an STLS command before TLS begins are somebody's attempt to have them taken for the client's own
(RFC 2595 s.2.4, CVE-2011-0411): the session ends there, without TLS.

Listings of any length are made a piece at a time, as fast as L{Pop3Core.take} is called. The core bounds the length of
a line, the number of errors, of failed logins and of commands before a login, and what may arrive while it waits.
"""

from __future__ import annotations

from qmailpy.values import ScramSecret
from qmailpy.wire import pop3_commands as commands
from qmailpy.wire import pop3_login as login
from qmailpy.wire import sasl
from qmailpy.wire.pop3_drop import Drop, Messages
from qmailpy.wire.pop3_events import Event
from qmailpy.wire.pop3_service import text_line
from qmailpy.wire.pop3_state import (
    ASKED_FETCH,
    ASKED_LEAVE,
    ASKED_LOGIN,
    ASKED_SECRET,
    ASKED_TLS,
    HANDED_ON,
    IDLE,
    LISTING,
    Pop3State,
    verb_of,
)

BACKLOG_OCTETS = 262144
"""What may arrive while an answer is awaited; an adapter that stops reading meanwhile never gets near."""


class Pop3Core(Pop3State):
    """One session."""

    __slots__ = ()

    @property
    def waiting(self) -> bool:
        """A question is out, or a listing is not complete."""
        return self.asked != IDLE

    @property
    def pending(self) -> bool:
        """Whether L{take} has something: a command was answered."""
        return self.out is not None or self.rows is not None

    @property
    def listing(self) -> bool:
        """There is more of a listing to be taken now."""
        return self.asked == LISTING

    # --- octets ----------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Say hello; once, when the connection is made (or the handshake of implicit TLS has ended)."""
        self.send(self.service.front_greeting if self.front else self.service.greeting)

    def take(self) -> bytes:
        """What is to be sent next, oldest first; while L{listing} says so there is more."""
        if self.rows is not None:
            piece = next(self.rows, None)
            if piece is None:
                self.rows = None
                if self.asked == LISTING:
                    self.asked = IDLE
            else:
                self.send(piece)
        out, self.out = self.out, None
        return b"" if out is None else out[0] if len(out) == 1 else b"".join(out)

    def receive(self, octets: bytes) -> list[Event]:
        """
        Take octets from the client.

        @return: what they mean, up to the first event that asks a question. Empty while one is unanswered.
        """
        if self.closed:
            return []
        if self.asked == ASKED_TLS:
            # Not part of TLS, or the adapter would not give it to us.
            self.finish("octets in clear behind STLS")
            return self._given()
        if self.asked != IDLE:
            return self._keep(octets)
        if self.at < len(self.buffer):
            octets = self.buffer[self.at :] + octets
        self.buffer = octets
        self.at = 0
        return self._parse([])

    def proceed(self) -> list[Event]:
        """The events that follow an answered question; empty when there are none, or none yet."""
        events = self._given()
        if self.closed:
            return events
        if self.backlog is not None and self.asked == IDLE:
            self.buffer = self.buffer[self.at :] + self.backlog
            self.at = 0
            self.backlog = None
        return self._parse(events)

    # --- answers ---------------------------------------------------------------------------------------------

    def refuse(self, text: str, *, failed: bool = False) -> None:
        """
        Answer a question with -ERR.

        @param text: with its response code, as in C{"[IN-USE] The mailbox is open elsewhere"}.
        @param failed: counts as a login that failed, of which there may be few.
        """
        self._answer(ASKED_LOGIN, ASKED_SECRET, ASKED_FETCH)
        self.machine = None
        if not self.closed:
            self.error(text)
            if failed:
                self.count_failure()

    def enter(self, messages: Messages) -> None:
        """The login is right and this is the mailbox."""
        self._answer(ASKED_LOGIN)
        if self.closed:
            return
        self.drop = Drop(messages)
        self.user = None
        self.machine = None
        self.ok(f"{len(messages.sizes)} messages")

    def handed_on(self, said: bytes) -> bytes:
        """
        The login is right, and another node has let the client into its mailbox there. From here on what either of them
        says is for the other, and none of it for us.

        @param said: the other node's response, with its line end.
        @return: what the client has sent since its login.
        """
        self._answer(ASKED_LOGIN)
        if self.closed:
            return b""
        self.asked = HANDED_ON
        self.user = None
        self.machine = None
        self.send(said)
        ahead = self.buffer[self.at :] + (self.backlog or b"")
        self.buffer, self.at, self.backlog = b"", 0, None
        return ahead

    def secret(self, secret: ScramSecret) -> None:
        """The secret that was asked for (of somebody unknown: an imagined one)."""
        self._answer(ASKED_SECRET)
        if self.machine is not None:
            self.events = self.events or []
            login.step(self, self.machine.secret(secret), self.events)

    def secured(self) -> None:
        """
        TLS has begun behind a L{TlsAsked}: everything the client said before is forgotten (RFC 2595 s.4). That is what
        has arrived; a USER counts for the next command alone, and UTF8 cannot have come before.
        """
        self._answer(ASKED_TLS)
        self.buffer = b""
        self.at = 0
        self.backlog = None
        self.secure = True

    def begin(self, size: int) -> None:
        """Answer with a message in pieces; L{body} and L{end} follow. The question stays out until the end."""
        self.send(b"+OK %d octets\r\n" % size)

    def body(self, octets: bytes) -> None:
        """The next piece, dot-stuffed."""
        self.send(octets)

    def end(self, index: int, *, whole: bool) -> None:
        """The last piece, which had the final dot line, was given."""
        self._answer(ASKED_FETCH)
        if whole:
            self.box.note(index)

    def left(self, problem: str = "") -> None:
        """
        The update is done, and the session over.

        @param problem: with its response code, when messages could not be removed (RFC 1939 s.6).
        """
        self._answer(ASKED_LEAVE)
        self.send(text_line(b"-ERR", problem) if problem else commands.BYE)
        self.finish("")

    def close(self, text: str, reason: str) -> None:
        """
        End the session from our side, without the update.

        @param text: of a last -ERR; "" = without a word, as RFC 1939 s.3 has it for a client that was silent too long.
        """
        if not self.closed:
            if text:
                self.send(text_line(b"-ERR", text))
            self.finish(reason)
            self.events = None

    # --- the inside ------------------------------------------------------------------------------------------

    def _given(self) -> list[Event]:
        events, self.events = self.events or [], None
        return events

    def _answer(self, *questions: int) -> int:
        asked = self.asked
        if asked not in questions:
            raise RuntimeError("an answer without its question")
        self.asked = IDLE
        return asked

    def _keep(self, octets: bytes) -> list[Event]:
        if self.backlog is None:
            self.backlog = bytearray()
        self.backlog += octets
        if len(self.backlog) > BACKLOG_OCTETS:
            self.error("Too much sent without waiting for responses")
            self.finish("too much sent without waiting")
        return self._given()

    def _parse(self, events: list[Event]) -> list[Event]:
        """Read on in the buffer until it is used up, a question is out or the session ends."""
        while self.asked == IDLE and not self.closed:
            limit = sasl.LINE_OCTETS + 2 if self.machine is not None else self.service.limits.line_octets
            at = self.at
            end = self.buffer.find(b"\n", at)
            if end < 0:
                self._keep_part(at, limit)
                break
            self.at = end + 1
            if self.overlong is not None or end + 1 - at > limit:
                verb = self.overlong if self.overlong is not None else verb_of(self.buffer[at : at + 32])
                self.overlong = None
                self.machine = None
                self.refuse_verb(verb, "Line too long", events)
            elif end == at or self.buffer[end - 1] != 0x0D:
                # Answered rather than overlooked, so that a client which never sends CRLF learns why.
                self.machine = None
                self.bad(self.buffer[at:end], "A command ends with CR LF", events)
            elif self.machine is not None:
                login.response(self, self.machine, self.buffer[at : end - 1], events)
            else:
                commands.run(self, self.buffer[at : end - 1], events)
        if self.events is not None:
            events += self._given()
        return events

    def _keep_part(self, at: int, limit: int) -> None:
        """No line end in the buffer: keep what there is of the line, or only its verb when it is too long."""
        if self.overlong is None and len(self.buffer) - at >= limit:
            self.overlong = verb_of(self.buffer[at : at + 32])
        self.buffer = b"" if self.overlong is not None else self.buffer[at:]
        self.at = 0
