"""
The POP3 listener: a factory of L{Pop3Session} over the logins and the mail store.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime
from zope.interface import implementer

from qmailpy.auth.logins import Logins
from qmailpy.config.schema import ListenerConfig, TrustConfig
from qmailpy.events.traces import Traces
from qmailpy.interfaces import IMailStore
from qmailpy.servers.clients import TrustedNetworks
from qmailpy.servers.pop3_nodes import Elsewhere
from qmailpy.servers.pop3_session import Pop3Session
from qmailpy.servers.pop3_site import Delays, Pop3Site
from qmailpy.servers.tls import Certificates
from qmailpy.wire.pop3_service import Limits, Service


@implementer(IProtocolFactory)
class Pop3Factory:
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
        trust: TrustConfig,
        logins: Logins,
        store: IMailStore,
        certificates: Certificates | None,
        elsewhere: Elsewhere | None = None,
        traces: Traces | None = None,
    ) -> None:
        """
        @param hostname: our name in the greeting.
        @param certificates: for TLS; C{None} = there are none: STLS is not offered then, and C{listener.tls} must not
            be "implicit".
        @param elsewhere: other nodes' mailboxes; C{None} = there are none.
        @param traces: what of the protocol is written down; C{None} = nothing.
        """
        self._reactor = reactor
        self._hostname = hostname
        self.site = Pop3Site(
            reactor=reactor,
            service=self._service(listener, certificates),
            listener=listener,
            trusted=TrustedNetworks(trust),
            logins=logins,
            store=store,
            delays=Delays(reactor, listener.login_delay_s),
            certificates=certificates,
            elsewhere=elsewhere,
            fronts=_fronts(listener),
            traces=traces,
        )

    def _service(self, listener: ListenerConfig, certificates: Certificates | None) -> Service:
        return Service(
            hostname=self._hostname,
            limits=Limits(errors=listener.errors),
            stls=certificates is not None and listener.tls == "starttls",
            scram=True,
            login_delay_s=int(listener.login_delay_s),
        )

    def reconfigure(self, listener: ListenerConfig, trust: TrustConfig) -> None:
        """Take other settings: what is offered counts for connections to come, limits for those that are there too."""
        site = self.site
        site.service = self._service(listener, site.certificates)
        if listener.login_delay_s != site.listener.login_delay_s:
            site.delays = Delays(self._reactor, listener.login_delay_s)
        site.listener = listener
        site.trusted = TrustedNetworks(trust)
        site.fronts = _fronts(listener)

    def doStart(self) -> None:
        """A port begins to listen."""

    def doStop(self) -> None:
        """A port has stopped; sessions go on."""

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:
        return Pop3Session(self.site)

    def drain(self, grace_s: float = 30.0) -> Deferred[None]:
        """
        Stop in an orderly way: whoever connects is refused, sessions end behind the command they are at, without the
        update unless that is what they are at.

        @param grace_s: after so many seconds what is left is cut off.
        @return: fires when there is no session any more.
        """
        return self.site.sessions.drain(grace_s)


def _fronts(listener: ListenerConfig) -> TrustedNetworks | None:
    return TrustedNetworks(TrustConfig(networks=listener.xclient)) if listener.xclient else None
