"""
What the channels of a lane have last done, and which errors they met, since the process began: for the objects of
RFC 2789 that no counter tells (L{qmailpy.watch.mib}).

Made from the records as they are counted. Of those that tell of nothing but work done, only the last of a batch is
looked at; the rest is for failures. It is in memory alone: a process that starts begins anew, as the RFC has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import define, field

from qmailpy.records.record import Action, LogRecord

CODES = 200
"""Different status codes of a channel that are counted apart: peers choose them. Others count for their class."""

REASON = 255
"""Characters of a reason that are kept."""

NEVER = "never"
_INBOUND, _INTERNAL, _OUTBOUND = 0, 1, 2
_CLASS = {Action.DEFERRED: 4, Action.PARTLY: 4, Action.FAILED: 5, Action.SILENCED: 5, Action.REJECTED: 5}
_TROUBLE = frozenset({*_CLASS, Action.REFUSED, Action.UNREACHED})
_NOTED = frozenset({*_TROUBLE, Action.OPENED})
_CODE = re.compile(r"([245])\d\d(?:[ -]([245])\.(\d{1,3})\.(\d{1,3})(?!\d))?")
_PEER = re.compile(r"(?:^| )smtp;(.*)")


@define(eq=False)
class ChannelActivity:
    """Of one channel. Times are seconds since the epoch; 0 = never."""

    last_in: float = 0.0  # a connection to it, or a message it enqueued
    last_out: float = 0.0  # a connection it opened, or a message it delivered
    last_attempt: float = 0.0  # it tried to open a connection
    failed_out: int = 0  # connections that could not be opened
    refused: str = NEVER  # why a connection to it was refused last
    unreached: str = NEVER  # why the last connection it tried was not made; "" = it was
    errors: dict[int, list[int]] = field(factory=dict)  # status code: inbound, internal, outbound


def status_code(action: Action, diagnostic: str) -> int:
    """C{((class * 1000) + subject) * 1000 + detail} of RFC 2789, of what a record says."""
    peer = _PEER.search(diagnostic)
    found = _CODE.match(peer[1] if peer is not None else diagnostic)
    if found is None:
        return _CLASS.get(action, 4) * 1_000_000
    if found[2] is None:
        return int(found[1]) * 1_000_000
    return (int(found[2]) * 1000 + int(found[3])) * 1000 + int(found[4])


class Activity:
    """Of all channels of a lane."""

    def __init__(self) -> None:
        self.channels: dict[str, ChannelActivity] = {}

    def count(self, records: Sequence[LogRecord]) -> None:
        """A batch of records, in their order."""
        last = {(record.action, record.source, record.direction): record.time for record in records}
        trouble = False
        for (action, source, direction), time in last.items():
            if action in _TROUBLE:
                trouble = True
                continue
            one = self._of(source)
            if action is Action.ENQUEUED:
                one.last_in = max(one.last_in, time)
            elif action is Action.DEQUEUED:
                one.last_out = max(one.last_out, time)
            elif action is Action.OPENED and direction == "+":
                one.last_in = max(one.last_in, time)
            elif action is Action.OPENED:
                one.last_attempt = time
                one.last_out = max(one.last_out, time)
                one.unreached = ""
        if trouble:
            for record in records:
                if record.action in _NOTED:
                    self._note(record)

    def _of(self, channel: str) -> ChannelActivity:
        found = self.channels.get(channel)
        if found is None:
            found = self.channels[channel] = ChannelActivity()
        return found

    def _note(self, record: LogRecord) -> None:
        one, action = self._of(record.source), record.action
        if action is Action.OPENED:
            if record.direction == "-":
                one.unreached = ""
        elif action is Action.UNREACHED:
            one.last_attempt = max(one.last_attempt, record.time)
            one.failed_out += 1
            one.unreached = record.diagnostic[:REASON]
        elif action is Action.REFUSED:
            one.refused = record.diagnostic[:REASON]
        elif record.file is None or not record.file.continued or action is Action.REJECTED:
            self._error(one, record)

    def _error(self, one: ChannelActivity, record: LogRecord) -> None:
        where = _INBOUND
        if record.action is not Action.REJECTED:
            said = record.diagnostic
            where = _OUTBOUND if said.startswith(("dns;", "TCP ")) or "smtp;" in said else _INTERNAL
        code = status_code(record.action, record.diagnostic)
        counts = one.errors.get(code)
        if counts is None:
            if len(one.errors) >= CODES:
                code -= code % 1_000_000
            counts = one.errors.setdefault(code, [0, 0, 0])
        counts[where] += 1


def as_json(lanes: Iterable[Activity]) -> dict[str, Any]:
    """Of several lanes together, by channel, for the control method C{figures}."""
    found: dict[str, dict[str, Any]] = {}
    for lane in lanes:
        for channel, one in lane.channels.items():
            row = found.setdefault(
                channel,
                {
                    "in": 0.0,
                    "out": 0.0,
                    "attempt": 0.0,
                    "failed": 0,
                    "refused": NEVER,
                    "unreached": NEVER,
                    "errors": {},
                },
            )
            if one.last_attempt >= row["attempt"] and one.last_attempt:
                row["unreached"] = one.unreached
            if one.refused != NEVER:
                row["refused"] = one.refused
            row["in"] = max(row["in"], one.last_in)
            row["out"] = max(row["out"], one.last_out)
            row["attempt"] = max(row["attempt"], one.last_attempt)
            row["failed"] += one.failed_out
            errors = row["errors"]
            for code, counts in one.errors.items():
                before = errors.get(str(code), [0, 0, 0])
                errors[str(code)] = [a + b for a, b in zip(before, counts, strict=True)]
    return found
