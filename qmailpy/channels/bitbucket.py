"""
The C{bitbucket} kind of channel: mail sent here counts as delivered and is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel
from qmailpy.values import Disposition, Job, Reply, Verdict

_GONE = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "Discarded"))


@implementer(IChannel)
class BitbucketChannel:
    """Discards whatever comes, and says nothing."""

    def __init__(self, config: Config, channel: ChannelConfig, parts: Parts) -> None:
        self.name = channel.name

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        return [_GONE] * len(job.recipients)

    async def stop(self) -> None:
        """Nothing is open."""
