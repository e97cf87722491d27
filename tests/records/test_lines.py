"""Lines of a batch: the same octets as one by one, whatever the values are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.records.fields import LIMIT
from qmailpy.records.lines import Lines
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import LineFormat, process_field
from tests.records import strategies

AT = datetime(2007, 2, 16, 14, 54, 13).timestamp() + 0.72
FIRST = 7
"""The last number given out before."""

# Where the quick way ends: characters, ends and lengths that need a look, and their neighbours that need none.
EDGES = [
    *(f"a{char}b" for char in "\t\n\r\0\x1f\x7f\x80\xa0\xe9\\ \"'(\u2028\ud800\U0001f4a9"),
    *("", "(x", "x(", " ", " x", "x ", "()", '"', "-Feb-2007", "-Feb-2007 ", "16-Feb-2007 14:54:13.72 x", "-feb-2007 "),
    *("x" * length for length in (LIMIT - 200, LIMIT - 3, LIMIT, LIMIT + 1, 3 * LIMIT)),
]
anything = st.sampled_from(EDGES) | strategies.values
numbers = st.integers(-3, 3) | st.integers(0, 200) | st.integers(670, 700) | st.integers(-(10**12), 10**12)
files = st.builds(
    QueueFile,
    channel=st.sampled_from(["tcp_local", "local", "a/b"]) | anything,
    id=st.just("06kq9q5g5k3l0a0") | anything,
    attempts=st.just(0) | numbers,
    remaining=numbers,
    continued=st.booleans(),
)
odd: dict[str, st.SearchStrategy[Any]] = {
    "time": strategies.times | st.floats() | st.sampled_from([float("nan"), float("inf"), -1e300, 1e14]),
    "file": st.none() | files,
    "queue_time": st.none() | st.floats() | st.floats(0, 3) | st.integers(0, 10**7).map(lambda spent: spent / 1000),
    **dict.fromkeys(("size_octets", "notary"), numbers),
    **dict.fromkeys(
        ("source", "destination", "direction", "modifiers", "sender", "original_to", "current_to", "envelope_id"),
        anything,
    ),
    **dict.fromkeys(
        ("message_id", "user", "source_system", "subject", "reason", "diagnostic", "transport", "application"), anything
    ),
}
"""What a field may be that is not as it always is."""

PLAIN = LogRecord(
    action=Action.OPENED,
    time=AT,
    source="tcp_local",
    destination="local",
    modifiers="E",
    size_octets=1025,
    sender="a@example.net",
    original_to="b@example.com",
    current_to="c@example.com",
    notary=276,
    file=QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=0, remaining=1),
    envelope_id="e1",
    message_id="<0JE5@example.net>",
    user="joe@example.com",
    source_system="relay (relay.example.com [192.0.2.66])",
    subject="Hello (again)",
    reason="no such user",
    diagnostic="dns;mx (TCP|192.0.2.9|2788|198.51.100.7|25) (mx ESMTP) smtp;250 2.1.5 ok",
    queue_time=0.056,
    direction="+",
    transport="TCP|192.0.2.12|25|198.51.100.66|1244",
    application="SMTP",
)


@st.composite
def records(draw: st.DrawFn) -> LogRecord:
    """
    A record with a value in each field, that it has and that it has not; all are plain, but for a few: were more of
    them odd, hardly a line would be made the quick way.
    """
    action = draw(st.sampled_from([*Action, Action.ENQUEUED, Action.DEQUEUED, Action.OPENED]))
    record = evolve(PLAIN, action=action, time=AT + draw(st.integers(0, 9)) / 300)
    names = draw(st.lists(st.sampled_from(sorted(odd)), max_size=3))
    changes: dict[str, Any] = {name: draw(odd[name]) for name in names}
    return evolve(record, **changes)


options = st.just(LogConfig(notary=True, reason=True, envelope_id=True)) | strategies.options


def one_by_one(form: LineFormat, process: str, told: Sequence[LogRecord]) -> bytes:
    """What a batch is held against: the careful way only."""
    number, _, lane = process.partition(".")
    return b"".join(
        form.line(evolve(record, process=int(number, 16), lane=lane[:-1], sequence=sequence))
        for sequence, record in enumerate(told, FIRST + 1)
    )


class LinesTests(SynchronousTestCase):
    """Lines.make, held against LineFormat.line."""

    @given(st.lists(records(), min_size=1, max_size=3), options, anything)
    @settings(max_examples=400, deadline=None)
    def test_the_quick_way_writes_what_the_careful_way_writes(
        self, told: list[LogRecord], chosen: LogConfig, node: str
    ) -> None:
        """Any values, in fields that the action has and in those that it has not; any options; any moment."""
        made, having = Lines(LineFormat(chosen, node), "9f.0.").make(told, FIRST)
        self.assertEqual(made, one_by_one(LineFormat(chosen, node), "9f.0.", told))
        self.assertEqual(having, told)

    @given(st.data(), options, st.integers(0, 30))
    @settings(max_examples=200, deadline=None)
    def test_one_line_that_needs_a_look_does_not_change_the_others(
        self, data: st.DataObject, chosen: LogConfig, place: int
    ) -> None:
        """Whatever it is, and wherever it stands among many plain ones."""
        common = LogRecord(action=Action.DEQUEUED, time=AT, source="local", sender="a@b", diagnostic="ok", queue_time=1)
        told = [evolve(common, time=AT + index / 300, size_octets=index * 999) for index in range(31)]
        told[place] = data.draw(records())
        made, _ = Lines(LineFormat(chosen), "9f.0.").make(told, FIRST)
        self.assertEqual(made, one_by_one(LineFormat(chosen), "9f.0.", told))

    def test_each_edge_in_each_field_of_each_action(self) -> None:
        """Each in a batch of its own, all else being plain: chance would find few of them."""
        file = PLAIN.file
        assert file is not None
        changes: list[dict[str, Any]] = [
            {name: edge} for name, kind in odd.items() if kind is anything for edge in EDGES
        ]
        changes += [{"file": evolve(file, channel=edge)} for edge in EDGES] + [{"file": None}]
        changes += [{"file": evolve(file, id=edge)} for edge in EDGES]
        counts = (-1, 0, 1, 9, 10, 99, 100, 675, 676, 677, 20000)
        changes += [{"file": evolve(file, remaining=count, continued=True)} for count in counts]
        changes += [{"file": evolve(file, attempts=count)} for count in counts]
        changes += [{"queue_time": spent} for spent in (None, -1.0, 0.0, 0.0004, 0.0005, 0.9995, 1.0, 61.5, 1e13)]
        changes += [{"user": "", "diagnostic": "", "subject": "", "queue_time": None, "source_system": ""}]
        changes += [{"application": edge, "diagnostic": ""} for edge in EDGES]  # a blank behind it is left off
        for chosen in (LogConfig(), LogConfig(notary=True, reason=True, envelope_id=True, queue_time=False)):
            lines, form = Lines(LineFormat(chosen), "9f.0."), LineFormat(chosen)
            for action in Action:
                for change in changes:
                    told = [evolve(PLAIN, action=action, **change)]
                    self.assertEqual(lines.make(told, FIRST)[0], one_by_one(form, "9f.0.", told), (action, change))

    def test_a_second_that_begins_within_a_batch_is_seen(self) -> None:
        """Stamps are remembered by the hundredth; two that differ in another second are two."""
        told = [
            LogRecord(action=Action.OPENED, time=at, source="tcp_local", direction="+", transport="x", application="y")
            for at in (AT, AT + 0.28, AT + 1, AT, AT + 0.001, AT + 86400, AT + 1)
        ]
        made, _ = Lines(LineFormat(LogConfig()), "9f.0.").make(told, FIRST)
        self.assertEqual(made, one_by_one(LineFormat(LogConfig()), "9f.0.", told))
        self.assertEqual(len({line[:23] for line in made.splitlines()}), 4)

    def test_a_record_without_a_line_takes_no_number(self) -> None:
        """A value of a wrong type, by a bug: the others have their lines all the same, numbered on."""
        good = LogRecord(action=Action.OPENED, time=AT, source="tcp_local", direction="+", transport="x")
        bad = evolve(good, transport=cast(Any, 5))
        told = [good, bad, evolve(good, transport="second")]
        made, having = Lines(LineFormat(LogConfig()), process_field(0x9F, "0")).make(told, FIRST)
        self.assertEqual(having, [told[0], told[2]])
        self.assertEqual(made, one_by_one(LineFormat(LogConfig()), "9f.0.", having))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_nothing_makes_no_line(self) -> None:
        self.assertEqual(Lines(LineFormat(LogConfig()), "9f.0.").make([], FIRST), (b"", []))
