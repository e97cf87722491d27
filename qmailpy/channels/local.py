"""
The C{local} kind of channel: into the Maildirs of this node.

Each recipient's mailbox is looked up in the directory at each attempt; the writing is done by one thread
(L{qmailpy.local.writer}, L{qmailpy.channels.desk}). Deliveries are made durable in groups, when the queue asks
(L{qmailpy.interfaces.IDurableDelivery}, L{qmailpy.channels.covered}).

A user that is gone: 5.1.1. Suspended: 5.2.1, or 4.2.1 as C{[local] disabled} says. Moved to another node: forwarded to
it. C{user+tag}: into the folder C{tag} when there is one (L{qmailpy.local.folders}). The recipient's own Delivered-To
field in the header: 5.4.6. A mailbox that is full: 4.2.2, in the end 5.2.2 (L{qmailpy.local.usage}); when it passes the
mark its user finds a warning in it. A mailbox that cannot be written defers its own mail only: 4.3.1 for want of space
or handles, 4.2.0 else. When a user is away, the header of what was delivered goes to the autoreply channel.
Users whose .qmail files say what is done: L{qmailpy.channels.dotqmail}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from attrs import asdict, evolve, frozen
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.autoreply import Answers
from qmailpy.channels.conversions.command import ReactorRun
from qmailpy.channels.covered import Covered, delivery_of
from qmailpy.channels.desk import Bounded, Desk
from qmailpy.channels.dotqmail import Case, DotQmail, Find
from qmailpy.channels.parts import Parts
from qmailpy.channels.programs import Programs, gathered
from qmailpy.channels.quota_notice import QuotaNotice
from qmailpy.clocks import latest
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.disk.placing import PlacingHere, PlacingProcess
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel, IDurableDelivery, InThread, IReconfigured, IRunsPrograms
from qmailpy.local.dotqmail import thd_find
from qmailpy.local.maildir import Delivery, Store
from qmailpy.local.usage import Quota
from qmailpy.local.writer import ReactorThreads, Threads
from qmailpy.routing.expand import SUBADDRESS, is_this_node
from qmailpy.routing.posting import accepted
from qmailpy.routing.router import names_of_node
from qmailpy.threads import in_pool
from qmailpy.values import Alias, Disposition, Domain, Group, Job, Mailbox, Recipient, Reply, Routed, Verdict

_UNKNOWN = Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.1.1", "There is no such mailbox here"))
_SUSPENDED = Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.2.1", "The mailbox is suspended"))
_SUSPENDED_FOR_NOW = Disposition(verdict=Verdict.DEFERRED, reply=Reply(450, "4.2.1", "The mailbox is suspended"))
_AMISS = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.5", "The address leads elsewhere"))


@frozen
class _Found:
    """Where a recipient's mail goes."""

    mailbox: Mailbox
    domain: Domain | None
    tag: str = ""  # the subaddress, where there is a folder for it perhaps
    quota: Quota | None = None


