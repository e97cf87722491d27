"""
Which hosts could not be reached of late: they are passed over for a while, longer each time, so that mail for a dead
host does not hold a slot for a connect timeout again and again. Kept in memory only; a restart asks afresh.

An operator who has mended something pardons a destination: what failed before that no longer counts for mail to it.
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

PARDONS_LIMIT = 1000
"""Destinations whose pardon is remembered."""

CHUNKLESS_LIMIT = 1000
"""Hosts that offer CHUNKING and do not know BDAT; with more all are forgotten."""


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
    since: int = 0  # its number among failures and pardons


class HostMemory:
    """The hosts of one channel that failed."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """
        @param seconds: the time now.
        """
        self._seconds = seconds
        self._entries: dict[Peer, _Entry] = {}
        self._pardons: dict[str, int] = {}
        self._chunkless: set[Peer] = set()
        self._count = 0

    def blocked(self, peer: Peer, destination: str = "") -> Blocked | None:
        """
        Why C{peer} is to be passed over now, or C{None}.

        @param destination: what the mail is for; a peer that failed before that was pardoned is forgiven here.
        """
        entry = self._entries.get(peer)
        if entry is None:
            return None
        if self._pardons and destination and self._pardoned(destination.lower()) > entry.since:
            del self._entries[peer]
            return None
        left = entry.until - self._seconds()
        return Blocked(entry.why, left) if left > 0 else None

    def chunkless(self, peer: Peer) -> bool:
        """Whether C{peer} offers CHUNKING and does not know BDAT."""
        return peer in self._chunkless

    def found_chunkless(self, peer: Peer) -> None:
        """It does so."""
        if len(self._chunkless) >= CHUNKLESS_LIMIT:
            self._chunkless.clear()
        self._chunkless.add(peer)

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
        self._count += 1
        entry.since = self._count

    def pardon(self, destination: str) -> None:
        """
        Forget what has failed so far, for mail to a destination.

        @param destination: its name; ".domain" = all below it; "" = everything.
        """
        if not destination:
            self._entries.clear()
            return
        name = destination.lower()
        self._pardons.pop(name, None)
        if len(self._pardons) >= PARDONS_LIMIT:
            del self._pardons[next(iter(self._pardons))]
        self._count += 1
        self._pardons[name] = self._count

    def _pardoned(self, name: str) -> int:
        found = self._pardons.get(name, 0)
        while name:
            name = name[1:].partition(".")[2]
            found = max(found, self._pardons.get(f".{name}", 0) if name else 0)
        return found

    def reached(self, peer: Peer) -> None:
        """C{peer} answered: all is forgiven."""
        self._entries.pop(peer, None)
