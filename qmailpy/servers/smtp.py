"""
The listeners of SMTP, submission and LMTP: a factory of L{SmtpSession} over the queue, the router and the recorder.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime
from zope.interface import implementer

from qmailpy.auth.logins import Logins
from qmailpy.clocks import wall
from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig, TrustConfig
from qmailpy.events.log import NoEvents
from qmailpy.events.traces import Traces
from qmailpy.interfaces import IDirectory, IEnqueue, IEvents, ILastCheck, IRecorder, IResolver, IRouter
from qmailpy.policy.gate import Gate
from qmailpy.servers.clients import ReverseNames, TrustedNetworks, plain_address
from qmailpy.servers.proxied import ProxyFront
from qmailpy.servers.session import SmtpSession
from qmailpy.servers.site import Offers, Site
from qmailpy.servers.tls import Certificates


@implementer(IProtocolFactory)
class SmtpFactory:
    """
    Sessions for one listener.

    @ivar site: what they share; for tests and for those who count.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        hostname: str,
        listener: ListenerConfig,
        enqueue: IEnqueue,
        router: IRouter,
        recorder: IRecorder,
        queue: QueueConfig,
        log: LogConfig,
        trust: TrustConfig,
        postmaster: str = "",
        resolver: IResolver | None = None,
        certificates: Certificates | None = None,
        logins: Logins | None = None,
        directory: IDirectory | None = None,
        events: IEvents | None = None,
        flush: Callable[[str], Awaitable[int]] | None = None,
        process: str = "process",
        last_checks: Sequence[ILastCheck] = (),
        gate: Gate | None = None,
        traces: Traces | None = None,
    ) -> None:
        """
        @param hostname: our name in the greeting and in Received.
        @param postmaster: the address C{RCPT TO:<postmaster>} stands for; "" is postmaster at C{hostname}.
        @param resolver: tells the names of clients for the log; C{None} leaves them out.
        @param certificates: for TLS; C{None} = there is none.
        @param logins: decides about logins; C{None} = there are none.
        @param directory: tells which senders are a user's own; needed with C{logins}.
        @param flush: has the mail for a destination tried now (ETRN); C{None}: nobody may ask for that.
        @param process: name of the channel of kind "process".
        @param last_checks: of the recipients of a whole message; a listener of another kind than LMTP has none.
        @param gate: access tables, limits and checks; C{None} = there are none.
        @param traces: what of the protocol is written down; C{None} = nothing.
        """
        self._reactor = reactor
        self._proxies = TrustedNetworks(TrustConfig(networks=listener.proxy))
        self.site = Site(
            reactor=reactor,
            hostname=hostname,
            offers=Offers.of(
                hostname, listener, queue, wall(reactor), tls=certificates is not None, logins=logins is not None
            ),
            listener=listener,
            queue=queue,
            log=log,
            trusted=TrustedNetworks(trust),
            enqueue=enqueue,
            router=router,
            recorder=recorder,
            postmaster=postmaster or f"postmaster@{hostname.lower()}",
            names=ReverseNames(reactor, resolver) if resolver is not None else None,
            certificates=certificates,
            logins=logins,
            directory=directory,
            events=events or NoEvents(),
            flush=flush,
            process=process,
            last_checks=tuple(last_checks) if listener.kind == "lmtp" else (),
            gate=gate,
            traces=traces,
        )

        self._let_fronts(listener)

    def _let_fronts(self, listener: ListenerConfig) -> None:
        """Filters and proxies that may say who is behind them."""
        site = self.site
        site.fronts = TrustedNetworks(TrustConfig(networks=listener.xclient)) if listener.xclient else None
        site.front_offers = site.offers.fronted() if listener.xclient else None

    def reconfigure(self, listener: ListenerConfig, queue: QueueConfig, log: LogConfig, trust: TrustConfig) -> None:
        """Take other settings: offers are for connections to come, limits for those that are there too."""
        site = self.site
        site.offers = Offers.of(
            site.hostname,
            listener,
            queue,
            site.wall,
            tls=site.certificates is not None,
            logins=site.logins is not None,
        )
        site.listener, site.queue, site.log = listener, queue, log
        self._proxies = TrustedNetworks(TrustConfig(networks=listener.proxy))
        site.trusted = TrustedNetworks(trust)
        self._let_fronts(listener)

    def doStart(self) -> None:
        """A port begins to listen."""

    def doStop(self) -> None:
        """A port has stopped; sessions go on."""

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:
        site = self.site
        if site.listener.proxy and plain_address(getattr(addr, "host", "")) in self._proxies:
            return ProxyFront(self._reactor, lambda: SmtpSession(site))
        return SmtpSession(site)

    def drain(self, grace_s: float = 30.0) -> Deferred[None]:
        """
        Stop in an orderly way: whoever connects is told 421, sessions that are idle end with 421, those with a message
        on its way end behind the reply to it.

        @param grace_s: after so many seconds what is left is cut off.
        @return: fires when there is no session any more.
        """
        if self.site.names is not None:
            self.site.names.stop()
        return self.site.sessions.drain(grace_s)
