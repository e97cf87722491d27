"""A message's lines of the transaction log in plain words."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qmailpy.cli.indexed import clock
from qmailpy.cli.said import said
from qmailpy.queue.ids import born, is_id, to_number
from qmailpy.records.index import Indexed
from qmailpy.records.record import JOURNAL, Action, LogRecord
from qmailpy.records.removed import DELETED, SET_ASIDE, TAKEN_OUT, removed
from qmailpy.wire.notice_id import NoticeKind, kind_of

_LEFT = frozenset({Action.DEQUEUED, Action.FAILED, Action.SILENCED})
_PROTOCOLS = (("L", "LMTP"), ("E", "ESMTP"))
NULL = "<> (a notice)"
_HOUR_S = 3600.0
_LATE_S = 1.0  # lines of several processes are not quite in order

_MADE = {
    NoticeKind.BOUNCE: "bounce of",
    NoticeKind.DOUBLE_BOUNCE: "double bounce of",
    NoticeKind.DELAY: "delay notice about",
    NoticeKind.SUCCESS: "success report about",
    NoticeKind.REPLY: "automatic reply to",
    NoticeKind.QUOTA: "quota warning after",
}
"""What a title calls mail that was made here, with the queue id of the message it comes from behind it."""


def story(mail: Indexed, records: Sequence[LogRecord], related: dict[str, Indexed]) -> list[str]:
    """
    What happened to a message, a line an event, the first being its title.

    @param related: messages of the family by queue id.
    """
    if not records:
        return [f"{clock(mail.time)}  {mail.id or 'refused mail'}: no lines"]
    times = _times(mail, records)
    lines = [_title(mail, records[0], related)]
    before = times[0]
    for at, record in zip(times, records, strict=True):
        lines.append(f"  {_when(at, before, record is records[0])}  {_event(record)}")
        before = at
    if mail.id:
        onward = [one.id for one in related.values() if one.parent == mail.id and one.message_id == mail.message_id]
        lines.append(f"  {'':>12}  {_end(records, onward, times[-1] - times[0])}")
    return lines


def span(seconds: float) -> str:
    """How long something took."""
    if seconds < 100:
        return f"{seconds:.2f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def _title(mail: Indexed, first: LogRecord, related: dict[str, Indexed]) -> str:
    if not mail.id:
        return f"{clock(mail.time)}  refused at the door"
    kind = "message"
    parent = related.get(mail.parent)
    if mail.parent and first.message_id and (parent is None or parent.message_id != first.message_id):
        made = kind_of(first.message_id)
        kind = f"{_MADE[made] if made else 'notice about'} {mail.parent}"
    elif mail.parent and first.source_system.endswith(JOURNAL):
        kind = f"copy kept of {mail.parent}"
    elif mail.parent:
        kind = f"{mail.parent} handed on"
    elif not first.sender:
        kind = "notice"
    size = f"{first.size_octets // 1024} KiB"
    sender = first.sender or "<>"
    subject = f', "{first.subject}"' if first.subject else ""
    words = f"{kind} from {sender}{subject}, {size}, Message-ID {first.message_id or '(none)'}"
    return f"{clock(mail.time)}  {mail.id}: {words}"


def _when(at: float, before: float, first: bool) -> str:
    if first:
        return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 100) % 100:02d} "
    return f"{'+' + span(max(0.0, at - before)):>12}"


def _event(record: LogRecord) -> str:
    to = record.current_to
    if record.original_to and record.original_to != to:
        to = f"{to} (addressed as {record.original_to})"
    answered = said(record.diagnostic)
    words = answered.words
    text = f": {words}" if words else ""
    spent = f", {span(record.queue_time)} in the queue" if record.queue_time is not None else ""
    attempt = f" (attempt {record.file.attempts + 1})" if record.file is not None else ""
    action = record.action
    tls = answered.tls or ("TLS" if "S" in record.modifiers else "")
    secure = f"{f' at {answered.host}' if answered.host else ''}{f', {tls}' if tls else ''}"
    if action is Action.ENQUEUED:
        return f"accepted{_origin(record)} for {to}, into the queue of {record.destination}"
    if action is Action.DEQUEUED and record.diagnostic in (SET_ASIDE, TAKEN_OUT):
        return f"not delivered to {to} from {record.source}: {record.diagnostic}"
    if removed(record) and record.diagnostic != DELETED:
        return f"discarded by a conversion in {record.source}, for {to}{spent}"
    if removed(record):
        return f"deleted by the operator, for {to} in the queue of {record.source}{spent}"
    if action is Action.DEQUEUED:
        return f"delivered to {to} by {record.source}{secure}{attempt}{spent}{text}"
    if action in {Action.DEFERRED, Action.PARTLY}:
        return f"not yet delivered to {to} by {record.source}{secure}{attempt}{text}"
    if action is Action.FAILED:
        return f"given up for {to} by {record.source}{secure}{attempt}{spent}{text}"
    if action is Action.SILENCED:
        return (
            f"given up for {to} by {record.source}, without telling the sender, who did not want to know{spent}{text}"
        )
    if action is Action.WARNED:
        return f"the sender was told that {to} has not got it yet"
    if action is Action.REJECTED:
        return f"refused{_origin(record)}, from {record.sender or NULL} for {to}{text}"
    if action is Action.ABORTED:
        return f"the client went away before the mail for {to} was complete{text}"
    return f"{action.name.lower()} {to}{text}"


def _origin(record: LogRecord) -> str:
    """From where and how, as far as the line tells."""
    letters = record.modifiers
    words = next((name for letter, name in _PROTOCOLS if letter in letters), "")
    how = [words] if words else []
    how += ["TLS"] if "S" in letters else []
    how += [f"login {record.user}"] if record.user else []
    system = record.source_system
    system = system.removesuffix(JOURNAL)
    text = f" from message {system}" if is_id(system) else f" from {system}" if system else ""
    return f"{text} on {record.source}{' by ' if how else ''}{', '.join(how)}"


def _times(mail: Indexed, records: Sequence[LogRecord]) -> list[float]:
    """
    When its lines were written, in seconds since the epoch.

    The log's clock is local, and in the hour that the end of summer time repeats it does not tell which is meant. What
    does is the time that the id holds, and that no line is earlier than the one before it.
    """
    begun = born(to_number(mail.id)) if is_id(mail.id) else 0.0
    begun = begun if abs(begun - records[0].time) < 2 * _HOUR_S else 0.0
    found: list[float] = []
    for record in records:
        earliest = (found[-1] if found else begun) - _LATE_S
        found.append(next((at for at in _readings(record.time) if at >= earliest), record.time))
    return found


def _readings(at: float) -> list[float]:
    """The moments at which the clock on the wall stood like that, the earliest first: nearly always one."""
    wall = time.localtime(at)[:6]
    shifts = (-_HOUR_S, -_HOUR_S / 2, 0.0, _HOUR_S / 2, _HOUR_S)
    return [at + shift for shift in shifts if time.localtime(at + shift)[:6] == wall]


def _end(records: Sequence[LogRecord], onward: Sequence[str], seconds: float) -> str:
    """
    How it stands after the last line.

    @param onward: queue ids of what it was handed on as. @param seconds: between first and last line.
    """
    waiting: dict[tuple[str, str], int] = {}
    given_up = 0
    for record in records:
        channel = record.destination if record.action is Action.ENQUEUED else record.source
        key = (channel, record.current_to)
        if record.action is Action.ENQUEUED:
            waiting[key] = waiting.get(key, 0) + 1
        elif record.action in _LEFT:
            given_up += record.action is not Action.DEQUEUED or removed(record)
            left = waiting.get(key, 0) - 1
            if left > 0:
                waiting[key] = left
            else:
                waiting.pop(key, None)
    if waiting:
        names = [f"{to} ({channel})" for channel, to in list(waiting)[:10]]
        more = f" and {len(waiting) - 10} more" if len(waiting) > 10 else ""
        return f"still in the queue for {', '.join(names)}{more}, by the log"
    took = span(max(0.0, seconds))
    failed = f"{given_up} recipient{'s' * (given_up != 1)} did not get it"
    if onward:
        return f"finished after {took}: handed on as {', '.join(onward[:10])}" + (f"; {failed}" if given_up else "")
    return f"finished after {took}: {failed if given_up else 'all have it'}"
