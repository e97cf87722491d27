"""
Whether a child lives: the supervisor asks it now and then, and counts the questions that stay without an answer.

Questions are counted, not seconds, and a round that comes late counts nothing: a machine that slept, was paused or has
no time for us either says nothing about the child. One question at a time is on its way, so that what waits in the pipe
of a child that stands still does not grow. Pure: the times are handed in.
"""

from __future__ import annotations

QUESTION_S = 5.0
"""Between two rounds of questions."""

SILENT = 3
"""Questions in a row without an answer, after which somebody is told: a reactor that answers nobody for so long serves
nobody, and no step of ours takes a tenth of it."""

STARTING = 5
"""How many times longer a child may be silent before it is ready: loading and recovery take what they take."""

_LATE = 2.0  # rounds of so many periods prove nothing


class Pulse:
    """Of one child."""

    def __init__(self, period_s: float) -> None:
        """@param period_s: between two rounds."""
        self._period_s = period_s
        self.unanswered = 0

    def answered(self) -> None:
        """It said something, whatever it was; or it is a new one."""
        self.unanswered = 0

    def ask(self, *, late: bool) -> bool:
        """
        A round.

        @param late: it comes later than it should (L{is_late}).
        @return: whether it is to be asked now; otherwise the last question is still on its way.
        """
        if not self.unanswered:
            self.unanswered = 1
            return True
        if not late:
            self.unanswered += 1
        return False

    @property
    def silent_s(self) -> float:
        """How long it has been silent, at least, behind a round in which it was."""
        return self.unanswered * self._period_s

    def silent(self, most: float = SILENT) -> bool:
        """Whether it is to be told; asked in each round, before L{ask}."""
        return self.unanswered >= min(SILENT, most)


def is_late(elapsed_s: float, period_s: float) -> bool:
    """@param elapsed_s: since the round before. Negative, when the clock was set back, is no time either."""
    return not 0 <= elapsed_s < _LATE * period_s
