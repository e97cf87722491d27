"""
What the SMTP sessions of a listener share, and what is known of a transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from qmailpy.config.schema import ListenerConfig, LogConfig, QueueConfig
from qmailpy.interfaces import IEnqueue, IIntake, IRecorder, IRouter
from qmailpy.servers.clients import ClientCounts, ReverseNames, TrustedNetworks
from qmailpy.values import Recipient, Reply
from qmailpy.wire.smtp_events import MailFrom
from qmailpy.wire.smtp_service import Service

if TYPE_CHECKING:
    from qmailpy.servers.session import SmtpSession


@define(eq=False, kw_only=True)
class Site:
    """What the sessions of one listener share."""

    reactor: IReactorTime
    service: Service
    listener: ListenerConfig
    queue: QueueConfig
    log: LogConfig
    trusted: TrustedNetworks
    enqueue: IEnqueue
    router: IRouter
    recorder: IRecorder
    postmaster: str  # canonical address that "RCPT TO:<postmaster>" stands for
    names: ReverseNames | None = None
    counts: ClientCounts = field(factory=ClientCounts)
    sessions: set[SmtpSession] = field(factory=set)
    draining: bool = False
    gone: Callable[[], None] | None = None  # called when a session has ended while draining


class Transaction:
    """From MAIL to its end."""

    __slots__ = ("committing", "fault", "id", "intake", "mail", "named", "recipients", "rejected")

    def __init__(self, queue_id: str, mail: MailFrom) -> None:
        self.id = queue_id
        self.mail = mail
        self.recipients: dict[tuple[str, str, str], Recipient] = {}  # by channel, host and address
        self.named: dict[str, None] = {}  # what the client named and we accepted, in order
        self.intake: IIntake | None = None
        self.fault: Reply | None = None  # of ours, while data arrived
        self.rejected = False  # a J record was written
        self.committing = False
