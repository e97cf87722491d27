"""
What the POP3 sessions of a listener share.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import define
from twisted.internet.interfaces import IReactorTime

from qmailpy.auth.logins import Logins
from qmailpy.interfaces import IMailStore
from qmailpy.servers.clients import TrustedNetworks
from qmailpy.servers.pop3_nodes import Elsewhere
from qmailpy.servers.sessions import ListenerSite
from qmailpy.wire.pop3_service import Service


class Delays:
    """The time between two logins of a mailbox (RFC 2449 s.6.5): the last logins that may still be too near."""

    def __init__(self, clock: IReactorTime, delay_s: float, most: int = 100_000) -> None:
        """
        @param delay_s: 0 = none, and nothing is remembered.
        @param most: mailboxes remembered; the oldest go first.
        """
        self._seconds = clock.seconds
        self._delay_s = delay_s
        self._most = most
        self._last: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def too_soon(self, address: str) -> bool:
        """Whether a login of this mailbox comes too early."""
        last = self._last.get(address)
        return last is not None and self._seconds() - last < self._delay_s

    def note(self, address: str) -> None:
        """There was a login."""
        if not self._delay_s:
            return
        now = self._seconds()
        self._last.pop(address, None)
        self._last[address] = now
        while len(self._last) > self._most or now - next(iter(self._last.values())) >= self._delay_s:
            self._last.popitem(last=False)


@define(eq=False, kw_only=True)
class Pop3Site(ListenerSite):
    """What the POP3 sessions of one listener share."""

    service: Service
    logins: Logins
    store: IMailStore
    delays: Delays
    elsewhere: Elsewhere | None = None  # other nodes; none: every mailbox is here
    fronts: TrustedNetworks | None = None  # nodes and proxies that may say for whom they speak; none: nobody
