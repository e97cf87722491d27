"""
Who the clients of a listener are: trusted or not, how many connections each has, what the reverse DNS calls them.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.config.schema import TrustConfig
from qmailpy.errors import MailError
from qmailpy.interfaces import IResolver

_CACHED = 4096  # addresses whose trust is remembered


@lru_cache(maxsize=_CACHED)
def plain_address(host: str) -> str:
    """
    An address as the socket layer gives it, in the form people write: no zone, and IPv4 as IPv4 even when it came
    through an IPv6 socket. What is no IP address (a UNIX socket's peer) is "".
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


class TrustedNetworks:
    """The networks whose clients may relay."""

    def __init__(self, config: TrustConfig) -> None:
        """@raise ValueError: one is not a network (the configuration's check has told that already)."""
        self._networks = tuple(ip_network(text, strict=False) for text in config.networks)
        self._known = lru_cache(maxsize=_CACHED)(self._look)

    def __contains__(self, ip: str) -> bool:
        """@param ip: from L{plain_address}; "" is never trusted."""
        return self._known(ip)

    def _look(self, ip: str) -> bool:
        if not ip:
            return False
        address = ip_address(ip)
        return any(address in network for network in self._networks)  # never, when the families differ


class ClientCounts:
    """Connections at once, by client address: only addresses that have one take memory."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, ip: str) -> int:
        """One more; how many there are now."""
        count = self._counts.get(ip, 0) + 1
        self._counts[ip] = count
        return count

    def remove(self, ip: str) -> None:
        """One less."""
        count = self._counts.get(ip, 0) - 1
        if count > 0:
            self._counts[ip] = count
        else:
            self._counts.pop(ip, None)

    def __len__(self) -> int:
        return len(self._counts)


class ReverseNames:
    """
    Names of clients, for the log and the Received field only, so that nobody waits for them: the first message of a
    client that was never seen may go without.

    A name counts only when it leads back to the address; anybody can claim any name for an address of his.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, resolver: IResolver, lifetime_s: float = 600.0, entries: int = 4096):
        """
        @param lifetime_s: how long an answer, or the lack of one, is kept.
        @param entries: most addresses kept, or asked for at once.
        """
        self._reactor = reactor
        self._resolver = resolver
        self._lifetime_s = lifetime_s
        self._entries = entries
        self._names: dict[str, tuple[float, str]] = {}  # (best before, name)
        self._asked: dict[str, Deferred[None]] = {}

    def get(self, ip: str) -> str:
        """The name of C{ip} if it is known now, else ""; then it is looked up for the next time."""
        entry = self._names.get(ip)
        if entry is not None and entry[0] > self._reactor.seconds():
            return entry[1]
        if ip and ip not in self._asked and len(self._asked) < self._entries:
            waiting = Deferred.fromCoroutine(self._ask(ip))
            if not waiting.called:
                self._asked[ip] = waiting
                waiting.addBoth(self._answered, ip)
        entry = self._names.get(ip)
        return entry[1] if entry is not None else ""

    def stop(self) -> None:
        """Give up what is still asked for."""
        for waiting in list(self._asked.values()):
            waiting.cancel()

    def _answered(self, _: object, ip: str) -> None:
        del self._asked[ip]

    async def _ask(self, ip: str) -> None:
        name = ""
        try:
            found = (await self._resolver.reverse(ip)).rstrip(".").lower()
            if found and ip in [plain_address(address) for address in await self._resolver.addresses(found)]:
                name = found
        except CancelledError:
            return
        except MailError:
            pass  # a name server in trouble; nothing depends on it
        except Exception:
            self._log.failure("reverse lookup of {ip}", ip=ip)
        while len(self._names) >= self._entries:
            del self._names[next(iter(self._names))]  # the oldest
        self._names.pop(ip, None)
        self._names[ip] = (self._reactor.seconds() + self._lifetime_s, name)
