"""
The counters for people, in the ancestor's layout (mission s.4), and for programs.

    Channel          Messages    Recipients    Blocks
    -------          --------    ----------    -------
    tcp_local
       Received       29379       79714      982252
       Delivered      29369       79723      983903 (29369 first time)
"""

from __future__ import annotations

from typing import Any

from qmailpy.stats.counters import LaneState, Sizes, total
from qmailpy.stats.items import (
    DELIVERED,
    EVENTS,
    FIRST_COUNT,
    FIRST_MESSAGES,
    FIRST_TIME_MS,
    IN_ASSOCIATIONS,
    LOWEST,
    OUT_ASSOCIATIONS,
    QUEUE_COUNT,
    QUEUE_TIME_MS,
    STORED,
    Row,
    Table,
)

HEADERS = (
    "Channel          Messages    Recipients    Blocks",
    "-------          --------    ----------    -------",
)
_UNITS = ("messages", "recipients", "blocks")


def text(table: Table, *, channels: bool = True, associations: bool = True, headers: bool = True) -> str:
    """
    The table as C{qm counters show} prints it, channels by name, with a LF at the end of each line.

    @param channels: the counts of messages; otherwise only what C{associations} asks for.
    """
    parts = []
    for channel in sorted(table):
        lines = [channel]
        if channels:
            lines += _counts(table[channel])
        if associations:
            lines += _associations(table[channel], apart=channels)
        parts.append("\n".join(lines) + "\n")
    head = "".join(f"{line}\n" for line in HEADERS) if headers else ""
    return head + "\n".join(parts)


def _counts(row: Row) -> list[str]:
    lines = []
    for number, event in enumerate(EVENTS):
        messages, recipients, size = row[3 * number : 3 * number + 3]
        line = f"   {event.capitalize():<10}{messages:>10}{recipients:>12}{size:>12}"
        if 3 * number == DELIVERED:
            line += f" ({row[FIRST_MESSAGES]} first time)"
        lines.append(line)
    return [
        *lines,
        "",
        _time("Queue time/count", row[QUEUE_TIME_MS], row[QUEUE_COUNT]),
        _time("Queue first time/count", row[FIRST_TIME_MS], row[FIRST_COUNT]),
    ]


def _time(label: str, spent_ms: int, count: int) -> str:
    # The total is rounded to seconds, the average is of the milliseconds: it would say 0.00 where mail is fast.
    return f"   {label:<24}{round(spent_ms / 1000)}/{count} = {_average(spent_ms, count):.2f}"


def _average(spent_ms: int, count: int) -> float:
    return spent_ms / 1000 / count if count else 0.0


def _associations(row: Row, *, apart: bool) -> list[str]:
    return [
        *([""] if apart else []),
        f"   {'Total In Assocs':<16}{row[IN_ASSOCIATIONS]:>16}",
        f"   {'Total Out Assocs':<16}{row[OUT_ASSOCIATIONS]:>16}",
    ]


def as_json(sizes: Sizes, lanes: list[LaneState], table: Table | None = None) -> dict[str, Any]:
    """
    The same for programs: plain dicts, lists and numbers.

    @param table: of the channels that are wanted; by default all of them.

    C{stored} has C{minimum}, the smallest value since the last clear, and C{true} = value - minimum: what is in the
    queue once all that was there at the clear has left (mission C6).
    """
    table = total(lanes) if table is None else table
    return {
        "channels": {channel: _row_json(table[channel]) for channel in sorted(table)},
        "lanes": [
            {
                "name": lane.name,
                "line": lane.position.sequence,
                "cleared": lane.baseline.time or None,
                "cleared_line": lane.baseline.position.sequence,
            }
            for lane in lanes
        ],
        "max_channels": sizes.channels,
        "created": sizes.made or None,
    }


def _row_json(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, event in enumerate(EVENTS):
        found[event] = dict(zip(_UNITS, row[3 * number : 3 * number + 3], strict=True))
    found["stored"]["minimum"] = dict(zip(_UNITS, row[LOWEST : LOWEST + 3], strict=True))
    found["stored"]["true"] = {unit: row[STORED + at] - row[LOWEST + at] for at, unit in enumerate(_UNITS)}
    found["delivered"]["first_time_messages"] = row[FIRST_MESSAGES]
    found["queue_time"] = _time_json(row[QUEUE_TIME_MS], row[QUEUE_COUNT])
    found["queue_first_time"] = _time_json(row[FIRST_TIME_MS], row[FIRST_COUNT])
    found["associations"] = {"in": row[IN_ASSOCIATIONS], "out": row[OUT_ASSOCIATIONS]}
    return found


def _time_json(spent_ms: int, count: int) -> dict[str, Any]:
    return {"seconds": spent_ms / 1000, "count": count, "average": round(_average(spent_ms, count), 3)}
