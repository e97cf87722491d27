"""
Which lines of the log tell of mail that a channel hands on, and not of mail that came or was delivered.

A message that is converted on its way from C{tcp_local} to C{local} has four lines (docs/channels.md): who adds up what
people sent and got wants the first and the last of them. Told by the line alone, and by which channel is of which kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from qmailpy.config.schema import LogConfig
from qmailpy.records.record import JOURNAL, Action, LogRecord, parent_of
from qmailpy.wire.notice_id import NoticeKind, kind_of

PASSING: Mapping[str, str] = {
    name: name for name in ("conversion", "process", "reprocess", "defragment", "hold", "autoreply")
}
"""Kinds of channels that no mail ends in; by the names that such channels have unless an operator chose others."""


_QUEUE_ID = re.compile(rb"[0-9a-v]{15}").fullmatch
_OURS = tuple(f"<{kind.value}.".encode() for kind in NoticeKind)


class Quick:
    """L{handed_on} of an E line without modifiers, by its octets."""

    def __init__(self, kinds: Mapping[str, str], options: LogConfig) -> None:
        """@param options: those the log was written with."""
        self._passing = frozenset(name.encode() for name, kind in kinds.items() if kind in PASSING)
        self._away = frozenset(name.encode() for name, kind in kinds.items() if kind == "autoreply")
        self._system_at = 2 + options.notary + options.filename + options.envelope_id
        self._id_at = self._system_at if options.message_id else 0
        self._system_at += options.message_id + options.username
        self._with_system = options.connection

    def __call__(self, source: bytes, destination: bytes, tail: bytes) -> bool | None:
        """
        @param tail: what follows C{rfc822;}; without backslashes.
        @return: C{None}: this does not tell, but the record will.
        @raise IndexError: the line is short.
        """
        if destination in self._away:
            return True
        fields = tail.split(b" ", self._system_at + 1)
        comes = fields[self._system_at] if self._with_system and len(fields) > self._system_at else b""
        parent = _QUEUE_ID(comes) is not None and fields[-1][:1] != b"("
        if not parent and (comes or source not in self._passing):
            return False
        return None if self._id_at and fields[self._id_at].startswith(_OURS) else True


def handed_on(record: LogRecord, kinds: Mapping[str, str]) -> bool:
    """
    @param kinds: the kind of each channel, by its name.
    @return: C{record} is a D line of such a channel, or an E line by which a message goes on that was queued before.
    """
    source = kinds.get(record.source, "")
    if record.action is Action.DEQUEUED:
        return source in PASSING
    if record.action is not Action.ENQUEUED or record.modifiers:  # with modifiers it came by a protocol
        return False
    destination = kinds.get(record.destination, "")
    if destination == "autoreply":  # it has been delivered; whether it is answered is seen there
        return True
    if record.source_system.endswith(JOURNAL):
        return False
    if not parent_of(record) and (record.source_system or source not in PASSING):
        return False
    if kind_of(record.message_id) is None:
        return True
    # What we wrote ourselves is new where it begins: notices go to a channel of kind process, answers anywhere.
    return source in PASSING and source != "autoreply" and destination != "process"
