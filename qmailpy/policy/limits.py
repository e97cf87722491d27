"""
How much clients, networks and users may do: [limits].

Counted in windows that slide with the clock, in twelve steps each: in a file of all workers (L{qmailpy.policy.shared}),
or in the memory of one. That is bounded: beyond L{MOST} of a kind, who was not seen for longest is forgotten. Who is
here at once is counted over all workers as well (L{qmailpy.policy.present}). Pure but for the clock it asks and the
event it tells.

A client is an IP address, a network the address's /24 or /64 ([limits] ipv4_network, ipv6_network). Who has logged in
is counted as a user and no more as a client.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Protocol

from twisted.logger import Logger

from qmailpy.config.schema import LimitsConfig
from qmailpy.interfaces import IEvents
from qmailpy.values import Reply

HOUR, DAY = 3600.0, 86400.0
STEPS = 12
MOST = 50000
"""Keys that are remembered of each limit; a key takes some 400 octets at most."""

_CONNECTIONS = Reply(421, "4.7.28", "Too many connections from your network")
_CONNECTION_RATE = Reply(421, "4.7.28", "Too many connections within an hour")
_LOGINS = Reply(421, "4.7.28", "Too many connections with this login")
_MESSAGES = Reply(450, "4.7.28", "Too many messages within an hour")
_RECIPIENTS = Reply(452, "4.7.28", "Too many recipients within an hour")
_SENDS = Reply(450, "4.7.28", "Too many recipients within a day")


class Counts(Protocol):
    """What was counted for one limit."""

    def get(self, key: str, now: float) -> int:
        """How many there were; at least those of the last period, at most those of a twelfth more."""

    def add(self, key: str, now: float) -> None:
        """One more."""

    def __len__(self) -> int:
        """Keys that this process remembers in its memory."""


class Window:
    """Counts by key, of the last so many seconds."""

    __slots__ = ("_kept", "_most", "_step_s")

    def __init__(self, period_s: float, most: int = MOST) -> None:
        self._step_s = period_s / STEPS
        self._most = most
        self._kept: OrderedDict[str, list[int]] = OrderedDict()  # step, count, step, count ...; oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, now: float) -> int:
        """How many there were; at least those of the last period, at most those of a twelfth more."""
        entry = self._kept.get(key)
        if entry is None:
            return 0
        oldest = int(now / self._step_s) - STEPS
        while entry and entry[0] < oldest:
            del entry[:2]
        return sum(entry[1::2])

    def add(self, key: str, now: float) -> None:
        """One more."""
        step = int(now / self._step_s)
        entry = self._kept.get(key)
        if entry is None:
            entry = self._kept[key] = []
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        if entry and entry[-2] >= step:
            entry[-1] += 1
        else:
            while entry and entry[0] < step - STEPS:
                del entry[:2]
            entry += (step, 1)


class Present:
    """How many of each there are now; only who is there takes memory."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, key: str, most: int = 0) -> int:
        """One more; how many there are now. C{most}, the limit, makes no difference here."""
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count

    def remove(self, key: str) -> int:
        """One less; how many are left."""
        count = self._counts.get(key, 0) - 1
        if count > 0:
            self._counts[key] = count
            return count
        self._counts.pop(key, None)
        return 0

    def __len__(self) -> int:
        return len(self._counts)


class Here(Protocol):
    """Who is here at once."""

    def add(self, key: str, most: int = 0) -> int:
        """One more; how many there are now, as far as it matters for a limit of C{most}."""

    def remove(self, key: str) -> object:
        """One less."""

    def __len__(self) -> int:
        """How many names this process knows of."""


