"""What is read of a line behind a checkpoint is what the whole parser reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.interfaces import BooksCheckpoint
from qmailpy.records.fields import Unreadable
from qmailpy.records.logfile import CURRENT, YESTERDAY, file_number
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import TORN, LineFormat, fragment
from qmailpy.stats.behind import LinesBehind
from qmailpy.stats.fold import Counted, apply
from qmailpy.stats.items import Table
from qmailpy.testing.crashdisk import CrashDisk
from tests.records.strategies import options as log_options
from tests.records.strategies import records
from tests.stats.strategies import histories

LOG = "/home/log"
LANE = "7"
MAIL = LogRecord(
    action=Action.DEQUEUED,
    time=1e9,
    source="local",
    size_octets=3000,
    sender="a@example.net",
    original_to="b@example.com",
    current_to="b@example.com",
    file=QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=0),
    queue_time=1.25,
)


def numbered(found: Sequence[LogRecord], lane: str = LANE) -> list[LogRecord]:
    return [evolve(record, lane=lane, sequence=number, process=99) for number, record in enumerate(found, 1)]


def counts(table: Table, record: Counted) -> Table:
    apply(table, record)
    return {channel: list(row) for channel, row in table.items()}


class LinesBehindTests(SynchronousTestCase):
    """L{LinesBehind}."""

    def lines(self, options: LogConfig, octets: bytes, lane: str = LANE) -> LinesBehind:
        self.disk = CrashDisk(directories=[LOG])
        self.disk.append(self.disk.open(f"{LOG}/{CURRENT}", create=True, append=True), octets)
        return LinesBehind(self.disk, LOG, lane, options, LineFormat(options, "node.example"))

    def agree(self, options: LogConfig, octets: bytes) -> int:
        """Compare with the parser, line by line; how many lines there were."""
        form = LineFormat(options, "node.example")
        parsed: list[LogRecord] = []
        for line in octets.split(b"\n")[:-1]:
            try:
                record = form.record(fragment(line))
            except Unreadable:
                continue
            if record.lane == LANE:
                parsed.append(record)
        one: Table = {}
        other: Table = {}
        found = 0
        for (number, counted, queue_id, _), record in zip(self.lines(options, octets).facts(None), parsed, strict=True):
            self.assertEqual(number, record.sequence)
            if queue_id:
                assert record.file is not None
                self.assertEqual(queue_id.decode(), record.file.id)
            self.assertEqual(counts(one, counted), counts(other, record), record)
            found += 1
        return found

    def test_with_any_options(self) -> None:
        whole = numbered(
            [
                evolve(MAIL, action=Action.ENQUEUED, destination="local", subject="Grüße", source_system="h ([::1])"),
                MAIL,
                evolve(MAIL, queue_time=None, diagnostic="smtp;250 ok"),
                evolve(MAIL, file=QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=3, remaining=2)),
                evolve(MAIL, action=Action.DEFERRED, diagnostic="smtp;451 4.2.0 later", sender=""),
                evolve(MAIL, action=Action.FAILED, reason="gone", diagnostic="x"),
                evolve(MAIL, action=Action.REJECTED, file=None, destination="tcp_local"),
                evolve(MAIL, action=Action.WARNED),
                evolve(MAIL, action=Action.ABORTED, file=None),
                LogRecord(action=Action.OPENED, time=1e9, source="tcp_local", direction="+", transport="TCP|a|1|b|2"),
                LogRecord(action=Action.OPENED, time=1e9, source="tcp_local", direction="-", transport="TCP|a|1|b|2"),
                LogRecord(action=Action.CLOSED, time=1e9, source="tcp_local", direction="-", transport="TCP|a|1|b|2"),
                LogRecord(action=Action.AUTHENTICATED, time=1e9, source="pop3", direction="+", user="ann"),
            ]
        )
        names = ("node", "notary", "filename", "queue_time", "username", "message_id", "diagnostics")
        for chosen in itertools.product((False, True), repeat=len(names)):
            options = LogConfig(**cast(Any, dict(zip(names, chosen, strict=True))))
            form = LineFormat(options, "node.example")
            self.assertEqual(self.agree(options, b"".join(map(form.line, whole))), len(whole))

    def test_odd_lines(self) -> None:
        """Long names, attempts of three letters, escapes: the parser's."""
        file = QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=0)
        odd = numbered(
            [
                evolve(MAIL, source="a_channel_with_a_long_name"),
                evolve(MAIL, action=Action.ENQUEUED, destination="another_one_with_a_name"),
                evolve(MAIL, source="exactly12chr", destination="exactly13char"),
                evolve(MAIL, file=evolve(file, attempts=700)),
                evolve(MAIL, file=evolve(file, id="odd", remaining=130, continued=True)),
                evolve(MAIL, sender="a b\\c@example.net", diagnostic="tab\there"),
                evolve(MAIL, diagnostic="in quotes rfc822;x@y z"),
                evolve(MAIL, original_to=" rfc822;x"),
            ]
        )
        options = LogConfig()
        self.assertEqual(self.agree(options, b"".join(map(LineFormat(options).line, odd))), len(odd))

    def test_what_is_no_line(self) -> None:
        """Torn ones, foreign ones, zeros, other octets than text; those glued to such a piece count."""
        options = LogConfig()
        form = LineFormat(options)
        first, second, third = (form.line(record) for record in numbered([MAIL] * 3))
        other = form.line(evolve(MAIL, lane="77", sequence=4))
        octets = first[:-9] + TORN + other[:60] + second + third[:40] + b"\0\0\0\n" + b"garbage\n" + b"\xff" + third
        octets += third.replace(b"local", b"l\xfccal") + other + third.replace(b" D ", b" = ") + third[:-7]
        self.assertEqual(self.agree(options, octets), 2)

    def test_without_process_field_nothing_is_ours(self) -> None:
        options = evolve(LogConfig(), process=False)
        octets = LineFormat(options).line(evolve(MAIL, lane=LANE, sequence=1))
        self.assertEqual(list(self.lines(options, octets).facts(None)), [])

    @given(histories(), st.data(), log_options)
    @settings(max_examples=150, deadline=None)
    def test_any_history(self, history: list[LogRecord], data: st.DataObject, options: LogConfig) -> None:
        options = evolve(options, process=True)
        more = data.draw(st.lists(records(options), max_size=10))
        octets = b"".join(map(LineFormat(options, "node.example").line, numbered([*history, *more])))
        self.agree(options, octets)

    def test_the_record_is_read_whole_when_asked_for(self) -> None:
        options = LogConfig()
        (one,) = numbered([MAIL])
        behind = self.lines(options, LineFormat(options).line(one))
        ((_, _, queue_id, line),) = behind.facts(None)
        found = behind.record(line)
        assert found is not None
        self.assertEqual((queue_id, found.file, found.current_to), (b"06kq9q5g5k3l0a0", one.file, one.current_to))

    def test_it_begins_where_the_checkpoint_ended(self) -> None:
        """In the same file at its offset; in files that came since, behind the last line that it knows."""
        options = LogConfig()
        form = LineFormat(options)
        whole = [form.line(record) for record in numbered([MAIL] * 6)]
        behind = self.lines(options, b"".join(whole[:4]))
        handle = self.disk.open(f"{LOG}/{CURRENT}")
        base = BooksCheckpoint(file_number(self.disk, handle), len(whole[0]) * 2, 2, {})
        self.assertEqual([number for number, *_ in behind.facts(base)], [3, 4])
        self.disk.rename(f"{LOG}/{CURRENT}", f"{LOG}/{YESTERDAY}")
        self.disk.append(self.disk.open(f"{LOG}/{CURRENT}", create=True, append=True), b"".join(whole[4:]))
        self.assertEqual([number for number, *_ in behind.facts(base)], [3, 4, 5, 6])
        lost = evolve(base, file=1)
        self.assertEqual([number for number, *_ in behind.facts(lost)], [2, 3, 4, 5, 6])
        self.assertEqual([number for number, *_ in behind.facts(evolve(lost, sequence=5))], [5, 6])
