"""The text form of a record: what is written can be read back, and no value breaks a line."""

from __future__ import annotations

import re
import time
from datetime import datetime

from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.queue.ids import to_id
from qmailpy.queue.layout import nn
from qmailpy.records.fields import LIMIT, Unreadable
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.sun import SunFormat
from qmailpy.records.text import LINE_OCTETS, TORN, LineFormat, fragment, milliseconds
from tests.records import strategies

AT = datetime(2007, 2, 16, 14, 54, 13).timestamp() + 0.72
ENQUEUED = LogRecord(
    action=Action.ENQUEUED,
    time=AT,
    source="tcp_local",
    destination="local",
    modifiers="E",
    size_octets=1025,
    sender="a@example.net",
    original_to="b@example.com",
    current_to="b@example.com",
    file=QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=0, remaining=1),
    message_id="<0JE5@example.net>",
    source_system="relay (relay.example.com [192.0.2.66])",
    lane="0",
    sequence=17,
    process=0x409F,
)
DEQUEUED = evolve(
    ENQUEUED,
    action=Action.DEQUEUED,
    source="local",
    destination="",
    modifiers="",
    source_system="",
    file=QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=1),
    diagnostic="dns;mx (TCP|192.0.2.9|2788|198.51.100.7|25) (mx ESMTP) smtp;250 2.1.5 ok",
    queue_time=0.0564,
)
BARE = LogConfig(
    process=False,
    filename=False,
    message_id=False,
    username=False,
    connection=False,
    diagnostics=False,
    queue_time=False,
)


