"""
The C{process} kind of channel, and the notices that go through it.

When recipients fail for good, the queue has L{Notices} build one report for them and enqueues it, in the transaction
that marks them failed, to the process channel. That channel knows no way of its own: it asks the router for each
recipient's and hands the same message on (L{Verdict.FORWARDED}), which the queue again does in one transaction. So a
notice is never lost and never sent for a failure that was not recorded.

Who is told: the sender, once for all recipients that failed together. When the sender is null the message is itself a
notice: the postmaster is told instead (a double bounce), unless C{[bounce] double_bounce} is off; and nobody when it
was the postmaster who could not be told, so that there is no third.

Mail that addresses of ours pass on to somebody elsewhere comes through here as well (L{qmailpy.channels.forward}), and
mail for groups (L{qmailpy.channels.groups}).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial

from attrs import evolve, frozen
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.forward import Forwards
from qmailpy.channels.groups import Groups
from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.config.wording import thd_wordings
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel, IReconfigured
from qmailpy.routing.posting import accepted
from qmailpy.threads import in_pool
from qmailpy.values import Content, Disposition, Envelope, Job, Notify, Recipient, Refused, Reply, Verdict
from qmailpy.wire.dsn import Notice, Origin, Reported, delay_report, failure_report, success_report
from qmailpy.wire.headers import find
from qmailpy.wire.mime_values import subject_in
from qmailpy.wire.notice_id import NoticeKind, notice_id
from qmailpy.wire.wording import LANGUAGES, language_of

_FORWARDED = Reply(250, "2.1.5", "Forwarded")
CIRCLE = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.5", "The route of this address leads back here"))
"""Of a recipient that the router sends to the channel it comes from."""

_CAME_ROUND = Disposition(
    verdict=Verdict.FAILED,
    reply=Reply(554, "5.4.6", "Mail loop: this address has passed the message on before"),
)

Outcomes = Sequence[tuple[Recipient, Disposition]]


class Notices:
    """
    Builds the messages that tell senders what became of their mail.

    All of it is a function of the arguments, the words, and the id drawn for each notice. It may read a content that is
    on disk: for a worker thread.
    """

    _log = Logger()

    def __init__(self, config: Config, make_id: Callable[[], str] | None = None) -> None:
        """
        Reads the words of notices, and so blocks.

        @param make_id: an unpredictable word, of letters and digits, for the Message-ID and the boundary of each
            notice; by default of chance.
        """
        self._make_id = make_id or (lambda: secrets.token_hex(12))
        self.thd_configure(config)

    def thd_configure(self, config: Config) -> None:
        """Take another configuration, and read the words of notices anew. Blocks."""
        self._words, problems = thd_wordings(config.home)
        for problem in problems:
            self._log.warn("{problem}; the words that come with qmailpy are used", problem=str(problem))
        self._hostname = config.server.hostname
        self._postmaster = config.server.postmaster or "postmaster"
        self._bounce = config.bounce
        self._channel = next((name for name, one in config.channels.items() if one.kind == "process"), "process")

    def build_failure(
        self, envelope: Envelope, queue_id: str, failures: Outcomes, content: Content, now: float
    ) -> tuple[Envelope, bytes] | None:
        """
        The notice of these failures.

        @param envelope: of the message that failed.
        @param failures: the recipients that were given up, each with the last word on it.
        @return: envelope and content of the notice; C{None} when nobody is to be told.
        """
        failures = [item for item in failures if item[0].notify == 0 or item[0].notify & Notify.FAILURE]
        double = not envelope.sender
        if double:
            failures = [item for item in failures if not self._is_postmaster(item[0])]
            if not self._bounce.double_bounce:
                return None
        if not failures:
            return None
        whole = content.read() if content.size <= self._bounce.return_octets and envelope.ret != "HDRS" else None
        told = [self._postmaster if double else envelope.sender]
        if self._bounce.copy_postmaster and not double and envelope.sender.lower() != self._postmaster.lower():
            told.append(self._postmaster)
        header = content.header()
        notice = self._notice(NoticeKind.DOUBLE_BOUNCE if double else NoticeKind.BOUNCE, told[0], header, now)
        origin = Origin(id=queue_id, envelope=envelope, header=header, content=whole)
        octets = failure_report(notice, origin, _reported(failures, now), double=double)
        return self._envelope(notice, told, failures[0][0].channel, octets), octets

    def build_delay(
        self,
        envelope: Envelope,
        queue_id: str,
        delayed: Outcomes,
        content: Content,
        now: float,
        until: float | None,
        tried_now: int,
    ) -> tuple[Envelope, bytes] | None:
        """
        The notice that these recipients have not got their mail yet; with the message's header only.

        @param until: when the message will be given up; C{None}: nobody knows.
        @param tried_now: how many of them, from the first on, were tried just now; of the others it is not known when.
        """
        tried = {id(item) for item in delayed[:tried_now]}
        delayed = [item for item in delayed if item[0].notify == 0 or item[0].notify & Notify.DELAY]
        if not delayed or not envelope.sender:
            return None
        header = content.header()
        reported = [one for item in delayed for one in _reported([item], now if id(item) in tried else None)]
        notice = self._notice(NoticeKind.DELAY, envelope.sender, header, now)
        origin = Origin(id=queue_id, envelope=envelope, header=header, content=None)
        octets = delay_report(notice, origin, reported, until)
        return self._envelope(notice, [envelope.sender], delayed[0][0].channel, octets), octets

    def build_success(
        self,
        envelope: Envelope,
        queue_id: str,
        successes: Sequence[tuple[Recipient, Disposition, str]],
        content: Content,
        now: float,
    ) -> tuple[Envelope, bytes] | None:
        """
        The notice that these recipients have got their mail, or that it is where nothing more is heard of it; with the
        message's header only (RFC 3461 s.6.2).

        @param successes: recipients, the last word on each, and the Action of RFC 3464 s.2.3.3.
        """
        if not successes or not envelope.sender:
            return None
        header = content.header()
        notice = self._notice(NoticeKind.SUCCESS, envelope.sender, header, now)
        origin = Origin(id=queue_id, envelope=envelope, header=header, content=None)
        reported = [
            Reported(recipient=recipient, reply=said.reply, remote_mta=said.remote_mta, last_attempt=now, action=action)
            for recipient, said, action in successes
        ]
        octets = success_report(notice, origin, reported)
        return self._envelope(notice, [envelope.sender], successes[0][0].channel, octets), octets

    def _notice(self, kind: NoticeKind, to: str, header: bytes, now: float) -> Notice:
        """@param header: of the message it is about."""
        if "@" not in to:
            to = f"{to}@{self._hostname}"
        return Notice(
            id=notice_id(kind, self._make_id()),
            hostname=self._hostname,
            sender_name=self._bounce.sender_name,
            to=to,
            time=now,
            words=tuple([self._words[language] for language in self._languages(header)]),
        )

    def _languages(self, header: bytes) -> Sequence[str]:
        """The message's own where that is evident, else the house's; with "both" first what is more likely read."""
        house = self._bounce.language
        own = language_of(find(header, "content-language", "content-type", "subject"))
        if house == "both":
            return sorted(LANGUAGES, key=lambda language: language != own)
        return (own or house,)

    def _envelope(self, notice: Notice, told: Sequence[str], source: str, octets: bytes) -> Envelope:
        ascii_only = octets.isascii()
        return Envelope(
            sender="",
            recipients=tuple(Recipient(address=one, original=one, channel=self._channel) for one in told),
            source=source,
            arrival=notice.time,
            body="7BIT" if ascii_only else "8BITMIME",
            smtputf8=not all(one.isascii() for one in told),
            message_id=f"<{notice.id}@{self._hostname}>",
            subject=subject_in(octets),
            protocol="",  # routing.selection knows it by that
        )

    def _is_postmaster(self, recipient: Recipient) -> bool:
        names = {recipient.address.lower(), recipient.original.lower()}
        return self._postmaster.lower() in names or "postmaster" in names


@implementer(IChannel, IReconfigured)
class ProcessChannel:
    """Sends each recipient's copy on to where the router says; see the module's text."""

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts) -> None:
        self.name = channel.name
        self._router = parts.router
        self._parts = parts
        self._in_thread = in_pool(parts.reactor)
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        parts = self._parts
        self._forwards = Forwards(config, parts.directory, parts.srs_secret, parts.seconds)
        self._groups = Groups(self.name, config, parts.directory, parts.router, self._forwards, parts.reactor)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        return await self._forwarded(job, [await self._onward(job, recipient) for recipient in job.recipients])

    async def stop(self) -> None:
        """Nothing is open."""

    def source(self, job: Job) -> str:
        """The channel that rules are to see as the one the mail comes from."""
        return self.name

    async def _onward(self, job: Job, recipient: Recipient) -> Disposition | _Forward:
        try:
            found = await self._router.route(recipient.address, self.source(job), accepted(job.envelope))
            forward = recipient.original != recipient.address and await self._forwards.is_forwarded(recipient)
        except Temporary as error:
            return Disposition(verdict=Verdict.DEFERRED, reply=error.reply)
        if isinstance(found, Refused):
            verdict = Verdict.DEFERRED if found.reply.temporary else Verdict.FAILED
            return Disposition(verdict=verdict, reply=found.reply)
        if any(
            one.channel == self.name and one.address.lower() == recipient.address.lower() for one in found.recipients
        ):
            return await self._for_group(job, recipient)
        onward = tuple(
            evolve(one, original=recipient.original, orcpt=recipient.orcpt, notify=recipient.notify)
            for one in found.recipients
        )
        if not forward or found.local:
            return Disposition(verdict=Verdict.FORWARDED, reply=_FORWARDED, onward=onward)
        thd_came_round = partial(self._forwards.thd_came_round, job, recipient.original)
        if thd_came_round() if job.content.in_memory else await self._in_thread(thd_came_round):
            return _CAME_ROUND
        return _Forward(recipient.original, onward)

    async def _for_group(self, job: Job, recipient: Recipient) -> Disposition:
        """An address that leads here again: a group, or a mistake in the rules."""
        try:
            group = await self._groups.find(recipient.address)
            if group is None:
                return CIRCLE  # rules that an operator has to mend; the mail waits for it
            thd_came_round = partial(self._forwards.thd_came_round, job, group.address)
            if thd_came_round() if job.content.in_memory else await self._in_thread(thd_came_round):
                return _CAME_ROUND
            return await self._groups.expanded(job, recipient, group, self.source(job))
        except Temporary as error:
            return Disposition(verdict=Verdict.DEFERRED, reply=error.reply)

    async def _forwarded(self, job: Job, found: Sequence[Disposition | _Forward]) -> Sequence[Disposition]:
        """One message for all that the same address passes on; each of its recipients names it."""
        together: dict[str, list[Recipient]] = {}
        for one in found:
            if isinstance(one, _Forward):
                together.setdefault(one.original, []).extend(one.onward)
        made: dict[str, Disposition] = {}
        for original, onward in together.items():
            try:
                mail = await self._forwards.mail(job, original, tuple(onward))
            except Temporary as error:
                made[original] = Disposition(verdict=Verdict.DEFERRED, reply=error.reply)
            else:
                made[original] = Disposition(verdict=Verdict.FORWARDED, reply=_FORWARDED, mails=(mail,))
        return [made[one.original] if isinstance(one, _Forward) else one for one in found]


@frozen
class _Forward:
    """A recipient that an address of ours stands for, on its way out."""

    original: str
    onward: tuple[Recipient, ...]


def _reported(outcomes: Outcomes, now: float | None) -> list[Reported]:
    return [
        Reported(recipient=recipient, reply=said.reply, remote_mta=said.remote_mta, last_attempt=now)
        for recipient, said in outcomes
    ]
