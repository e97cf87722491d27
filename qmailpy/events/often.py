"""
How often an event is written: what nobody wants to be told a thousand times is counted.

The same event with the same first field is written once in the interval of its kind. A condition that had ended and
begins anew is written again, but not within L{AGAIN_S} of the time before: until then neither its beginning nor the end
of that is. And of one kind, conditions apart (there are no more of them than channels, processes and directories), no
more than L{MOST} are written in L{WINDOW_S}, whatever their first fields are: ten thousand clients may be banned in a
minute. Pure: the time is handed in.
"""

from __future__ import annotations

from enum import Enum

from attrs import define

from qmailpy.events.catalogue import Kind

AGAIN_S = 300.0
WINDOW_S = 300.0
MOST = 50
_KEYS = 10000  # remembered for their interval


class Told(Enum):
    """What is to be done with what happened."""

    WRITE = "write"
    COUNT = "count"
    TOO_MANY = "too many"  # the first that is left out for that reason


@define
class _Key:
    told: float  # when it was written
    interval_s: float
    since: int = 0  # how often it happened since
    open: bool = True  # a condition: its end is to be written


@define
class _Window:
    began: float
    written: int = 0
    left_out: int = 0


class Often:
    """Of one process."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], _Key] = {}
        self._windows: dict[str, _Window] = {}

    def happened(self, name: str, kind: Kind, key: str, now: float) -> tuple[Told, int]:
        """
        Something has happened.

        @param key: its first field.
        @param now: seconds since the epoch.
        @return: what to do, and how often it happened since it was written the last time, this one included; for a
            condition that goes on always 1.
        """
        found = self._keys.get((name, key))
        if found is not None and 0 <= now - found.told < found.interval_s:
            found.since += 1
            return Told.COUNT, 0
        if not kind.lasts and (full := self._full(name, now)) is not None:
            return full, 0
        if len(self._keys) >= _KEYS:
            self._forget(now)
        self._keys[name, key] = _Key(told=now, interval_s=kind.interval_s)
        return Told.WRITE, 1 if found is None or kind.lasts else found.since + 1

    def over(self, name: str, key: str) -> bool:
        """A condition has ended. @return: whether that is to be written: its beginning was."""
        found = self._keys.get((name, key))
        if found is None:
            return True
        was, found.open = found.open, False
        found.interval_s = min(found.interval_s, AGAIN_S)
        return was

    def _full(self, name: str, now: float) -> Told | None:
        window = self._windows.get(name)
        if window is None or not 0 <= now - window.began < WINDOW_S:
            window = self._windows[name] = _Window(began=now)
        if window.written < MOST:
            window.written += 1
            return None
        window.left_out += 1
        return Told.TOO_MANY if window.left_out == 1 else Told.COUNT

    def _forget(self, now: float) -> None:
        """What may be written again anyway; when that is not enough, all."""
        self._keys = {key: one for key, one in self._keys.items() if 0 <= now - one.told < one.interval_s}
        if len(self._keys) > _KEYS // 2:
            self._keys.clear()
