"""
An SMTP conversation: who is there, what is said one after the other, how it comes under TLS and how it ends.

The core's events are worked through in order. One that asks a question is answered by whoever is told of it, at once
or from a callback; meanwhile the core holds back what follows, and when more arrives the transport is paused. Replies
of one turn leave in one write.

What an event means for mail is told by the L{session<qmailpy.servers.session.SmtpSession>}.

What fails and how: an unexpected exception is logged with its traceback, and the question that is out answered 451
4.3.0. Certificates that are not there end the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from OpenSSL import SSL
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.policy.visit import Visit
from qmailpy.records.record import Action
from qmailpy.servers.clients import plain_address
from qmailpy.servers.connection import ANSWER, FLOW, FULL_OCTETS, Connection, TurnedAway, near
from qmailpy.servers.fronts import NOTHING, Claims
from qmailpy.servers.pace import LOOK_S, Pace
from qmailpy.servers.site import Offers, Site
from qmailpy.servers.smtp_records import Origin, connection_record, ends, session_record, why_ended
from qmailpy.servers.tls import Secured, bindings
from qmailpy.servers.transaction import INTERNAL, reply_to
from qmailpy.values import Reply
from qmailpy.wire.sasl import EXTERNAL
from qmailpy.wire.smtp import SmtpCore
from qmailpy.wire.smtp_events import BadCommand, Ended, Event, StartTls
from qmailpy.wire.smtp_state import no_bindings

_OPENED, _CLOSED = Action.OPENED, Action.CLOSED
STOPPING = Reply(421, "4.3.2", "Server is stopping")

_NOT_KNOWN = Reply(421, "4.7.0", "Your certificate is not known here")
_TIMEOUT = Reply(421, "4.4.2", "Timeout")
_TOO_SLOW = Reply(421, "4.4.2", "Timeout: the message comes too slowly")
TURNED_AWAY = {
    TurnedAway.STOPPING: STOPPING,
    TurnedAway.FULL: Reply(421, "4.3.2", "Too many connections"),
    TurnedAway.CLIENT_FULL: Reply(421, "4.7.0", "Too many connections from your address"),
}


class Conversation(Connection):
    """
    The client's side and ours, turn by turn; of mail it knows nothing.

    A subclass gives L{handlers}, and what stands under "For the session to say".

    @cvar handlers: by the type of an event of the core, what is to be done about it.
    """

    _log = Logger()

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None]]]

    __slots__ = (
        "_asking",
        "_bad_commands",
        "_certified",
        "_claims",
        "_ends",
        "_front",
        "_greeting",
        "_opened",
        "_pace",
        "_running",
        "_secured",
        "_user",
        "_visit",
        "_why",
    )

    _core: SmtpCore
    _site: Site

    def __init__(self, site: Site) -> None:
        super().__init__()
        self._site = site
        self._core = SmtpCore(site.offers.clear)
        self._ends = ""  # transport field of the connection's records
        self._why: Reply | None = None  # why it ended, when by a reply
        self._opened = False  # has an O record
        self._running = False
        self._asking: Deferred[Any] | None = None  # routing, a login, whether a sender is the user's own
        self._bad_commands = 0
        self._secured: Secured | None = None
        self._user = ""  # address of the mailbox that has logged in
        self._visit: Visit | None = None  # for the gate, when it has something to say here
        self._greeting: IDelayedCall | None = None  # the greeting is to come
        self._front = False  # it may tell who is behind it
        self._claims = NOTHING  # what it has told
        self._certified = ""  # whose certificate it has shown
        self._pace: Pace | None = None  # of a message that is being sent for a while

    # For the session to say

    @property
    def busy(self) -> bool:
        """Whether a message is arriving or being committed: what an orderly stop waits for."""
        raise NotImplementedError

    def _forget(self) -> None:
        """The client gave the transaction up, as it may: with BDAT in the middle of the message, too."""
        raise NotImplementedError

    # IProtocol

    def connectionMade(self) -> None:
        site = self._site
        host, peer = self._arrive()
        ours = plain_address(getattr(host, "host", ""))
        self._front = site.fronts is not None and self._ip in site.fronts
        if self._front:
            self._core.service = self._offers().clear
        if site.log.connections:
            unix = isinstance(host, UNIXAddress)
            self._ends = ends(host, peer, unix, self._ip, ours)
        turned_away = self._admit()
        refusal = TURNED_AWAY[turned_away] if turned_away is not None else None
        if refusal is None and site.gate is not None:
            known = self._trusted or self._front
            self._visit, refusal = site.gate.arrive(site.listener, self._ip, ours, trusted=known)
        if refusal is not None:
            connection_record(site, Action.REFUSED, self._ends, str(refusal))
            self._core.close(refusal)
            if site.listener.tls == "implicit":
                self._core.take()  # in the clear it would mean nothing to the client
        else:
            self._opened = True
            connection_record(site, _OPENED, self._ends)
            if site.listener.tls == "implicit":
                self._begin_tls()
            else:
                if near(host, self._ip):
                    self._core.service = self._offers().near
                if self._visit is not None and self._visit.greet_delay_s:
                    self._greeting = site.reactor.callLater(self._visit.greet_delay_s, self._greet)
                else:
                    self._core.greet()
                self._arm(self._shortest())
        self._flush()

    def _greet(self) -> None:
        """The greeting had to wait."""
        self._greeting = None
        if not self._core.closed:
            self._heard = self._site.reactor.seconds()
            self._core.greet()
            self._flush()

    def _watch(self, visit: Visit, data: bytes) -> bool:
        """Look at what arrives for signs of a client that does not listen; whether it is to be read."""
        core, gate, greeting = self._core, self._site.gate, self._greeting
        if gate is None or core.closed:
            return True
        if greeting is not None:
            greeting.cancel()
            reply = gate.talked_early(visit)
            if reply is not None:
                self._greeting = None
                self._shut(reply)
                return False
            self._greet()
        if core.extended:
            visit.watched = False  # it may say as much at once as it likes (RFC 2920)
        elif not core.in_data and 0 <= data.find(b"\n") < len(data) - 1:
            gate.pipelined(visit)
        return True

    def dataReceived(self, data: bytes) -> None:
        core = self._core
        if self._trace is not None:
            self._trace.commands(data)
        if self._visit is not None and self._visit.watched and not self._watch(self._visit, data):
            return
        events = core.receive(data)
        if events or core.in_data or core.pending:
            # Not for a part of a line: who sends an octet now and then would hold the connection for ever.
            self._heard = self._site.reactor.seconds()
        if len(data) >= FULL_OCTETS and core.in_data:
            self._widen()
        if not events and core.waiting:
            self._pause(ANSWER)
        else:
            self._run(events)

    def connectionLost(self, reason: Failure) -> None:
        self._cut()
        if self._asking is not None:
            self._asking.cancel()
        if self._greeting is not None:
            self._greeting.cancel()
            self._greeting = None
        self._let_go()
        if self._visit is not None and self._site.gate is not None:
            self._site.gate.leave(self._visit)
        if self._opened:
            handshake = _tls_problem(reason) if self._shaking else ""
            connection_record(self._site, _CLOSED, self._ends, why_ended(self._why, handshake))
        self._core.bindings = no_bindings  # that it does not hold us: sessions go without the collector's help
        self._sign_off()

    # IHandshakeListener

    def handshakeCompleted(self) -> None:
        super().handshakeCompleted()
        self._secured = Secured.of(self._secured_by)
        site = self._site
        if site.clients is not None:
            self._certified = site.clients.login(self._secured_by)
            if self._certified:
                self._core.service = self._offers().certified
            elif site.listener.client_certificates == "require":
                self._shut(_NOT_KNOWN)
                return
        if self._site.listener.tls == "implicit":
            # Not before: nothing can be said during a handshake.
            self._core.greet()
            self._flush()

    # For the factory

    def stop(self) -> None:
        if self._shaking:
            self.abort()
        elif not self.busy and not self._lost:
            self._shut(STOPPING)

    # For the connection

    def _working(self) -> bool:
        return self._core.waiting or self._pauses & (FLOW | ANSWER) != 0

    def _limit(self) -> float:
        listener = self._site.listener
        return listener.data_timeout_s if self._core.in_data else listener.command_timeout_s

    def _shortest(self) -> float:
        shortest = super()._shortest()
        return min(shortest, LOOK_S) if self._site.listener.data_rate else shortest

    def _dawdling(self, now: float) -> bool:
        rate = self._site.listener.data_rate
        arriving = self._core.arriving
        if arriving is None or not rate or self._trusted:
            self._pace = None
            return False
        message, octets = arriving
        pace = self._pace
        if pace is None or pace.message is not message:
            self._pace = Pace(message, octets, now)
        elif self._working():
            pace.excuse(octets, now)
        else:
            return pace.too_slow(octets, now, rate)
        return False

    def _too_slow(self) -> None:
        self._shut(_TOO_SLOW)

    def _timed_out(self) -> None:
        self._shut(_TIMEOUT)

    def _shut(self, reply: Reply) -> None:
        """End the session from our side."""
        self._why = reply
        self._core.close(reply)
        self._flush()

    # Turns

    def _run(self, events: list[Event]) -> None:
        """Work through events, and those that follow the answers, until one must wait."""
        core = self._core
        self._running = True
        try:
            while events:
                for event in events:
                    try:
                        self.handlers[type(event)](self, event)
                    except Exception:
                        self._log.failure("SMTP session with {ip}", ip=self._ip)
                        if core.waiting:
                            core.answer(INTERNAL)
                events = core.proceed()  # none while a question is out, but what an answer itself has led to
        finally:
            self._running = False
        self._flush()

    def _go_on(self) -> None:
        """A question was answered from a callback (or, when it fired at once, from within L{_run}, which goes on)."""
        if self._running or self._lost:
            return
        self._run(self._core.proceed())
        if not self._core.waiting:
            self._resume(ANSWER)

    def _ask(self, asking: Deferred[Any], told: Callable[[Any], None], what: str) -> None:
        """Have the question that is out answered by C{told}, when what it needs is known."""
        self._asking = asking
        asking.addCallbacks(self._asked, self._not_asked, callbackArgs=(told,), errbackArgs=(what,))

    def _asked(self, found: Any, told: Callable[[Any], None]) -> None:
        self._asking = None
        if self._lost or self._core.closed:
            return
        try:
            told(found)
        except Exception:
            self._log.failure("SMTP session with {ip}", ip=self._ip)
            if self._core.waiting:
                self._core.answer(INTERNAL)
        self._go_on()

    def _not_asked(self, failure: Failure, what: str) -> None:
        """The directory is away, or a bug; or the session is over, and we gave it up ourselves."""
        self._asking = None
        if self._lost or self._core.closed or failure.check(CancelledError) is not None:
            return
        self._core.answer(reply_to(self._log, failure, what, self._ip))
        self._go_on()

    # TLS

    def _start_tls(self, event: StartTls) -> None:
        core = self._core
        self._forget()
        core.accept()
        if not core.closed:
            self._flush()  # the 220, in the clear
            self._begin_tls()

    def _begin_tls(self) -> None:
        site = self._site
        self._secured = None
        self._user = self._certified = ""
        if self._visit is not None and site.gate is not None:
            site.gate.logged_out(self._visit)
        if site.certificates is None:
            self._log.error("listener {name}: there are no certificates", name=site.listener.name)
            self._core.close(INTERNAL)
            self._core.take()
            self.abort()
            return
        self._start_handshake(site.certificates)
        self._core.secure(self._offers().inside, self._bindings)

    def _offers(self) -> Offers:
        """What this client is offered."""
        site = self._site
        return site.front_offers if self._front and site.front_offers is not None else site.offers

    def _claimed_ends(self, claims: Claims) -> str:
        """The transport field of the records of a client behind a front."""
        if not self._ends:
            return ""
        host, peer = self.transport.getHost(), self.transport.getPeer()
        ours = plain_address(getattr(host, "host", "")) if claims.our_ip is None else claims.our_ip
        port = getattr(host, "port", 0) if claims.our_port is None else claims.our_port
        theirs = getattr(peer, "port", 0) if claims.port is None else claims.port
        return f"TCP|{ours}|{port}|{self._ip}|{theirs}"

    def _bindings(self) -> Mapping[str, bytes]:
        found = bindings(self._secured_by)
        return {**found, EXTERNAL: self._certified.encode()} if self._certified else found

    # Words

    def _bad_command(self, event: BadCommand) -> None:
        if self._bad_commands >= self._site.log.bad_commands:
            return
        self._bad_commands += 1
        text = event.line.decode("utf-8", "replace")
        session_record(
            self._site,
            self._origin(),
            Action.BAD_COMMAND,
            original_to=text,
            current_to=text,
            diagnostic=str(event.reply),
        )

    def _ended(self, event: Ended) -> None:
        self._why = event.reply

    @property
    def _helo(self) -> str:
        """What the client calls itself, as far as is known."""
        return self._core.helo if self._claims.helo is None else self._claims.helo

    def _origin(self) -> Origin:
        """Who is there, for the records and for a transaction that begins."""
        core, claims = self._core, self._claims
        return Origin(
            ip=self._ip,
            helo=self._helo,
            user=self._user,
            extended=core.extended if claims.extended is None else claims.extended,
            lmtp=core.service.lmtp,
            secured=self._secured,
            names=self._site.names,
            given=claims.name,
        )


def _tls_problem(reason: Failure) -> str:
    """What OpenSSL says of a handshake that failed, in a few words."""
    value = reason.value
    parts = value.args[0] if isinstance(value, SSL.Error) and value.args else ()
    said = parts[0][2] if isinstance(parts, list) and parts and len(parts[0]) > 2 else type(value).__name__
    return " ".join(str(said).split())[:200]
