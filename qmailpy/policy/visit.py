"""
What the gate remembers of a connection and of the message that is on its way. Only clients that are watched have one.
"""

from __future__ import annotations

from attrs import Factory, define

from qmailpy.policy.visitors import Inquiry
from qmailpy.values import Reply


@define(kw_only=True, eq=False)
class Letter:
    """A message, from MAIL on."""

    sender: str
    helo: str
    user: str  # address of the mailbox that has logged in, or ""
    tags: tuple[str, ...] = ()
    fate: str = ""  # "", or what becomes of it for all its recipients
    spared: bool = False  # a rule has accepted it: no checks
    inquiry: Inquiry | None = None  # about the sender's domain
    domain_fault: Reply | None = None  # what is wrong with that


@define(kw_only=True, eq=False)
class Visit:
    """
    A connection.

    @ivar watched: what arrives is to be shown to the gate first.
    """

    listener: str
    source: str  # channel
    ip: str  # "" over a UNIX socket
    ours: str  # the address it is connected to
    trusted: bool
    checked: bool = False  # the checks for strangers apply
    network: str = ""  # where it is counted; "" = nowhere
    user: str = ""  # whom it counts as
    sends_a_day: int = 0  # of that user's plan
    tags: tuple[str, ...] = ()
    fate: str = ""
    spared: bool = False
    watched: bool = False
    greet_delay_s: float = 0.0
    faults: dict[str, None] = Factory(dict)  # checks it has failed by what it did: early talk, pipelining
    inquiry: Inquiry | None = None
    letter: Letter | None = None