class LineTests(SynchronousTestCase):
    """Lines of the ancestor's layout."""

    def test_an_enqueue_reads_as_the_ancestors(self) -> None:
        """Columns, blanks, code and modifiers, blocks rounded up, original recipient in ORCPT form."""
        self.assertEqual(
            LineFormat(BARE).line(ENQUEUED),
            b"16-Feb-2007 14:54:13.72 tcp_local    local        EE 2 a@example.net"
            b" rfc822;b@example.com b@example.com\n",
        )

    def test_a_dequeue_leaves_its_destination_blank(self) -> None:
        self.assertEqual(
            LineFormat(BARE).line(evolve(DEQUEUED, sender="", size_octets=5120)),
            b"16-Feb-2007 14:54:13.72 local                     D 5  rfc822;b@example.com b@example.com\n",
        )

    def test_the_optional_fields_stand_in_the_documented_order(self) -> None:
        self.assertEqual(
            LineFormat(LogConfig(node=True, envelope_id=True, notary=True), "mail.example.org").line(
                evolve(ENQUEUED, envelope_id="e1", user="joe@example.com", notary=276)
            ),
            b"16-Feb-2007 14:54:13.72 mail.example.org 409f.0.17 tcp_local    local        EE 2 a@example.net"
            b" rfc822;b@example.com b@example.com 276 local/05/ZZ06kq9q5g5k3l0a0.01 e1 <0JE5@example.net>"
            b" *joe@example.com relay (relay.example.com [192.0.2.66])\n",
        )
        self.assertEqual(
            LineFormat(LogConfig(reason=True)).line(evolve(DEQUEUED, action=Action.FAILED, reason="no such user")),
            b"16-Feb-2007 14:54:13.72 409f.0.17 local                     R 2 a@example.net rfc822;b@example.com"
            b' b@example.com local/05/ZY06kq9q5g5k3l0a0.00 <0JE5@example.net>  "no such user"'
            b" dns;mx (TCP|192.0.2.9|2788|198.51.100.7|25) (mx ESMTP) smtp;250 2.1.5 ok 0.056\n",
        )

    def test_a_subject_ends_an_enqueue(self) -> None:
        """In quotes, where other records have their diagnostic; whoever knows nothing of it finds all else in place."""
        told = evolve(ENQUEUED, subject='Re: "Straße" (C:\\x) - 会议')
        line = LineFormat(LogConfig()).line(told)
        self.assertTrue(line.endswith(' [192.0.2.66]) "Re: \\x22Straße\\x22 (C:\\\\x) - 会议"\n'.encode()), line)
        self.assertEqual(LineFormat(LogConfig()).record(line).subject, told.subject)
        self.assertEqual(LineFormat(LogConfig(subject=False)).record(line).subject, told.subject)
        self.assertNotIn(b"Stra", LineFormat(LogConfig(subject=False)).line(told))
        ancestor = SunFormat().record(line)
        self.assertEqual((ancestor.sender, ancestor.current_to), ("a@example.net", "b@example.com"))
        self.assertEqual(ancestor.message_id, "<0JE5@example.net>")
        bare = evolve(told, source_system="", user="", message_id="")
        for options in (LogConfig(), LogConfig(connection=False), LogConfig(username=False, connection=False)):
            self.assertEqual(LineFormat(options).record(LineFormat(options).line(bare)).subject, told.subject)

    def test_connections_have_a_form_of_their_own(self) -> None:
        """O C X Y U (issue 2 point 8)."""
        opened = LogRecord(
            action=Action.OPENED,
            time=AT,
            source="tcp_local",
            direction="+",
            transport="TCP|192.0.2.12|25|198.51.100.66|1244",
            application="SMTP",
        )
        line = LineFormat(BARE).line(opened)
        self.assertEqual(
            line, b"16-Feb-2007 14:54:13.72 tcp_local    +            O TCP|192.0.2.12|25|198.51.100.66|1244 SMTP\n"
        )
        login = evolve(opened, action=Action.AUTHENTICATED, user="joe@example.com", diagnostic="535 5.7.8 Bad password")
        self.assertTrue(
            LineFormat(LogConfig()).line(login).endswith(b"|1244 SMTP *joe@example.com 535 5.7.8 Bad password\n")
        )

    def test_the_file_field_names_the_queues_own_directory(self) -> None:
        """Bound to queue.layout, which records may not import."""
        for number in (0, 1 << 20, 63 << 20, (1 << 64) - 1, 0x123456789ABCDEF0):
            file = QueueFile(channel="local", id=to_id(number, "0a"), attempts=0)
            line = LineFormat(LogConfig()).line(evolve(ENQUEUED, file=file))
            self.assertIn(f" local/{nn(number)}/ZZ{to_id(number, '0a')}.00 ".encode(), line)

    def test_the_attempts_count_down_from_zz(self) -> None:
        """As the names of the ancestor's queue files (imta s.4.2): to the base 36."""
        lines = LineFormat(LogConfig())
        for attempts, code in (
            *((0, "ZZ"), (1, "ZY"), (25, "ZA"), (26, "Z9"), (35, "Z0"), (36, "YZ"), (1295, "00"), (1296, "YZZ")),
            (1322, "YZ9"),
        ):
            file = QueueFile(channel="local", id="06kq9q5g5k3l0a0", attempts=attempts)
            line = lines.line(evolve(ENQUEUED, file=file))
            self.assertIn(f"/{code}06kq9q5g5k3l0a0.00 ".encode(), line)
            self.assertEqual(lines.record(line).file, file)

    def test_the_clock_is_local_time_with_hundredths(self) -> None:
        lines = LineFormat(BARE)
        for at, ending in ((AT, b":13.72 "), (AT + 0.279, b":14.00 "), (AT - 1, b":12.72 ")):
            self.assertIn(ending, lines.line(evolve(ENQUEUED, time=at)))

    def test_a_time_that_is_none_does_no_harm(self) -> None:
        for at in (float("nan"), float("inf"), -1e300, 1e300, -5.0):
            line = LineFormat(BARE).line(evolve(ENQUEUED, time=at))
            LineFormat(BARE).record(line)

    def test_queue_times_are_whole_milliseconds(self) -> None:
        for spent in range(0, 100_000, 7):
            record = evolve(DEQUEUED, queue_time=spent / 1000)
            self.assertEqual(
                LineFormat(LogConfig()).record(LineFormat(LogConfig()).line(record)), evolve(record, size_octets=2048)
            )
        self.assertEqual([milliseconds(spent) for spent in (0.0564, -3.0, None, float("nan"))], [56, 0, None, None])


