"""
Which lines of the log tell of mail that a channel hands on, and not of mail that came or was delivered.

A message that is converted on its way from C{tcp_local} to C{local} has four lines (docs/channels.md): who adds up what
people sent and got wants the first and the last of them. Told by the line alone, and by which channel is of which kind.
"""

from __future__ import annotations

from collections.abc import Mapping

from qmailpy.records.record import Action, LogRecord, parent_of
from qmailpy.wire.notice_id import kind_of

PASSING: Mapping[str, str] = {
    name: name for name in ("conversion", "process", "reprocess", "defragment", "hold", "autoreply")
}
"""Kinds of channels that no mail ends in; by the names that such channels have unless an operator chose others."""


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
    if not parent_of(record) and (record.source_system or source not in PASSING):
        return False
    if kind_of(record.message_id) is None:
        return True
    # What we wrote ourselves is new where it begins: notices go to a channel of kind process, answers anywhere.
    return source in PASSING and source != "autoreply" and destination != "process"
