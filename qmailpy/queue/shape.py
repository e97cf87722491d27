"""The shape of the queue: how old the mail is, by destination. Counting alone; Postfix's qshape is the model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from qmailpy.queue.entries import QueueFilter, ShapeRow
from qmailpy.queue.showing import Found, entry

NAMES = 5000
"""Destinations in one part of the table; then there is a new one."""

NULL = "<>"
"""Stands for the domain of the null sender."""


class AgeCount:
    """One part of the table."""

    def __init__(self, edges: Sequence[float], senders: bool, now: float) -> None:
        """
        @param edges: ages in seconds, ascending.
        @param senders: count messages by the domain of their sender, not recipients by theirs.
        """
        self._edges = edges
        self._senders = senders
        self._now = now
        self._rows: dict[str, list[int]] = {}

    def brief(self, wanted: QueueFilter) -> bool:
        """Whether recipients and the time are enough."""
        return not (self._senders or wanted.sender or wanted.reads or wanted.least_octets or wanted.most_octets)

    def add(self, queue_id: str, found: Found, wanted: QueueFilter) -> None:
        """Count a copy, if it is wanted."""
        envelope = found.envelope
        if entry(queue_id, envelope, found.size, found.copy, found.busy, wanted) is None:
            return
        column = bisect_right(self._edges, max(0.0, self._now - envelope.arrival))
        if self._senders:
            self._count(envelope.sender.rpartition("@")[2] or NULL, column)
            return
        for item in found.copy.pending.values():
            recipient = item.recipient
            self._count(recipient.address.rpartition("@")[2] or recipient.host, column)

    def _count(self, name: str, column: int) -> None:
        name = name.lower()
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = [0] * (len(self._edges) + 1)
        row[column] += 1

    @property
    def full(self) -> bool:
        """Whether it has as many rows as one answer should."""
        return len(self._rows) >= NAMES

    def rows(self) -> list[ShapeRow]:
        """What was counted, in no order."""
        return [ShapeRow(name=name, counts=tuple(counts)) for name, counts in self._rows.items()]
