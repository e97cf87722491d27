"""
The C{conversion} kind of channel: messages are changed on their way, as HOME/etc/conversions.toml says
(docs/conversion.md).

Mail comes here by C{[[conversion]]} tables (routing.selection), which remember where it would have gone, or by a
rewrite rule that names the channel; then the router is asked again, with this channel as the source. It goes on in
the transaction in which it leaves here: E to us, E from us, D by us, then D of whoever delivers it (mission row C8).
What is not changed goes on octet for octet.

A message that an entry holds stays in this channel until C{qmailpy qm release}; then all is done with it but what
would hold it. Only when the server was restarted between the release and that is it held once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, evolve
from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.channels.conversions.command import ReactorRun
from qmailpy.channels.conversions.engine import Converter
from qmailpy.channels.conversions.entry import Entry, Kind, Mail, Outcome
from qmailpy.channels.conversions.scratch import Once, thd_clean
from qmailpy.channels.parts import Parts
from qmailpy.config.conversion_schema import ConversionsConfig
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel, InThread, IReconfigured, IRunsPrograms
from qmailpy.records.removed import DISCARDED
from qmailpy.routing.posting import accepted
from qmailpy.routing.selection import way
from qmailpy.threads import in_pool
from qmailpy.values import Disposition, Envelope, Job, NewMail, Recipient, Refused, Reply, Verdict

_DONE = Reply(250, "2.6.0", "Converted")
_SAME = Reply(250, "2.6.0", "Nothing to convert")
_GONE = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.6.0", DISCARDED))
_CIRCLE = Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.3.5", "The route of this address leads back here"))
_NO_ARCHIVE = Reply(451, "4.3.5", "The address for journal copies leads nowhere; the message is kept")
_TROUBLE = Reply(451, "4.3.0", "The conversion cannot be done now; the message is kept")


@define(eq=False)
class _Onward:
    """A recipient that can go on."""

    place: int  # among the job's
    recipient: Recipient
    ways: tuple[Recipient, ...]  # several when its address stands for others by now

    @property
    def channel(self) -> str:
        return self.ways[0].channel


@implementer(IChannel, IReconfigured, IRunsPrograms)
class ConversionChannel:
    """Converts; see the module's text."""

    _log = Logger()

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts, in_thread: InThread | None = None) -> None:
        """@param in_thread: for tests; by default the reactor's pool."""
        self.name = channel.name
        self._parts = parts
        reactor: Any = parts.reactor
        self._in_thread = in_thread or in_pool(reactor)
        self._run = ReactorRun(reactor)
        self._root = config.path("run", "conversion", f"{parts.recorder.lane or '0'}-{channel.name}")
        self._cleaned = Once(self._in_thread, thd_clean, self._root)
        self._table = ConversionsConfig()
        self._converter = self._made()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        if config.conversions != self._table:
            self._table = config.conversions
            self._converter = self._made()
            count = len(self._converter.entries)
            self._log.info("channel {name}: entries of conversions.toml in force: {count}", name=self.name, count=count)

    def _made(self) -> Converter:
        return Converter(self._table, in_thread=self._in_thread, run=self._run, root=self._root)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        converter = self._converter  # another may come amid this job
        if converter.entries:
            await self._cleaned.done()
        said: list[Disposition | None] = [None] * len(job.recipients)
        onward: list[_Onward] = []
        for place, recipient in enumerate(job.recipients):
            found = await self._ways(job, recipient)
            if isinstance(found, Disposition):
                said[place] = found
            else:
                onward.append(_Onward(place, recipient, found))
        for channel in dict.fromkeys(one.channel for one in onward):
            some = [one for one in onward if one.channel == channel]
            for positions in converter.alike([one.recipient.address for one in some]):
                group = [some[position] for position in positions]
                for one, disposition in zip(group, await self._converted(converter, job, channel, group), strict=True):
                    said[one.place] = disposition
        return [one for one in said if one is not None]

    async def stop(self) -> None:
        self.end_programs()

    def end_programs(self) -> None:
        self._run.stop()

    async def _ways(self, job: Job, recipient: Recipient) -> tuple[Recipient, ...] | Disposition:
        """Where a recipient goes from here."""
        channel, host = way(recipient)
        if channel:
            return (evolve(recipient, channel=channel, host=host),)
        try:
            found = await self._parts.router.route(recipient.address, self.name, accepted(job.envelope))
        except Temporary as error:
            return Disposition(verdict=Verdict.DEFERRED, reply=error.reply)
        if isinstance(found, Refused):
            verdict = Verdict.DEFERRED if found.reply.temporary else Verdict.FAILED
            return Disposition(verdict=verdict, reply=found.reply)
        if any(one.channel == self.name for one in found.recipients):
            return _CIRCLE  # rules that an operator has to mend: one with this channel as its source
        return tuple(
            [
                evolve(one, original=recipient.original, orcpt=recipient.orcpt, notify=recipient.notify)
                for one in found.recipients
            ]
        )

    async def _converted(self, converter: Converter, job: Job, channel: str, group: list[_Onward]) -> list[Disposition]:
        """One set of recipients for whom the same is done."""
        envelope = job.envelope
        mail = Mail(
            id=job.id,
            content=job.content,
            sender=envelope.sender,
            recipients=tuple([one.recipient.address for one in group]),
            in_channel=envelope.source,
            out_channel=channel,
            message_id=envelope.message_id,
            released=job.released,
        )
        try:
            outcome = await converter.convert(mail)
            copies = await self._copies(job, outcome, group)
        except Temporary as error:
            return [Disposition(verdict=Verdict.DEFERRED, reply=error.reply)] * len(group)
        except OSError as problem:
            self._trouble(job, str(problem))
            return [Disposition(verdict=Verdict.DEFERRED, reply=_TROUBLE)] * len(group)
        said = self._said(job, outcome, group)
        if copies and said[0].verdict in (Verdict.FORWARDED, Verdict.DELIVERED):
            said[0] = evolve(said[0], mails=(*said[0].mails, *copies))
        return said

    def _trouble(self, job: Job, why: str) -> None:
        self._log.error("message {id} cannot be converted: {why}", id=job.id, why=why)
        self._parts.events.happened("conversion.failed", channel=self.name, why=why, id=job.id)

    def _said(self, job: Job, outcome: Outcome, group: list[_Onward]) -> list[Disposition]:
        if outcome.kind in (Kind.SAME, Kind.CHANGED):
            return self._going_on(job, outcome, group)
        if outcome.kind is Kind.DISCARD:
            return [_GONE] * len(group)
        if outcome.kind is Kind.HOLD:
            self._parts.events.happened("message.held", channel=self.name, id=job.id, why=outcome.text)
            one = Disposition(verdict=Verdict.HELD, reply=Reply(451, "4.7.0", outcome.text))
        elif outcome.kind is Kind.RETURN:
            one = Disposition(verdict=Verdict.FAILED, reply=Reply(554, "5.7.1", outcome.text))
        else:
            self._trouble(job, outcome.text)
            one = Disposition(verdict=Verdict.DEFERRED, reply=_TROUBLE)
        return [one] * len(group)

    def _going_on(self, job: Job, outcome: Outcome, group: list[_Onward]) -> list[Disposition]:
        """All in one message, but for those whose address has come to stand for several."""
        content = outcome.content or job.content
        reply = _SAME if outcome.kind is Kind.SAME else _DONE
        alone = [one.ways[0] for one in group if len(one.ways) == 1]
        together = NewMail(envelope=_for(job.envelope, tuple(alone)), content=content)  # the queue takes it once
        said = []
        for one in group:
            if len(one.ways) == 1:
                said.append(Disposition(verdict=Verdict.FORWARDED, reply=reply, mails=(together,)))
            else:
                mail = NewMail(envelope=_for(job.envelope, one.ways), content=content)
                said.append(Disposition(verdict=Verdict.FORWARDED, reply=reply, mails=(mail,)))
        return said

    # --- journal copies --------------------------------------------------------------------------------------

    async def _copies(self, job: Job, outcome: Outcome, group: list[_Onward]) -> list[NewMail]:
        """
        Copies of the message as it came, once for each entry: with the first recipient that it is for.

        @raise Temporary: there is no way to the address now.
        """
        copies = []
        for entry in outcome.journals:
            if not self._is_first(job, entry, group):
                continue
            found = await self._parts.router.route(entry.config.address, self.name)
            if isinstance(found, Refused) or any(one.channel == self.name for one in found.recipients):
                raise Temporary(_NO_ARCHIVE)
            # From nobody: the writer is not told of an archive that is full.
            envelope = evolve(_for(job.envelope, found.recipients), sender="", envid="", ret="", protocol="")
            copies.append(NewMail(envelope=envelope, content=job.content, journal=True))
        return copies

    def _is_first(self, job: Job, entry: Entry, group: list[_Onward]) -> bool:
        """Whether the first recipient of the message that an entry is for is among these."""
        for number, recipient in enumerate(job.envelope.recipients):
            if recipient.channel != self.name or not entry.recipient.fit(recipient.address):
                continue
            channel, _ = way(recipient)
            if channel and not entry.out_channel.fit(channel):
                continue
            return any(job.numbers[one.place] == number for one in group)
        return False


def _for(envelope: Envelope, recipients: tuple[Recipient, ...]) -> Envelope:
    return evolve(envelope, recipients=recipients, converted=True)
