"""
The client half of SMTP and LMTP without I/O: a peer's octets in, events and octets out (RFC 5321, RFC 1870, RFC 2033,
RFC 2920, RFC 3030, RFC 3207, RFC 3461, RFC 4954, RFC 6152, RFC 9422).

States, told by C{SmtpClient.stage}, which is always what is being waited for::

    GREETING -> EHLO [-> HELO] -> IDLE
    EHLO -> STARTTLS -> TLS -> EHLO     once, before IDLE (RFC 3207)
    EHLO -> AUTH -> IDLE                with a login, and under TLS only (RFC 4954)
    IDLE -> [RSET ->] MAIL -> RCPT ... -> DATA -> CONTENT -> FINAL -> IDLE     one transaction
    RCPT -> CONTENT     the same with CHUNKING (RFC 3030)
    IDLE -> QUIT -> CLOSED;  any -> CLOSED when the session is broken

LMTP (RFC 2033) is the same but for its LHLO, which has no older form to fall back to, and for FINAL, in which each
recipient that was taken gets a reply of its own.

With PIPELINING the commands up to DATA go out in one write and only their replies are waited for one by one;
otherwise each command waits for the reply before it. The caller moves octets: L{SmtpClient.receive} for what came in,
L{SmtpClient.take} for what must go out after every call.

What a refusal means for the mail is not decided here but in L{qmailpy.remote.trouble}; this module only says
who refused what.

Nothing that was received before the handshake has a meaning after it: octets behind the reply to STARTTLS are thrown
away, and what EHLO said is asked again (RFC 3207 s.4.2).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from qmailpy.values import Reply
from qmailpy.wire.client_commands import auth_challenge, auth_command, mail_command, rcpt_command
from qmailpy.wire.client_data import BinaryChunker, Chunker, Stuffer
from qmailpy.wire.client_events import (
    Broken,
    Event,
    Finished,
    GoAhead,
    Goodbye,
    KeyWanted,
    Outcome,
    Ready,
    Secure,
    Stage,
    Tls,
    Transaction,
)
from qmailpy.wire.client_limits import NO_LIMITS, limits
from qmailpy.wire.client_options import refusal
from qmailpy.wire.client_reply import ReplyReader, keywords
from qmailpy.wire.sasl_client import Answer, Derive, Login, Machine, Step, client

CHUNKS_FROM = 65536
"""
Octets from which content goes out by BDAT to peers that offer it together with PIPELINING: the peer need not look for
the end in it. Smaller messages go by DATA, whose 354 comes along with the replies to the recipients.
"""


class SmtpClient:
    """
    One session with one peer, from its greeting on.

    C{extensions} maps each EHLO keyword, in capitals, to its parameters; empty after HELO.
    """

    __slots__ = (
        "_accepted",
        "_chunker",
        "_data",
        "_dirty",
        "_discard",
        "_final",
        "_finals",
        "_helo",
        "_login",
        "_machine",
        "_mail",
        "_out",
        "_pipelining",
        "_reader",
        "_replies",
        "_stuffer",
        "_tls",
        "_transaction",
        "answers",
        "authenticated",
        "banner",
        "broken",
        "chunks",
        "esmtp",
        "extensions",
        "limits",
        "lmtp",
        "misled",
        "secure",
        "stage",
    )

    def __init__(self, helo: str, tls: Tls = Tls.NONE, login: Login | None = None, *, lmtp: bool = False) -> None:
        """
        @param helo: our name, for EHLO.
        @param tls: what the session must have before mail is given to it.
        @param login: who we are to the peer; such a session needs TLS whatever C{tls} says.
        """
        self.stage = Stage.GREETING
        self.answers = 0  # replies taken so far: who minds the time starts it anew when this has grown
        self.banner = ""  # text of the greeting
        self.esmtp = False  # EHLO was accepted
        self.extensions: Mapping[str, str] = {}
        self.limits = NO_LIMITS
        self.authenticated = False
        self.secure = False  # the session is under TLS
        self._helo = helo.encode("ascii")
        self.lmtp = lmtp
        self._tls = tls
        self._login = login
        self._machine: Machine | None = None
        self._reader = ReplyReader()
        self._out = b""
        self._pipelining = False
        self._dirty = False  # the peer may still hold a transaction that must be reset
        self.broken = False  # nothing but QUIT can be said any more
        self._transaction: Transaction | None = None
        self._mail: Reply | None = None
        self._replies: list[Reply] = []  # to RCPT
        self._accepted = 0  # of them, 2yz
        self._data: Reply | None = None
        self._final: Reply | None = None
        self._finals: list[Reply] = []  # LMTP
        self._discard = False  # the reply to a lone dot is no news
        self._stuffer = Stuffer()
        self._chunker: Chunker | None = None  # instead of the Stuffer
        self.chunks = True  # whether content may go by BDAT; for who knows better than what the peer says
        self.misled = False  # it offered CHUNKING, and does not know BDAT

    # What goes out

    def take(self) -> bytes:
        """What must be sent now, often nothing; ask after every other call."""
        octets, self._out = self._out, b""
        return octets

    def begin_tls(self) -> None:
        """TLS begins before the greeting (RFC 8314 s.3); only at once after C{__init__}."""
        self.stage = Stage.TLS

    def secured(self) -> None:
        """The handshake is complete: begin anew, with EHLO, or with the greeting where that has not come."""
        if self.stage is not Stage.TLS:
            raise RuntimeError(f"TLS begun while {self.stage.value}")
        self.secure = True
        self.esmtp = False
        self.extensions = {}
        self.limits = NO_LIMITS
        if self.answers:
            self.stage = Stage.EHLO
            self._out = self._hello()
        else:
            self.stage = Stage.GREETING

    @property
    def chunked(self) -> bool:
        """Whether the content of the (last) transaction goes by BDAT."""
        return self._chunker is not None

    @property
    def eight_bit(self) -> bool:
        """Whether the peer takes content beyond 7 bits (RFC 6152 s.3); else it must be converted first."""
        return "8BITMIME" in self.extensions

    @property
    def binary(self) -> bool:
        """Whether the peer takes content that is no lines (RFC 3030 s.3); else it must be converted first."""
        return "BINARYMIME" in self.extensions and "CHUNKING" in self.extensions

    @property
    def utf8(self) -> bool:
        """Whether the peer takes addresses and header fields in UTF-8 (RFC 6531 s.3.1)."""
        return "SMTPUTF8" in self.extensions

    def refusal(self, transaction: Transaction) -> Reply | None:
        """Why the peer cannot take C{transaction} by what it said in EHLO, without asking it (RFC 1870 s.6.1)."""
        limit = self.extensions.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit[:19]) < transaction.size:
            return Reply(552, "5.3.4", f"Message of {transaction.size} octets is larger than the host takes ({limit})")
        return refusal(transaction, self.extensions) if transaction.by_mode else None

    def begin(self, transaction: Transaction) -> None:
        """Start a transaction; only in stage IDLE."""
        if self.stage is not Stage.IDLE:
            raise RuntimeError(f"transaction begun while {self.stage.value}")
        self._transaction = transaction
        self._mail = self._data = self._final = None
        self._replies = []
        self._finals = []
        self._accepted = 0
        self._discard = False
        self._stuffer = Stuffer()
        if transaction.binary and not self.binary:
            raise RuntimeError("the peer takes lines alone")
        chunked = self.chunks and self._pipelining and "CHUNKING" in self.extensions and transaction.size >= CHUNKS_FROM
        self._chunker = BinaryChunker() if transaction.binary else Chunker() if chunked else None
        mail = mail_command(transaction, self.extensions, esmtp=self.esmtp)
        self.stage = Stage.RSET if self._dirty else Stage.MAIL
        if self._pipelining:
            lines = [b"RSET\r\n"] if self._dirty else []
            lines.append(mail)
            lines += [rcpt_command(transaction, index, self.extensions) for index in range(len(transaction.recipients))]
            if self._chunker is None:
                lines.append(b"DATA\r\n")
            self._out += b"".join(lines)
        elif self._dirty:
            self._out += b"RSET\r\n"
        else:
            self._out += mail

    def content(self, octets: bytes) -> None:
        """The next piece of the content; only in stage CONTENT."""
        if self.stage is not Stage.CONTENT:
            raise RuntimeError(f"content given while {self.stage.value}")
        self._out += (self._chunker or self._stuffer).feed(octets)

    def end_content(self) -> None:
        """
        The content was complete: send the final dot, or the last chunk.

        From here on the message may arrive whatever we hear.
        """
        if self.stage is not Stage.CONTENT:
            raise RuntimeError(f"content ended while {self.stage.value}")
        self._out += (self._chunker or self._stuffer).end()
        self.stage = Stage.FINAL

    def quit(self) -> None:
        """End the session; only outside a transaction, and also after L{Broken} by a refusal other than 421."""
        self.stage = Stage.QUIT
        self._out += b"QUIT\r\n"

    def outcome(self) -> Outcome:
        """How far the transaction has come; for when the connection is lost or given up during it."""
        if self._transaction is None:
            return Outcome(stage=self.stage)
        missing = len(self._transaction.recipients) - len(self._replies)
        return Outcome(
            mail=self._mail,
            recipients=(*self._replies, *(None,) * missing),
            data=self._data,
            final=self._final,
            finals=self._finals_of_all() if self.lmtp else (),
            stage=self.stage,
        )

    def _finals_of_all(self) -> tuple[Reply | None, ...]:
        """The replies to the message by recipient, C{None} where there was none (yet)."""
        answers = iter(self._finals)
        taken = [reply.code < 300 and self._dirty_mail() for reply in self._replies]
        missing = len(self._transaction.recipients) - len(taken) if self._transaction is not None else 0
        return (*[next(answers, None) if good else None for good in taken], *(None,) * missing)

    def _dirty_mail(self) -> bool:
        """Whether the sender was taken."""
        return self._mail is not None and self._mail.code < 300

    # What comes in

    def receive(self, octets: bytes) -> list[Event]:
        """What C{octets} from the peer mean; never raises, whatever they are."""
        events: list[Event] = []
        for reply in self._reader.feed(octets):
            if self.broken:
                break
            if reply.code == 421 and self.stage is not Stage.QUIT:
                self._break(events, reply)  # RFC 5321 s.3.8: may come instead of any reply, or unasked
            else:
                self.answers += 1
                _HANDLERS[self.stage](self, reply, events)
                if self.stage is Stage.TLS:
                    # Whatever came behind the 220 was not protected, and is not to be taken for an answer given later.
                    self._reader = ReplyReader()
                    return events
        if self._reader.error and not self.broken:
            self._break(events, None, self._reader.error)
        return events

    def _break(self, events: list[Event], reply: Reply | None, why: str = "") -> None:
        self.broken = True
        events.append(Broken(self.stage, reply, why))

    def _odd(self, reply: Reply, events: list[Event]) -> None:
        """A reply that has no place here: we are out of step with the peer, and anything further would be a guess."""
        self._break(events, None, f"unexpected reply: {str(reply)[:200]}")

    def _greeting(self, reply: Reply, events: list[Event]) -> None:
        self.banner = reply.text.split("\n", 1)[0]
        if reply.code != 220:
            self._break(events, reply)
            return
        self.stage = Stage.EHLO
        self._out += self._hello()

    def _hello(self) -> bytes:
        return (b"LHLO " if self.lmtp else b"EHLO ") + self._helo + b"\r\n"

    def _ehlo(self, reply: Reply, events: list[Event]) -> None:
        if reply.permanent and not self.secure and not self.lmtp:
            self.stage = Stage.HELO  # RFC 5321 s.3.2: an old server; it may still do with HELO
            self._out += b"HELO " + self._helo + b"\r\n"
        elif reply.code == 250:
            self.esmtp = True
            self.extensions = keywords(reply.text)
            self._pipelining = "PIPELINING" in self.extensions
            if "LIMITS" in self.extensions:
                self.limits = limits(self.extensions["LIMITS"])
            if self.secure or (self._tls is Tls.NONE and self._login is None):
                self._authenticate(events)
            elif "STARTTLS" in self.extensions:
                self.stage = Stage.STARTTLS
                self._out += b"STARTTLS\r\n"
            else:
                self._without_tls(events, "not offered")
        else:
            self._break(events, reply)

    def _helo_reply(self, reply: Reply, events: list[Event]) -> None:
        if reply.code != 250:
            self._break(events, reply)
        elif self.secure:
            self._authenticate(events)
        else:
            self._without_tls(events, "not offered")

    def _starttls_reply(self, reply: Reply, events: list[Event]) -> None:
        if reply.code == 220:
            self.stage = Stage.TLS
            events.append(Secure())
        elif reply.code < 400:
            self._odd(reply, events)
        else:
            self._without_tls(events, f"refused: {str(reply)[:200]}")

    def _without_tls(self, events: list[Event], why: str) -> None:
        """Go on without TLS, where that is allowed."""
        if self._tls in (Tls.NONE, Tls.MAY) and self._login is None:
            self._ready(events)
        else:
            self.broken = True
            events.append(Broken(Stage.STARTTLS, None, why, insecure=True))

    def _authenticate(self, events: list[Event]) -> None:
        """Log in where we have a login; else this is all."""
        if self._login is None:
            self._ready(events)
            return
        self.stage = Stage.AUTH
        self._machine = client(self.extensions.get("AUTH", "").split(), self._login)
        if self._machine is None:
            self._break(events, None, "no way to log in is offered that we know")
            return
        self._out += auth_command(self._machine)

    def derived(self, key: bytes) -> list[Event]:
        """The key of a L{KeyWanted}."""
        events: list[Event] = []
        if self.stage is Stage.AUTH and self._machine is not None and not self.broken:
            self._login_step(self._machine.derived(key), events)
        return events

    def _login_step(self, step: Step, events: list[Event]) -> None:
        if isinstance(step, Answer):
            self._out += base64.b64encode(step.octets) + b"\r\n"
        elif isinstance(step, Derive):
            events.append(KeyWanted(step))
        else:
            self._out += b"*\r\n"
            self._break(events, None, step.why)

    def _auth_reply(self, reply: Reply, events: list[Event]) -> None:
        machine = self._machine
        assert machine is not None
        if reply.code == 334:
            challenge = auth_challenge(machine, reply.text)
            if challenge is None:
                self._break(events, None, "challenge is not base64")
            else:
                self._login_step(machine.respond(challenge), events)
        elif reply.code == 235 and machine.proven:
            self._machine = None
            self.authenticated = True
            self._ready(events)
        elif reply.code == 235:
            self._break(events, None, "the server has not shown that it knows the password")
        elif reply.code < 400:
            self._odd(reply, events)
        else:
            self._break(events, reply)

    def _ready(self, events: list[Event]) -> None:
        self.stage = Stage.IDLE
        events.append(Ready())

    def _rset(self, reply: Reply, events: list[Event]) -> None:
        if reply.code != 250:
            self._odd(reply, events)
            return
        self._dirty = False
        self.stage = Stage.MAIL
        if not self._pipelining and self._transaction is not None:
            self.stage = Stage.IDLE
            self.begin(self._transaction)

    def _mail_reply(self, reply: Reply, events: list[Event]) -> None:
        if 300 <= reply.code < 400 or self._transaction is None:
            self._odd(reply, events)
            return
        self._mail = reply
        self._dirty = reply.code < 300
        if self._pipelining:
            self.stage = Stage.RCPT
        elif self._dirty:
            self.stage = Stage.RCPT
            self._out += rcpt_command(self._transaction, 0, self.extensions)
        else:
            self._finish(events)

    def _rcpt(self, reply: Reply, events: list[Event]) -> None:
        if 300 <= reply.code < 400 or self._transaction is None:
            self._odd(reply, events)
            return
        self._replies.append(reply)
        # A peer that refuses the sender and takes recipients is confused; none of them counts.
        if reply.code < 300 and self._dirty:
            self._accepted += 1
        if len(self._replies) < len(self._transaction.recipients):
            if not self._pipelining:
                self._out += rcpt_command(self._transaction, len(self._replies), self.extensions)
        elif self._chunker is not None and self._accepted:
            self.stage = Stage.CONTENT
            events.append(GoAhead())
        elif self._pipelining and self._chunker is None:
            self.stage = Stage.DATA
        elif self._accepted:
            self.stage = Stage.DATA
            self._out += b"DATA\r\n"
        else:
            self._finish(events)

    def _data_reply(self, reply: Reply, events: list[Event]) -> None:
        if reply.code == 354:
            if self._accepted:
                self.stage = Stage.CONTENT
                events.append(GoAhead())
            else:
                # RFC 2920 s.3.1: DATA was sent along with the recipients, all were refused, and the server wants a
                # message for nobody. It gets an empty one, and what it says of that is of no interest.
                self._discard = True
                self.stage = Stage.FINAL
                self._out += b".\r\n"
                if self.lmtp:  # a reply for each recipient: none
                    self._dirty = False
                    self._finish(events)
        elif reply.code < 400:
            self._odd(reply, events)
        else:
            if self._accepted:
                self._data = reply
            self._finish(events)

    def _content_reply(self, reply: Reply, events: list[Event]) -> None:
        """The peer answers before it has the message: it gives up on it, and there is no way to go on from here."""
        if self._chunk_taken(reply):
            return
        if reply.code < 400:
            self._odd(reply, events)
            return
        if self._chunk_unknown(reply, events):
            return
        self._final = reply
        self.broken = True
        self._finish(events, Stage.CLOSED)

    def _chunk_taken(self, reply: Reply) -> bool:
        """Whether a reply is no more than that to a chunk, other chunks being on their way or to come."""
        chunker = self._chunker
        if chunker is None or reply.code >= 300 or chunker.unanswered <= (self.stage is Stage.FINAL):
            return False
        chunker.unanswered -= 1
        return True

    def _chunk_unknown(self, reply: Reply, events: list[Event]) -> bool:
        """
        Whether the peer does not know the command (RFC 5321 s.4.2.4), though something before it offers it: that is no
        answer to the message, which goes by DATA another time. What is no lines cannot.
        """
        self.misled = reply.code in (500, 502) and type(self._chunker) is Chunker
        if self.misled:
            self.stage = Stage.CONTENT  # nothing can have arrived
            self._break(events, None, f"CHUNKING is offered, and BDAT is not known: {str(reply)[:200]}")
        return self.misled

    def _final_reply(self, reply: Reply, events: list[Event]) -> None:
        if self._chunk_taken(reply):
            return
        if self._chunker is not None and self._chunker.unanswered > 1:
            self._content_reply(reply, events)  # to a chunk before the last one
            return
        if 300 <= reply.code < 400:
            self._odd(reply, events)
            return
        if self._chunk_unknown(reply, events):
            return
        if self.lmtp:
            self._finals.append(reply)
            if len(self._finals) < self._accepted:
                return
        elif not self._discard:
            self._final = reply
        self._dirty = False
        self._finish(events)

    def _finish(self, events: list[Event], stage: Stage = Stage.IDLE) -> None:
        self.stage = stage
        events.append(Finished(self.outcome()))
        self._transaction = None

    def _quit_reply(self, reply: Reply, events: list[Event]) -> None:
        self.stage = Stage.CLOSED
        events.append(Goodbye())


_HANDLERS = {
    Stage.GREETING: SmtpClient._greeting,
    Stage.EHLO: SmtpClient._ehlo,
    Stage.HELO: SmtpClient._helo_reply,
    Stage.STARTTLS: SmtpClient._starttls_reply,
    Stage.TLS: SmtpClient._odd,
    Stage.AUTH: SmtpClient._auth_reply,
    Stage.IDLE: SmtpClient._odd,
    Stage.RSET: SmtpClient._rset,
    Stage.MAIL: SmtpClient._mail_reply,
    Stage.RCPT: SmtpClient._rcpt,
    Stage.DATA: SmtpClient._data_reply,
    Stage.CONTENT: SmtpClient._content_reply,
    Stage.FINAL: SmtpClient._final_reply,
    Stage.QUIT: SmtpClient._quit_reply,
    Stage.CLOSED: SmtpClient._odd,
}
