"""
The C{reprocess} kind of channel: mail that is to be routed once more, as if it came in now.

As C{process}, but for mail that is no notice, and invisible to the rules: the router is asked with the channel the mail
came from in the first place. Records and counters show it, as any other channel (docs/channels.md).
"""

from __future__ import annotations

from zope.interface import implementer

from qmailpy.channels.process import ProcessChannel
from qmailpy.interfaces import IChannel
from qmailpy.values import Job


@implementer(IChannel)
class ReprocessChannel(ProcessChannel):
    """Sends each recipient's copy on to where the router says now."""

    def source(self, job: Job) -> str:
        return job.envelope.source
