"""What the queue knows of a copy or a message, as the values that people see: functions of values alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from attrs import frozen

from qmailpy.queue.codec import Outcome
from qmailpy.queue.entries import (
    RECIPIENTS_SHOWN,
    HistoryEvent,
    MessageEnvelope,
    MessageRecipient,
    QueueEntry,
    QueueFilter,
)
from qmailpy.queue.state import Copy, Message, Pending
from qmailpy.values import Content, Envelope

RECIPIENTS_READ = 1000
EVENTS = 1000

_STATES = {
    Outcome.DELIVERED: "delivered",
    Outcome.FAILED: "failed",
    Outcome.SILENCED: "failed",
    Outcome.REMOVED: "deleted",
}


@frozen
class Found:
    """A copy, wherever it was."""

    envelope: Envelope
    size: int
    copy: Copy
    busy: bool = False  # being tried
    content: Content | None = None  # of a message in memory


class Addresses(Collection[str]):
    """The addresses of what is pending, without a list of them."""

    __slots__ = ("_items",)

    def __init__(self, items: Collection[Pending]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return (item.recipient.address for item in self._items)

    def __contains__(self, address: object) -> bool:
        return any(one == address for one in self)


def entry(
    queue_id: str, envelope: Envelope, size: int, copy: Copy, busy: bool, wanted: QueueFilter
) -> QueueEntry | None:
    """
    The entry of a copy; C{None} when the filter does not admit it.

    @param busy: whether it is being tried.
    """
    items = copy.pending.values()
    attempts = max((item.attempts for item in items), default=0)
    if not items or not wanted.admits(
        channel=copy.channel,
        held=copy.held is not None,
        attempts=attempts,
        sender=envelope.sender,
        recipients=Addresses(items),
        hosts=(
            host for item in items for host in (item.recipient.host, item.recipient.address.rpartition("@")[2]) if host
        ),
        arrival=envelope.arrival,
        size_octets=size,
        user=envelope.user,
    ):
        return None
    times = [item.next_attempt for number, item in copy.pending.items() if not busy or number not in copy.flying]
    shown: list[str] = []
    hosts: dict[str, None] = {}
    if wanted.envelope:
        for item in islice(items, RECIPIENTS_SHOWN):
            shown.append(item.recipient.address)
            if item.recipient.host:
                hosts[item.recipient.host] = None
    return QueueEntry(
        id=queue_id,
        channel=copy.channel,
        size_octets=size,
        arrival=envelope.arrival,
        sender=envelope.sender,
        remaining=len(items),
        recipients=tuple(shown),
        attempts=attempts,
        next_attempt=None if copy.held is not None else min(times, default=None),
        busy=busy,
        held=copy.held is not None,
        reason=copy.held or "",
        last_error=next((item.error for item in items if item.error), ""),
        priority=int(envelope.priority),
        hold_until=envelope.hold_until,
        hosts=tuple(hosts),
    )


def envelope_of(message: Message) -> MessageEnvelope:
    """The envelope of a message, with the recipients of those copies that are not finished."""
    envelope = message.envelope
    recipients: list[MessageRecipient] = []
    for copy in message.copies.values():
        recipients += _recipients(copy)
    return MessageEnvelope(
        id=message.id,
        sender=envelope.sender,
        arrival=envelope.arrival,
        source=envelope.source,
        size_octets=message.size,
        message_id=envelope.message_id,
        source_system=envelope.source_system,
        user=envelope.user,
        protocol=envelope.protocol,
        priority=int(envelope.priority),
        envid=envelope.envid,
        recipients_total=len(recipients),
        recipients=tuple(recipients[:RECIPIENTS_READ]),
    )


def _recipients(copy: Copy) -> Iterator[MessageRecipient]:
    for number in sorted([*copy.pending, *copy.done]):
        pending = copy.pending.get(number)
        if pending is not None:
            recipient, state, error = pending.recipient, "waiting", pending.error
        else:
            recipient, state, error = copy.done[number].recipient, _STATES[copy.done[number].outcome], ""
        yield MessageRecipient(
            address=recipient.address,
            original=recipient.original,
            channel=copy.channel,
            host=recipient.host,
            state=state,
            last_error=error,
        )


def history(message: Message, now: float) -> list[HistoryEvent]:
    """
    What the queue remembers: when the message came, which recipients of its unfinished copies are done, and how the
    others stand. When they were tried, held or released it does not remember; the transaction log does. So C{held} has
    the present time, and C{waiting} the time of the next attempt with the number of attempts and the last error.
    """
    envelope = message.envelope
    total = len(envelope.recipients) or sum(len(one.pending) + len(one.done) for one in message.copies.values())
    events = [
        HistoryEvent(
            time=envelope.arrival,
            channel=envelope.source,
            event="enqueued",
            recipients=total,
            text=envelope.source_system,
        )
    ]
    later: list[HistoryEvent] = []
    for copy in message.copies.values():
        events += _ended(copy)
        later += _standing(copy, now)
    events.sort(key=lambda event: event.time)  # stable: the order within a copy stays
    later.sort(key=lambda event: event.time)
    return (events + later)[-EVENTS:]


def _ended(copy: Copy) -> Iterator[HistoryEvent]:
    counts: dict[tuple[float, str], int] = {}
    for done in copy.done.values():
        key = (done.time, _STATES[done.outcome])
        counts[key] = counts.get(key, 0) + 1
    for (time, event), count in counts.items():
        yield HistoryEvent(time=time, channel=copy.channel, event=event, recipients=count)


def _standing(copy: Copy, now: float) -> Iterator[HistoryEvent]:
    if copy.held is not None:
        yield HistoryEvent(time=now, channel=copy.channel, event="held", recipients=len(copy.pending), text=copy.held)
        return
    groups: dict[tuple[float, int, str], int] = {}
    for item in copy.pending.values():
        key = (item.next_attempt, item.attempts, item.error)
        groups[key] = groups.get(key, 0) + 1
    for (time, attempts, error), count in groups.items():
        tried = f"{attempts} attempt{'s' * (attempts != 1)} failed" if attempts else "not tried yet"
        text = f"{tried}; {error}" if error else tried
        yield HistoryEvent(time=time, channel=copy.channel, event="waiting", recipients=count, text=text)
