"""
The client half of SMTP without I/O (RFC 5321, RFC 2920, RFC 1870, RFC 6152): a peer's octets in, events and octets out.

States, told by C{SmtpClient.stage}, which is always what is being waited for::

    GREETING -> EHLO [-> HELO] -> IDLE
    IDLE -> [RSET ->] MAIL -> RCPT ... -> DATA -> CONTENT -> FINAL -> IDLE     one transaction
    IDLE -> QUIT -> CLOSED;  any -> CLOSED when the session is broken

With PIPELINING the commands up to DATA go out in one write and only their replies are waited for one by one;
otherwise each command waits for the reply before it. The caller moves octets: L{SmtpClient.receive} for what came in,
L{SmtpClient.take} for what must go out after every call.

What a refusal means for the mail is not decided here but in L{qmailpy.remote.trouble}; this module only says
who refused what. Room is left for STARTTLS and AUTH (states between EHLO and IDLE) and for CHUNKING (another way
through CONTENT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from attrs import frozen

from qmailpy.values import Reply
from qmailpy.wire.client_data import Stuffer
from qmailpy.wire.client_reply import ReplyReader


class Stage(Enum):
    """What is being waited for; the value is how a diagnostic says it."""

    CONNECT = "connecting"
    GREETING = "waiting for the greeting"
    EHLO = "waiting for the reply to EHLO"
    HELO = "waiting for the reply to HELO"
    IDLE = "waiting for mail"
    RSET = "waiting for the reply to RSET"
    MAIL = "waiting for the reply to MAIL FROM"
    RCPT = "waiting for the reply to RCPT TO"
    DATA = "waiting for the reply to DATA"
    CONTENT = "sending the message"
    FINAL = "waiting for the reply to the end of the message"
    QUIT = "waiting for the reply to QUIT"
    CLOSED = "closed"


@frozen(kw_only=True)
class Transaction:
    """One message to one peer."""

    sender: str  # "" for the null sender
    recipients: tuple[str, ...]  # at least one; each passed L{unsendable}
    size: int  # octets of the content as queued, which is what SIZE means (RFC 1870 s.5)
    eight_bit: bool = True  # announce BODY=8BITMIME where the peer knows it


@frozen(kw_only=True)
class Outcome:
    """How far a transaction got: each reply that was received."""

    mail: Reply | None = None
    recipients: tuple[Reply | None, ...] = ()  # in the order of the transaction
    data: Reply | None = None  # set only when DATA was refused
    final: Reply | None = None  # to the whole message; also an early refusal while it was being sent
    stage: Stage = Stage.IDLE  # what was being waited for when it ended; IDLE: the transaction came to its end


@frozen
class Ready:
    """The peer may be given a transaction now: after the greeting and EHLO, once a session."""


@frozen
class GoAhead:
    """354: send the content."""


@frozen
class Finished:
    """A transaction is over; the session is ready for the next when C{SmtpClient.stage} is IDLE."""

    outcome: Outcome


@frozen
class Broken:
    """
    The session cannot be used (any more): its greeting or EHLO was refused, the peer said 421, or speaks no SMTP.

    During a transaction, C{SmtpClient.outcome} tells how far that had come.
    """

    stage: Stage  # what was being waited for
    reply: Reply | None  # the peer's, C{None} when it broke the protocol
    why: str = ""  # what was wrong with the protocol


@frozen
class Goodbye:
    """QUIT was answered; close."""


Event = Ready | GoAhead | Finished | Broken | Goodbye

_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"[A-Za-z0-9_.:\[\]-]+")  # or a literal
_PRINTABLE = re.compile(r"[ -~]+")
_ADDRESS_LIMIT = 1000  # a command line is 512 octets (RFC 5321 s.4.5.3.1.4); many servers allow more, none needs this


def unsendable(address: str) -> Reply | None:
    """
    Why an address cannot be put into a command, or C{None}.

    Nothing that is refused here should ever have been accepted; this is the last gate before the wire, so that an
    address can never become a command of its own.
    """
    if not address:
        return None
    if not address.isascii():
        return Reply(553, "5.6.7", "Address needs SMTPUTF8")
    if _PRINTABLE.fullmatch(address) is None or len(address) > _ADDRESS_LIMIT:
        return Reply(553, "5.1.3", "Address cannot be sent")
    local, at, domain = address.rpartition("@")
    if not (at and local) or _DOMAIN.fullmatch(domain) is None:
        return Reply(553, "5.1.3", "Address cannot be sent")
    if local.startswith('"') and re.fullmatch(r'"(?:[^"\\]|\\.)*"', local) is None:
        return Reply(553, "5.1.3", "Address cannot be sent")
    return None


def path(address: str) -> bytes:
    """
    C{address} in its angle brackets (RFC 5321 s.4.1.2), the local part quoted where it must be.

    @raise ValueError: L{unsendable} was not asked.
    """
    if not address:
        return b"<>"
    local, _, domain = address.rpartition("@")
    if _DOT_ATOM.fullmatch(local) is None or _DOMAIN.fullmatch(domain) is None:
        if unsendable(address) is not None:
            raise ValueError(f"address {address!r} cannot be sent")
        if not local.startswith('"'):
            local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"<{local}@{domain}>".encode("ascii")


class SmtpClient:
    """
    One session with one peer, from its greeting on.

    C{extensions} maps each EHLO keyword, in capitals, to its parameters; empty after HELO.
    """

    __slots__ = (
        "_accepted",
        "_data",
        "_dirty",
        "_discard",
        "_final",
        "_helo",
        "_mail",
        "_out",
        "_pipelining",
        "_reader",
        "_replies",
        "_stuffer",
        "_transaction",
        "answers",
        "banner",
        "broken",
        "esmtp",
        "extensions",
        "stage",
    )

    def __init__(self, helo: str) -> None:
        """
        @param helo: our name, for EHLO.
        """
        self.stage = Stage.GREETING
        self.answers = 0  # replies taken so far: who minds the time starts it anew when this has grown
        self.banner = ""  # text of the greeting
        self.esmtp = False  # EHLO was accepted
        self.extensions: Mapping[str, str] = {}
        self._helo = helo.encode("ascii")
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
        self._discard = False  # the reply to a lone dot is no news
        self._stuffer = Stuffer()

    # What goes out

    def take(self) -> bytes:
        """What must be sent now, often nothing; ask after every other call."""
        octets, self._out = self._out, b""
        return octets

    def refusal(self, transaction: Transaction) -> Reply | None:
        """Why the peer cannot take C{transaction} by what it said in EHLO, without asking it (RFC 1870 s.6.1)."""
        limit = self.extensions.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit[:19]) < transaction.size:
            return Reply(552, "5.3.4", f"Message of {transaction.size} octets is larger than the host takes ({limit})")
        return None

    def begin(self, transaction: Transaction) -> None:
        """Start a transaction; only in stage IDLE."""
        if self.stage is not Stage.IDLE:
            raise RuntimeError(f"transaction begun while {self.stage.value}")
        self._transaction = transaction
        self._mail = self._data = self._final = None
        self._replies = []
        self._accepted = 0
        self._discard = False
        self._stuffer = Stuffer()
        mail = b"MAIL FROM:" + path(transaction.sender)
        if "SIZE" in self.extensions:
            mail += b" SIZE=%d" % transaction.size
        if transaction.eight_bit and "8BITMIME" in self.extensions:
            # Where 8BITMIME is missing, 8-bit content is sent all the same, as most do; conversion is not built yet.
            mail += b" BODY=8BITMIME"
        mail += b"\r\n"
        self.stage = Stage.RSET if self._dirty else Stage.MAIL
        if self._pipelining:
            lines = [b"RSET\r\n"] if self._dirty else []
            lines.append(mail)
            lines.extend(b"RCPT TO:%b\r\n" % path(address) for address in transaction.recipients)
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
        self._out += self._stuffer.feed(octets)

    def end_content(self) -> None:
        """The content was complete: send the final dot. From here on the message may arrive whatever we hear."""
        if self.stage is not Stage.CONTENT:
            raise RuntimeError(f"content ended while {self.stage.value}")
        self._out += self._stuffer.end()
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
            stage=self.stage,
        )

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
        self._out += b"EHLO " + self._helo + b"\r\n"

    def _ehlo(self, reply: Reply, events: list[Event]) -> None:
        if reply.permanent:
            self.stage = Stage.HELO  # RFC 5321 s.3.2: an old server; it may still do with HELO
            self._out += b"HELO " + self._helo + b"\r\n"
        elif reply.code == 250:
            self.esmtp = True
            self.extensions = _extensions(reply.text)
            self._pipelining = "PIPELINING" in self.extensions
            self._ready(events)
        else:
            self._break(events, reply)

    def _helo_reply(self, reply: Reply, events: list[Event]) -> None:
        if reply.code == 250:
            self._ready(events)
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
        if 300 <= reply.code < 400:
            self._odd(reply, events)
            return
        self._mail = reply
        self._dirty = reply.code < 300
        if self._pipelining:
            self.stage = Stage.RCPT
        elif self._dirty:
            self.stage = Stage.RCPT
            self._next_recipient()
        else:
            self._finish(events)

    def _next_recipient(self) -> None:
        """Without PIPELINING: the next RCPT."""
        if self._transaction is not None:
            self._out += b"RCPT TO:%b\r\n" % path(self._transaction.recipients[len(self._replies)])

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
                self._next_recipient()
        elif self._pipelining:
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
        elif reply.code < 400:
            self._odd(reply, events)
        else:
            if self._accepted:
                self._data = reply
            self._finish(events)

    def _content_reply(self, reply: Reply, events: list[Event]) -> None:
        """The peer answers before it has the message: it gives up on it, and there is no way to go on from here."""
        if reply.code < 400:
            self._odd(reply, events)
            return
        self._final = reply
        self.broken = True
        self._finish(events, Stage.CLOSED)

    def _final_reply(self, reply: Reply, events: list[Event]) -> None:
        if 300 <= reply.code < 400:
            self._odd(reply, events)
            return
        if not self._discard:
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


def _extensions(text: str) -> dict[str, str]:
    """The keywords of an EHLO reply's text (RFC 5321 s.4.1.1.1), its greeting line left out."""
    found: dict[str, str] = {}
    for line in text.split("\n")[1:]:
        # "AUTH=PLAIN" and "SIZE=1000" are forms of servers older than the RFC.
        keyword, _, parameters = line.strip().replace("=", " ", 1).partition(" ")
        if keyword:
            found.setdefault(keyword.upper(), parameters.strip())
    return found


_HANDLERS = {
    Stage.GREETING: SmtpClient._greeting,
    Stage.EHLO: SmtpClient._ehlo,
    Stage.HELO: SmtpClient._helo_reply,
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
