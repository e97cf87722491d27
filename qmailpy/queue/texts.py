"""What messages say, as far as the queue manager compares and shows it: the subject, and the beginning of the body."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from qmailpy.queue.content import FileContent
from qmailpy.queue.entries import CONTENT, QueueEntry, QueueFilter
from qmailpy.values import Content
from qmailpy.wire.headers import find, split
from qmailpy.wire.mime_values import decode_words

FIRST = 8192
"""Octets read of a message in a file; most headers are shorter."""

HEADER = 65536
"""Octets of a message that are looked at for its subject and the beginning of its body."""

SUBJECT = 998
"""Characters of a subject that are compared and shown."""


def text_of(octets: bytes) -> tuple[str, str]:
    """Subject, its encoded words read, and beginning of the body of a message. @param octets: its first ones."""
    header, body = split(octets)
    subject = decode_words(find(header, "subject").get("subject", ""))
    return subject[:SUBJECT], body[:CONTENT].decode("utf-8", "replace")


def thd_texts(contents: Sequence[tuple[str, Content]]) -> dict[str, tuple[str, str]]:
    """The same of messages by their ids; empty for one that cannot be read (any more)."""
    return {queue_id: text_of(_thd_first(content)) for queue_id, content in contents}


def _thd_first(content: Content) -> bytes:
    try:
        if not isinstance(content, FileContent):
            return content.read()[:HEADER]
        octets = content.piece(0, FIRST)
        if len(octets) == FIRST and 0 <= octets.find(b"\r\n\r\n") <= FIRST - 4 - CONTENT:
            return octets
        return octets if len(octets) < FIRST else octets + content.piece(FIRST, HEADER - FIRST)
    except OSError:
        return b""


def with_text(entry: QueueEntry, subject: str, body: str, wanted: QueueFilter) -> QueueEntry | None:
    """The entry with what its message says, where that is asked for; C{None} when it is not wanted for it."""
    if not wanted.admits_text(subject, body):
        return None
    return evolve(entry, subject=subject, body=body) if wanted.texts else entry
