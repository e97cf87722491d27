"""
The brake on guessing passwords: who fails waits longer each time, and who goes on is not listened to for a while.

Failures are counted by client (an IPv4 address, an IPv6 /64) and by account, and fade with time. A client with too many
is banned, whatever the account. An account with too many is closed to clients it was not used from before: so whoever
guesses from everywhere gets nowhere, and the owner at the usual place is let in. Only failures wait; who knows the
password is not slowed down.

Pure but for the clock it asks. Memory is bounded: the oldest entries go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network


class _Scores:
    """Points by key, which fade: one in C{fade_s} seconds."""

    def __init__(self, seconds: Callable[[], float], most: int, fade_s: float) -> None:
        self._seconds = seconds
        self._most = most
        self._fade_s = fade_s
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()  # points, when

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> float:
        points, when = self._kept.get(key, (0.0, 0.0))
        return max(0.0, points - (self._seconds() - when) / self._fade_s)

    def put(self, key: str, points: float) -> None:
        self._kept.pop(key, None)
        self._kept[key] = (points, self._seconds())
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, key: str) -> None:
        self._kept.pop(key, None)


class Throttle:
    """One for all servers of a process."""

    def __init__(
        self,
        seconds: Callable[[], float],
        *,
        entries: int = 10000,
        free: int = 2,
        most_wait_s: float = 10.0,
        client_failures: int = 15,
        account_failures: int = 50,
        ban_s: float = 900.0,
        fade_s: float = 60.0,
    ) -> None:
        """
        @param seconds: the time.
        @param entries: most clients, and most accounts, that are remembered.
        @param free: failures that do not wait.
        @param most_wait_s: the longest wait.
        @param client_failures: so many and a client is banned.
        @param account_failures: so many and an account is closed to clients that are new to it.
        @param ban_s: for how long.
        @param fade_s: a failure is forgotten in so many seconds.
        """
        self._free = free
        self._most_wait_s = most_wait_s
        self._limits = {"client": client_failures, "account": account_failures}
        self._ban_s = ban_s
        self._seconds = seconds
        self._scores = {kind: _Scores(seconds, entries, fade_s) for kind in self._limits}
        self._bans = {kind: _Scores(seconds, entries, 1.0) for kind in self._limits}  # seconds left
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()  # account and client
        self._entries = entries

    def __len__(self) -> int:
        """Everything that is remembered."""
        return sum(len(scores) for scores in (*self._scores.values(), *self._bans.values())) + len(self._good)

    def banned(self, account: str, client: str) -> bool:
        """
        Whether an attempt is not even to be looked at.

        @param account: the login, in any case; "" when it is not known yet.
        @param client: its IP address; "" for one that is not to be counted (a UNIX socket, a trusted network).
        """
        account, client = account.lower(), network(client)
        if client and self._bans["client"].get(client) > 0:
            return True
        return bool(account) and self._bans["account"].get(account) > 0 and (account, client) not in self._good

    def failed(self, account: str, client: str) -> float:
        """An attempt failed: the seconds its answer has to wait."""
        worst = 0.0
        for kind, key in (("client", network(client)), ("account", account.lower())):
            if not key:
                continue
            points = self._scores[kind].get(key) + 1
            if points >= self._limits[kind]:
                self._bans[kind].put(key, self._ban_s)
                points = 0.0
            self._scores[kind].put(key, points)
            worst = max(worst, points)
        over = worst - self._free
        return min(self._most_wait_s, 0.5 * 2.0 ** min(over, 16)) if over > 0 else 0.0

    def succeeded(self, account: str, client: str) -> None:
        """The password was right: the account's failures are forgiven, the client's are not (it may know one)."""
        account, client = account.lower(), network(client)
        self._scores["account"].forget(account)
        self._good.pop((account, client), None)
        self._good[account, client] = None
        while len(self._good) > self._entries:
            self._good.popitem(last=False)


def network(client: str) -> str:
    """What is counted as one client: an IPv4 address, the /64 of an IPv6 one."""
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return client
