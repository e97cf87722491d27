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

from collections.abc import Callable, Iterator, Mapping

from qmailpy.values import ScramSecret
from qmailpy.wire import sasl
from qmailpy.wire.pop3_drop import Drop, Messages, Row
from qmailpy.wire.pop3_events import (
    BadCommand,
    Ended,
    Event,
    FetchAsked,
    LeaveAsked,
    LoginAsked,
    LoginFailed,
    LoginProven,
    SecretAsked,
    TlsAsked,
)
from qmailpy.wire.pop3_message import END
from qmailpy.wire.pop3_service import Service, text_line

BACKLOG_OCTETS = 262144
"""What may arrive while an answer is awaited; an adapter that stops reading meanwhile never gets near."""

_LINES_MOST = 1 << 31  # of TOP; more than any message has

_OK = b"+OK\r\n"
_BYE = b"+OK Bye\r\n"
_ONLY_BEFORE = "Only before the login"
_LOGIN_FIRST = "Log in first"
_NO_ARGUMENT = "Command takes no argument"
_TLS_FIRST = "[AUTH] Passwords are taken under TLS only: use STLS"
_CANCELLED = "Authentication cancelled"
_LANGUAGES = (b"EN", b"I-DEFAULT", b"*")

_IDLE, _ASKED_LOGIN, _ASKED_SECRET, _ASKED_FETCH, _ASKED_LEAVE, _ASKED_TLS, _LISTING = range(7)


