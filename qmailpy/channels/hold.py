"""
The C{hold} kind of channel: mail that waits for an operator. Each job is held by the queue until C{qm release}; then
it goes where the router says for mail from this channel, and is held again where that is here.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from qmailpy.channels.parts import Parts
from qmailpy.channels.process import CIRCLE, ProcessChannel
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel, IReconfigured
from qmailpy.values import Disposition, Job, Reply, Verdict

_HELD = Disposition(verdict=Verdict.HELD, reply=Reply(451, "4.7.0", "Held for the postmaster"))


@implementer(IChannel, IReconfigured)
class HoldChannel:
    """Holds whatever comes."""

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts) -> None:
        self.name = channel.name
        text = f'Released, but the rules lead here again: one with source = "{self.name}" must say where else'
        self._again = Disposition(verdict=Verdict.HELD, reply=Reply(451, "4.3.5", text))
        self._released = ProcessChannel(config, channel, parts)

    def reconfigure(self, config: Config) -> None:
        self._released.reconfigure(config)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        if not job.released:
            return [_HELD] * len(job.recipients)
        return [self._again if said == CIRCLE else said for said in await self._released.dequeue(job)]

    async def stop(self) -> None:
        """Nothing is open."""
