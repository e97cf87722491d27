"""
What a POP3 session knows and how it speaks: the part of L{qmailpy.wire.pop3.Pop3Core} that its commands work on.

    L{qmailpy.wire.pop3}              octets in and out, the order of questions and answers
    here                              what is known, what is said, how a session ends
    L{qmailpy.wire.pop3_commands}     the table of commands; those over a mailbox
    L{qmailpy.wire.pop3_login}        the commands before there is a mailbox
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qmailpy.wire import sasl
from qmailpy.wire.pop3_drop import Drop
from qmailpy.wire.pop3_events import BadCommand, Ended, Event
from qmailpy.wire.pop3_service import Service, text_line

IDLE, ASKED_LOGIN, ASKED_SECRET, ASKED_FETCH, ASKED_LEAVE, ASKED_TLS, LISTING, HANDED_ON = range(8)
"""What a session waits for."""

VERBS = frozenset(b"CAPA STLS USER PASS AUTH XCLIENT UTF8 LANG STAT LIST UIDL RETR TOP DELE RSET NOOP QUIT".split())
"""All there are."""


class Pop3State:
    """
    One session, for its commands.

    @ivar secure: under TLS (of either kind).
    @ivar plain: passwords are taken although there is no TLS.
    @ivar front: the client may tell who is behind it (XCLIENT).
    @ivar bindings: channel bindings of the TLS connection, for SCRAM-SHA-256-PLUS.
    @ivar closed: nothing more is read.
    @ivar utf8: the client has said UTF8.
    @ivar asked: the question that is out, or C{LISTING} or C{HANDED_ON}.
    @ivar drop: the mailbox; C{None} = not in the TRANSACTION state.
    @ivar user: what USER has named, for the command that follows.
    @ivar machine: a SASL exchange that is under way, of C{mechanism}.
    @ivar rows: what is still to be sent of a listing.
    @ivar early: commands before the login.
    """

    __slots__ = (
        "asked",
        "at",
        "backlog",
        "bindings",
        "buffer",
        "closed",
        "drop",
        "early",
        "errors",
        "events",
        "failures",
        "front",
        "machine",
        "mechanism",
        "out",
        "overlong",
        "plain",
        "rows",
        "secure",
        "service",
        "user",
        "utf8",
    )

    def __init__(self, service: Service, *, secure: bool = False, plain: bool = False) -> None:
        self.service = service
        self.secure = secure
        self.plain = plain
        self.front = False
        self.bindings: Mapping[str, bytes] = {}
        self.closed = False
        self.buffer = b""  # what is to be parsed, from C{at} on
        self.at = 0
        self.backlog: bytearray | None = None  # what arrived while waiting
        self.out: list[bytes] | None = None
        self.events: list[Event] | None = None  # made by answers, given out by proceed
        self.overlong: str | None = None  # verb of a line that is too long, until its end
        self.rows: Iterator[bytes] | None = None
        self.asked = IDLE
        self.errors = 0
        self.drop: Drop | None = None
        self.user: str | None = None
        self.machine: sasl.Machine | None = None
        self.mechanism = ""
        self.failures = 0
        self.early = 0
        self.utf8 = False

    @property
    def entered(self) -> bool:
        """In the TRANSACTION state."""
        return self.drop is not None

    @property
    def passwords(self) -> bool:
        """They may be sent."""
        return self.secure or self.plain

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What AUTH can be used with, now."""
        if self.entered:
            return ()
        return sasl.offered(plain=self.passwords, bindings=bool(self.bindings), scram=self.service.scram)

    @property
    def box(self) -> Drop:
        """The mailbox, for commands that need one."""
        assert self.drop is not None  # the table of commands sees to it
        return self.drop

    # --- words -----------------------------------------------------------------------------------------------

    def send(self, octets: bytes) -> None:
        """Say something, behind all that was said before."""
        if self.out is None:
            self.out = [octets]
        else:
            self.out.append(octets)

    def ok(self, text: str) -> None:
        """A +OK response of one line."""
        self.send(text_line(b"+OK", text))

    def error(self, text: str) -> None:
        """A -ERR response that is no fault of the client's."""
        self.send(text_line(b"-ERR", text))

    def bad(self, line: bytes, text: str, events: list[Event]) -> None:
        """A -ERR response to a bad command, of which there may be some. @param line: as it came."""
        self.refuse_verb(verb_of(line), text, events)

    def refuse_verb(self, verb: str, text: str, events: list[Event]) -> None:
        """
        As L{bad}.

        @param verb: for the log; "?" for one that is none of ours.
        """
        self.error(text)
        events.append(BadCommand(verb=verb, text=text))
        self.errors += 1
        if self.errors >= self.service.limits.errors and not self.closed:
            self.error("Too many bad commands")
            self.finish("too many bad commands")

    # --- the end ---------------------------------------------------------------------------------------------

    def finish(self, reason: str) -> None:
        """
        Read nothing more.

        @param reason: for the log; "" after QUIT.
        """
        self.closed = True
        self.buffer = b""
        self.at = 0
        self.backlog = None
        self.rows = None
        self.machine = None
        self.user = None
        self.events = self.events or []
        self.events.append(Ended(reason))

    def count_failure(self) -> None:
        """A login has failed."""
        self.failures += 1
        if self.failures >= self.service.limits.logins and not self.closed:
            self.error("[AUTH] Too many failed logins")
            self.finish("too many failed logins")


def verb_of(line: bytes) -> str:
    """The command, for the log; "?" for what is none of ours: it may be a secret that lost its way."""
    verb = line.partition(b" ")[0].strip(b"\r").upper()
    return verb.decode("ascii") if verb in VERBS else "?"
