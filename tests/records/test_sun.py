"""The ancestor's lines (imta: made up to show the format)."""

from __future__ import annotations

import time

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import LogConfig
from qmailpy.records.fields import Unreadable
from qmailpy.records.record import Action, LogRecord
from qmailpy.records.sun import NoMatterOfOurs, SunFormat
from qmailpy.stats.account import Account, By


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

    def test_the_names_of_queue_files(self) -> None:
        """imta s.4.2: with and without subdirectories, held, tried many times, a second copy."""
        for path, wanted in (
            ("/q/tcp_local/001/ZZf0s690kN_y0.00", ("tcp_local", "f0s690kN_y0", 0)),
            ("/opt/SUNWmsgsr/data/queue/ims-ms/ZZ0F7O00I03CJHZD.00", ("ims-ms", "0F7O00I03CJHZD", 0)),
            ("/q/tcp_local/001/ZAf0s690kN_y0.01", ("tcp_local", "f0s690kN_y0", 25)),
            ("/q/tcp_local/001/Z9f0s690kN_y0.00", ("tcp_local", "f0s690kN_y0", 26)),
            ("/q/tcp_local/001/Z0f0s690kN_y0.00", ("tcp_local", "f0s690kN_y0", 35)),
            ("/q/tcp_local/001/YZf0s690kN_y0.0A", ("tcp_local", "f0s690kN_y0", 36)),
            ("/q/hold/ZZf0s690kN_y0.HELD", ("hold", "f0s690kN_y0", 0)),
        ):
            line = (
                f"26-Feb-2007 16:58:11.20 tcp_local                 Q 1 b@example.com rfc822;u@x.org u@x.org {path} why"
            )
            record = _read(line)
            assert record.file is not None, path
            self.assertEqual((record.file.channel, record.file.id, record.file.attempts), wanted)
            self.assertEqual(record.diagnostic, "why")

    def test_options_that_are_on_and_off(self) -> None:
        """What is behind the addresses, whatever of it there is (imta s.1.2)."""
        flags, file, envid, mid, user = "276", "/q/ims-ms/001/ZZf0s690kN_y0.00", "<e1@x>", "<m1@x>", "*joe@example.com"
        for words, wanted in (
            ([], ("", "", "", "", "")),
            ([flags, file, envid, mid, user], ("f0s690kN_y0", "<e1@x>", "<m1@x>", "joe@example.com", "")),
            ([file, mid, user, "250 ok"], ("f0s690kN_y0", "", "<m1@x>", "joe@example.com", "250 ok")),
            ([mid], ("", "", "<m1@x>", "", "")),
            ([envid, mid, "why", "<so>"], ("", "<e1@x>", "<m1@x>", "", "why <so>")),
            (["QQ314159", mid, "why"], ("", "", "<m1@x>", "", "why")),
            (["dns;mx.x.org", "(TCP|1.2.3.4|2|5.6.7.8|25)", "smtp;250 <a@b> ok"], ("", "", "", "", None)),
        ):
            record = _read(
                f"16-Feb-2007 14:55:02.10 l                         D 5 a@b rfc822;c@d c@d {' '.join(words)}".rstrip()
            )
            found = (record.file.id if record.file else "", record.envelope_id, record.message_id, record.user)
            told = " ".join(words) if wanted[4] is None else wanted[4]
            self.assertEqual((*found, record.diagnostic), (*wanted[:4], told), words)
            self.assertEqual((record.source, record.destination), ("l", ""))

    def test_addresses_that_are_odd(self) -> None:
        """In quotes with blanks, of another type, of nobody, with a route, without a domain."""
        head = "16-Feb-2007 14:55:02.10 tcp_local    l            "
        for fields, wanted in (
            ('E 1 "a b"@c.org rfc822;"d e"@f.org "d e"@g', ('"a b"@c.org', '"d e"@f.org', '"d e"@g')),
            ('E 1 "a\\" b"@c.org rfc822;d@f.org d@g', ('"a\\" b"@c.org', "d@f.org", "d@g")),
            ('E 1 a"@c.org rfc822;d@f.org d@g', ('a"@c.org', "d@f.org", "d@g")),
            ("E 1 a@c.org utf-8;d@f.org d@g", ("a@c.org", "d@f.org", "d@g")),
            ("E 1  rfc822;joe joe", ("", "joe", "joe")),
            ("E 1 <> rfc822;<> <>", ("", "", "")),
            ("EES 1 a@c.org rfc822;d@f.org @x.org:d@f.org", ("a@c.org", "d@f.org", "@x.org:d@f.org")),
        ):
            record = _read(head + fields)
            self.assertEqual((record.sender, record.original_to, record.current_to), wanted)
            self.assertEqual((record.source, record.destination), ("tcp_local", "l"))
            self.assertEqual(_read(head + fields + "\r"), record)

    def test_events_we_do_not_know_are_no_torn_lines(self) -> None:
        for line in (
            "19-Feb-2007 17:02:08.70 tcp_local    +            I TCP|192.0.2.1|25|198.51.100.5|59762 SMTP example.org",
            "19-Feb-2007 17:02:08.70 mailserv                  S 0 a@b rfc822;c@d c@d",
            "19-Feb-2007 17:02:08.70 mailserv                  F 0 3:a@b 10:rfc822;c@d 3:c@d",
            '<he ts="2014-06-02T09:45:50.29" xx="y"/>',
            '<co ts="2014-06-02T09:45:50.29" sc="tcp_local" dr="+" ac="I"/>',
            '<en ts="2014-06-02T09:45:50.29" sc="tcp_local" ac="A" sz="1"/>',
        ):
            self.assertRaises(NoMatterOfOurs, _read, line)
            account = Account(By.USER, LogConfig(), foreign=SunFormat())
            account.feed([line.encode()])
            self.assertEqual((account.unreadable, account.lines()), (0, []))

    def test_another_attempt_is_another_event(self) -> None:
        form = SunFormat()
        line = b"16-Feb-2007 14:55:02.10 tcp_local                 Q 5 a@b rfc822;c@d c@d /q/l/001/%sf0s690kN_y0.00"
        files = [form.record(line % code).file for code in (b"ZZ", b"ZZ", b"ZY")]
        self.assertEqual([file.continued for file in files if file is not None], [False, True, False])

    def test_the_four_formats_tell_the_same(self) -> None:
        """One history: two for one channel, one deferred and given up, a notice; by user as by hand."""
        history = [
            (
                "tcp_local",
                "ims-ms",
                "EES",
                3,
                "a@x.org",
                "b@y.org",
                "b@ims-ms-daemon",
                "/q/ims-ms/001/ZZf0s690kN_y0.00",
                "",
            ),
            (
                "tcp_local",
                "ims-ms",
                "EES",
                3,
                "a@x.org",
                "c@y.org",
                "c@ims-ms-daemon",
                "/q/ims-ms/001/ZZf0s690kN_y0.00",
                "",
            ),
            ("ims-ms", "", "D", 3, "a@x.org", "b@y.org", "b@ims-ms-daemon", "/q/ims-ms/001/ZZf0s690kN_y0.00", "2"),
            ("ims-ms", "", "Q", 3, "a@x.org", "c@y.org", "c@ims-ms-daemon", "/q/ims-ms/001/ZZf0s690kN_y0.00", "busy"),
            ("ims-ms", "process", "E", 4, "", "a@x.org", "a@x.org", "/q/process/ZZf0s691kN_y0.00", ""),
            ("ims-ms", "", "R", 3, "a@x.org", "c@y.org", "c@ims-ms-daemon", "/q/ims-ms/001/ZYf0s690kN_y0.00", "full 9"),
            ("process", "tcp_local", "E", 4, "", "a@x.org", "a@x.org", "/q/tcp_local/000/ZZf0s692kN_y0.00", ""),
            ("process", "", "D", 4, "", "a@x.org", "a@x.org", "/q/process/ZZf0s691kN_y0.00", "0"),
            ("tcp_local", "", "DE", 4, "", "a@x.org", "a@x.org", "/q/tcp_local/000/ZZf0s692kN_y0.00", "ok 1"),
        ]
        found = []
        for number in (1, 2, 3, 4):
            account = Account(By.USER, LogConfig(), foreign=SunFormat(queue_times=True))
            for source, to, code, size, sender, original, current, file, rest in history:
                diagnostic, _, spent = rest.rpartition(" ")
                values = [sender, f"rfc822;{original}", current, file, *([diagnostic] if diagnostic else [])]
                if number == 2:
                    values[0] = sender or "<>"
                if number == 3:
                    values = [f"{len(value)}:{value}" for value in values]
                line = (
                    f"16-Feb-2007 14:55:02.10 {source:<12} {to:<12} {code} {size} "
                    + " ".join([*values, spent]).rstrip()
                )
                if number == 4:
                    line = f'<en ts="2007-02-16T14:55:02.10" sc="{source}" ac="{code}" sz="{size}" so="{sender}" '
                    line += (
                        f'dc="{to}" od="rfc822;{original}" de="{current}" fi="{file}" di="{diagnostic}" qt="{spent}"/>'
                    )
                account.feed([line.encode()])
            self.assertEqual(account.unreadable, 0)
            found.append({line.keys[0]: line for line in account.lines()})
        self.assertEqual(found[1:], found[:1] * 3)
        told = {
            key: (line.sent.messages, line.sent.recipients, line.delivered.recipients) for key, line in found[0].items()
        }
        self.assertEqual(told, {"a@x.org": (1, 2, 1), "b@y.org": (0, 0, 1), "c@y.org": (0, 0, 0), "<>": (1, 1, 0)})
        self.assertEqual((found[0]["c@y.org"].failed, found[0]["c@y.org"].deferred), (1, 1))
        self.assertEqual(found[0]["b@y.org"].queue_time_s, 2.0)

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
        for text in ('E 1 "x ', ' E 1 "\\" ', 'E 1 "" '):
            self.assertRaises(Unreadable, _read, "16-Feb-2007 14:55:02.10 c            " + text * 20000)
        self.assertLess(time.monotonic() - began, 2.0)
