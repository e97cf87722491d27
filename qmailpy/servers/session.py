"""
One SMTP session: what the events of L{SmtpCore<qmailpy.wire.smtp.SmtpCore>} mean for mail.

It takes logins, routes recipients, has the message taken in, and answers.

    L{Connection<qmailpy.servers.connection.Connection>}          the transport: in, out, time
    L{Conversation<qmailpy.servers.conversation.Conversation>}    events and answers in order, TLS
    here                                                          login, MAIL, RCPT, and the end of a message
    L{Transaction<qmailpy.servers.transaction.Transaction>}       a message, its recipients and their records
    L{smtp_login<qmailpy.servers.smtp_login>}                     the words of logins

Nothing here decides about mail but these rules: who may relay (RFC 5321 s.7.9: an address of ours, a client that is
trusted, a user that has logged in), that a user sends in its own name, where a login is required, how many recipients,
and how many connections; and what the site's L{Gate<qmailpy.policy.gate.Gate>} says.

What fails and how: a refusal is a reply (and a J record); a connection that ends with recipients accepted and no
message leaves a V record for each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from qmailpy.auth.logins import Refusal
from qmailpy.directory import address as addresses
from qmailpy.errors import MailError
from qmailpy.interfaces import IFlow
from qmailpy.policy.ruling import Ruling
from qmailpy.records.record import Action
from qmailpy.servers import mail_options, smtp_login
from qmailpy.servers.clients import plain_address
from qmailpy.servers.connection import FLOW, TurnedAway, near
from qmailpy.servers.conversation import STOPPING, TURNED_AWAY, Conversation
from qmailpy.servers.fronts import destination_of, may_run
from qmailpy.servers.late import late, late_now
from qmailpy.servers.site import Site
from qmailpy.servers.smtp_records import connection_record
from qmailpy.servers.submission import may_send_as
from qmailpy.servers.transaction import INTERNAL, Transaction
from qmailpy.values import Mailbox, Recipient, Refused, Reply, RouteResult, ScramSecret
from qmailpy.wire.smtp_events import (
    AuthStep,
    BadCommand,
    DataBegun,
    DataChunk,
    DataEnded,
    DataRefused,
    Ended,
    Greeted,
    MailFrom,
    QueueRun,
    RcptTo,
    Reset,
    StartTls,
    XClient,
)

_NO_RELAYING = Reply(550, "5.7.1", "Relaying denied")
_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients")


def _of_all(refused: Mapping[str, Reply]) -> Reply:
    """The one reply for all of them: as long as one may have room later, the message is to be tried again."""
    replies = list(refused.values())
    return next((reply for reply in replies if reply.temporary), replies[0])


@implementer(IFlow)
class SmtpSession(Conversation):
    """A connection; an idle one has nothing but a core until there is a transaction."""

    _log = Logger()

    __slots__ = ("_transaction",)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._transaction: Transaction | None = None

    # IFlow, for the intake

    def pause(self) -> None:
        self._pause(FLOW)

    def resume(self) -> None:
        self._pace = None  # our disk was slow, not the client
        self._resume(FLOW)

    # For the conversation

    @property
    def busy(self) -> bool:
        transaction = self._transaction
        return transaction is not None and transaction.arriving

    def _let_go(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.give_up()

    def _forget(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abort()

    # Events

    def _greeted(self, event: Greeted) -> None:
        self._forget()

    def _reset(self, event: Reset) -> None:
        self._forget()

    def _auth_step(self, event: AuthStep) -> None:
        logins = self._site.logins
        if logins is None:
            raise RuntimeError("nobody to ask about logins")
        client = "" if self._trusted else self._ip  # trusted clients are free of limits
        self._ask(smtp_login.ask(logins, event.step, client, self._ip), self._login_told, "a login")

    def _login_told(self, found: Mailbox | ScramSecret | Refusal) -> None:
        if isinstance(found, ScramSecret):
            self._core.secret(found)
            return
        if isinstance(found, Refusal):
            user = found.login
            if found.detail:
                self._log.info("login from {ip} refused: {detail!r}", ip=self._ip, detail=found.detail[:200])
        else:
            user = found.address
        reply = smtp_login.reply(found)
        if isinstance(found, Mailbox):
            gate, visit = self._site.gate, self._visit
            refusal = None
            if gate is not None and visit is not None:
                refusal = gate.logged_in(visit, user, found.sends_a_day)
            if refusal is None:
                self._user = user
            else:
                reply = refusal
        connection_record(self._site, Action.AUTHENTICATED, self._ends, str(reply), user)
        self._core.answer(reply)

    def _queue_run(self, event: QueueRun) -> None:
        """ETRN: the queue is worked through beside the session, which need not wait for it."""
        flush = self._site.flush
        if flush is None or not (self._trusted or self._user) or not may_run(self._site.listener.etrn, event):
            self._core.answer(Reply(459, "4.7.1", f"Node {event.domain} is not allowed"))  # RFC 1985 s.5.3
            return
        where = destination_of(event)
        Deferred.fromCoroutine(_flushed(flush, where)).addErrback(
            lambda failure: self._log.failure("running the queue for {where}", failure, where=where)
        )
        self._core.accept()

    def _xclient(self, event: XClient) -> None:
        """A front tells whose session this is: that of a client which has just connected."""
        site, said = self._site, event.attributes
        connection_record(site, Action.CLOSED, self._ends, "XCLIENT")
        self._forget()
        self._claims = claims = self._claims.told(said)
        refusal = self._become(said["ADDR"]) if "ADDR" in said else None
        self._user = addresses.key(site.logins.full(said["LOGIN"])) if said.get("LOGIN") and site.logins else ""
        if refusal is None and self._user and site.gate is not None and self._visit is not None:
            refusal = site.gate.logged_in(self._visit, self._user, 0)
        self._ends = self._claimed_ends(claims)
        connection_record(site, Action.OPENED, self._ends)
        if refusal is not None:
            self._core.answer(refusal)
            return
        self._core.accept()
        self._core.authenticated = bool(self._user)

    def _become(self, ip: str) -> Reply | None:
        """Be the session of another client, who may be turned away; a front need not be greeted late, nor watched."""
        site = self._site
        site.counts.remove(self._ip)
        self._ip = ip
        self._trusted = ip in site.trusted
        # Proxies pass on whatever their clients say, who must not be believed, nor have the proxy's certificate.
        self._front = site.fronts is not None and ip in site.fronts
        self._certified = ""
        count = site.counts.add(ip)
        offers = self._offers()
        if self._secured is None:
            self._core.service = offers.near if near(None, ip) else offers.clear
        else:
            self._core.service = offers.inside
        refusal = None
        if site.gate is not None:
            if self._visit is not None:
                site.gate.leave(self._visit)
            ours = plain_address(getattr(self.transport.getHost(), "host", ""))
            self._visit, refusal = site.gate.arrive(site.listener, ip, ours, trusted=self._trusted)
            if self._visit is not None:
                self._visit.watched = False
        if not self._trusted and count > site.listener.connections_per_client:
            refusal = TURNED_AWAY[TurnedAway.CLIENT_FULL]
        return refusal

    def _mail_from(self, event: MailFrom) -> None:
        site = self._site
        user = self._user
        if user:
            if site.directory is None or not event.address or event.address == user:
                self._begin(event)
                return
            if any(user == addresses.key(one) for one in site.listener.any_sender):
                self._begin(event)
                return
            asking = Deferred.fromCoroutine(may_send_as(site.directory, user, event.address))
            self._ask(asking, partial(self._sender_told, event), "a sender")
        elif site.listener.login == "required":
            tls_first = site.offers.clear.starttls and self._secured is None and not self._shaking
            self._core.answer(smtp_login.TLS_FIRST if tls_first and not self._may_log_in() else smtp_login.LOGIN_FIRST)
        else:
            self._begin(event)

    def _may_log_in(self) -> bool:
        return bool(self._core.service.mechanisms)

    def _sender_told(self, event: MailFrom, own: bool) -> None:
        if own:
            self._begin(event)
            return
        self._bad_command(BadCommand(f"MAIL FROM:<{event.address}>".encode(), smtp_login.NOT_YOURS))
        self._core.answer(smtp_login.NOT_YOURS)

    def _begin(self, event: MailFrom) -> None:
        gate, visit = self._site.gate, self._visit
        if gate is not None and visit is not None:
            refusal = gate.mail(visit, self._helo, self._user, event.address)
            if refusal is not None:
                self._bad_command(BadCommand(f"MAIL FROM:<{event.address}>".encode(), refusal))
                self._core.answer(refusal, counted=not (self._trusted or self._user))
                return
        told = None
        if event.hold is not None or event.mt_priority is not None:
            granted = mail_options.granted(
                event, self._site.listener, self._site.wall(), known=self._trusted or bool(self._user)
            )
            if isinstance(granted, Reply):
                self._core.answer(granted)
                return
            event, told = granted
        self._transaction = Transaction(self._site, self._origin(), event)
        if told is None:
            self._core.accept()
        else:
            self._core.answer(told)

    def _rcpt_to(self, event: RcptTo) -> None:
        site = self._site
        transaction = self._open()
        if transaction.full:
            self._core.answer(_RECIPIENTS)  # no J: the client is to send these in a transaction of their own
            return
        address = event.address if event.address != "postmaster" else site.postmaster
        try:
            result = site.router.route_now(address, site.listener.channel, transaction.about)
        except MailError as error:
            result = Refused(error.reply)
        except Exception:
            self._log.failure("routing {address}", address=address)
            result = Refused(INTERNAL)
        if result is not None:
            self._routed(result, event)
            return
        routing = Deferred.fromCoroutine(site.router.route(address, site.listener.channel, transaction.about))
        routing.addErrback(self._not_routed, address)
        self._ask(routing, partial(self._routed, event=event), "routing")

    def _not_routed(self, failure: Failure, address: str) -> Refused:
        if failure.check(MailError) is not None:
            return Refused(cast(MailError, failure.value).reply)
        if failure.check(CancelledError) is None:
            self._log.failure("routing {address}", failure=failure, address=address)
        return Refused(INTERNAL)

    def _routed(self, result: RouteResult, event: RcptTo) -> None:
        """The router's word on a recipient: accept, or refuse with a J record."""
        if isinstance(result, Refused):
            self._turn_down(event, result.reply, result.channel)
        elif result.local or self._trusted or self._user:
            if result.sized:
                self._open().sized.append(event.address)
            self._judge(result.recipients, event)
        else:
            self._turn_down(event, _NO_RELAYING)

    def _turn_down(self, event: RcptTo, reply: Reply, channel: str = "") -> None:
        """@param channel: where it would have gone; "" = nowhere from here, or that is not known."""
        self._open().reject({event.address: channel}, reply)
        self._core.answer(reply, counted=not (self._trusted or self._user))

    def _judge(self, recipients: tuple[Recipient, ...], event: RcptTo) -> None:
        """It may be written to; what do access tables, limits and checks say?"""
        gate, visit = self._site.gate, self._visit
        if gate is None or visit is None or visit.letter is None:
            self._open().take(event, recipients)
            self._core.accept()
            return
        named = event.address if event.address != "postmaster" else self._site.postmaster
        ruling = gate.rcpt(visit, named, recipients)
        channel = recipients[0].channel if recipients else ""
        if isinstance(ruling, Ruling):
            self._judged(ruling, event, channel)
        else:
            self._ask(ruling, partial(self._judged, event=event, channel=channel), "a recipient")

    def _judged(self, ruling: Ruling, event: RcptTo, channel: str) -> None:
        if ruling.reply is not None:
            self._turn_down(event, ruling.reply, channel)
            return
        transaction = self._open()
        transaction.take(event, ruling.recipients)
        if ruling.tags:
            transaction.mark(ruling.tags)
        self._core.accept()

    def _data_begun(self, event: DataBegun) -> None:
        refusal = self._open().begin(self)
        if refusal is None:
            self._core.accept()
        else:
            self._core.answer(refusal)

    def _data_chunk(self, event: DataChunk) -> None:
        self._open().write(event.octets)

    def _data_ended(self, event: DataEnded) -> None:
        transaction = self._open()
        if self._site.last_checks:
            asking = Deferred.fromCoroutine(transaction.refusals(event.size))
            asking.addErrback(self._not_checked)
            self._ask(asking, partial(self._checked, transaction, event), "the last checks")
            return
        about = transaction.minding(event.size)
        if about is None:
            self._end(transaction, event)
            return
        site = self._site
        refused: Mapping[str, Reply] | None
        try:
            refused = late_now(site.router, site.listener.channel, transaction.sized, about)
        except Exception:
            self._log.failure("room for {id}", id=transaction.id)
            refused = {}  # they were accepted; the local channel will see
        if refused is not None:
            self._late(transaction, event, refused)
            return
        asking_late = Deferred.fromCoroutine(late(site.router, site.listener.channel, transaction.sized, about))
        asking_late.addErrback(self._no_word, transaction)
        self._ask(asking_late, partial(self._late, transaction, event), "room")

    def _no_word(self, failure: Failure, transaction: Transaction) -> Mapping[str, Reply]:
        if failure.check(CancelledError) is None:
            self._log.failure("room for {id}", failure=failure, id=transaction.id)
        return {}

    def _late(self, transaction: Transaction, event: DataEnded, refused: Mapping[str, Reply]) -> None:
        """One reply for all (SMTP): those in C{refused} have no room for the message."""
        if refused and all(name in refused for name in transaction.named):
            transaction.abort()
            self._refused(transaction, _of_all(refused), event.size)
        else:
            self._end(transaction, event)

    def _not_checked(self, failure: Failure) -> list[Reply | None]:
        """A bug; what can be delivered is found out at delivery."""
        if failure.check(CancelledError) is not None:
            failure.raiseException()
        self._log.failure("the last checks", failure=failure)
        return []

    def _checked(self, transaction: Transaction, event: DataEnded, found: list[Reply | None]) -> None:
        """What became of each RCPT of LMTP, when the message is there."""
        if not any(found):
            self._end(transaction, event)
            return
        transaction.refuse(found, event.size)
        if transaction.to:
            self._end(transaction, event, found)
            return
        transaction.abort()
        self._transaction = None
        self._answer(INTERNAL, found)
        self._message_over()

    def _end(self, transaction: Transaction, event: DataEnded, found: Sequence[Reply | None] = ()) -> None:
        """
        Have the message committed.

        @param found: replies to RCPTs that do not get it (LMTP).
        """
        done = transaction.end(event)
        if isinstance(done, Reply):
            self._refused(transaction, done, event.size, found)
            return
        done.addCallbacks(
            self._committed,
            self._not_committed,
            callbackArgs=(transaction, found),
            errbackArgs=(transaction, event.size, found),
        )
        done.addErrback(self._broken)

    def _committed(self, _: object, transaction: Transaction, found: Sequence[Reply | None]) -> None:
        self._transaction = None
        if self._lost:
            return
        self._answer(Reply(250, "2.0.0", f"{transaction.id} queued"), found)
        self._message_over()
        self._go_on()

    def _answer(self, reply: Reply, found: Sequence[Reply | None]) -> None:
        """Answer a message: with C{reply} for those that nothing else was found of."""
        if found:
            self._core.answer_each([one or reply for one in found])
        else:
            self._core.answer(reply)

    def _not_committed(
        self, failure: Failure, transaction: Transaction, size: int, found: Sequence[Reply | None]
    ) -> None:
        self._refused(transaction, transaction.not_committed(failure), size, found)
        self._go_on()

    def _broken(self, failure: Failure) -> None:
        """A bug behind a commit; the session cannot know what it has told the client."""
        self._log.failure("SMTP session with {ip}", failure=failure, ip=self._ip)
        self.abort()

    def _refused(self, transaction: Transaction, reply: Reply, size: int, found: Sequence[Reply | None] = ()) -> None:
        """The complete message is refused by us, for those that were not refused already."""
        self._transaction = None
        transaction.reject(transaction.named, reply, size)
        if not self._lost:
            self._answer(reply, found)
            self._message_over()

    def _data_refused(self, event: DataRefused) -> None:
        """The complete message was refused by the core, for what it is."""
        transaction = self._open()
        self._transaction = None
        transaction.abort()
        transaction.reject(transaction.named, event.reply, event.size)
        self._message_over()

    def _message_over(self) -> None:
        """A stop that waited for this message."""
        if self._site.sessions.draining:
            self._why = STOPPING
            self._core.close(STOPPING)

    def _open(self) -> Transaction:
        """The transaction; the core gives no event of one outside of it."""
        if self._transaction is None:
            raise RuntimeError("no transaction")
        return self._transaction

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        Greeted: _greeted,
        MailFrom: _mail_from,
        RcptTo: _rcpt_to,
        DataBegun: _data_begun,
        DataChunk: _data_chunk,
        DataEnded: _data_ended,
        DataRefused: _data_refused,
        StartTls: Conversation._start_tls,
        AuthStep: _auth_step,
        QueueRun: _queue_run,
        XClient: _xclient,
        Reset: _reset,
        BadCommand: Conversation._bad_command,
        Ended: Conversation._ended,
    }


async def _flushed(flush: Callable[[str], Awaitable[int]], where: str) -> None:
    count = await flush(where)
    SmtpSession._log.info("ETRN: {count} messages for {where} are tried now", count=count, where=where)
