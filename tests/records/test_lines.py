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
from qmailpy.records.lines import Lines
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import LIMIT, LineFormat, process_field
from tests.records import strategies

AT = datetime(2007, 2, 16, 14, 54, 13).timestamp() + 0.72
FIRST = 7
"""The last number given out before."""

# Where the quick way ends: characters, ends and lengths that need a look, and their neighbours that need none.
edges = st.sampled_from(
    [
        *(f"a{char}b" for char in "\t\n\r\0\x1f\x7f\x80\xa0\xe9\\ \"'(\u2028\ud800\U0001f4a9"),
        *("(x", "x(", " ", " x", "x ", "()", '"', "-Feb-2007", "-Feb-2007 ", "16-Feb-2007 14:54:13.72 x", "-feb-2007 "),
        *("x" * length for length in (LIMIT - 200, LIMIT - 3, LIMIT, LIMIT + 1, 3 * LIMIT)),
    ]
)
plain = st.sampled_from(["", "a@example.org", "<0JE1@example.com>", "mail.example.org", "TCP|192.0.2.1|25|192.0.2.2|9"])
anything = st.one_of(plain, plain, edges, strategies.values)
words = st.one_of(plain, plain, plain, plain, anything)
texts = st.one_of(
    st.sampled_from(["", "2.1.5 delivered to it", "dns;mx (TCP|1|2|3|4) (x) smtp;250 2.0.0 Ok"]), anything
)
systems = st.one_of(st.sampled_from(["", "helo ([192.0.2.1])", "helo (name [192.0.2.1])"]), anything)
numbers = st.integers(-3, 200) | st.integers(-(10**12), 10**12)
moments = st.one_of(
    st.floats(AT, AT + 0.05), strategies.times, st.floats(), st.sampled_from([float("nan"), float("inf"), -1e300, 1e14])
)
files = st.builds(
    QueueFile,
    channel=st.sampled_from(["tcp_local", "local", "a/b"]) | anything,
    id=st.just("06kq9q5g5k3l0a0") | anything,
    attempts=numbers,
    remaining=numbers,
    continued=st.booleans(),
)
records = st.builds(
    LogRecord,
    action=st.sampled_from([*Action, Action.ENQUEUED, Action.DEQUEUED, Action.OPENED]),
    time=moments,
    source=words,
    destination=words,
    modifiers=st.sampled_from(["", "E", "ESA"]) | anything,
    size_octets=numbers,
    sender=words,
    original_to=words,
    current_to=words,
    notary=numbers,
    file=st.none() | files,
    envelope_id=words,
    message_id=words,
    user=words,
    source_system=systems,
    subject=texts,
    reason=texts,
    diagnostic=texts,
    queue_time=st.none() | st.floats() | st.floats(0, 3) | st.integers(0, 10**7).map(lambda spent: spent / 1000),
    direction=st.sampled_from("+-") | anything,
    transport=words,
    application=words,
)


def one_by_one(form: LineFormat, process: str, records: Sequence[LogRecord]) -> bytes:
    """What a batch is held against: the careful way only."""
    number, _, lane = process.partition(".")
    return b"".join(
        form.line(evolve(record, process=int(number, 16), lane=lane[:-1], sequence=sequence))
        for sequence, record in enumerate(records, FIRST + 1)
    )


class LinesTests(SynchronousTestCase):
    """Lines.make, held against LineFormat.line."""

    @given(st.lists(records, min_size=1, max_size=4), strategies.options, words)
    @settings(max_examples=1500, deadline=None)
    def test_the_quick_way_writes_what_the_careful_way_writes(
        self, told: list[LogRecord], options: LogConfig, node: str
    ) -> None:
        """Any values, in fields that the action has and in those that it has not; any options; any moment."""
        made, having = Lines(LineFormat(options, node), "9f.0.").make(told, FIRST)
        self.assertEqual(made, one_by_one(LineFormat(options, node), "9f.0.", told))
        self.assertEqual(having, told)

    @given(st.data(), strategies.options, st.integers(1, 30))
    @settings(max_examples=200, deadline=None)
    def test_one_line_that_needs_a_look_does_not_change_the_others(
        self, data: st.DataObject, options: LogConfig, place: int
    ) -> None:
        """Whatever it is, and wherever it stands among many plain ones."""
        common = LogRecord(action=Action.DEQUEUED, time=AT, source="local", sender="a@b", diagnostic="ok", queue_time=1)
        told = [evolve(common, time=AT + index / 300, size_octets=index * 999) for index in range(31)]
        told[place] = data.draw(records)
        made, _ = Lines(LineFormat(options), "9f.0.").make(told, FIRST)
        self.assertEqual(made, one_by_one(LineFormat(options), "9f.0.", told))

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
