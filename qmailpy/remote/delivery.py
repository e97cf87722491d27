"""
One attempt at a message for one destination: finds the peers, tries them in order, ends with a Disposition a recipient.

  1. A connection kept for the destination is used at once. Was it stale, nothing is lost but a turn.
  2. Else the peers of the destination are asked for, and each is tried, those known to be dead passed over, until one
     has taken or refused every recipient, or there is none left.
  3. A peer that says how much it takes at once (RFC 9422) gets so much, and the others in further transactions, over
     further connections if need be: none of them waits for it in the queue.
  4. A recipient that a peer has answered for is done with. The others go on to the next peer while nothing of the
     message can have arrived (L{qmailpy.remote.trouble}).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from attrs import define, evolve, field

from qmailpy.config.schema import ChannelConfig
from qmailpy.errors import MailError, Permanent
from qmailpy.events.traces import Traces
from qmailpy.remote.dispositions import diagnostic, modifiers, name, of_trouble, skipped, weight, without_promise
from qmailpy.remote.forms import Forms
from qmailpy.remote.memory import HostMemory
from qmailpy.remote.mx import Destination
from qmailpy.remote.peers import Finder, Peer
from qmailpy.remote.pool import Pool, Unreached
from qmailpy.remote.protection import Planned, Protection
from qmailpy.remote.session import Delivery, InThread, Session
from qmailpy.remote.trouble import Fault, Judgement, Scope, Trouble, fates, judge
from qmailpy.values import Content, Disposition, Reply, Verdict
from qmailpy.wire.client_events import Stage, Tls, Transaction
from qmailpy.wire.client_options import seconds_left
from qmailpy.wire.tlsrpt import Applied, Failed

CONNECT_BUDGET = 4
"""An attempt dials no new peer after so many times C{connect_timeout_s}: the message waits better in the queue."""


FURTHER_S = 300.0
"""
A host that takes few recipients at a time (RFC 9422) gets more transactions in an attempt for so long. What it has
taken is recorded when the attempt ends: until then a crash has it come again, and the job keeps its place from others.
"""


class Results(Protocol):
    """Who wants to know what came of TLS; for reports."""

    def note(self, domain: str, applied: Applied, failed: Failed | None) -> None:
        """A session for mail to C{domain}: good, or why not."""


@define(kw_only=True)
class _Attempt:
    """What is known so far."""

    destination: Destination
    transaction: Transaction
    content: Content
    forms: Forms | None = None  # made when a peer needed one
    until: float  # when no further transaction begins
    left: list[int]  # recipients without an answer of their own
    later: list[int] = field(factory=list)  # more of them, for whom a transaction had no room
    found: dict[int, Disposition] = field(factory=dict)
    last: Disposition | None = None  # for those still left at the end

    def note(self, disposition: Disposition) -> None:
        """
        How one more peer failed.
        """
        if self.last is None or weight(disposition) >= weight(self.last):
            self.last = disposition

    def divide(self, session: Session) -> bool:
        """Put off those for whom the session's next transaction has no room; whether anybody is left."""
        if len(chosen := session.fitting(self.transaction.recipients, self.left)) == len(self.left):
            return True
        now = set(chosen)
        self.later = [index for index in self.left if index not in now]
        self.left = list(chosen)
        return bool(chosen)

    def gather(self) -> None:
        """Those put off have their turn."""
        if self.later:
            self.left = sorted((*self.left, *self.later))  # for_left goes by their order
            self.later = []

    def for_left(self) -> Transaction:
        if len(self.left) == len(self.transaction.recipients):
            return self.transaction
        return self.transaction.only(self.left)

    def result(self) -> list[Disposition]:
        """One Disposition a recipient, in order."""
        last = self.last or Disposition(
            verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.1", f"No host of {self.destination.name} could be tried")
        )
        return [self.found.get(index, last) for index in range(len(self.transaction.recipients))]


