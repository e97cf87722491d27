"""Histories of messages as a queue records them: what the tests of the books count."""

from __future__ import annotations

from hypothesis import strategies as st

from qmailpy.records.record import Action, LogRecord, QueueFile

CHANNELS = ("tcp_local", "local", "process", "conversion")


@st.composite
def copies(draw: st.DrawFn) -> list[LogRecord]:
    """All that happens to one message copy, perhaps not to its end; queue times are whole milliseconds."""
    source, channel = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    queue_id = f"{draw(st.integers(0, 10**12)):015d}"
    size = draw(st.integers(0, 5000))
    recipients = [f"r{number}@example.org" for number in range(draw(st.integers(1, 3)))]

    def line(action: Action, to: str, remaining: int, continued: bool, attempts: int = 0) -> LogRecord:
        enqueue = action is Action.ENQUEUED
        return LogRecord(
            action=action,
            time=1e9,
            source=source if enqueue else channel,
            destination=channel if enqueue else "",
            size_octets=size if enqueue else -(-size // 1024) * 1024,
            sender="a@example.net",
            original_to=to,
            current_to=to,
            file=QueueFile(channel=channel, id=queue_id, attempts=attempts, remaining=remaining, continued=continued),
            queue_time=draw(st.integers(0, 100_000)) / 1000 if action in _TIMED else None,
        )

    found = [line(Action.ENQUEUED, to, len(recipients), number > 0) for number, to in enumerate(recipients)]
    for attempt in range(draw(st.integers(0, 3))):
        begun: set[Action] = set()
        left = list(recipients)
        for to in left:
            action = draw(st.sampled_from([Action.DEQUEUED, Action.FAILED, Action.SILENCED, Action.DEFERRED]))
            if action is not Action.DEFERRED:
                recipients.remove(to)
            found.append(line(action, to, len(recipients), action in begun, attempt))
            begun.add(action)
        if not recipients:
            break
    return found


_TIMED = {Action.DEQUEUED, Action.FAILED, Action.SILENCED}


@st.composite
def others(draw: st.DrawFn) -> list[LogRecord]:
    """Refused mail and connections."""
    action = draw(st.sampled_from([Action.REJECTED, Action.OPENED, Action.CLOSED, Action.BAD_COMMAND, Action.WARNED]))
    if action in {Action.OPENED, Action.CLOSED}:
        direction = draw(st.sampled_from("+-"))
        return [LogRecord(action=action, time=1e9, source="tcp_local", direction=direction, transport="TCP|a|1|b|2")]
    return [LogRecord(action=action, time=1e9, source="tcp_local", size_octets=draw(st.integers(0, 9)) * 1024)]


@st.composite
def histories(draw: st.DrawFn, most: int = 8) -> list[LogRecord]:
    """Several copies and other events, one after the other."""
    return [record for part in draw(st.lists(copies() | others(), max_size=most)) for record in part]
