"""
What the SMTP sessions of a listener share, what they offer, and what is known of a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from qmailpy.auth.logins import Logins
from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig
from qmailpy.interfaces import IDirectory, IEnqueue, IIntake, IRecorder, IRouter
from qmailpy.servers.clients import ClientCounts, ReverseNames, TrustedNetworks
from qmailpy.servers.tls import Certificates
from qmailpy.values import Recipient, Reply
from qmailpy.wire import sasl
from qmailpy.wire.smtp_events import MailFrom
from qmailpy.wire.smtp_service import Limits, Service

if TYPE_CHECKING:
    from qmailpy.servers.session import SmtpSession
    from qmailpy.servers.submission import Head


@frozen(kw_only=True)
class Offers:
    """What a listener offers, which depends on where a session stands."""

    clear: Service  # without TLS
    near: Service  # without TLS, to a client on loopback
    inside: Service  # under TLS

    @classmethod
    def of(cls, hostname: str, listener: ListenerConfig, queue: QueueConfig, *, tls: bool, logins: bool) -> Offers:
        """
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
                ),
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
        )


@define(eq=False, kw_only=True)
class Site:
    """What the sessions of one listener share."""

    reactor: IReactorTime
    hostname: str
    offers: Offers
    listener: ListenerConfig
    queue: QueueConfig
    log: LogConfig
    trusted: TrustedNetworks
    enqueue: IEnqueue
    router: IRouter
    recorder: IRecorder
    postmaster: str  # canonical address that "RCPT TO:<postmaster>" stands for
    names: ReverseNames | None = None
    certificates: Certificates | None = None  # none: no TLS here
    logins: Logins | None = None  # none: no logins here
    directory: IDirectory | None = None  # tells which senders are a user's own; there when there are logins
    counts: ClientCounts = field(factory=ClientCounts)
    sessions: set[SmtpSession] = field(factory=set)
    draining: bool = False
    gone: Callable[[], None] | None = None  # called when a session has ended while draining


class Transaction:
    """From MAIL to its end."""

    __slots__ = ("committing", "fault", "head", "id", "intake", "mail", "named", "recipients", "rejected")

    def __init__(self, queue_id: str, mail: MailFrom) -> None:
        self.id = queue_id
        self.mail = mail
        self.recipients: dict[tuple[str, str, str], Recipient] = {}  # by channel, host and address
        self.named: dict[str, None] = {}  # what the client named and we accepted, in order
        self.intake: IIntake | None = None
        self.head: Head | None = None  # of a submission, while it may lack something
        self.fault: Reply | None = None  # of ours, while data arrived
        self.rejected = False  # a J record was written
        self.committing = False
