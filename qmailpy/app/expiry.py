"""
Certificates that run out: looked at when the daemon starts and every day, and told in time (event
C{tls.certificate-expires}). Those that are in force count, not those that lie in HOME/tls since the last reload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from qmailpy.app.context import ChildContext
from qmailpy.clocks import wall
from qmailpy.config.schema import Config
from qmailpy.errors import ConfigError
from qmailpy.events.reading import thd_lasting
from qmailpy.interfaces import IEvents
from qmailpy.rounds import Rounds
from qmailpy.servers.keys import OWN, Pair
from qmailpy.stats.health import tell_over

DAYS = 14
"""It is told so long before."""

EVENT = "tls.certificate-expires"
_DAY_S = 86400.0


def expiring(pairs: Mapping[str, Pair], now: float, days: int = DAYS) -> list[tuple[str, int, str]]:
    """
    The certificates that run out soon, or have.

    @param now: seconds since the epoch.
    @return: file below HOME, whole days that are left (less than 0: it is over), and the date, for each.
    """
    found = []
    for name, pair in pairs.items():
        try:
            end = x509.load_pem_x509_certificates(pair.certificate)[0].not_valid_after_utc
        except ValueError:
            continue  # it is not in use either
        left = int((end.timestamp() - now) // _DAY_S)
        if left < days:
            place = "tls/cert.pem" if name == OWN else f"tls/{name}/cert.pem"
            found.append((place, left, f"{end:%Y-%m-%d}"))
    return found


def ends(pairs: Mapping[str, Pair]) -> dict[str, float]:
    """When each certificate runs out, in seconds since the epoch, by its file below HOME."""
    found = {}
    for name, pair in pairs.items():
        try:
            end = x509.load_pem_x509_certificates(pair.certificate)[0].not_valid_after_utc
        except ValueError:
            continue
        found["tls/cert.pem" if name == OWN else f"tls/{name}/cert.pem"] = end.timestamp()
    return found


def thd_told(directory: str) -> dict[str, float]:
    """
    The certificates that were told to run out and not that this is over, and since when, by file. Blocks.

    @param directory: HOME/log.
    """
    return {one.fields["file"]: one.time for one in thd_lasting(directory, {EVENT})}


class CertificateWatch(Service):
    """Tells; the first mail worker has it."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        events: IEvents,
        thd_pairs: Callable[[], dict[str, Pair]],
        thd_told: Callable[[], dict[str, float]],
        in_thread: Callable[..., Deferred[dict[str, Pair]]],
    ) -> None:
        """
        @param thd_pairs: the certificates in force. @raise ConfigError: there are none.
        @param thd_told: those that were told of by another process, by file, and since when.
        """
        self._reactor = reactor
        self._events = events
        self._thd_pairs = thd_pairs
        self._thd_told = thd_told
        self._resumed = False
        self._in_thread = in_thread
        self._told: dict[str, float] = {}  # since when each file has been one that runs out
        self._rounds = Rounds(reactor, "looking at certificates", self._look)

    def startService(self) -> None:
        super().startService()
        self._rounds.start(_DAY_S)

    def stopService(self) -> None:
        super().stopService()
        self._rounds.stop()

    def look(self) -> None:
        """Certificates may have changed."""
        if self.running:
            self._look().addErrback(lambda failure: self._log.failure("bug in looking at certificates", failure))

    def _look(self) -> Deferred[None]:
        return self._in_thread(self._thd_looked).addCallbacks(self._tell, lambda failure: failure.trap(ConfigError))

    def _thd_looked(self) -> dict[str, Pair]:
        if not self._resumed:
            self._resumed = True
            self._told.update(self._thd_told())
        return self._thd_pairs()

    def _tell(self, pairs: dict[str, Pair]) -> None:
        now = wall(self._reactor)()
        found = expiring(pairs, now)
        for place, days, date in found:
            self._told.setdefault(place, now)
            self._events.happened(EVENT, file=place, days=days, date=date)
        for place in self._told.keys() - {place for place, _, _ in found}:
            tell_over(self._events, EVENT, place, now - self._told.pop(place))


def watch_certificates(context: ChildContext, config: Config, events: IEvents) -> CertificateWatch:
    """For the worker of a context; to be started."""
    told = partial(thd_told, config.path("log"))
    return CertificateWatch(context.reactor, events, context.thd_pairs, told, context.in_thread)
