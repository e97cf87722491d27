"""
The gate before the queue: what is decided about a client and its mail before it is told 250.

    arrive      port_access, [limits] of connections; begins to ask the DNS
    mail        from_access, [limits] of messages, EHLO name; begins to ask about the sender's domain
    rcpt        orig_send_access, send_access, mail_access; [checks], [[dnslist]]; [limits] of recipients; [greylist]
    leave

Whether a recipient is ours or may be relayed to has been decided before C{rcpt}: no rule opens a relay. What a check
finds is kept until C{rcpt}, where a rule may accept the mail all the same, and where a refusal is recorded with sender
and recipient. Nothing is refused later, so that nobody gets a notice for mail that he did not send.

Trusted clients are asked by the tables alone, who has logged in by tables and limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.clocks import wall
from qmailpy.config.schema import ChecksConfig, Config, ListenerConfig
from qmailpy.interfaces import IEvents, IResolver
from qmailpy.policy.faults import EARLY, NULL_MX, PIPELINING, TAGS, TALKS_EARLY, UNKNOWN_DOMAIN, faults
from qmailpy.policy.greylist import FILE_NAME, Greylist
from qmailpy.policy.limits import Here, Limits, Present
from qmailpy.policy.lists import Lists
from qmailpy.policy.ruling import DISCARD, HOLD, Facts, Ruling
from qmailpy.policy.shared import SharedCounts
from qmailpy.policy.tables import Table, tables
from qmailpy.policy.visit import Letter, Visit
from qmailpy.policy.visitors import Inquiry, Look, Visitors
from qmailpy.values import Recipient, Reply

InThread = Callable[..., Awaitable[Any]]

_KINDS = {DISCARD: "bitbucket", HOLD: "hold"}


@define
class _Course:
    """How far the tables have come with a recipient."""

    tags: tuple[str, ...]
    fate: str
    spared: bool
    reply: Reply | None = None
    recipients: tuple[Recipient, ...] = ()


class Gate:
    """
    One for all SMTP listeners of a worker.

    @ivar counts: how often something was refused, or a check was failed, by its name.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        config: Config,
        lists: Lists,
        resolver: IResolver,
        events: IEvents,
        in_thread: InThread,
        counts: SharedCounts | None = None,
        here: Callable[[], Here] = Present,
    ) -> None:
        """
        @param lists: those the tables name.
        @param in_thread: calls a function in a thread; for the greylist.
        @param counts: what all workers count of [limits]; C{None} = this one counts for itself.
        @param here: makes what counts who is here at once.
        """
        self._reactor = reactor
        self._wall = wall(reactor)
        self._resolver = resolver
        self._in_thread = in_thread
        self.counts: Counter[str] = Counter()
        if counts is None:
            self.limits = Limits(config.limits, reactor.seconds, events, here=here)
        else:
            self.limits = Limits(config.limits, reactor.seconds, events, counts.window, here)
        self._greylist: Greylist | None = None
        self._take(config, lists)

    def reconfigure(self, config: Config, lists: Lists) -> None:
        """Take other settings, for what is decided from now on. Counts and what was learnt stay."""
        self.limits.reconfigure(config.limits)
        self._take(config, lists)

    def _take(self, config: Config, lists: Lists) -> None:
        self._hostname = config.server.hostname
        self._checks: ChecksConfig = config.checks
        self._tables: Mapping[str, Table] = tables(config, lists)
        self._visitors = Visitors(self._reactor, self._resolver, config.checks, config.dnslists)
        self._kinds = {
            fate: next((name for name, one in config.channels.items() if one.kind == kind), "")
            for fate, kind in _KINDS.items()
        }
        if not config.greylist.enabled:
            self._greylist = None
        elif self._greylist is None:
            self._greylist = Greylist(config.path("run", FILE_NAME), config.greylist)
        else:
            self._greylist.config = config.greylist
        checks = config.checks
        # Where nothing is to be asked of messages they cost nothing.
        self._asks_mail = any(name != "port_access" for name in self._tables) or config.limits.of_messages
        self._judges = (
            self._visitors.curious
            or self._greylist is not None
            or checks.greet_delay_s > 0
            or {checks.pipelining, checks.helo_syntax, checks.helo_ours, checks.helo_literal, checks.sender_domain}
            != {"none"}
        )

    def thd_close(self) -> None:
        """Let go of files."""
        if self._greylist is not None:
            self._greylist.thd_close()

    # --- a client comes and goes -----------------------------------------------------------------------------

    def arrive(
        self, listener: ListenerConfig, ip: str, ours: str, *, trusted: bool
    ) -> tuple[Visit | None, Reply | None]:
        """
        A client has come.

        @param ours: the IP address it is connected to.
        @return: what the other calls want, C{None} when nothing of this client is to be asked here; and what turns it
            away.
        """
        if trusted and not self._tables:
            return None, None
        visit = Visit(listener=listener.name, source=listener.channel, ip=ip, ours=ours, trusted=trusted or not ip)
        if not visit.trusted:
            visit.network, refusal = self.limits.connected(ip)
            if refusal is not None:
                self.counts["limit"] += 1
                return visit, refusal
        table = self._tables.get("port_access")
        if table is not None:
            course = _Course((), "", False)
            self._apply(table, Facts(listener=listener.name, client=ip, source=listener.channel), course)
            if course.reply is not None:
                return visit, course.reply
            visit.tags, visit.fate, visit.spared = course.tags, course.fate, course.spared
        if self._judges and not visit.trusted and not visit.spared and listener.kind == "smtp" and listener.checks:
            visit.checked = True
            visit.greet_delay_s = self._checks.greet_delay_s if listener.tls != "implicit" else 0.0
            visit.watched = visit.greet_delay_s > 0 or self._checks.pipelining != "none"
            if self._visitors.curious:
                visit.inquiry = self._visitors.look(ip)
        return visit, None

    def leave(self, visit: Visit) -> None:
        """It has gone."""
        for inquiry in (visit.inquiry, visit.letter.inquiry if visit.letter is not None else None):
            if inquiry is not None:
                inquiry.stop()
        if visit.network:
            self.limits.gone(visit.network)
            visit.network = ""
        self.logged_out(visit)

    def talked_early(self, visit: Visit) -> Reply | None:
        """It has sent something before it was greeted; what ends the session."""
        self.counts[EARLY] += 1
        visit.greet_delay_s = 0.0
        action = self._checks.early_talkers
        if action == "tag":
            visit.faults[EARLY] = None
        return TALKS_EARLY if action == "reject" else None

    def pipelined(self, visit: Visit) -> None:
        """It has sent commands behind one that had to be answered first (RFC 2920 s.3.1)."""
        visit.watched = visit.greet_delay_s > 0
        if self._checks.pipelining != "none":
            visit.faults[PIPELINING] = None

    def logged_in(self, visit: Visit, user: str, sends_a_day: int) -> Reply | None:
        """
        It has proved who it is.

        @return: what ends the session.
        """
        self.logged_out(visit)
        visit.user, visit.sends_a_day = user, sends_a_day
        if visit.trusted:
            return None
        refusal = self.limits.logged_in(user)
        if refusal is not None:
            self.counts["limit"] += 1
        return refusal

    def logged_out(self, visit: Visit) -> None:
        """It is nobody's any more: TLS begins, or it goes."""
        user, visit.user = visit.user, ""
        if user and not visit.trusted:
            self.limits.logged_out(user)

    # --- MAIL ------------------------------------------------------------------------------------------------

    def mail(self, visit: Visit, helo: str, user: str, sender: str) -> Reply | None:
        """
        A message begins.

        @return: what refuses it. Then, or when nothing is to be asked about its recipients, C{visit.letter} is C{None}.
        """
        last, visit.letter = visit.letter, None
        if last is not None and last.inquiry is not None:
            last.inquiry.stop()
        if not (self._asks_mail or visit.checked or visit.sends_a_day or visit.tags or visit.fate):
            return None
        letter = Letter(sender=sender, helo=helo, user=user, tags=visit.tags, fate=visit.fate, spared=visit.spared)
        table = self._tables.get("from_access")
        if table is not None:
            course = _Course(letter.tags, letter.fate, letter.spared)
            self._apply(table, self._facts(visit, letter, course), course)
            if course.reply is not None:
                return course.reply
            letter.tags, letter.fate, letter.spared = course.tags, course.fate, course.spared
        if not visit.trusted:
            refusal = self.limits.message(visit.ip, user)
            if refusal is not None:
                self.counts["limit"] += 1
                return refusal
        if visit.checked and not user and sender and self._checks.sender_domain != "none":
            self._ask_domain(letter, sender.rpartition("@")[2])
        visit.letter = letter
        return None

    def _ask_domain(self, letter: Letter, domain: str) -> None:
        if not domain or domain.startswith("["):
            return

        async def ask() -> None:
            # RFC 5321 s.5.1: mail can go back to a domain with an MX or, without one, with an address.
            exchangers = await self._resolver.mx(domain)
            if exchangers:
                if all(not host for _, host in exchangers):
                    letter.domain_fault = NULL_MX
            elif not await self._resolver.exists(domain) or not await self._resolver.addresses(domain):
                letter.domain_fault = UNKNOWN_DOMAIN

        letter.inquiry = Inquiry(self._reactor, self._checks.dns_timeout_s, Look(), [ask])

    # --- RCPT ------------------------------------------------------------------------------------------------

    def rcpt(self, visit: Visit, named: str, recipients: Sequence[Recipient]) -> Ruling | Deferred[Ruling]:
        """
        The message is to get another recipient, which may be written to as far as the way there is concerned.

        @param named: what the client has named.
        @param recipients: whom that stands for.
        @return: never fails but for bugs.
        """
        letter = visit.letter
        if letter is None:
            raise RuntimeError("a recipient without a message")
        stranger = visit.checked and not letter.user
        if not stranger:
            return self._rule(visit, letter, named, recipients, checked=False)
        asked = [one for one in (visit.inquiry, letter.inquiry) if one is not None and not one.done]
        if not asked and self._greylist is None:
            return self._rule(visit, letter, named, recipients, checked=True)
        return Deferred.fromCoroutine(self._rule_later(asked, visit, letter, named, recipients))

    async def _rule_later(
        self,
        asked: Iterable[Inquiry],
        visit: Visit,
        letter: Letter,
        named: str,
        recipients: Sequence[Recipient],
    ) -> Ruling:
        for one in asked:
            if not one.done:
                await one.wait()
        ruling = self._rule(visit, letter, named, recipients, checked=True)
        greylist = self._greylist
        if greylist is None or ruling.reply is not None or ruling.spared or self._welcome(visit):
            return ruling
        wait_s = await self._in_thread(
            greylist.thd_wait_s, self.limits.network(visit.ip), letter.sender, named, self._wall()
        )
        if wait_s <= 0:
            return ruling
        self.counts["greylist"] += 1
        text = f"We do not know you yet, try again in {max(1, round(wait_s))} seconds"
        return Ruling(reply=Reply(451, "4.7.1", text), reason="greylist")

    def _welcome(self, visit: Visit) -> bool:
        return visit.inquiry is not None and visit.inquiry.found.welcome

    def _rule(
        self, visit: Visit, letter: Letter, named: str, recipients: Sequence[Recipient], *, checked: bool
    ) -> Ruling:
        """All that can be said without waiting."""
        tags, refusal = letter.tags, None
        for fault in faults(self._checks, self._hostname, visit, letter) if checked else ():
            if TAGS[fault.check] not in tags:
                tags = (*tags, TAGS[fault.check])
            if refusal is None and fault.action == "reject":
                refusal = fault
        course = _Course(tags, letter.fate, letter.spared)
        self._route(visit, letter, course, named, recipients)
        if course.reply is not None:
            return Ruling(reply=course.reply, reason="table")
        if refusal is not None and not course.spared:
            self.counts[refusal.check] += 1
            return Ruling(reply=refusal.reply, reason=refusal.check)
        if not visit.trusted:
            reply = self.limits.recipient(visit.ip, letter.user, visit.sends_a_day)
            if reply is not None:
                self.counts["limit"] += 1
                return Ruling(reply=reply, reason="limit")
        return Ruling(recipients=course.recipients, tags=course.tags, spared=course.spared)

    # --- tables ----------------------------------------------------------------------------------------------

    def _route(
        self, visit: Visit, letter: Letter, course: _Course, named: str, recipients: Sequence[Recipient]
    ) -> None:
        """Have the tables say what becomes of the recipients."""
        original = self._tables.get("orig_send_access")
        if original is not None:
            way = recipients[0].channel if recipients else ""
            facts = self._facts(visit, letter, course, destination=way, recipient=named, named=named)
            self._apply(original, facts, course)
        fate, spared, placed = course.fate, course.spared, []
        for each in recipients:
            # What a rule says of one whom an alias stands for is for that one, but a refusal is for the name.
            course.fate, course.spared = fate, spared
            for name in ("send_access", "mail_access"):
                table = self._tables.get(name)
                if table is not None and course.reply is None:
                    facts = self._facts(
                        visit, letter, course, destination=each.channel, recipient=each.address, named=named
                    )
                    self._apply(table, facts, course)
            if course.reply is not None:
                return
            placed.append(self._place(each, course.fate))
        course.recipients = tuple(placed)

    def _facts(self, visit: Visit, letter: Letter, course: _Course, **more: str) -> Facts:
        return Facts(
            listener=visit.listener,
            client=visit.ip,
            helo=letter.helo,
            user=letter.user,
            source=visit.source,
            sender=letter.sender,
            tagged=course.tags,
            **more,
        )

    def _apply(self, table: Table, facts: Facts, course: _Course) -> None:
        """Do what the table's first fitting rule says."""
        rule = table.decide(facts)
        if rule is None:
            return
        action = rule.config.action
        self.counts[f"{table.name}_{action}"] += 1
        if rule.reply is not None:
            course.reply = rule.reply
        elif action == "accept":
            course.spared = True
        elif action == "tag":
            if rule.config.tag not in course.tags:
                course.tags = (*course.tags, rule.config.tag)
        else:
            course.fate = action

    def _place(self, recipient: Recipient, fate: str) -> Recipient:
        channel = self._kinds.get(fate, "")
        return evolve(recipient, channel=channel, host="") if channel else recipient
