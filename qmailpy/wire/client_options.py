"""
What a message asks for on its way, as parameters of MAIL for a peer that offers them.
"""

from __future__ import annotations

from collections.abc import Mapping

from qmailpy.values import Reply
from qmailpy.wire.client_events import Transaction


def options(transaction: Transaction, extensions: Mapping[str, str]) -> bytes:
    """
    The parameters, with a blank before each.

    @param extensions: of the peer, as of C{SmtpClient.extensions}.
    """
    found = b""
    if transaction.mt_priority and "MT-PRIORITY" in extensions:
        found += b" MT-PRIORITY=%d" % transaction.mt_priority
    if transaction.by_mode and "DELIVERBY" in extensions:
        found += b" BY=%d;%b" % (transaction.by_seconds, transaction.by_mode.encode("ascii"))
    return found


def refusal(transaction: Transaction, extensions: Mapping[str, str]) -> Reply | None:
    """
    Why a peer cannot be given the message.

    RFC 2852 s.4.1.4.2: what is to come back when it is late does not go to a host that would not send it back; nor to
    one that says it needs longer than there is (s.3, min-by-time).
    """
    if transaction.by_mode.startswith("R"):
        if "DELIVERBY" not in extensions:
            return Reply(554, "5.4.7", "Host does not know DELIVERBY, which the sender wants")
        least = extensions["DELIVERBY"]
        if least.isdecimal() and transaction.by_seconds < int(least[:19]):
            return Reply(554, "5.4.7", f"Host needs {least} seconds, the sender gives {transaction.by_seconds}")
    return None


def seconds_left(deliver_by: float, now: float) -> int:
    """What is left of a sender's patience: at least 1 until it ends, less than 0 from then on (s.4.1.4.1)."""
    left = int(deliver_by - now)
    return max(left, 1) if deliver_by > now else min(left, -1)
