"""
The mail of the demonstration: what is sent, and what the transaction log must tell about it.
"""

from __future__ import annotations

import smtplib
from collections.abc import Collection

from attrs import frozen

from qmailpy.app.demo_home import REMOTE, Stage
from qmailpy.app.demo_sink import UNKNOWN
from qmailpy.records.record import Action, LogRecord

_TIMEOUT_S = 30.0


@frozen(kw_only=True)
class Mail:
    """One message."""

    what: str  # for people
    sender: str
    recipients: tuple[str, ...]
    message_id: str
    text: str
    bounces: bool = False

    def octets(self, date: str) -> bytes:
        """The message with its header, CRLF line ends."""
        return "\r\n".join(
            [
                f"From: <{self.sender}>",
                "To: " + ", ".join(f"<{one}>" for one in self.recipients),
                f"Subject: {self.what}",
                f"Date: {date}",
                f"Message-ID: {self.message_id}",
                "MIME-Version: 1.0",
                "Content-Type: text/plain; charset=us-ascii",
                "",
                self.text,
                "",
            ]
        ).encode("ascii")


def mails(stage: Stage, run: str) -> tuple[Mail, ...]:
    """
    What is sent, in order.

    @param run: makes the Message-IDs of this run its own.
    """
    alice, bob = stage.address("alice"), stage.address("bob")
    friend, nobody = f"friend@{REMOTE}", f"{UNKNOWN}@{REMOTE}"

    def mail(number: int, what: str, sender: str, *recipients: str, text: str, bounces: bool = False) -> Mail:
        return Mail(
            what=what,
            sender=sender,
            recipients=recipients,
            message_id=f"<demo-{run}.{number}@{stage.domain}>",
            text=text,
            bounces=bounces,
        )

    return (
        mail(1, "To a local user", alice, bob, text="Hello Bob,\r\n\r\nthis one stays in the house.\r\n\r\nAlice"),
        mail(2, "To two users over two channels", alice, bob, friend, text="One message, two ways out of the queue."),
        mail(3, "To a remote domain", bob, friend, text="This one leaves the house."),
        mail(4, "To somebody who is not there", alice, nobody, text="This one comes back.", bounces=True),
    )


def thd_submit(port: int, mail: Mail, date: str) -> str:
    """
    Submit a message over SMTP; blocks.

    @return: the server's answer to it.
    @raise smtplib.SMTPException, OSError: it was not accepted.
    """
    with smtplib.SMTP("127.0.0.1", port, local_hostname="demo.invalid", timeout=_TIMEOUT_S) as client:
        client.ehlo_or_helo_if_needed()
        for code, said in (client.mail(mail.sender), *map(client.rcpt, mail.recipients)):
            if code >= 300:
                raise smtplib.SMTPResponseException(code, said)
        code, said = client.data(mail.octets(date))
        if code >= 300:
            raise smtplib.SMTPResponseException(code, said)
    return f"{code} {said.decode('ascii', 'replace')}"


class Ledger:
    """
    What is still to be told by the transaction log; fed with its records.

    @ivar missing: (what, recipient) that have no record yet.
    @ivar delivered: queue id of each message that was delivered to a local user, by its Message-ID.
    """

    def __init__(self, expected: Collection[Mail], local: Collection[str]) -> None:
        """@param local: names of the channels that deliver to local users."""
        self._local = frozenset(local)
        self._by_id = {mail.message_id: mail for mail in expected}
        self.missing: set[tuple[str, str]] = set()
        for mail in expected:
            for recipient in mail.recipients:
                self.missing.add(("failure" if mail.bounces else "delivery", recipient + " " + mail.message_id))
            if mail.bounces:
                self.missing.add(("failure notice", mail.sender))
        self._failed = False
        self.delivered: dict[str, str] = {}

    def add(self, record: LogRecord) -> None:
        """Take note of a record."""
        if record.message_id in self._by_id:
            key = record.original_to + " " + record.message_id
            if record.action is Action.DEQUEUED:
                self.missing.discard(("delivery", key))
                if record.source in self._local and record.file is not None:
                    self.delivered[record.message_id] = record.file.id
            elif record.action is Action.FAILED and ("failure", key) in self.missing:
                self.missing.discard(("failure", key))
                self._failed = True
        elif self._failed and record.action is Action.DEQUEUED and record.source in self._local and not record.sender:
            self.missing.discard(("failure notice", record.current_to))

    def __str__(self) -> str:
        return "; ".join(f"no {what} for {whom}" for what, whom in sorted(self.missing))
