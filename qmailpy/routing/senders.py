"""
Senders as the world is to see them: the C{[[rewrite]]} rules with C{direction = "from"} (masquerading).

Asked when mail leaves by a channel of kind smtp or lmtp. What is in the queue keeps its own sender, so that notices of
ours go to it; peers, and their bounces, know the other one. The null sender is never another, and headers stay.
"""

from __future__ import annotations

from qmailpy.config.schema import Config
from qmailpy.routing.rules import Match, Origin, Rules
from qmailpy.values import Envelope


class Senders:
    """The rules for what leaves by one channel."""

    def __init__(self, config: Config, channel: str) -> None:
        self._rules = Rules(config.rules, "from", channel)

    def outgoing(self, envelope: Envelope) -> str:
        """The sender a peer is told."""
        if not self._rules or not envelope.sender:
            return envelope.sender
        found = self.match(envelope.sender, Origin(source=envelope.source, sender=envelope.sender, user=envelope.user))
        return envelope.sender if found is None else found.address

    def match(self, sender: str, origin: Origin) -> Match | None:
        """The rule for a sender, C{None} where it stays as it is."""
        local, at, domain = sender.rpartition("@")
        return self._rules.match(local, domain.lower(), origin) if at and local else None
