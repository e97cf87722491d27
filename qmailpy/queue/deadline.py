"""
What a sender said of a message's time: from when on it may go (RFC 4865), and until when it must have gone (RFC 2852).
Functions of values alone.

A message that is held waits in the due list; its age, and so its retries, delay notices and lifetime, begin with its
release. The end of a sender's patience is one more time at which it is looked at: in mode R it is not tried then but
goes back (5.4.7), in mode N it is tried and, when that is in vain, its sender told.
"""

from __future__ import annotations

from collections.abc import Sequence

from qmailpy.values import Envelope, Reply

TOO_LATE = Reply(554, "5.4.7", "delivery time expired: the sender wanted it delivered by now, or returned")


def begins(envelope: Envelope) -> float:
    """From when on a message's age counts, in seconds since the epoch: it may go from then on."""
    return max(envelope.arrival, envelope.hold_until)


def kept(envelope: Envelope, next_attempt: float, now: float) -> bool:
    """
    Whether its sender wants a message to wait still, and no operator has let it go.

    @param next_attempt: that of a copy; before the release it is the release's, and sooner once an operator has spoken.
    """
    return now < envelope.hold_until <= next_attempt


def overdue(envelope: Envelope, now: float) -> bool:
    """Whether a message is to go back, its time being over (mode R)."""
    return envelope.by_mode.startswith("R") and now >= envelope.deliver_by


def limited(envelope: Envelope, when: float, now: float) -> float:
    """
    The time of a next attempt, not behind the end of the sender's patience as long as that is to come.

    @param when: as the channel's schedule has it.
    """
    return min(when, envelope.deliver_by) if envelope.by_mode and envelope.deliver_by > now else when


def warned_at(envelope: Envelope, warn_s: Sequence[float]) -> Sequence[float]:
    """
    The ages at which a delay notice is due, in any order.

    @param warn_s: those for all messages. The end of a sender's patience in mode N is one more; where it had ended when
        the message came, the sender knows (s.4.1.4.1).
    """
    patience = envelope.deliver_by - begins(envelope)
    return (*warn_s, patience) if envelope.by_mode.startswith("N") and patience > 0 else warn_s


def next_warning(envelope: Envelope, warn_s: Sequence[float], warned: int) -> float | None:
    """
    When the next delay notice about a copy is due, in seconds since the epoch; C{None}: there is none to come.

    @param warn_s: those for all messages.
    @param warned: how many are behind it (C{queue.notices.warnings_passed}).
    """
    if not envelope.sender:
        return None
    ages = warned_at(envelope, warn_s)
    return begins(envelope) + sorted(ages)[warned] if warned < len(ages) else None


def ends(envelope: Envelope, lifetime_s: float) -> float:
    """When a message goes back, if nothing else happens before, in seconds since the epoch."""
    last = begins(envelope) + lifetime_s
    return min(last, envelope.deliver_by) if envelope.by_mode.startswith("R") else last