class Limits:
    """One for all listeners of a worker. Replies that are not C{None} refuse, and then nothing was counted."""

    _log = Logger()

    def __init__(
        self,
        config: LimitsConfig,
        seconds: Callable[[], float],
        events: IEvents,
        window: Callable[[str, float], Counts] = lambda name, period_s: Window(period_s),
        here: Callable[[], Here] = Present,
    ) -> None:
        """
        @param seconds: the time; since the epoch where workers count together.
        @param window: makes what counts for a limit, by its name and the seconds it is about.
        @param here: makes what counts who is here at once.
        """
        self.config = config
        self._new_window = window
        self._seconds = seconds
        self._events = events
        self._networks = here()
        self._users = here()
        self._windows: dict[str, Counts] = {}  # by the name of the limit
        self._network = lru_cache(maxsize=4096)(self._look_network)

    def reconfigure(self, config: LimitsConfig) -> None:
        """Take other limits; counts stay, those of networks only when networks are as large as before."""
        sizes = (config.ipv4_network, config.ipv6_network)
        if sizes != (self.config.ipv4_network, self.config.ipv6_network):
            self._network.cache_clear()
        self.config = config

    def __len__(self) -> int:
        """Everything that is remembered."""
        return len(self._networks) + len(self._users) + sum(len(window) for window in self._windows.values())

    def network(self, ip: str) -> str:
        """The network a client is in."""
        return self._network(ip)

    def _look_network(self, ip: str) -> str:
        bits = self.config.ipv6_network if ip_address(ip).version == 6 else self.config.ipv4_network
        return str(ip_network(f"{ip}/{bits}", strict=False))

    def connected(self, ip: str) -> tuple[str, Reply | None]:
        """
        A client that is not trusted has come.

        @return: what L{gone} wants, and what turns it away.
        """
        config, network = self.config, self.network(ip)
        count = self._networks.add(network, config.network_connections)
        if 0 < config.network_connections < count:
            self._broken(network, "network_connections", config.network_connections)
            return network, _CONNECTIONS
        return network, self._rate("connections", ip, network, "", _CONNECTION_RATE)

    def gone(self, network: str) -> None:
        """It has left."""
        self._networks.remove(network)

    def logged_in(self, user: str) -> Reply | None:
        """A connection has become a user's; L{logged_out} must follow, also on a refusal."""
        most = self.config.user_connections
        if 0 < most < self._users.add(user, most):
            self._broken(user, "user_connections", most)
            return _LOGINS
        return None

    def logged_out(self, user: str) -> None:
        """It is not the user's any more."""
        self._users.remove(user)

    def message(self, ip: str, user: str) -> Reply | None:
        """A message is begun."""
        return self._rate("messages", ip, self.network(ip) if not user else "", user, _MESSAGES)

    def recipient(self, ip: str, user: str, sends_a_day: int) -> Reply | None:
        """
        A message is to get a recipient.

        @param sends_a_day: of the user's plan; 0 = the general limit.
        """
        most = sends_a_day or self.config.user_sends_a_day
        now = self._seconds()
        if user and most and self._window("user_sends_a_day", DAY).get(user, now) >= most:
            self._broken(user, "sends_a_day" if sends_a_day else "user_sends_a_day", most)
            return _SENDS
        refusal = self._rate("recipients", ip, self.network(ip) if not user else "", user, _RECIPIENTS)
        if refusal is None and user and most:
            self._window("user_sends_a_day", DAY).add(user, now)
        return refusal

    def _rate(self, what: str, ip: str, network: str, user: str, refusal: Reply) -> Reply | None:
        """Count, unless that would be too much for one of those concerned."""
        now = self._seconds()
        concerned: list[tuple[Counts, str]] = []
        for kind, key in (("user", user),) if user else (("client", ip), ("network", network)):
            name = f"{kind}_{what}_per_hour"
            most: int = getattr(self.config, name)
            if not most:
                continue
            window = self._window(name, HOUR)
            if window.get(key, now) >= most:
                self._broken(key, name, most)
                return refusal
            concerned.append((window, key))
        for window, key in concerned:
            window.add(key, now)
        return None

    def _window(self, name: str, period_s: float) -> Counts:
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = self._new_window(name, period_s)
        return window

    def _broken(self, who: str, limit: str, most: int) -> None:
        self._events.happened("limit.broken", who=who, limit=limit, most=most)
