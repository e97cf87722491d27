"""
What the mail workers tell of their channels beside the counters (L{qmailpy.stats.activity}), all workers together, as
columns of mtaGroupTable and rows of mtaGroupErrorTable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qmailpy.stats.activity import NEVER
from qmailpy.watch.look import Look, number
from qmailpy.watch.snmp_value import Value, counter, interval, text

_MOST = 4_294_967_295  # of a part of a name (RFC 2578 s.3.5)


class Activities:
    """
    Of all channels.

    @ivar last_in: when a channel was last active inbound, seconds since the epoch; 0 = never.
    @ivar last_out: the same outbound. @ivar failed: connections that could not be opened.
    """

    def __init__(self, look: Look) -> None:
        self._now = look.time
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._next: dict[str, float] = {}
        for process in look.processes:
            for channel, row in _objects(process.figures.get("activity")):
                if isinstance(row, Mapping):
                    self._rows.setdefault(channel, []).append(row)
            for channel, at in _objects(process.figures.get("next")):
                self._next[channel] = min(number(at), self._next.get(channel, number(at)))
        every = [row for rows in self._rows.values() for row in rows]
        self.last_in = _latest(every, "in")
        self.last_out = _latest(every, "out")
        self.failed = sum(number(row.get("failed")) for row in every)

    def columns(self, channel: str) -> dict[int, Value]:
        """
        Columns of mtaGroupTable. A time since something that never was is left out, as there is no value for it; that
        until the next attempt is 0 where none is due.
        """
        rows = self._rows.get(channel, [])
        found = {
            column: interval(self._now - at)
            for column, key in ((17, "in"), (18, "out"), (34, "attempt"))
            if (at := _latest(rows, key))
        }
        found[20] = counter(sum(number(row.get("failed")) for row in rows))
        refused = [str(row.get("refused")) for row in rows if row.get("refused", NEVER) != NEVER]
        found[21] = text(refused[-1] if refused else NEVER)
        tried = max(rows, key=lambda row: number(row.get("attempt")), default={})
        found[22] = text(str(tried.get("unreached", NEVER)))
        found[23] = interval(self._next[channel] - self._now if channel in self._next else 0)
        return found

    def errors(self, channel: str) -> Iterator[tuple[int, list[int]]]:
        """Of mtaGroupErrorTable: status code; inbound, internal and outbound errors."""
        sums: dict[int, list[int]] = {}
        for row in self._rows.get(channel, []):
            for code, counts in _objects(row.get("errors")):
                if code.isdecimal() and int(code) <= _MOST and isinstance(counts, list) and len(counts) == 3:
                    before = sums.get(int(code), [0, 0, 0])
                    sums[int(code)] = [one + int(number(more)) for one, more in zip(before, counts, strict=True)]
        yield from sorted(sums.items())


def _objects(value: object) -> list[tuple[str, Any]]:
    return [(str(key), each) for key, each in value.items()] if isinstance(value, Mapping) else []


def _latest(rows: list[Mapping[str, Any]], key: str) -> float:
    return max((number(row.get(key)) for row in rows), default=0.0)
