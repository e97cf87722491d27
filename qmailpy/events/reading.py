"""The events files, read: the past of them, and what comes."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from attrs import frozen

from qmailpy.events.catalogue import CATALOGUE, Severity
from qmailpy.events.log import FILE_NAME, KEPT

_LINE = 64 * 1024  # octets; longer ones are none of ours
_SEVERITIES = {one.value: one for one in Severity}


@frozen(kw_only=True)
class Event:
    """One line."""

    time: float  # seconds since the epoch
    id: str
    event: str
    severity: Severity
    process: str
    text: str
    remedy: str
    fields: dict[str, str]
    times: int = 1  # since the line before about the same


def parsed(line: bytes) -> Event | None:
    """The event of a line; C{None} when it is none (torn by a full disk, or somebody else's)."""
    try:
        found: Any = json.loads(line)
        fields = found["fields"]
        return Event(
            time=float(found["time"]),
            id=str(found.get("id", "")),
            event=str(found["event"]),
            severity=_SEVERITIES[found["severity"]],
            process=str(found["process"]),
            text=str(found["text"]),
            remedy=str(found["remedy"]),
            fields={str(key): str(value) for key, value in fields.items()},
            times=int(found.get("times", 1)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def thd_events(directory: str, since: float = 0.0, least: Severity = Severity.NOTICE) -> Iterator[Event]:
    """
    The events there are, oldest first. Blocks.

    @param directory: HOME/log.
    @param since: seconds since the epoch.
    @raise OSError: a file may not be read.
    """
    names = [*(f"{FILE_NAME}.{number}" for number in range(KEPT, 0, -1)), FILE_NAME]
    for name in names:
        with suppress(FileNotFoundError), open(os.path.join(directory, name), "rb") as source:
            if os.fstat(source.fileno()).st_mtime < since:
                continue
            while line := source.readline(_LINE):
                event = parsed(line)
                if event is not None and event.time >= since and event.severity.rank >= least.rank:
                    yield event


def thd_lasting(directory: str, names: Collection[str]) -> list[Event]:
    """
    The conditions whose beginning is told and whose end is not, oldest first: those who tell of them may have died
    since. Blocks, for as long as some MiB take to read.

    @param directory: HOME/log.
    @param names: of the events, all of a kind that ends with C{trouble.over}.
    """
    found: dict[tuple[str, str], Event] = {}
    with suppress(OSError):  # what cannot be read is told anew, when it still lasts
        for event in thd_events(directory):
            if event.event in names:
                found.setdefault((event.event, event.fields.get(CATALOGUE[event.event].fields[0], "")), event)
            elif event.event == "trouble.over":
                found.pop((event.fields.get("event", ""), event.fields.get("about", "")), None)
    return list(found.values())


class Tail:
    """What comes from now on, through rolled files as well."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._number = 0
        self._offset = 0
        self._rest = b""
        try:
            found = os.stat(self._path)
            self._number, self._offset = found.st_ino, found.st_size
        except FileNotFoundError:
            pass

    def thd_more(self) -> list[Event]:
        """
        Those since the last call.

        @raise OSError: the file may not be read.
        """
        lines: list[bytes] = []
        try:
            with open(self._path, "rb") as source:
                number = os.fstat(source.fileno()).st_ino
                if number != self._number:
                    lines += self._left()
                    self._number, self._offset, self._rest = number, 0, b""
                lines += self._read(source)
        except FileNotFoundError:
            pass  # rolled, and nothing since; or no event yet
        return [event for event in map(parsed, lines) if event is not None]

    def _left(self) -> list[bytes]:
        """What was added to the file before it was rolled."""
        try:
            with open(f"{self._path}.1", "rb") as source:
                return self._read(source) if os.fstat(source.fileno()).st_ino == self._number else []
        except FileNotFoundError:
            return []

    def _read(self, source: BinaryIO) -> list[bytes]:
        source.seek(self._offset)
        octets = source.read(1 << 22)
        self._offset += len(octets)
        *lines, rest = (self._rest + octets).split(b"\n")
        self._rest = rest[:_LINE]
        return lines
