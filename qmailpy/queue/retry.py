"""
When to try again, and when to give up: functions of values alone. The clock and chance stay outside; a draw is a number
handed in.

qmail's schedule: attempts at the ages (k * step)^2 of a message on a channel, so that a new message is retried soon and
an old one seldom, without a table. A channel may have a list of waiting times instead. On top of either come

 1. jitter, which only ever lengthens a wait, so that mail deferred together does not come back together;
 2. a peer's wish to wait longer, as a minimum;
 3. the lifetime, as a maximum: the attempt that would come after it takes place exactly at it, and is the last one.
    What fails for the time being at that age or later has failed for good (RFC 5321 s.4.5.4.1, RFC 3463 X.4.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from attrs import frozen

from qmailpy.config.schema import ChannelConfig, QueueConfig
from qmailpy.values import Reply

SPREAD_S = 300.0
"""After a downtime, overdue mail is spread over at most so many seconds."""

MINIMUM_S = 1.0
"""No wait is shorter, whatever the configuration says: a zero would be a loop."""


@frozen(kw_only=True)
class Schedule:
    """The retry rules of one channel."""

    step_s: float = 20.0  # attempts at ages (k * step_s)^2 seconds
    backoff_s: tuple[float, ...] = ()  # waits between attempts instead, the last repeats; empty = quadratic
    jitter: float = 0.1  # at most this share of a wait is added by chance; 0..1
    lifetime_s: float = 604800.0  # age of the last attempt

    def next_age(self, age: float, *, attempts: int, draw: float, retry_after: float | None = None) -> float | None:
        """
        The age at which a message whose attempt has just been deferred is tried again.

        @param age: seconds since the message was accepted, now; negative (a clock set back) counts as 0.
        @param attempts: attempts that have failed so far on this channel, this one included; from 1.
        @param draw: chance, 0 <= draw < 1.
        @param retry_after: seconds a peer asked us to wait at least; it cannot outlast the lifetime.
        @return: seconds, always greater than C{age}; C{None} when this was the last attempt.
        """
        age = max(age, 0.0)
        if self.expired(age):
            return None
        if self.backoff_s:
            wait = self.backoff_s[min(max(attempts, 1), len(self.backoff_s)) - 1]
        else:
            wait = quadratic_age(age, self.step_s) - age
        wait *= 1.0 + self.jitter * draw
        wait = max(wait, retry_after or 0.0, MINIMUM_S)
        # A wait that would end past the lifetime ends at it. Should that be nearer than the shortest wait, the message
        # lives that much longer.
        return max(min(age + wait, self.lifetime_s), age + MINIMUM_S)

    def expired(self, age: float) -> bool:
        """Whether a temporary failure at this age is a permanent one."""
        return age >= self.lifetime_s


def schedule_of(channel: ChannelConfig, queue: QueueConfig) -> Schedule:
    """The rules that the configuration gives a channel."""
    return Schedule(
        step_s=channel.quadratic_s,
        backoff_s=channel.backoff,
        jitter=channel.jitter,
        lifetime_s=channel.lifetime_s or queue.lifetime_s,
    )


def quadratic_age(age: float, step_s: float) -> float:
    """
    qmail's next age: (floor(sqrt(age)) + step)^2 (qmail-send.c, nextretry).

    The root is cut off, so an attempt that starts a little late does not shift those after it.

    @param age: seconds, not negative.
    @return: seconds, greater than C{age} for every C{step_s} >= 1.
    """
    return (isqrt(int(age)) + max(step_s, 1.0)) ** 2


def ages(schedule: Schedule) -> Sequence[float]:
    """All ages at which a message that never gets through is tried, from 0 to the last, without jitter; for display."""
    found = [0.0]
    while (age := schedule.next_age(found[-1], attempts=len(found), draw=0.0)) is not None:
        found.append(age)
    return found


def resumed(due: float, now: float, draw: float, spread_s: float = SPREAD_S) -> float:
    """
    When to try a message that was waiting when the daemon stopped.

    Called once a message at recovery, for mail that was tried before. Mail that became due while nothing ran is
    spread over the time it is late, C{spread_s} at most: a short restart changes nothing that one would notice, a
    long one does not send everything at the same moment.

    @param due: the recorded time of the next attempt, seconds since the epoch.
    @param draw: chance, 0 <= draw < 1.
    @return: seconds since the epoch, C{due} itself when that is still to come.
    """
    return due if due >= now else now + min(now - due, spread_s) * draw


AHEAD_S = 60.0
"""Mail may come from so far in the future: the clock was set by a little meanwhile."""


def believed(due: float, begins: float, now: float) -> float:
    """
    When to try a message, its time having been written down when the clock may have been ahead of what it is now: as
    it was by a dead battery until the network told it the time. It would wait for a year.

    @param due: the recorded time of the next attempt, seconds since the epoch.
    @param begins: when the message came.
    @return: C{due}, or C{now} when that is before C{begins}.
    """
    return now if due > now and begins > now + AHEAD_S else due


def expired_reply(last: Reply, host: str = "") -> Reply:
    """
    The permanent failure that the last attempt's temporary one becomes; it still tells what the trouble was.

    @param host: who gave the last answer, "" when it was us.
    """
    return Reply(554, "5.4.7", f"delivery time expired; last answer{f' of {host}' if host else ''}: {last}")
