"""
The counters of a channel: which there are and in what order.

A row is the list of their values, C{len(ITEMS)} integers that only ever grow, but for Stored and its lowest values.
This order is that of the mapped file and of C{BooksCheckpoint.counters}; a new item goes to the end.
"""

from __future__ import annotations

from typing import Final

EVENTS: Final = ("received", "stored", "delivered", "submitted", "attempted", "rejected", "failed")
"""Each counted as messages, recipients and blocks, in this order (mission C4)."""

ITEMS: Final = (
    *(f"{event}_{unit}" for event in EVENTS for unit in ("messages", "recipients", "blocks")),
    "delivered_first_messages",  # of the delivered ones, at their first attempt
    "queue_time_ms",
    "queue_count",
    "queue_first_time_ms",
    "queue_first_count",
    "in_associations",
    "out_associations",
    "lowest_messages",  # the smallest value of stored_messages since the last clear (mission C6)
    "lowest_recipients",
    "lowest_blocks",
)

RECEIVED: Final = 0
STORED: Final = 3
DELIVERED: Final = 6
SUBMITTED: Final = 9
ATTEMPTED: Final = 12
REJECTED: Final = 15
FAILED: Final = 18
FIRST_MESSAGES: Final = 21
QUEUE_TIME_MS: Final = 22
QUEUE_COUNT: Final = 23
FIRST_TIME_MS: Final = 24
FIRST_COUNT: Final = 25
IN_ASSOCIATIONS: Final = 26
OUT_ASSOCIATIONS: Final = 27
LOWEST: Final = 28

Row = list[int]
Table = dict[str, Row]
"""Channel: row."""


def zeros() -> Row:
    """The row of a channel of which nothing is known."""
    return [0] * len(ITEMS)
