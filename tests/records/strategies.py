"""Records that a line can hold: what hypothesis draws for the tests of the books."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from qmailpy.config.schema import LogConfig
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import CONNECTION

HOSTILE = '\r\n\t\x1b\0\x7f\x85\x9b\\ "()<>;|*+-./\u2028\u202e\ud800\udcff\u00a0\u00e9\U0001f4a9abc01Jn:'
DATES = st.sampled_from(["02-Jan-2025 10:00:00.00 ", "02-Jan-2025", "10:00:00.00", "x02-Jan-2025 ", "\\x2d"])

values = st.one_of(
    st.just(""),
    st.text(max_size=20),
    st.text(alphabet=HOSTILE, max_size=20),
    DATES,
    st.sampled_from(["a@example.org", "<0JE1@example.com>", "helo (name [192.0.2.1])", " (x) y", "x (y", "ends ", "-"]),
)
names = st.sampled_from(["tcp_local", "local", "process", "a_very_long_channel_name", "x y", ""])
# In January: the hours that summer time repeats have a test of their own.
times = st.builds(
    lambda year, hundredths: (round(datetime(year, 1, 2).timestamp()) * 100 + hundredths) / 100,
    st.integers(1971, 2090),
    st.integers(0, 25 * 8_640_000),
)
files = st.builds(
    QueueFile,
    channel=st.sampled_from(["tcp_local", "local", "a/b"]),
    id=st.text(alphabet="0123456789abcdefghijklmnopqrstuv", min_size=15, max_size=15),
    attempts=st.integers(0, 800) | st.integers(0, 10**6),
    remaining=st.integers(0, 5000),
    continued=st.booleans(),
)
options = st.builds(
    LogConfig,
    process=st.booleans(),
    node=st.booleans(),
    filename=st.booleans(),
    message_id=st.booleans(),
    envelope_id=st.booleans(),
    username=st.booleans(),
    connection=st.booleans(),
    notary=st.booleans(),
    reason=st.booleans(),
    diagnostics=st.booleans(),
    subject=st.booleans(),
    queue_time=st.booleans(),
)


@st.composite
def records(draw: st.DrawFn, chosen: LogConfig) -> LogRecord:
    """A record with those fields only that its action has and the options log."""
    action = draw(st.sampled_from(list(Action)))
    fields: dict[str, Any] = {
        "modifiers": draw(st.sampled_from(["", "E", "ECSA", "L"])),
        "source": draw(names),
    }
    if chosen.process:
        fields |= {
            "process": draw(st.integers(0, 1 << 22)),
            "lane": draw(values),
            "sequence": draw(st.integers(0, 9**15)),
        }
    if chosen.diagnostics and action is not Action.ENQUEUED:
        fields["diagnostic"] = draw(values)
    if action in CONNECTION:
        fields |= {"direction": draw(st.sampled_from("+-")), "transport": draw(values), "application": draw(values)}
        if chosen.username and action is Action.AUTHENTICATED:
            fields["user"] = draw(values)
        return LogRecord(action=action, time=draw(times), **fields)
    fields["destination"] = draw(names)
    fields["size_octets"] = draw(st.integers(0, 100_000)) * 1024
    for name in ("sender", "original_to", "current_to"):
        fields[name] = draw(values)
    if action not in {Action.BAD_COMMAND, Action.ABORTED}:
        if chosen.notary:
            fields["notary"] = draw(st.integers(0, 1023))
        if chosen.filename:
            fields["file"] = draw(st.none() | files)
        if chosen.envelope_id:
            fields["envelope_id"] = draw(values)
        if chosen.message_id:
            fields["message_id"] = draw(values)
    if chosen.username:
        fields["user"] = draw(values)
    if chosen.connection and action in {Action.ENQUEUED, Action.REJECTED, Action.BAD_COMMAND, Action.ABORTED}:
        fields["source_system"] = draw(values)
    if action is Action.ENQUEUED and chosen.subject:
        fields["subject"] = draw(values)
    if action in {Action.FAILED, Action.SILENCED} and chosen.reason:
        fields["reason"] = draw(values)
    if action in {Action.DEQUEUED, Action.FAILED, Action.SILENCED} and chosen.queue_time:
        fields["queue_time"] = draw(st.none() | st.integers(0, 10**10).map(lambda spent: spent / 1000))
    return LogRecord(action=action, time=draw(times), **fields)
