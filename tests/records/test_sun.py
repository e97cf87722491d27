"""The ancestor's lines (imta: made up to show the format)."""

from __future__ import annotations

import time

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.record import Action, LogRecord
from qmailpy.records.sun import SunFormat
from qmailpy.records.text import Unreadable


def _read(line: str, queue_times: bool = False) -> LogRecord:
    return SunFormat(queue_times).record(line.encode())


class SunTests(SynchronousTestCase):
    def test_the_seven_fields_every_line_has(self) -> None:
        record = _read(
            "16-Feb-2007 14:54:13.72 tcp_local    ims-ms       EE 1 a@example.net rfc822;b@example.com b@ims-ms-daemon"
        )
        self.assertEqual((record.source, record.destination), ("tcp_local", "ims-ms"))
        self.assertEqual((record.action, record.modifiers, record.size_octets), (Action.ENQUEUED, "E", 1024))
        self.assertEqual((record.sender, record.original_to), ("a@example.net", "b@example.com"))
        self.assertEqual(record.current_to, "b@ims-ms-daemon")
        self.assertAlmostEqual(record.time, time.mktime((2007, 2, 16, 14, 54, 13, 0, 0, -1)) + 0.72, places=3)

    def test_a_dequeue_has_no_destination(self) -> None:
        record = _read(
            "16-Feb-2007 14:55:02.10 ims-ms                    D 5  rfc822;b@example.com b@ims-ms-daemon mailsrv"
        )
        self.assertEqual((record.source, record.destination, record.sender), ("ims-ms", "", ""))
        self.assertEqual(record.diagnostic, "mailsrv")

    def test_file_and_message_id_are_known_by_their_look(self) -> None:
        record = _read(
            "26-Feb-2007 16:58:11.20 tcp_local                 Q 1 b@example.com rfc822;u@example.org u@example.org "
            "/q/tcp_local/001/ZYf0s690kN_y0.00 <0JE1@example.com> TCP active open: Failed connect() 198.51.100.7:25"
        )
        assert record.file is not None
        self.assertEqual((record.file.channel, record.file.id, record.file.attempts), ("tcp_local", "f0s690kN_y0", 1))
        self.assertEqual(record.message_id, "<0JE1@example.com>")
        self.assertEqual(record.diagnostic, "TCP active open: Failed connect() 198.51.100.7:25")

    def test_node_and_process_may_come_before(self) -> None:
        record = _read(
            "28-Feb-2007 09:13:19.18 host.example.com 409f.3.1 tcp_intranet tcp_local    EE 1 a@example.com "
            "rfc822;b@example.org b@example.org /q/tcp_local/000/ZZf0s4g0G2Zt0.00 <0JE5@example.com>"
        )
        self.assertEqual((record.source, record.destination), ("tcp_intranet", "tcp_local"))

    def test_format_2_writes_empty_addresses(self) -> None:
        line = "16-Feb-2007 14:55:02.10 ims-ms                    D 5 <> rfc822;b@example.com b@ims-ms-daemon"
        self.assertEqual(_read(line).sender, "")

    def test_a_queue_time_is_read_when_there_are_any(self) -> None:
        line = "16-Feb-2007 14:55:02.10 ims-ms                    D 5 a@b rfc822;b@example.com b@x smtp;250 ok 17"
        self.assertEqual(_read(line, True).queue_time, 17.0)
        self.assertEqual((_read(line).queue_time, _read(line).diagnostic), (None, "smtp;250 ok 17"))

    def test_the_second_line_of_a_file_goes_on_with_the_event(self) -> None:
        form = SunFormat()
        line = b"16-Feb-2007 14:55:02.10 ims-ms                    D 5 a@b rfc822;%s x /q/ims-ms/001/ZZf0s690kN_y0.00"
        files = [form.record(line % to).file for to in (b"one@a", b"two@a")]
        self.assertEqual([file.continued for file in files if file is not None], [False, True])

    def test_format_3_counts_its_fields(self) -> None:
        """A blank within a field is no end of it."""
        fields = (
            *("a@example.com", "rfc822;u@example.org", '"u u"@example.org', "/q/tcp_local/001/ZYf0s690kN_y0.00"),
            *("<0JE1@example.com>", "TCP active open"),
        )
        counted = " ".join(f"{len(field)}:{field}" for field in fields)
        record = _read(f"26-Feb-2007 16:58:11.20 tcp_local                 Q 1 {counted}")
        self.assertEqual((record.sender, record.original_to), ("a@example.com", "u@example.org"))
        self.assertEqual(record.current_to, '"u u"@example.org')
        self.assertEqual((record.message_id, record.diagnostic), ("<0JE1@example.com>", "TCP active open"))
        self.assertEqual(record.file and record.file.id, "f0s690kN_y0")

    def test_an_empty_counted_field_is_empty(self) -> None:
        record = _read("16-Feb-2007 14:55:02.10 ims-ms                    D 5 0: 20:rfc822;b@example.com 3:b@x")
        self.assertEqual((record.sender, record.original_to, record.current_to), ("", "b@example.com", "b@x"))

    def test_format_4_names_its_fields(self) -> None:
        record = _read(
            '<en ts="2014-06-02T09:45:50.29" pi="123f.3f8.4397" sc="tcp_local" dc="ims-ms" ac="EES" sz="3" '
            'so="a@example.net" od="rfc822;b@example.com" de="b@ims-ms-daemon" fi="/q/ims-ms/001/ZYf0s690kN_y0.00" '
            'mi="&lt;0JE1@example.com&gt;" us="*joe" qt="1.5" xx="unknown"/>'
        )
        self.assertEqual((record.source, record.destination, record.modifiers), ("tcp_local", "ims-ms", "ES"))
        self.assertEqual((record.sender, record.original_to), ("a@example.net", "b@example.com"))
        self.assertEqual((record.message_id, record.user, record.queue_time), ("<0JE1@example.com>", "joe", 1.5))
        self.assertEqual(record.file and record.file.attempts, 1)
        self.assertAlmostEqual(record.time, time.mktime((2014, 6, 2, 9, 45, 50, 0, 0, -1)) + 0.29, places=3)

    def test_connections_are_read(self) -> None:
        """With a node and a process before them, counted, and as an element."""
        ends = "TCP|192.0.2.1|25|198.51.100.5|59762"
        u = f'<co ts="2014-06-02T09:45:50.29" sc="tcp_local" dr="+" ac="U" tr="{ends}" ap="SMTP" us="joe" di="535 no"/>'
        for line, wanted in (
            (
                f"19-Feb-2007 17:02:08.70 tcp_local    +            O {ends} SMTP",
                ("O", "tcp_local", "+", ends, "SMTP", "", ""),
            ),
            (
                f"04-Sep-2007 01:00:06.49 h.example.com 1f627.3.3 tcp_local    -            C {ends} SMTP/a/b why so",
                ("C", "tcp_local", "-", ends, "SMTP/a/b", "", "why so"),
            ),
            (
                "10-Jul-2019 09:30:57.32 tcp_intranet -            Y SMTP/mx/mx",
                ("Y", "tcp_intranet", "-", "", "SMTP/mx/mx", "", ""),
            ),
            (
                f"01-Mar-2007 10:00:06.66 tcp_local    +            U {ends} SMTP *joe@example.com 535 5.7.8 Bad",
                ("U", "tcp_local", "+", ends, "SMTP", "joe@example.com", "535 5.7.8 Bad"),
            ),
            (
                f"01-Mar-2007 10:00:06.66 tcp_local    +            CS 35:{ends} 4:SMTP 8:why then",
                ("C", "tcp_local", "+", ends, "SMTP", "", "why then"),
            ),
            (u, ("U", "tcp_local", "+", ends, "SMTP", "joe", "535 no")),
        ):
            read = _read(line)
            found = (read.action.value, read.source, read.direction, read.transport, read.application, read.user)
            self.assertEqual((*found, read.diagnostic), wanted, line)

    def test_others_are_refused(self) -> None:
        for line in (
            "",
            "19-Feb-2007 17:02:08.70 tcp_local    +            I SMTP example.org",
            "19-Feb-2007 17:02:08.70 +            O TCP|192.0.2.12|25|198.51.100.66|1244 SMTP",
            '<en ts="2014-06-02T09:45:50.29" sc="tcp_local" ac="E"/>',
            '<co ts="2014-06-02T09:45:50.29" sc="tcp_local" dr="+" ac="I"/>',
            '<en ts="2014-99-02T09:45:50.29x" sc="tcp_local" ac="E" sz="1"/>',
            "99-Xxx-2007 14:55:02.10 ims-ms                    D 5 a@b rfc822;b@example.com b@x",
            "16-Feb-2007 14:55:02.10             E 5 a@b rfc822;b@example.com b@x",
        ):
            self.assertRaises(Unreadable, _read, line)

    def test_what_takes_long_to_match_is_not_looked_for(self) -> None:
        """A hostile line costs time in proportion to its length."""
        hostile = "16-Feb-2007 14:55:02.10 c            " + "E 1 " * 30000
        self.assertRaises(Unreadable, _read, "16-Feb-2007 14:55:02.10 c    +" + " " * 100_000)
        began = time.monotonic()
        self.assertRaises(Unreadable, _read, hostile)
        self.assertLess(time.monotonic() - began, 1.0)
