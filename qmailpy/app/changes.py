"""What LDAP clients changed, on its way to the caches of the mail workers: few messages, however many changes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

FIRST_S = 0.02  # one operation may touch several addresses
EVERY_S = 0.25
MOST = 50
CHARACTERS = 5000
"""
Names in one message, and their length together; more are one word for everything. A character is at most six octets in
JSON: a message that supervisor and child can pass on in any case.
"""


class Changes:
    """Collects, and passes on what was collected at most every L{EVERY_S} seconds."""

    def __init__(self, clock: IReactorTime, tell: Callable[[list[str]], None]) -> None:
        """@param tell: called with addresses and domains; C{[""]} means everything. Must not raise."""
        self._clock = clock
        self._tell = tell
        self._what: set[str] = set()
        self._told = -EVERY_S
        self._later: IDelayedCall | None = None

    def add(self, what: str) -> None:
        """An address or a domain ("" = everything) is not what it was."""
        if "" not in self._what:
            self._what.add(what)
            if len(self._what) > MOST or sum(map(len, self._what)) > CHARACTERS:
                self._what = {""}
        if self._later is None:
            wait = max(FIRST_S, self._told + EVERY_S - self._clock.seconds())
            self._later = self._clock.callLater(min(wait, EVERY_S), self._send)  # min: the clock may be set back

    def _send(self) -> None:
        self._later = None
        what, self._what = self._what, set()
        self._told = self._clock.seconds()
        self._tell([""] if "" in what else sorted(what))

    def stop(self) -> None:
        """Pass on what is left, now."""
        if self._later is not None:
            self._later.cancel()
            self._send()
