"""
C{HOME/log/events.log}: an event a line, in JSON, appended by every process of the home.

C{{"time": 1764000000.1, "event": "auth.banned", "severity": "warning", "process": "mta-0", "fields": {...},
"text": "...", "remedy": "..."}}, and C{"times": 12} where it had happened more often since the line before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from twisted.logger import Logger
from zope.interface import implementer

from qmailpy.events.catalogue import CATALOGUE
from qmailpy.interfaces import IEvents
from qmailpy.values import one_line

FILE_NAME = "events.log"
_KEYS = 10000  # remembered for their interval; more, and all are forgotten
_TEXT = 500  # characters of a field


@implementer(IEvents)
class NoEvents:
    """Nobody is told."""

    def happened(self, name: str, **fields: str | int | float) -> None:
        """Nothing is done."""


@implementer(IEvents)
class EventLog:
    """Appends to the file."""

    _log = Logger()

    def __init__(self, path: str, process: str, seconds: Callable[[], float]) -> None:
        """
        @param path: of the file.
        @param process: who says it: "mta-0".
        @param seconds: the time of day.
        """
        self._path = path
        self._process = process
        self._seconds = seconds
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # (event, key): told when, happened since
        self._failing = False

    def happened(self, name: str, **fields: str | int | float) -> None:
        kind = CATALOGUE.get(name)
        if kind is None:
            self._log.error("bug: there is no event {event!r}", event=name)
            return
        now = self._seconds()
        words = {field: one_line(str(fields.get(field, "")), _TEXT) for field in kind.fields}
        key = (name, next(iter(words.values()), ""))
        told, since = self._told.get(key, (float("-inf"), 0))
        if 0 <= now - told < kind.interval_s:
            self._told[key] = (told, since + 1)
            return
        if len(self._told) >= _KEYS:
            self._told.clear()
        self._told[key] = (now, 0)
        line: dict[str, object] = {
            "time": round(now, 3),
            "event": name,
            "severity": kind.severity.value,
            "process": self._process,
            "fields": words,
            "text": kind.text.format_map(words),
            "remedy": kind.remedy.format_map(words),
        }
        if since:
            line["times"] = since + 1
        self._write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def _write(self, octets: bytes) -> None:
        """An event is rare and its line short: writing it here costs no more than handing it to a thread."""
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(handle, octets)
            finally:
                os.close(handle)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._log.error("events cannot be written to {path}: {error}", path=self._path, error=str(error))