class Pop3Core:
    """
    One session.

    @ivar secure: under TLS (of either kind).
    @ivar plain: passwords are taken although there is no TLS.
    @ivar bindings: channel bindings of the TLS connection, for SCRAM-SHA-256-PLUS.
    @ivar closed: nothing more is read.
    @ivar entered: in the TRANSACTION state.
    @ivar utf8: the client has said UTF8.
    """

    __slots__ = (
        "_at",
        "_backlog",
        "_buffer",
        "_drop",
        "_early",
        "_errors",
        "_events",
        "_failures",
        "_listing",
        "_machine",
        "_mechanism",
        "_out",
        "_overlong",
        "_service",
        "_user",
        "_waiting",
        "bindings",
        "closed",
        "plain",
        "secure",
        "utf8",
    )

    def __init__(self, service: Service, *, secure: bool = False, plain: bool = False) -> None:
        self._service = service
        self.secure = secure
        self.plain = plain
        self.bindings: Mapping[str, bytes] = {}
        self.closed = False
        self._buffer = b""  # what is to be parsed, from _at on
        self._at = 0
        self._backlog: bytearray | None = None  # what arrived while waiting
        self._out: list[bytes] | None = None
        self._events: list[Event] | None = None  # made by answers, given out by proceed
        self._overlong: str | None = None  # verb of a line that is too long, until its end
        self._listing: Iterator[bytes] | None = None
        self._waiting = _IDLE
        self._errors = 0
        self._drop: Drop | None = None
        self._user: str | None = None
        self._machine: sasl.Machine | None = None
        self._mechanism = ""
        self._failures = 0
        self._early = 0
        self.utf8 = False

    @property
    def waiting(self) -> bool:
        """A question is out, or a listing is not complete."""
        return self._waiting != _IDLE

    @property
    def listing(self) -> bool:
        """There is more of a listing to be taken now."""
        return self._waiting == _LISTING

    @property
    def entered(self) -> bool:
        return self._drop is not None

    # --- octets ----------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Say hello; once, when the connection is made (or the handshake of implicit TLS has ended)."""
        self._send(self._service.greeting)

    def take(self) -> bytes:
        """What is to be sent next, oldest first; while L{listing} says so there is more."""
        if self._listing is not None:
            piece = next(self._listing, None)
            if piece is None:
                self._listing = None
                if self._waiting == _LISTING:
                    self._waiting = _IDLE
            else:
                self._send(piece)
        out, self._out = self._out, None
        return b"" if out is None else out[0] if len(out) == 1 else b"".join(out)

    def receive(self, octets: bytes) -> list[Event]:
        """
        Take octets from the client.

        @return: what they mean, up to the first event that asks a question. Empty while one is unanswered.
        """
        if self.closed:
            return []
        if self._waiting == _ASKED_TLS:
            # Not part of TLS, or the adapter would not give it to us.
            self._end("octets in clear behind STLS")
            return self._given()
        if self._waiting != _IDLE:
            return self._keep(octets)
        if self._at < len(self._buffer):
            octets = self._buffer[self._at :] + octets
        self._buffer = octets
        self._at = 0
        return self._parse([])

    def proceed(self) -> list[Event]:
        """The events that follow an answered question; empty when there are none, or none yet."""
        events = self._given()
        if self.closed:
            return events
        if self._backlog is not None and self._waiting == _IDLE:
            self._buffer = self._buffer[self._at :] + self._backlog
            self._at = 0
            self._backlog = None
        return self._parse(events)

    # --- answers ---------------------------------------------------------------------------------------------

    def refuse(self, text: str, *, failed: bool = False) -> None:
        """
        Answer a question with -ERR.

        @param text: with its response code, as in C{"[IN-USE] The mailbox is open elsewhere"}.
        @param failed: counts as a login that failed, of which there may be few.
        """
        self._answer(_ASKED_LOGIN, _ASKED_SECRET, _ASKED_FETCH)
        self._machine = None
        if not self.closed:
            self._error(text)
            if failed:
                self._count_failure()

    def enter(self, messages: Messages) -> None:
        """The login is right and this is the mailbox."""
        self._answer(_ASKED_LOGIN)
        if self.closed:
            return
        self._drop = Drop(messages)
        self._user = None
        self._machine = None
        self._ok(f"{len(messages.sizes)} messages")

    def secret(self, secret: ScramSecret) -> None:
        """The secret that was asked for (of somebody unknown: an imagined one)."""
        self._answer(_ASKED_SECRET)
        if self._machine is not None:
            self._events = self._events or []
            self._step(self._machine.secret(secret), self._events)

    def secured(self) -> None:
        """
        TLS has begun behind a L{TlsAsked}: everything the client said before is forgotten (RFC 2595 s.4). That is what
        has arrived; a USER counts for the next command alone, and UTF8 cannot have come before.
        """
        self._answer(_ASKED_TLS)
        self._buffer = b""
        self._at = 0
        self._backlog = None
        self.secure = True

    def message(self, octets: bytes, size: int, index: int, *, whole: bool) -> None:
        """
        Answer with a message that is at hand.

        @param octets: dot-stuffed, without the final dot line.
        @param size: what the response says.
        @param whole: this was RETR.
        """
        self._answer(_ASKED_FETCH)
        self._send(b"+OK %d octets\r\n%b.\r\n" % (size, octets))
        if whole:
            self._box().note(index)

    def begin(self, size: int) -> None:
        """Answer with a message in pieces; L{body} and L{end} follow. The question stays out until the end."""
        self._send(b"+OK %d octets\r\n" % size)

    def body(self, octets: bytes) -> None:
        """The next piece, dot-stuffed."""
        self._send(octets)

    def end(self, index: int, *, whole: bool) -> None:
        """The last piece, which had the final dot line, was given."""
        self._answer(_ASKED_FETCH)
        if whole:
            self._box().note(index)

    def left(self, problem: str = "") -> None:
        """
        The update is done, and the session over.

        @param problem: with its response code, when messages could not be removed (RFC 1939 s.6).
        """
        self._answer(_ASKED_LEAVE)
        self._send(text_line(b"-ERR", problem) if problem else _BYE)
        self._end("")

    def close(self, text: str, reason: str) -> None:
        """
        End the session from our side, without the update.

        @param text: of a last -ERR; "" = without a word, as RFC 1939 s.3 has it for a client that was silent too long.
        """
        if not self.closed:
            if text:
                self._send(text_line(b"-ERR", text))
            self._end(reason)
            self._events = None

    # --- the inside ------------------------------------------------------------------------------------------

    def _send(self, octets: bytes) -> None:
        if self._out is None:
            self._out = [octets]
        else:
            self._out.append(octets)

    def _ok(self, text: str) -> None:
        self._send(text_line(b"+OK", text))

    def _error(self, text: str) -> None:
        self._send(text_line(b"-ERR", text))

    def _given(self) -> list[Event]:
        events, self._events = self._events or [], None
        return events

    def _answer(self, *questions: int) -> int:
        asked = self._waiting
        if asked not in questions:
            raise RuntimeError("an answer without its question")
        self._waiting = _IDLE
        return asked

    def _keep(self, octets: bytes) -> list[Event]:
        if self._backlog is None:
            self._backlog = bytearray()
        self._backlog += octets
        if len(self._backlog) > BACKLOG_OCTETS:
            self._error("Too much sent without waiting for responses")
            self._end("too much sent without waiting")
        return self._given()

    def _end(self, reason: str) -> None:
        self.closed = True
        self._buffer = b""
        self._at = 0
        self._backlog = None
        self._listing = None
        self._machine = None
        self._user = None
        self._events = self._events or []
        self._events.append(Ended(reason))

    def _count_failure(self) -> None:
        self._failures += 1
        if self._failures >= self._service.limits.logins and not self.closed:
            self._error("[AUTH] Too many failed logins")
            self._end("too many failed logins")

    def _bad(self, line: bytes, text: str, events: list[Event]) -> None:
        self._refuse_verb(_verb(line), text, events)

    def _refuse_verb(self, verb: str, text: str, events: list[Event]) -> None:
        self._error(text)
        events.append(BadCommand(verb=verb, text=text))
        self._errors += 1
        if self._errors >= self._service.limits.errors and not self.closed:
            self._error("Too many bad commands")
            self._end("too many bad commands")

    def _parse(self, events: list[Event]) -> list[Event]:
        """Read on in the buffer until it is used up, a question is out or the session ends."""
        while self._waiting == _IDLE and not self.closed:
            limit = sasl.LINE_OCTETS + 2 if self._machine is not None else self._service.limits.line_octets
            at = self._at
            end = self._buffer.find(b"\n", at)
            if end < 0:
                self._keep_part(at, limit)
                break
            self._at = end + 1
            if self._overlong is not None or end + 1 - at > limit:
                verb = self._overlong if self._overlong is not None else _verb(self._buffer[at : at + 32])
                self._overlong = None
                self._machine = None
                self._refuse_verb(verb, "Line too long", events)
            elif end == at or self._buffer[end - 1] != 0x0D:
                # Answered rather than overlooked, so that a client which never sends CRLF learns why.
                self._machine = None
                self._bad(self._buffer[at:end], "A command ends with CR LF", events)
            elif self._machine is not None:
                self._response(self._machine, self._buffer[at : end - 1], events)
            else:
                self._command(self._buffer[at : end - 1], events)
        if self._events is not None:
            events += self._given()
        return events

    def _keep_part(self, at: int, limit: int) -> None:
        """No line end in the buffer: keep what there is of the line, or only its verb when it is too long."""
        if self._overlong is None and len(self._buffer) - at >= limit:
            self._overlong = _verb(self._buffer[at : at + 32])
        self._buffer = b"" if self._overlong is not None else self._buffer[at:]
        self._at = 0

    def _command(self, line: bytes, events: list[Event]) -> None:
        verb, _, argument = line.partition(b" ")
        command = _COMMANDS.get(verb.upper())
        if command is None:
            self._bad(line, "Unknown command", events)
        elif line.translate(None, _CONTROLS) != line:
            self._bad(line, "Control characters in a command", events)
        elif command.states == _BEFORE and self.entered:
            self._bad(line, _ONLY_BEFORE, events)
        elif command.states == _AFTER and not self.entered:
            self._bad(line, _LOGIN_FIRST, events)
        elif command.bare and argument.strip(b" "):
            self._bad(line, _NO_ARGUMENT, events)
        else:
            if not self.entered:
                self._early += 1
                if self._early > self._service.limits.early:
                    self._error("Too many commands without a login")
                    self._end("too many commands without a login")
                    return
            command.run(self, line, argument, events)
            if command.run is not Pop3Core._user_command:
                self._user = None  # only what follows USER at once may be its PASS

    # --- before the login ------------------------------------------------------------------------------------

    @property
    def _passwords(self) -> bool:
        return self.secure or self.plain

    def _mechanisms(self) -> tuple[str, ...]:
        if self.entered:
            return ()
        return sasl.offered(plain=self._passwords, bindings=bool(self.bindings), scram=self._service.scram)

    def _capa(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(
            self._service.capabilities(
                entered=self.entered,
                secure=self.secure,
                plain=self._passwords and not self.entered,
                mechanisms=self._mechanisms(),
            )
        )

    def _stls(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if self.secure or not self._service.stls:
            self._bad(line, "TLS is on already" if self.secure else "TLS is not to be had", events)
        elif self.utf8:
            self._bad(line, "STLS comes before UTF8", events)  # RFC 6856 s.2.1
        elif self._at < len(self._buffer):
            self._error("Octets in clear behind STLS")
            self._end("octets in clear behind STLS")
        else:
            self._ok("Begin TLS")
            self._waiting = _ASKED_TLS
            events.append(TlsAsked())

    def _user_command(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if not self._passwords:
            self._bad(line, _TLS_FIRST, events)
            return
        login = _text(argument)
        if not login:
            self._bad(line, "A mailbox name is wanted", events)
            return
        self._user = login
        self._ok("Password, please")

    def _pass(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        user = self._user
        if user is None:
            self._bad(line, "USER first", events)
            return
        # RFC 1939 s.7: all behind the first blank is the password, blanks included.
        self._waiting = _ASKED_LOGIN
        self._mechanism = ""
        events.append(LoginAsked(login=user, password=argument))

    def _auth(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        words = argument.split(b" ")
        names = self._mechanisms()
        if not words[0]:
            # Before RFC 5034 this listed the mechanisms; clients that ask so are still about.
            self._send(b"+OK Mechanisms\r\n" + "".join(f"{name}\r\n" for name in names).encode() + END)
            return
        name = words[0].decode("ascii", "replace").upper()
        if len(words) > 2 or name not in names:
            known = not self._passwords and name in ("PLAIN", "LOGIN")
            self._bad(line, _TLS_FIRST if known else "No such mechanism", events)
            return
        initial = None
        if len(words) == 2:
            initial = sasl.decode_initial(words[1])
            if initial is None:
                self._bad(line, "An initial response in base64 is wanted", events)
                return
        machine = sasl.server(name, self.bindings)
        if machine is None:
            self._bad(line, "No such mechanism", events)
            return
        self._machine, self._mechanism = machine, name
        self._step(machine.start(initial), events)

    def _response(self, machine: sasl.Machine, line: bytes, events: list[Event]) -> None:
        """A line of the client's in an exchange."""
        if line == b"*":
            self._machine = None
            self._bad(b"AUTH", _CANCELLED, events)
            return
        octets = sasl.decode(line)
        if octets is None:
            self._machine = None
            self._bad(b"AUTH", "A response in base64 is wanted", events)
        else:
            self._step(machine.respond(octets), events)

    def _step(self, step: sasl.Step, events: list[Event]) -> None:
        if isinstance(step, sasl.Challenge):
            self._send(b"+ %b\r\n" % sasl.encode(step.octets))
        elif isinstance(step, sasl.SecretWanted):
            self._waiting = _ASKED_SECRET
            events.append(SecretAsked(login=step.login))
        elif isinstance(step, sasl.CheckPassword):
            self._waiting = _ASKED_LOGIN
            events.append(
                LoginAsked(login=step.login, password=step.password, authzid=step.authzid, mechanism=self._mechanism)
            )
        elif isinstance(step, sasl.Proven):
            self._waiting = _ASKED_LOGIN
            events.append(LoginProven(login=step.login, authzid=step.authzid, mechanism=self._mechanism))
        else:
            self._waiting = _ASKED_LOGIN
            events.append(
                LoginFailed(login=step.login, mechanism=self._mechanism, reason=step.reason, malformed=step.malformed)
            )

    def _utf8(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self.utf8 = True
        self._ok("UTF8 it is")

    def _lang(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        """RFC 6856 s.3: we speak one language."""
        if not argument:
            self._send(b"+OK Languages\r\nen English\r\n.\r\n")
        elif argument.upper() in _LANGUAGES:
            self._ok("en English it is")
        else:
            self._bad(line, "No such language", events)

    # --- with a mailbox --------------------------------------------------------------------------------------

    def _box(self) -> Drop:
        assert self._drop is not None  # the table of commands sees to it
        return self._drop

    def _stat(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(b"+OK %d %d\r\n" % (self._box().count, self._box().octets))

    def _list(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._rows(line, argument, events, self._box().scan_row)

    def _uidl(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._rows(line, argument, events, self._box().uid_row)

    def _rows(self, line: bytes, argument: bytes, events: list[Event], row: Row) -> None:
        """One line of a listing, or all of it."""
        word = argument.strip(b" ")
        if word:
            index = self._index(line, word, events)
            if index is not None:
                self._send(b"+OK " + row(index))
            return
        self._send(b"+OK %d messages (%d octets)\r\n" % (self._box().count, self._box().octets))
        self._listing = self._box().listing(row)
        self._waiting = _LISTING

    def _index(self, line: bytes, word: bytes, events: list[Event]) -> int | None:
        """The message a number stands for; C{None} when there is none, which has been answered."""
        index = self._box().index(word)
        if isinstance(index, int):
            return index
        self._bad(line, index, events)
        return None

    def _retr(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        index = self._index(line, argument.strip(b" "), events)
        if index is not None:
            self._waiting = _ASKED_FETCH
            events.append(FetchAsked(index=index, lines=None))

    def _top(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        words = argument.split()
        if len(words) != 2 or not words[1].isdigit():
            self._bad(line, "A message number and a number of lines are wanted", events)
            return
        index = self._index(line, words[0], events)
        if index is not None:
            lines = int(words[1]) if len(words[1]) <= 10 else _LINES_MOST
            self._waiting = _ASKED_FETCH
            events.append(FetchAsked(index=index, lines=min(lines, _LINES_MOST)))

    def _dele(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        index = self._index(line, argument.strip(b" "), events)
        if index is not None:
            self._box().delete(index)
            self._ok("Marked as deleted")

    def _rset(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._box().reset()
        self._ok(f"{self._box().count} messages")

    def _noop(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        self._send(_OK)

    def _quit(self, line: bytes, argument: bytes, events: list[Event]) -> None:
        if self._drop is None:
            self._send(_BYE)
            self._end("")
            return
        deleted, seen = self._drop.update()
        self._waiting = _ASKED_LEAVE
        events.append(LeaveAsked(deleted=deleted, seen=seen))


class _Command:
    """A row of the table of commands."""

    __slots__ = ("bare", "run", "states")

    def __init__(
        self, run: Callable[[Pop3Core, bytes, bytes, list[Event]], None], states: int, bare: bool = False
    ) -> None:
        self.run = run
        self.states = states
        self.bare = bare  # takes no argument


_ALWAYS, _BEFORE, _AFTER = range(3)
_COMMANDS: Mapping[bytes, _Command] = {
    b"CAPA": _Command(Pop3Core._capa, _ALWAYS, bare=True),
    b"STLS": _Command(Pop3Core._stls, _BEFORE, bare=True),
    b"USER": _Command(Pop3Core._user_command, _BEFORE),
    b"PASS": _Command(Pop3Core._pass, _BEFORE),
    b"AUTH": _Command(Pop3Core._auth, _BEFORE),
    b"UTF8": _Command(Pop3Core._utf8, _BEFORE, bare=True),
    b"LANG": _Command(Pop3Core._lang, _ALWAYS),
    b"STAT": _Command(Pop3Core._stat, _AFTER, bare=True),
    b"LIST": _Command(Pop3Core._list, _AFTER),
    b"UIDL": _Command(Pop3Core._uidl, _AFTER),
    b"RETR": _Command(Pop3Core._retr, _AFTER),
    b"TOP": _Command(Pop3Core._top, _AFTER),
    b"DELE": _Command(Pop3Core._dele, _AFTER),
    b"RSET": _Command(Pop3Core._rset, _AFTER, bare=True),
    b"NOOP": _Command(Pop3Core._noop, _AFTER, bare=True),
    b"QUIT": _Command(Pop3Core._quit, _ALWAYS, bare=True),
}
_CONTROLS = bytes([*range(0x20), 0x7F])


def _verb(line: bytes) -> str:
    """The command, for the log; "?" for what is none of ours: it may be a secret that lost its way."""
    verb = line.partition(b" ")[0].strip(b"\r").upper()
    return verb.decode("ascii") if verb in _COMMANDS else "?"


def _text(octets: bytes) -> str:
    """A name as text; "" when it is none."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""
