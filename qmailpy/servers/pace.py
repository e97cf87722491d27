"""
How fast a client sends its message: whoever lets an octet drip now and then would hold a connection for ever.

A client must keep up a rate, averaged over some minutes: what it lacks adds up from look to look, what it sends beyond
pays that back, and is not saved. So a line that is dead for a while is borne (RFC 5321 s.4.5.3.2.5 wants three minutes
for a piece of data), and large messages over slow lines are. The clock is looked at now and then, not with each piece:
a message that is over by then costs nothing.
"""

from __future__ import annotations

LOOK_S = 60.0
"""How often a session is looked at."""

GRACE_S = 240.0
"""So long a client may send nothing at all, and up to L{LOOK_S} more."""


class Pace:
    """The pace of one message."""

    __slots__ = ("_at", "_behind", "_octets", "message")

    def __init__(self, message: object, octets: int, now: float) -> None:
        """
        @param message: which one it is.
        @param octets: that have come so far.
        """
        self.message = message
        self._octets = octets
        self._at = now
        self._behind = 0.0  # octets

    def too_slow(self, octets: int, now: float, rate: float) -> bool:
        """
        Look again.

        @param octets: that have come so far.
        @param rate: octets a second it should have.
        """
        due = rate * (now - self._at)
        self._behind = max(0.0, self._behind + due - (octets - self._octets))
        self._octets, self._at = octets, now
        return self._behind > rate * GRACE_S

    def excuse(self, octets: int, now: float) -> None:
        """Since the last look it was we who kept it waiting."""
        self._octets, self._at = octets, now
