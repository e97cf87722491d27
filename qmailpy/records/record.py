"""
One line of the transaction log, as a value (the iMTA's E D Q Z J R and their kin).

A record tells of one recipient in one event, or of a connection. The books are a fold over these records alone
(L{qmailpy.stats.fold}): what the counters need is in the line. Two facts the ancestor's line lacks ride in its file
field, C{CHANNEL/NN/ZZID.RR[+]}: how many recipients of this message copy are still queued after this line
(C{RR}; C{00} closes the copy), and whether the line continues the event of the line before (C{+}), so that
messages can be counted as well as recipients.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    from functools import partial

    from attrs import define

    # Nobody changes a record, and mypy sees to it. That the class does so itself makes each two to three times as dear,
    # a microsecond, and a message has four; readers of the log make millions.
    value = partial(define, unsafe_hash=True)


class Action(Enum):
    """The action letter of a record."""

    ENQUEUED = "E"
    DEQUEUED = "D"
    REJECTED = "J"  # enqueue attempt refused
    DEFERRED = "Q"  # temporary failure
    PARTLY = "Z"  # temporary failure of this recipient while others of the attempt were done
    FAILED = "R"  # permanent failure; a notice went out
    SILENCED = "K"  # permanent failure or delay whose notice the sender did not want
    WARNED = "W"  # delay notice
    BAD_COMMAND = "B"
    ABORTED = "V"
    OPENED = "O"
    CLOSED = "C"
    REFUSED = "X"  # connection refused by us
    UNREACHED = "Y"  # connection attempt failed before it was established
    AUTHENTICATED = "U"

    # Enum's own is a function in Python that takes the hash of the name, and records are counted by their action; there
    # is one object of each, so its identity does.
    __hash__ = object.__hash__


@value
class QueueFile:
    """The file field: which message copy, at which attempt, and how the books count the line."""

    channel: str
    id: str
    attempts: int  # attempts that had failed before this event; 0 prints as ZZ
    remaining: int = 0  # recipients of this copy still queued after this line
    continued: bool = False  # not the first line of its event for this copy


@value
class LogRecord:
    """
    A record. Fields that do not apply are empty and absent from the line.

    E: C{source} enqueues to C{destination}. D Q Z R K W: C{source} is the dequeuing channel and C{destination} is
    empty. J: C{source} is where the mail came from, C{destination} the channel it would have gone to, or C{source}
    again where there is none: relaying denied, no address. O C X Y U: C{source} is the channel, C{direction} "+"
    (inbound) or "-", and C{transport} tells the ends.

    The order of the fields is settled for the sake of L{qmailpy.queue.state} and L{qmailpy.servers.smtp_records}, which
    give their values by place: a third of the time of doing so by name, and a message has two, its connection two more.
    Everybody else: by name.
    """

    action: Action
    time: float
    source: str
    destination: str = ""
    modifiers: str = ""  # of E C S A L, in this order
    size_octets: int = 0  # printed and counted in blocks, rounded up
    sender: str = ""
    original_to: str = ""  # bare address; printed as rfc822;address
    current_to: str = ""
    notary: int = 0
    file: QueueFile | None = None
    envelope_id: str = ""
    message_id: str = ""
    user: str = ""  # authenticated login (printed with *)
    source_system: str = ""  # "helo (rdns [ip])"
    subject: str = ""  # of E, without its encoding; printed in quotes
    reason: str = ""
    diagnostic: str = ""
    queue_time: float | None = None  # seconds in the queue, for D, R and K
    direction: str = ""
    transport: str = ""  # "TCP|our ip|our port|their ip|their port"
    application: str = ""  # "SMTP", "SMTP/helo-name"
    lane: str = ""  # set by the recorder: whose books it belongs to (the shard)
    sequence: int = 0  # set by the recorder: number of the line in its lane, from 1
    process: int = 0  # set by the recorder: process id


JOURNAL = " (journal)"
"""Behind the queue id in the source system of a copy that is kept beside a message; no client's ends so."""

_PARENT = re.compile(rf"([0-9a-v]{{15}})(?:{re.escape(JOURNAL)})?")


def parent_of(record: LogRecord) -> str:
    """
    @return: the queue id of the message that the one of an E record comes from; empty: it came from outside, or this is
        no E record.
    """
    if record.action is not Action.ENQUEUED:
        return ""
    found = _PARENT.fullmatch(record.source_system)
    return found[1] if found is not None else ""
