"""
What the access tables are asked, and what they and the checks say. Pure values.
"""

from __future__ import annotations

from attrs import frozen

from qmailpy.values import Recipient, Reply

DISCARD, HOLD = "discard", "hold"
"""What may become of mail that is taken and not delivered."""


@frozen(kw_only=True)
class Facts:
    """
    What a rule can look at; the names are those of its keys. "" is nothing: the null sender, no login, a client over a
    UNIX socket.
    """

    listener: str = ""
    client: str = ""  # IP address
    helo: str = ""
    user: str = ""  # address of the mailbox that has logged in
    source: str = ""
    sender: str = ""
    destination: str = ""
    recipient: str = ""
    named: str = ""
    tagged: tuple[str, ...] = ()


@frozen(kw_only=True)
class Ruling:
    """What is to be done about a recipient."""

    reply: Reply | None = None  # what refuses it; then nothing else counts
    reason: str = ""  # of a refusal, for the counts: "table", "list", "limit" ...
    recipients: tuple[Recipient, ...] = ()  # where the mail goes
    tags: tuple[str, ...] = ()  # the message gets
    spared: bool = False  # a rule has accepted it: no more checks
