"""Points in time as people write them in C{--since} and C{--until}."""

from __future__ import annotations

import re
import time
from typing import Any

import click

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FORMS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


def moment(text: str, now: float) -> float:
    """
    Seconds since the epoch.

    @param text: C{2026-03-01}, C{"2026-03-01 14:30"} (local time), C{today}, C{yesterday}, C{now}, or a time that has
        passed: C{90m}, C{12h}, C{7d}, C{2w}.
    @raise ValueError: none of these.
    """
    word = text.strip().lower()
    ago = _AGO.fullmatch(word)
    if ago:
        return now - int(ago[1]) * _UNITS[ago[2]]
    if word == "now":
        return now
    if word in {"today", "yesterday"}:
        clock = time.localtime(now)
        day = clock.tm_mday - (word == "yesterday")
        return time.mktime((clock.tm_year, clock.tm_mon, day, 0, 0, 0, 0, 0, -1))
    for form in _FORMS:
        try:
            return time.mktime((*time.strptime(text.strip().upper(), form)[:8], -1))
        except (ValueError, OverflowError):
            continue
    raise ValueError(f"{text!r} is no time")


class Moment(click.ParamType[float]):
    """The type of such an option."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return moment(str(value), time.time())
        except ValueError:
            self.fail(
                f"{value!r} is no time: 2026-03-01, '2026-03-01 14:30', today, yesterday, 90m, 12h, 7d", param, ctx
            )