class RoundTripTests(SynchronousTestCase):
    """parse(format(record)) == record."""

    @given(st.data(), strategies.options, strategies.values)
    @settings(max_examples=600, deadline=None)
    def test_every_record_comes_back_under_every_combination_of_options(
        self, data: st.DataObject, options: LogConfig, node: str
    ) -> None:
        """Hostile values too: CR, LF, ESC, NUL, C1, surrogates, blanks, whole time stamps."""
        record = data.draw(strategies.records(options))
        line = LineFormat(options, node).line(record)
        self.assertEqual((line.count(b"\n"), line[-1:]), (1, b"\n"))
        self.assertTrue(line[:-1].decode().isprintable())
        self.assertFalse(line.endswith(TORN) or line.endswith(b" \n"))
        self.assertEqual(fragment(line), line)
        self.assertEqual(LineFormat(options, node).record(line), record)

    @given(st.data(), st.integers(1, 400))
    @settings(max_examples=200, deadline=None)
    def test_a_line_glued_to_a_torn_one_is_found(self, data: st.DataObject, cut: int) -> None:
        """Another process died in the middle of its write, and the next line went behind the piece."""
        lines = LineFormat(LogConfig())
        torn = lines.line(data.draw(strategies.records(LogConfig())))[:-1][:cut]
        whole = lines.line(data.draw(strategies.records(LogConfig())))
        self.assertEqual(fragment(torn + whole), whole)

    def test_a_time_stamp_without_its_day_ends_the_search(self) -> None:
        """A power cut left zeros up to the end of a page, amid a stamp; the line behind it is whole."""
        whole = LineFormat(LogConfig()).line(LogRecord(action=Action.DEQUEUED, time=1.8e9, source="local"))
        for holed in (b"\0" * 30 + whole[2:], b"\0" * 9 + whole[1:], b"abcd" + whole[2:]):
            self.assertEqual(fragment(holed), holed)
            self.assertEqual(fragment(holed[:-1] + whole), whole)

    @given(
        st.binary(max_size=300)
        | st.text(alphabet=strategies.HOSTILE, max_size=300).map(lambda t: t.encode("utf8", "replace"))
    )
    @example(b"16-Feb-2007 14:54:13.72 ")
    @example("\u0661\u0662-Feb-2007 14:54:13.72 x y z".encode())
    @settings(max_examples=300, deadline=None)
    def test_anything_else_is_unreadable_and_nothing_worse(self, line: bytes) -> None:
        self.assertRaises(Unreadable, LineFormat(LogConfig()).record, line)

    def test_a_broken_line_is_unreadable_or_a_record(self) -> None:
        """Cut anywhere, a line raises nothing but Unreadable; one that was marked as torn is never a record."""
        lines = LineFormat(LogConfig(notary=True, reason=True, envelope_id=True))
        whole = lines.line(evolve(DEQUEUED, action=Action.FAILED, reason="a \\ b", diagnostic="x \\ y (z)"))
        for cut in range(len(whole) - 1):
            self.assertRaises(Unreadable, lines.record, whole[:cut] + TORN)
            try:
                lines.record(whole[:cut])
            except Unreadable:
                continue

    def test_other_options_do_not_read_a_line(self) -> None:
        line = LineFormat(LogConfig()).line(DEQUEUED)
        self.assertRaises(Unreadable, LineFormat(LogConfig(process=False)).record, line)
        self.assertRaises(Unreadable, LineFormat(LogConfig(filename=False)).record, line)

    def test_values_of_100_kilobytes_are_cut(self) -> None:
        """The line stays whole and within the bound that readers rely on."""
        for char in ("x", "\0", "\U0001f4a9", "\udcff", " ", "\U000e0001"):
            big = char * 100_000
            record = evolve(
                DEQUEUED,
                action=Action.FAILED,
                sender=big,
                original_to=big,
                current_to=big,
                message_id=big,
                envelope_id=big,
                user=big,
                reason=big,
                diagnostic=big,
                source=big,
                lane=big,
            )
            options = LogConfig(envelope_id=True, reason=True)
            line = LineFormat(options).line(record)
            self.assertLess(len(line), LINE_OCTETS)
            read = LineFormat(options).record(line)
            self.assertEqual(read.reason, char * (LIMIT - 3) + "...")
            self.assertEqual(LineFormat(options).line(read), line)

    def test_the_hour_that_comes_twice_is_the_only_ambiguous_one(self) -> None:
        """Summer time ends: the reader takes one of the two, the text is the same either way."""
        lines = LineFormat(BARE)
        start = 1193529600  # 2007-10-28 00:00 UTC: where Europe's summer time ended
        for at in range(start, start + 7200, 600):
            line = lines.line(evolve(ENQUEUED, time=float(at)))
            self.assertEqual(lines.line(lines.record(line)), line)
            self.assertIn(abs(lines.record(line).time - at), {0.0, 3600.0})

    def test_lines_sort_into_documented_columns(self) -> None:
        """The pattern an outside reader would use."""
        pattern = re.compile(
            rb"\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d\.\d\d [0-9a-f]+\.\S+\.\d+ .{12,} .{12,} [A-Z]+ \d+"
            rb" \S* rfc822;\S* \S+ "
        )
        self.assertTrue(pattern.match(LineFormat(LogConfig()).line(ENQUEUED)))
        self.assertTrue(time.tzname)
