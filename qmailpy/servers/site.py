"""
What the SMTP sessions of a listener share, and what they offer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import Factory, define, evolve, fields, frozen

from qmailpy.auth.certificates import ClientCertificates
from qmailpy.auth.logins import Logins
from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig
from qmailpy.events.log import NoEvents
from qmailpy.interfaces import IDirectory, IEnqueue, IEvents, ILastCheck, IRecorder, IRouter
from qmailpy.policy.gate import Gate
from qmailpy.servers.clients import ReverseNames, TrustedNetworks
from qmailpy.servers.mail_options import extensions, hold_s
from qmailpy.servers.sessions import ListenerSite
from qmailpy.wire import sasl
from qmailpy.wire.smtp_fronts import XCLIENT
from qmailpy.wire.smtp_service import Extension, Limits, Service


@frozen(kw_only=True)
class Offers:
    """What a listener offers, which depends on where a session stands."""

    clear: Service  # without TLS
    near: Service  # without TLS, to a client on loopback
    inside: Service  # under TLS
    certified: Service  # under TLS, to a client whose certificate tells who it is

    def fronted(self) -> Offers:
        """The same for filters and proxies, who may say who is behind them."""
        more = {field.name: _with(getattr(self, field.name), XCLIENT) for field in fields(Offers)}
        return Offers(**more)

    @classmethod
    def of(
        cls,
        hostname: str,
        listener: ListenerConfig,
        queue: QueueConfig,
        seconds: Callable[[], float],
        *,
        tls: bool,
        logins: bool,
    ) -> Offers:
        """
        @param seconds: the time.
        @param tls: whether there are certificates.
        @param logins: whether there is somebody to ask about logins.
        """
        login = logins and listener.login != "none"
        everything = sasl.offered(plain=True, bindings=True) if login else ()
        near = sasl.offered(plain=True, bindings=False) if login and listener.plain_auth else ()

        def service(*, secured: bool, mechanisms: tuple[str, ...]) -> Service:
            return Service(
                hostname=hostname,
                limits=Limits(
                    message_octets=queue.message_octets,
                    received=queue.received,
                    errors=listener.errors,
                    messages=listener.messages,
                    recipients=queue.recipients,
                    normalise=listener.bare_lf == "normalise",
                    hold_s=hold_s(listener),
                ),
                extensions=extensions(listener, secured=secured),
                seconds=seconds,
                lmtp=listener.kind == "lmtp",
                starttls=tls and not secured and listener.tls == "starttls",
                secured=secured,
                mechanisms=mechanisms,
                auth_secured=tls and login,
            )

        return cls(
            clear=service(secured=False, mechanisms=()),
            near=service(secured=False, mechanisms=near),
            inside=service(secured=True, mechanisms=everything),
            certified=service(secured=True, mechanisms=("EXTERNAL", *everything) if login else ()),
        )


def _with(service: Service, extension: Extension) -> Service:
    return evolve(service, extensions=(*service.extensions, extension))


@define(eq=False, kw_only=True)
class Site(ListenerSite):
    """What the SMTP sessions of one listener share."""

    hostname: str
    offers: Offers
    queue: QueueConfig
    log: LogConfig
    enqueue: IEnqueue
    router: IRouter
    recorder: IRecorder
    postmaster: str  # canonical address that "RCPT TO:<postmaster>" stands for
    names: ReverseNames | None = None
    clients: ClientCertificates | None = None  # whom it knows by certificate; none: it asks for none
    fronts: TrustedNetworks | None = None  # filters and proxies that may use XCLIENT; none: nobody
    front_offers: Offers | None = None  # what they are offered
    flush: Callable[[str], Awaitable[int]] | None = None  # ETRN: has mail for a domain (".domain": below it) tried now
    logins: Logins | None = None  # none: no logins here
    directory: IDirectory | None = None  # tells which senders are a user's own; there when there are logins
    events: IEvents = Factory(NoEvents)
    process: str = ""  # name of the channel of kind "process"
    last_checks: tuple[ILastCheck, ...] = ()  # of LMTP
    gate: Gate | None = None  # none: no access tables, limits and checks
