"""
The Message-ID of what the server writes itself: C{<KIND.WORD@HOST>}.

The kind is there for C{qmailpy trace}: the transaction log has the Message-ID of every message, and so a notice is
called by its name long after it has gone. Anybody may write such an id, so it is believed only of mail that the log
says was made here.
"""

from __future__ import annotations

import re
from enum import Enum


class NoticeKind(Enum):
    """What the server writes."""

    BOUNCE = "bounce"  # recipients were given up
    DOUBLE_BOUNCE = "double-bounce"  # of a notice, to the postmaster
    DELAY = "delay"  # not delivered yet
    SUCCESS = "success"  # delivered, or gone where nothing more is heard of it
    REPLY = "reply"  # of a user who is away
    QUOTA = "quota"  # a mailbox is nearly full


_FORM = re.compile(rf"<({'|'.join(kind.value for kind in NoticeKind)})\.[0-9A-Za-z]+@[^<>]*>")


def notice_id(kind: NoticeKind, word: str) -> str:
    """The part before the C{@}. @param word: an unpredictable one, of letters and digits."""
    return f"{kind.value}.{word}"


def kind_of(message_id: str) -> NoticeKind | None:
    """What a message of our own making is; C{None}: its Message-ID does not tell."""
    found = _FORM.fullmatch(message_id)
    return NoticeKind(found.group(1)) if found is not None else None
