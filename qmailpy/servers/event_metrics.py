"""
The events file as metrics: how many there were of each kind since the daemon's start, and when the last one was.

Counted from the files, where those of every process are, of such as have died, too: a worker that is restarted counts
from the same beginning again. Files hold some MiB; what was read of them once is not read again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from attrs import define
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.log import FILE_NAME, KEPT
from qmailpy.events.reading import Event, parsed

_PIECE = 1 << 20
_LINE = 64 * 1024


@define
class _File:
    """How far one has been read."""

    offset: int = 0
    rest: bytes = b""


class EventCounts:
    """Counts what has been added since the last time. Everything blocks."""

    def __init__(self, since: float) -> None:
        """@param since: events before that do not count, seconds since the epoch."""
        self._since = since
        self._files: Mapping[tuple[int, int], _File] = {}  # by device and inode
        self._counts: dict[str, int] = {}
        self._last: dict[str, float] = {}

    def thd_metrics(self, directory: str) -> list[Metric]:
        """@param directory: HOME/log."""
        files: dict[tuple[int, int], _File] = {}
        for name in (*(f"{FILE_NAME}.{number}" for number in range(KEPT, 0, -1)), FILE_NAME):
            with suppress(OSError):
                self._thd_read(os.path.join(directory, name), files)
        self._files = files
        text = "What happened that an operator may want to know of, since the daemon's start (docs/events.md)."
        counted = CounterMetricFamily("qmailpy_events", text, labels=["event", "severity"])
        text = "When it happened the last time, since the epoch."
        last = GaugeMetricFamily("qmailpy_event_last_time_seconds", text, labels=["event", "severity"])
        for name, kind in CATALOGUE.items():
            labels = [name, kind.severity.value]
            counted.add_metric(labels, self._counts.get(name, 0))
            if name in self._last:
                last.add_metric(labels, self._last[name])
        return [counted, last]

    def _thd_read(self, path: str, files: dict[tuple[int, int], _File]) -> None:
        """@raise OSError: there is no such file."""
        with open(path, "rb") as source:
            found = os.fstat(source.fileno())
            key = (found.st_dev, found.st_ino)
            one = self._files.get(key, _File())
            if key in files:  # renamed while we went through them
                return
            if found.st_size < one.offset:  # somebody has cut it
                one = _File()
            files[key] = one
            source.seek(one.offset)
            while octets := source.read(_PIECE):
                one.offset += len(octets)
                *lines, rest = (one.rest + octets).split(b"\n")
                one.rest = rest[:_LINE]
                for line in lines:
                    event = parsed(line)
                    if event is not None and event.time >= self._since and event.event in CATALOGUE:
                        self._count(event)

    def _count(self, event: Event) -> None:
        # A line is written for the first of several, and the next one counts those between: as many as it says.
        self._counts[event.event] = self._counts.get(event.event, 0) + event.times
        self._last[event.event] = max(self._last.get(event.event, 0.0), event.time)
