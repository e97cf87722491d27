"""
Which hosts could not be reached of late: they are passed over for a while, longer each time, so that mail for a dead
host does not hold a slot for a connect timeout again and again. Kept in memory only; a restart asks afresh.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, frozen

from qmailpy.remote.peers import Peer

FIRST_S = 5.0
"""Pause after a first failure: short, since it may have been a restart of the host."""

LONGEST_S = 1800.0
"""Longest pause."""

HOSTS_LIMIT = 10000
"""Hosts remembered; the one whose pause began first is forgotten for the next."""


@frozen
class Blocked:
    """A host that is passed over."""

    why: str
    seconds: float  # until it may be tried again


@define
class _Entry:
    failures: int
    until: float
    why: str


class HostMemory:
    """The hosts of one channel that failed."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """
        @param seconds: the time now.
        """
        self._seconds = seconds
        self._entries: dict[Peer, _Entry] = {}

    def blocked(self, peer: Peer) -> Blocked | None:
        """Why C{peer} is to be passed over now, or C{None}."""
        entry = self._entries.get(peer)
        if entry is None:
            return None
        left = entry.until - self._seconds()
        return Blocked(entry.why, left) if left > 0 else None

    def failed(self, peer: Peer, why: str) -> None:
        """
        C{peer} could not be reached.

        Several attempts that were under way together count once, or ten jobs to a host would make one failure ten.
        """
        now = self._seconds()
        entry = self._entries.pop(peer, None)
        if entry is None:
            if len(self._entries) >= HOSTS_LIMIT:
                del self._entries[next(iter(self._entries))]
            entry = _Entry(0, 0.0, why)
        self._entries[peer] = entry
        if entry.until <= now:
            entry.failures = min(entry.failures + 1, 30)
            entry.until = now + min(FIRST_S * 2 ** (entry.failures - 1), LONGEST_S)
            entry.why = why

    def reached(self, peer: Peer) -> None:
        """C{peer} answered: all is forgiven."""
        self._entries.pop(peer, None)
