"""
Extensions of SMTP that say when, how soon and how safely a message is to go: rows for a L{Service
<qmailpy.wire.smtp_service.Service>}, one each, so that a listener announces what it takes and nothing else.

    BINARYMIME       RFC 3030 s.3    BODY=BINARYMIME
    MT-PRIORITY      RFC 6710        MT-PRIORITY=-9 .. 9
    FUTURERELEASE    RFC 4865        HOLDFOR=seconds, HOLDUNTIL=date-time
    DELIVERBY        RFC 2852        BY=seconds;mode
    REQUIRETLS       RFC 8689        REQUIRETLS
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from qmailpy.values import Reply
from qmailpy.wire.smtp_events import DeliverBy, Hold
from qmailpy.wire.smtp_service import Extension, Limits

_SECONDS = re.compile(r"[0-9]{1,9}")
_SIGNED = re.compile(r"[+-]?[0-9]{1,9}")
_PRIORITY = re.compile(r"0|-?[1-9]")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_BY_MODES = ("N", "R", "NT", "RT")

TOO_LATE = Reply(501, "5.5.4", "Message would be held for longer than is allowed here")


def _binary(value: str | None, limits: Limits) -> str | Reply:
    """RFC 3030 s.3, RFC 6152 s.2."""
    body = (value or "").upper()
    known = body in ("7BIT", "8BITMIME", "BINARYMIME")
    return body if known else Reply(501, "5.5.4", "BODY is 7BIT, 8BITMIME or BINARYMIME")


def _mt_priority(value: str | None, limits: Limits) -> int | Reply:
    """RFC 6710 s.3, priority-value."""
    if _PRIORITY.fullmatch(value or "") is None:
        return Reply(501, "5.5.4", "MT-PRIORITY is a number from -9 to 9")
    return int(value or "")


def _hold_for(value: str | None, limits: Limits) -> Hold | Reply:
    """RFC 4865 s.4: seconds, up to nine digits."""
    if _SECONDS.fullmatch(value or "") is None:
        return Reply(501, "5.5.4", "HOLDFOR needs a number of seconds")
    seconds = int(value or "")
    return Hold(seconds=seconds) if seconds <= limits.hold_s else TOO_LATE


def _hold_until(value: str | None, limits: Limits) -> Hold | Reply:
    """RFC 4865 s.4: a date-time of RFC 3339. Whether that is too late is for those to say who have a clock."""
    text = (value or "").upper()
    try:
        if _DATE_TIME.fullmatch(text) is not None:
            return Hold(until=datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        pass
    return Reply(501, "5.5.4", "HOLDUNTIL needs a date and time, as in 2030-01-31T12:00:00Z")


def _by(value: str | None, limits: Limits) -> DeliverBy | Reply:
    """RFC 2852 s.4: by-time, by-mode and by-trace; a message that is to come back must have some time left."""
    text, sign, mode = (value or "").upper().partition(";")
    if not sign or _SIGNED.fullmatch(text) is None or mode not in _BY_MODES:
        return Reply(501, "5.5.4", "BY needs seconds and a mode, as in 3600;R")
    if int(text) <= 0 and mode.startswith("R"):
        return Reply(501, "5.5.4", "BY with mode R needs a time to come")
    return DeliverBy(int(text), mode)


def _require_tls(value: str | None, limits: Limits) -> bool | Reply:
    """RFC 8689 s.4.1: a parameter without a value."""
    return True if value is None else Reply(501, "5.5.4", "REQUIRETLS takes no value")


def date_time(moment: float) -> str:
    """RFC 3339 in UTC, to the second. @param moment: seconds since the epoch."""
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


BINARYMIME = Extension(keyword="BINARYMIME", mail={"BODY": ("body", _binary)})
"""Takes the place of 8BITMIME's parser of BODY: to be announced with 8BITMIME and CHUNKING, and behind them."""

MT_PRIORITY = Extension(keyword="MT-PRIORITY", mail={"MT-PRIORITY": ("mt_priority", _mt_priority)})

FUTURERELEASE = Extension(
    keyword="FUTURERELEASE",
    dated=lambda limits, now: f"{limits.hold_s} {date_time(now + limits.hold_s)}",
    mail={"HOLDFOR": ("hold", _hold_for), "HOLDUNTIL": ("hold", _hold_until)},
)
"""Both parameters fill one field, so that a message has one of them at most (s.4)."""

DELIVERBY = Extension(keyword="DELIVERBY", mail={"BY": ("by", _by)})
"""No least time is announced (s.3): whatever a client asks for is tried."""

REQUIRETLS = Extension(keyword="REQUIRETLS", mail={"REQUIRETLS": ("require_tls", _require_tls)})
"""To be announced under TLS only (RFC 8689 s.3)."""
