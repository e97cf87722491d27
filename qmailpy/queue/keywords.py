"""
What the keys of a channel say of a message before it is tried there for the first time: too large, too many
recipients, or too long on its way (docs/channels.md).

Asked once a job, with the first attempt, and not when an operator has released the message: his word counts for more.
A message that is held keeps all its recipients of the channel, until C{qm release}, C{return} or C{delete}.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from qmailpy.config.schema import ChannelConfig, QueueConfig
from qmailpy.interfaces import IChannel, IEvents, InThread
from qmailpy.routing.posting import too_large
from qmailpy.values import Content, Disposition, Job, Reply, Verdict
from qmailpy.wire.headers import count_received

_HEADER = 1 << 20  # octets of a header that are looked at


class Keywords:
    """The limits of one channel."""

    def __init__(self, config: ChannelConfig, in_thread: InThread, events: IEvents) -> None:
        self._config = config
        self._in_thread = in_thread
        self._events = events

    async def dequeue(self, channel: IChannel, job: Job, recipients: int) -> Sequence[Disposition]:
        """
        As L{IChannel.dequeue}, or what stands against it.

        @param recipients: that the message has in the channel.
        """
        found = await self._against(job, recipients)
        if found is None:
            return await channel.dequeue(job)
        if found.verdict is Verdict.HELD:
            self._events.happened("message.held", channel=job.channel, id=job.id, why=found.reply.text)
        return [found] * len(job.recipients)

    async def _against(self, job: Job, recipients: int) -> Disposition | None:
        config, size = self._config, job.content.size
        if config.blocklimit and size > config.blocklimit:
            return Disposition(verdict=Verdict.FAILED, reply=too_large(config))
        if config.holdlimit and recipients > config.holdlimit:
            return _held(f"{recipients} recipients, more than the {config.holdlimit} of holdlimit")
        if config.maxreceived:
            content = job.content
            try:
                count = thd_received(content) if content.in_memory else await self._in_thread(thd_received, content)
            except OSError:
                return None  # whoever delivers it will meet the same, and say so
            if count > config.maxreceived:
                return _held(f"{count} Received fields, more than the {config.maxreceived} of maxreceived: a loop?")
        return None


def keywords_of(config: ChannelConfig, in_thread: InThread, events: IEvents) -> Keywords | None:
    """The limits that the configuration gives a channel; C{None} where there are none."""
    some = config.blocklimit or config.holdlimit or config.maxreceived
    return Keywords(config, in_thread, events) if some else None


def queue_of(config: ChannelConfig, queue: QueueConfig) -> QueueConfig:
    """[queue] as a channel has it: with its own ages of delay notices."""
    return evolve(queue, warn_s=config.notices) if config.notices else queue


def thd_received(content: Content) -> int:
    """How many Received fields a message has. Blocks."""
    return count_received(content.header(_HEADER))


def _held(why: str) -> Disposition:
    return Disposition(verdict=Verdict.HELD, reply=Reply(451, "4.7.0", why))
