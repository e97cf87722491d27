"""
When a child that died is started again: at once the first time, a little later each time it dies young, about as often
as C{LIMIT} a minute at most, but for ever: a mail server that has given up needs somebody to notice.
"""

from __future__ import annotations

from collections import deque

YOUNG_S = 10.0
"""A child that ran so long was well; its death starts the count anew."""

DELAYS_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Before the first, second... restart in a row; the last one repeats."""

LIMIT = 30
WINDOW_S = 60.0


class Restarts:
    """The deaths of one child; pure, the time is handed in."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=LIMIT)
        self._in_a_row = 0

    def delay(self, now: float, ran_s: float) -> tuple[float, bool]:
        """
        Note a death.

        @param now: any steadily growing clock, seconds.
        @param ran_s: how long the child ran.
        @return: seconds until the restart, and whether it is held back because it dies too often.
        """
        self._in_a_row = 0 if ran_s >= YOUNG_S else self._in_a_row
        wait = DELAYS_S[min(self._in_a_row, len(DELAYS_S) - 1)]
        self._in_a_row += 1
        full = len(self._deaths) == LIMIT
        too_often = full and now - self._deaths[0] < WINDOW_S
        if too_often:
            wait = max(wait, self._deaths[0] + WINDOW_S - now)
        self._deaths.append(now + wait)
        return wait, too_often
