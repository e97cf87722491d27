"""
What the DNS says of a client: the lists it is on, the name it has.

All is asked at once when the client comes, and it goes on talking meanwhile; who needs the answer waits for it, at most
until [checks] dns_timeout_s after the beginning. What cannot be told counts as good: not listed, and the name right.

DNS lists: RFC 5782. Addresses below 127.255.255.0/24 are how some lists say that they do not answer us, and count only
where they are named; addresses outside of 127.0.0.0/8 come from whoever sells the list's domain and never count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.config.schema import ChecksConfig, DnsListConfig
from qmailpy.errors import MailError
from qmailpy.interfaces import IResolver

_LISTS = ip_network("127.0.0.0/8")
_ERRORS = ip_network("127.255.255.0/24")
_REASON = 200  # characters of what a list says: the reply stays one line of RFC 5321 s.4.5.3.1.5


@define(kw_only=True)
class Look:
    """What is known of a client so far."""

    score: float = 0.0
    zones: tuple[str, ...] = ()  # lists of bad clients it is on
    reason: str = ""  # what the first of them says of it, for people; printable ASCII
    welcome: bool = False  # it is on a list of good ones, and the score is below 0
    named: bool = True  # it has a name, or that cannot be told
    confirmed: bool = True  # a name of it leads back to it, or that cannot be told


class DnsList:
    """One list."""

    __slots__ = ("_answers", "weight", "zone")

    def __init__(self, config: DnsListConfig) -> None:
        self.zone = config.zone
        self.weight = config.weight
        self._answers = tuple(ip_network(text, strict=False) for text in config.answers)

    def question(self, ip: str) -> str:
        """The name to ask for."""
        address = ip_address(ip)
        if isinstance(address, IPv4Address):
            return ".".join((*reversed(ip.split(".")), self.zone))
        return ".".join((*reversed(address.exploded.replace(":", "")), self.zone))

    def listed(self, answers: Sequence[str]) -> bool:
        """Whether one of the answers counts."""
        found = [IPv4Address(text) for text in answers]
        if self._answers:
            wanted = [network for network in self._answers if isinstance(network, IPv4Network)]
            return any(address in network for address in found for network in wanted)
        return any(address in _LISTS and address not in _ERRORS for address in found)


class Visitors:
    """Asks about clients; one for all listeners of a worker."""

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, resolver: IResolver, checks: ChecksConfig, lists: Sequence[DnsListConfig]
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._timeout_s = checks.dns_timeout_s
        self._reverse = checks.reverse_name
        self._lists = tuple(DnsList(one) for one in lists)

    @property
    def curious(self) -> bool:
        """Whether there is anything to ask."""
        return bool(self._lists) or self._reverse != "none"

    def look(self, ip: str) -> Inquiry:
        """Begin to ask."""
        found = Look()
        questions: list[Callable[[], Awaitable[None]]] = [self._list(one, ip, found) for one in self._lists]
        if self._reverse != "none":
            questions.append(self._name(ip, found))
        return Inquiry(self._reactor, self._timeout_s, found, questions)

    def _list(self, one: DnsList, ip: str, found: Look) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            if one.listed(await self._resolver.ipv4(one.question(ip))):
                found.score += one.weight
                found.welcome = found.score < 0
                if one.weight > 0:
                    first = not found.zones
                    found.zones = (*found.zones, one.zone)
                    if first:  # RFC 5782 s.2.1: where its owner can read why; what fails here changes nothing above
                        found.reason = _printable(" ".join(await self._resolver.text(one.question(ip))))

        return ask

    def _name(self, ip: str, found: Look) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            name = await self._resolver.reverse(ip)
            if not name:
                found.named = found.confirmed = False
            elif self._reverse == "confirmed":
                addresses = await self._resolver.addresses(name)
                found.confirmed = any(_same(text, ip) for text in addresses)

        return ask


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_REASON]).strip()


def _same(text: str, ip: str) -> bool:
    try:
        return ip_address(text) == ip_address(ip)
    except ValueError:
        return False


class Inquiry:
    """Questions under way. C{found} is what is known; when C{done}, nothing is added any more."""

    __slots__ = ("_asking", "_timer", "_waiting", "done", "found")

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        timeout_s: float,
        found: Look,
        questions: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self.found = found
        self.done = False
        self._waiting: list[Deferred[Look]] = []
        self._asking: set[Deferred[None]] = set()
        for question in questions:
            asking = Deferred.fromCoroutine(self._ask(question))
            if not asking.called:
                self._asking.add(asking)
                asking.addBoth(self._answered, asking)
        self._timer = reactor.callLater(timeout_s, self.stop) if self._asking else None
        self.done = not self._asking

    def wait(self) -> Deferred[Look]:
        """Fires when all is known that will be."""
        waiting: Deferred[Look] = Deferred(self._forget)
        self._waiting.append(waiting)
        return waiting

    def stop(self) -> None:
        """Time is up, or nobody wants to know any more."""
        self.done = True
        for asking in list(self._asking):
            asking.cancel()
        self._end()

    def _forget(self, waiting: Deferred[Look]) -> None:
        """Who has waited does not any more."""
        self._waiting.remove(waiting)

    async def _ask(self, question: Callable[[], Awaitable[None]]) -> None:
        try:
            await question()
        except (CancelledError, MailError):
            pass  # not to be told now: counts as good
        except Exception:
            self._log.failure("asking the DNS about a client")

    def _answered(self, _: object, asking: Deferred[None]) -> None:
        self._asking.discard(asking)
        if not self._asking:
            self._end()

    def _end(self) -> None:
        self.done = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self.found)