@implementer(IChannel, IDurableDelivery, IReconfigured, IRunsPrograms)
class LocalChannel:
    """Delivery into Maildirs; see the module's text."""

    log = Logger()

    def __init__(
        self,
        config: Config,
        channel: ChannelConfig,
        parts: Parts,
        threads: Threads | None = None,
        *,
        in_thread: InThread | None = None,
        find: Find = thd_find,
    ) -> None:
        """
        @param threads: for tests: what carries out the blocking work; by default a thread of the channel's own.
        @param in_thread: the same of what .qmail files say; by default the reactor's pool.
        @param find: reads the .qmail files.
        """
        self.name = channel.name
        self._directory = parts.directory
        self._router = parts.router
        placer = PlacingProcess() if threads is None else PlacingHere(parts.files)
        self._store = Store(parts.files, config.path("mail"), config.server.hostname, placer)
        self._threads = threads or ReactorThreads(parts.reactor)
        self._usage = parts.usage
        self._notice = QuotaNotice(config, channel.name, parts.seconds)
        self._covered = Covered(self.name, self._store, self._usage, self._thd_lookup)
        desk = Desk(self.name, self._store, self._covered, self._usage, self._notice, started=latest(parts.reactor))
        self._writer = self._threads.writer(desk.thd_work, self._store.thd_close, f"{channel.name} delivery")
        self._answers = Answers(config, parts.seconds)
        self._run = ReactorRun(parts.reactor)
        in_thread = in_thread or in_pool(parts.reactor)
        programs = Programs(self._run, in_thread, config.path("run", "programs"))
        self._dots = DotQmail(config, channel.name, parts, in_thread, programs, self._deliver_one, find)
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        self._suspended = _SUSPENDED_FOR_NOW if config.local.disabled == "defer" else _SUSPENDED
        self._nodes = names_of_node(config)
        self._notice.reconfigure(config)
        self._answers.reconfigure(config)
        self._dots.reconfigure(config)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        results: list[Disposition | None] = []
        deliveries: list[Delivery] = []
        away: dict[int, Mailbox] = {}  # by place among the recipients
        dots: dict[int, Case] = {}
        for number, recipient in zip(job.numbers, job.recipients, strict=True):
            found = await self._find(job, recipient)
            if isinstance(found, _Found):
                if found.mailbox.auto_reply is not None:
                    away[len(results)] = found.mailbox
                delivery = _delivery(job, number, recipient, found)
                if found.mailbox.dot_qmail:
                    dots[len(results)] = Case(job=job, recipient=recipient, mailbox=found.mailbox, delivery=delivery)
                    results.append(_AMISS)
                else:
                    deliveries.append(delivery)
                    results.append(None)
            else:
                results.append(found)
        written = iter(await self._writer.submit(deliveries) if deliveries else ())
        said = [next(written) if result is None else result for result in results]
        for place, one in zip(dots, await gathered([self._dots.done(case) for case in dots.values()]), strict=True):
            said[place] = one
        for place, mailbox in away.items():
            said[place] = self._answered(job, job.recipients[place], mailbox, said[place])
        return said

    def _answered(self, job: Job, recipient: Recipient, mailbox: Mailbox, said: Disposition) -> Disposition:
        """With an answer to what was delivered, where its user is away."""
        if said.verdict not in (Verdict.DELIVERED, Verdict.FORWARDED):
            return said
        try:
            mail = self._answers.mail(job, recipient, mailbox)
        except Exception:
            self.log.failure("{channel}: no answer to message {id}", channel=self.name, id=job.id)
            return said
        return said if mail is None else evolve(said, mails=(*said.mails, mail))

    async def _deliver_one(self, delivery: Delivery) -> Disposition:
        [said] = await self._writer.submit([delivery])
        return said

    def end_programs(self) -> None:
        self._run.stop()

    async def stop(self) -> None:
        self.end_programs()
        await self._writer.stop()

    def thd_sync_deliveries(self, ids: Iterable[str]) -> None:
        self._covered.thd_sync(ids)

    def sync_lost(self) -> None:
        self._covered.sync_lost()

    def doubts(self) -> bool:
        return self._covered.doubts()

    def thd_sync_former(self) -> None:
        self._store.thd_sync_all()

    def thd_replay(self, job: Job, doubtful: bool = False) -> bool:
        return self._covered.thd_replay(job, doubtful)

    def owed(self, ids: Iterable[str]) -> Sequence[Job]:
        return self._covered.owed(ids)

    def let_go(self, job: Job) -> None:
        self._covered.let_go(job)

    def _thd_lookup(self, address: str) -> tuple[str, str] | None:
        found = self._threads.thd_wait(partial(self._mailbox, address))
        return (found.mailbox.path, found.tag) if isinstance(found, _Found) else None

    async def _find(self, job: Job, recipient: Recipient) -> _Found | Disposition:
        """Where the recipient's mail goes, or what to tell instead."""
        try:
            found = await self._mailbox(recipient.address)
            if found is None:
                return _UNKNOWN
            if isinstance(found, _Found):
                node = found.mailbox.host or (found.domain.host if found.domain is not None else "")
                if not node or is_this_node(node, self._nodes):
                    return found if found.mailbox.active else self._suspended
            return await self._elsewhere(job, recipient)
        except Temporary as error:
            return Disposition(verdict=Verdict.DEFERRED, reply=error.reply)

    async def _mailbox(self, address: str) -> _Found | Alias | Group | None:
        """
        Who has an address, with a subaddress or without.

        @raise Temporary: the directory is away.
        """
        local, _, domain = address.rpartition("@")
        tag = ""
        entry = await self._directory.lookup(address)
        if entry is None and SUBADDRESS in local:
            local, _, tag = local.partition(SUBADDRESS)
            entry = await self._directory.lookup(f"{local}@{domain}") if local else None
        if not isinstance(entry, Mailbox):
            return entry
        ours = await self._directory.domain(entry.address.rpartition("@")[2])
        quota = self._usage.quota(entry, ours) if self._usage is not None else None
        return _Found(entry, ours, tag if entry.subfolders else "", quota)

    async def _elsewhere(self, job: Job, recipient: Recipient) -> Disposition:
        """The address has become an alias while the message waited."""
        routed = await self._router.route(recipient.address, self.name, accepted(job.envelope))
        if not isinstance(routed, Routed):
            verdict = Verdict.DEFERRED if routed.reply.temporary else Verdict.FAILED
            return Disposition(verdict=verdict, reply=routed.reply)
        if any((one.channel, one.address) == (self.name, recipient.address) for one in routed.recipients):
            return _AMISS  # and back to us it would come
        onward = tuple(
            evolve(one, original=recipient.original, orcpt=recipient.orcpt, notify=recipient.notify)
            for one in routed.recipients
        )
        return Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.1.5", "Forwarded"), onward=onward)


def _delivery(job: Job, number: int, recipient: Recipient, found: _Found) -> Delivery:
    delivery = delivery_of(job, number, recipient, found.mailbox.path)
    if found.tag:
        delivery = evolve(delivery, tag=found.tag)
    if found.quota is None:
        return delivery
    return Bounded(
        **asdict(delivery, recurse=False),
        quota=found.quota,
        owner=found.mailbox.address,
        # What channels put into the queue is told by where it comes from: another message, and no system with a name.
        warning=job.envelope.source == job.channel
        and not job.envelope.sender
        and " " not in job.envelope.source_system,
    )
