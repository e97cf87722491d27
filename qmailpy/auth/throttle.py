"""
The brake on guessing passwords: who fails waits longer each time, and who goes on is not listened to for a while.

Failures are counted by client (an IPv4 address, an IPv6 /64) and by account, and fade with time. A client with too many
is banned, whatever the account. An account with too many is closed to clients it was not used from before: so whoever
guesses from everywhere gets nowhere, and the owner at the usual place is let in. Only failures wait; who knows the
password is not slowed down.

The processes of a home count together (L{marks}): a client gains nothing by asking each of them. Pure but for the clock
it asks. Memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address, ip_network

from qmailpy.auth.marks import Mark, Marks, MemoryMarks

Told = Callable[[str, str, str, int], None]
"""Told of a ban: "client" or "account", the client, the account, the failures that led to it."""

_NOTHING = Mark()


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
        own: Marks | None = None,
        others: Sequence[Marks] = (),
        told: Told = lambda kind, client, account, failures: None,
    ) -> None:
        """
        @param seconds: the time; the same in all processes that count together.
        @param entries: most clients, and most accounts, that are remembered where C{own} is not given.
        @param free: failures that do not wait.
        @param most_wait_s: the longest wait.
        @param client_failures: so many and a client is banned.
        @param account_failures: so many and an account is closed to clients that are new to it.
        @param ban_s: for how long.
        @param fade_s: a failure is forgotten in so many seconds.
        @param own: where this process counts; C{None} = in its memory.
        @param others: where other processes count.
        @param told: called at each ban.
        """
        self._free = free
        self._most_wait_s = most_wait_s
        self._limits = {"client": client_failures, "account": account_failures}
        self._ban_s = ban_s
        self._fade_s = fade_s
        self._seconds = seconds
        self._memory = MemoryMarks(entries)
        self._own: Marks = self._memory if own is None else own
        self._others = tuple(others)
        self._told = told

    def __len__(self) -> int:
        """Everything that this process remembers in its memory."""
        return len(self._memory)

    def banned(self, account: str, client: str) -> bool:
        """
        Whether an attempt is not even to be looked at.

        @param account: the login, in any case; "" when it is not known yet.
        @param client: its IP address; "" for one that is not to be counted (a UNIX socket, a trusted network).
        """
        account, client = account.lower(), network(client)
        if client and self._shut("client", client):
            return True
        return bool(account) and self._shut("account", account) and not self._all("good", f"{account} {client}")

    def _all(self, kind: str, name: str) -> list[Mark]:
        found = (lane.get(kind, name) for lane in (self._own, *self._others))
        return [one for one in found if one is not None]

    def _shut(self, kind: str, name: str) -> bool:
        now = self._seconds()
        # A ban that lies further ahead than any can is a clock that was set back.
        return any(now < one.until <= now + self._ban_s for one in self._all(kind, name))

    def failed(self, account: str, client: str) -> float:
        """An attempt failed: the seconds its answer has to wait."""
        worst = 0.0
        account = account.lower()
        for kind, key in (("client", network(client)), ("account", account)):
            if not key:
                continue
            before, mine, own = self._count(kind, key)
            points, now = before + 1, self._seconds()
            if round(points) >= self._limits[kind]:  # they fade from the first moment on
                self._own.put(kind, key, Mark(0.0, now, now + self._ban_s, now))
                self._told(kind, client, account, round(points))
                points = 0.0
            else:
                self._own.put(kind, key, Mark(mine + 1, now, own.until, own.cleared))
            worst = max(worst, points)
        over = worst - self._free
        return min(self._most_wait_s, 0.5 * 2.0 ** min(over, 16)) if over > 0 else 0.0

    def _count(self, kind: str, name: str) -> tuple[float, float, Mark]:
        """The points of all lanes, those of ours, and what our lane holds."""
        own = self._own.get(kind, name) or _NOTHING
        marks = [own, *(one for one in (lane.get(kind, name) for lane in self._others) if one is not None)]
        cleared = sorted((one.cleared for one in marks), reverse=True)
        # What another lane has cleared since does not count; in its own lane a mark is from after its clearing.
        left = [self._left(one, cleared[one.cleared == cleared[0]] if len(cleared) > 1 else 0.0) for one in marks]
        return sum(left), left[0], own

    def _left(self, mark: Mark, cleared: float) -> float:
        if cleared and cleared >= mark.when:
            return 0.0
        return max(0.0, mark.points - max(0.0, self._seconds() - mark.when) / self._fade_s)

    def succeeded(self, account: str, client: str) -> None:
        """The password was right: the account's failures are forgiven, the client's are not (it may know one)."""
        account, client = account.lower(), network(client)
        now = self._seconds()
        if self._all("account", account):
            own = self._own.get("account", account) or _NOTHING
            self._own.put("account", account, Mark(0.0, now, own.until, now))
        self._own.put("good", f"{account} {client}", Mark(cleared=now))

    def forgive(self, name: str) -> None:
        """
        An operator vouches for a client or an account; to be said to every process, for each lane has bans of its own.

        @param name: an IP address or a login.
        """
        now = self._seconds()
        for kind, key in (("client", network(name)), ("account", name.lower())):
            self._own.put(kind, key, Mark(0.0, now, 0.0, now))


def network(client: str) -> str:
    """What is counted as one client: an IPv4 address, the /64 of an IPv6 one."""
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return client