class Remote:
    """The way out of one channel."""

    def __init__(
        self,
        config: ChannelConfig,
        finder: Finder,
        pool: Pool,
        memory: HostMemory,
        seconds: Callable[[], float],
        in_thread: InThread,
        protection: Protection | None = None,
        results: Results | None = None,
        traces: Traces | None = None,
        wall: Callable[[], float] | None = None,
    ) -> None:
        """
        @param seconds: the time now, of the clock that nobody sets.
        @param wall: the time of day; C{None} = the same.
        @param protection: what TLS the peers must have beyond the configuration; C{None} = nothing.
        @param results: is told what came of TLS with each peer; C{None} = nobody wants to know.
        @param traces: what of the protocol is written down; C{None} = nothing.
        """
        self._protection = protection or Protection(None)
        self._results = results
        self._traces = traces
        self._in_thread = in_thread
        self._config = config
        self._finder = finder
        self._pool = pool
        self._memory = memory
        self._seconds = seconds
        self._wall = wall or seconds

    def pardon(self, destination: str) -> None:
        """What has failed so far no longer counts for mail to a destination; as L{HostMemory.pardon}."""
        self._memory.pardon(destination)

    async def send(self, destination: Destination, transaction: Transaction, content: Content) -> Sequence[Disposition]:
        """
        Try each recipient of C{transaction} once.

        @return: one Disposition each, in order.
        """
        attempt = _Attempt(
            destination=destination,
            transaction=transaction,
            content=content,
            until=self._seconds() + FURTHER_S,
            left=list(range(len(transaction.recipients))),
        )
        session = self._pool.recall(destination)
        while session is not None:
            judged = await self._use(session, attempt)
            if judged is None or not judged.next_host:
                return attempt.result()
            if judged is _NO_PROMISE:
                break  # the session is good still, and would be recalled again
            session = self._pool.recall(destination)
        try:
            peers = await self._finder.find(destination)
        except MailError as error:
            verdict = Verdict.FAILED if isinstance(error, Permanent) else Verdict.DEFERRED
            attempt.last = Disposition(verdict=verdict, reply=error.reply)
            return attempt.result()
        await self._try(await self._plan(peers, attempt), attempt)
        return attempt.result()

    async def _plan(self, peers: Sequence[Peer], attempt: _Attempt) -> Sequence[Planned]:
        """What TLS each peer must have, for this message."""
        destination = attempt.destination
        planned, failure = await self._protection.plan(destination, peers)
        if failure is not None and self._results is not None:
            self._results.note(destination.domain, Applied("sts"), Failed(kind=failure.kind, why=failure.why))
        return planned

    def _note(self, attempt: _Attempt, each: Planned, kind: str, why: str, ends: str = "") -> None:
        """Tell what came of TLS with a peer: C{kind} "" for nothing bad."""
        destination = attempt.destination
        # Reports go out without a policy: to report on them would have two hosts write to each other forever.
        if self._results is None or not destination.domain or destination.policy.optional:
            return
        failed = None
        if kind:
            peer = each.peer
            ours = ends.split("|")[1] if ends else ""
            failed = Failed(kind=kind, host=peer.host, address=peer.address, ours=ours, why=why)
        self._results.note(attempt.destination.domain, each.applied, failed)

    async def _try(self, planned: Sequence[Planned], attempt: _Attempt) -> None:
        """Give the attempt to one peer after the other until nobody is left, or it must not go on."""
        deadline = self._seconds() + CONNECT_BUDGET * self._config.connect_timeout_s
        for each in planned:
            peer = each.peer
            if each.barred is not None:
                reply = each.barred.reply
                verdict = Verdict.FAILED if reply.permanent else Verdict.DEFERRED
                attempt.note(Disposition(verdict=verdict, reply=reply, remote_mta=name(peer)))
                if each.barred.kind:
                    self._note(attempt, each, each.barred.kind, reply.text)
                continue
            while True:
                if self._seconds() > deadline:
                    return
                blocked = self._memory.blocked(peer, attempt.destination.name)
                if blocked is not None:
                    attempt.note(skipped(blocked.why, blocked.seconds, peer))
                    break
                try:
                    traced = self._traces is not None and self._traces.active
                    session = await self._pool.connect(peer, partial(self._traced, attempt=attempt) if traced else None)
                except Unreached as error:
                    trouble = error.trouble
                    judged: Judgement | None = judge(trouble)
                    assert judged is not None
                    if trouble.kind:
                        self._note(
                            attempt, each, trouble.kind, trouble.why, error.session.ends if error.session else ""
                        )
                    if trouble.fault is Fault.NO_TLS and attempt.transaction.require_tls:
                        attempt.note(without_promise(peer, error.session))
                    else:
                        attempt.note(of_trouble(trouble, judged, peer, error.session))
                    if not judged.next_host:
                        return
                    implicit = peer.implicit or self._config.implicit_tls
                    if peer.tls is Tls.MAY and error.trouble.stage is Stage.TLS and not implicit:
                        peer = evolve(peer, tls=Tls.NONE)  # on a new connection: nobody knows what this one is in
                        continue
                    break
                reused = session.transactions > 0
                if not reused and self._results is not None and peer.tls is not Tls.NONE:
                    doubt = session.doubt
                    kind = doubt.kind if doubt else "" if session.core.secure else "starttls-not-supported"
                    self._note(attempt, each, kind, doubt.why if doubt else "", session.ends)
                judged = await self._use(session, attempt)
                if judged is _FURTHER:
                    deadline = self._seconds() + CONNECT_BUDGET * self._config.connect_timeout_s
                    continue  # the same host takes the others over another connection
                if judged is None or not judged.next_host:
                    return
                if not reused or judged is _NO_PROMISE:
                    break
                # An idle connection had gone stale; each turn uses one up, then there is a new one.

    async def _use(self, session: Session, attempt: _Attempt) -> Judgement | None:
        """
        Give the recipients that are left to one session, and the session back.

        @return: what ended it before all were answered, C{None} when they were.
        """
        if session.trace is not None or (self._traces is not None and self._traces.active):
            self._traced(session, attempt)
        try:
            while True:
                if not attempt.divide(session):
                    session.used_up = True
                    return self._further(session, attempt)
                transaction = attempt.for_left()
                if transaction.require_tls and "REQUIRETLS" not in session.core.extensions:
                    attempt.note(without_promise(session.peer, session))
                    return _NO_PROMISE
                content = attempt.content
                refusal = None
                if transaction.utf8 and not session.core.utf8:
                    refusal = await self._plain(attempt, session)
                    if refusal is None:
                        if not attempt.left and attempt.later:
                            attempt.gather()
                            continue
                        if not attempt.left:
                            return None
                        transaction = evolve(attempt.for_left(), utf8=False)
                    if not session.usable:
                        return _gone(session, attempt)
                core = session.core
                if refusal is None and not (core.binary if transaction.binary else core.eight_bit):
                    content, refusal = await self._forms(attempt).seven_bit()
                    transaction = evolve(transaction, size=content.size, eight_bit=False, binary=False)
                    if not session.usable:  # it has hung up meanwhile
                        return _gone(session, attempt)
                if refusal is None and self._config.linelimit and not (transaction.binary and core.binary):
                    content, refusal = await self._forms(attempt).short_lines(content)
                    transaction = evolve(transaction, size=content.size)
                    if not session.usable:
                        return _gone(session, attempt)
                if transaction.by_mode:
                    left = seconds_left(transaction.deliver_by, self._wall())
                    transaction = evolve(transaction, by_seconds=left)
                refusal = refusal or session.core.refusal(transaction)
                if refusal is not None:
                    verdict = Verdict.FAILED if refusal.permanent else Verdict.DEFERRED
                    own = Disposition(verdict=verdict, reply=refusal, remote_mta=name(session.peer))
                    attempt.found.update(dict.fromkeys((*attempt.left, *attempt.later), own))
                    return None
                delivery = await session.deliver(transaction, content)
                again = self._take_answers(session, delivery, attempt)
                if delivery.trouble is not None:
                    if session.core.misled:
                        self._memory.found_chunkless(session.peer)
                    judged = judge(delivery.trouble)
                    attempt.note(of_trouble(delivery.trouble, judged, session.peer, session, delivery.sent))
                    return judged
                if not session.usable:
                    return self._further(session, attempt) if attempt.later else None
                attempt.left = again  # fewer than before: some were delivered
                attempt.gather()
                if not attempt.left:
                    return None
                if self._further(session, attempt) is _ENOUGH:
                    return _ENOUGH
        except BaseException:
            session.drop("given up")
            raise
        finally:
            attempt.gather()
            self._pool.give(session, attempt.destination)

    def _further(self, session: Session, attempt: _Attempt) -> Judgement:
        """Whether this host is given more of the recipients who are left: C{_FURTHER}, or C{_ENOUGH} for now."""
        if self._seconds() < attempt.until:
            return _FURTHER
        said = diagnostic(session, "Host takes few recipients at a time; the others are tried again")
        attempt.note(
            Disposition(verdict=Verdict.DEFERRED, reply=_ENOUGH.reply, remote_mta=name(session.peer), diagnostic=said)
        )
        return _ENOUGH

    def _traced(self, session: Session, attempt: _Attempt) -> None:
        """Write down what is said from here on, where somebody wants it: by the relay, or the recipients' domains."""
        peer, before, where = session.peer, session.trace, attempt.destination
        if self._traces is None:
            return
        domains = dict.fromkeys(one.rpartition("@")[2] for one in attempt.transaction.recipients)
        names = (where.domain or where.name, *domains)
        session.trace = self._traces.outgoing(self._config.name, names, peer.host, peer.address, before)
        if before is not None and session.trace is not before:
            before.ended("what goes on over this connection is not asked for")

    def _forms(self, attempt: _Attempt) -> Forms:
        forms = attempt.forms
        if forms is None:
            binary, linelimit = attempt.transaction.binary, self._config.linelimit
            forms = Forms(attempt.content, binary=binary, linelimit=linelimit, in_thread=self._in_thread)
            attempt.forms = forms
        return forms

    async def _plain(self, attempt: _Attempt, session: Session) -> Reply | None:
        """
        A peer without SMTPUTF8: why it cannot have the message (RFC 6531 s.3.6). Recipients it cannot be named are
        answered here, the others may have it when sender and header are US-ASCII.
        """
        sender = attempt.transaction.sender
        if not sender.isascii():
            return _no_utf8("the sender's address")
        plain, unread = await self._forms(attempt).plain_header()
        if not plain:
            return unread or _no_utf8("the header")
        recipients = attempt.transaction.recipients
        for index in [each for each in attempt.left if not recipients[each].isascii()]:
            attempt.found[index] = Disposition(
                verdict=Verdict.FAILED, reply=_no_utf8("the recipient's address"), remote_mta=name(session.peer)
            )
        attempt.left = [each for each in attempt.left if recipients[each].isascii()]
        return None

    def _take_answers(self, session: Session, delivery: Delivery, attempt: _Attempt) -> list[int]:
        """Write down what the peer said; the recipients worth another transaction at once."""
        left, again, delivered = [], [], False
        dsn = "DSN" in session.core.extensions
        for index, fate in zip(attempt.left, fates(delivery.outcome), strict=True):
            if fate is None:
                left.append(index)
                continue
            attempt.found[index] = Disposition(
                verdict=fate.verdict,
                reply=fate.reply,
                remote_mta=name(session.peer),
                diagnostic=diagnostic(session, f"smtp;{fate.reply}"),
                transferred=delivery.sent if fate.whole else 0,
                modifiers=modifiers(session),
                relayed=fate.verdict is Verdict.DELIVERED and not dsn,
                told_there=fate.verdict is Verdict.DELIVERED and dsn,
            )
            delivered = delivered or fate.verdict is Verdict.DELIVERED
            if fate.again:
                again.append(index)
        attempt.left = left
        return again if delivered else []


def _no_utf8(what: str) -> Reply:
    return Reply(553, "5.6.7", f"Host takes no SMTPUTF8, which {what} needs")


_NO_PROMISE = Judgement(scope=Scope.HOST, verdict=Verdict.FAILED, reply=Reply(550, "5.7.30", ""), next_host=True)


_FURTHER = Judgement(scope=Scope.CONNECTION, verdict=Verdict.DEFERRED, reply=Reply(451, "4.4.1", ""), next_host=True)
"""The session has no room for the others, its host may have (RFC 9422)."""

_ENOUGH = Judgement(
    scope=Scope.CONNECTION,
    verdict=Verdict.DEFERRED,
    reply=Reply(451, "4.4.5", "Host takes few recipients at a time"),  # RFC 3463 X.4.5: congestion
)


def _gone(session: Session, attempt: _Attempt) -> Judgement:
    trouble = Trouble(stage=Stage.IDLE, fault=Fault.LOST)
    judged = judge(trouble)
    attempt.note(of_trouble(trouble, judged, session.peer, session))
    return judged
