"""
Who is told what about a message's delay or end, and when: functions of values alone.

NOTIFY is RFC 3461 s.4.1; without it a sender gets failure and delay notices and no success ones (RFC 3461 s.5.2.1).
That a notice is never sent to the null sender is for the caller to see to, who also knows about double bounces.
"""

from __future__ import annotations

from collections.abc import Sequence

from qmailpy.values import Notify


def warnings_passed(warn_s: Sequence[float], age: float, passed: int = 0) -> int:
    """
    How many of the delay notices of a message are behind it.

    A delay notice is due after a deferral when the result is greater than C{passed}, the number that was recorded
    when the last one went out. Each age is warned of once; ages that went by together (a long downtime) make one
    notice.

    @param warn_s: ages in seconds, in any order (C{QueueConfig.warn_s}).
    @param age: seconds since the message was accepted.
    @param passed: the recorded number; the result is never less, so a shortened list or a clock set back repeats none.
    """
    return max(passed, sum(1 for warn in warn_s if age >= warn))


def wants_delay(notify: int) -> bool:
    """Whether a delay notice may be sent for a recipient with these NOTIFY bits."""
    return notify == 0 or bool(notify & Notify.DELAY)


def wants_failure(notify: int) -> bool:
    """Whether a failure notice is to be sent for a recipient with these NOTIFY bits."""
    return notify == 0 or bool(notify & Notify.FAILURE)


def wants_success(notify: int) -> bool:
    """Whether a success notice was asked for."""
    return bool(notify & Notify.SUCCESS)
