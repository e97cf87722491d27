"""Tests of reading and building header fields."""

from __future__ import annotations

import os
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.values import Priority
from qmailpy.wire import headers
from qmailpy.wire.headers import (
    complete,
    count_received,
    date,
    fields,
    find,
    priority,
    received_field,
    source_system,
    split,
    unfold,
)

NOON = 1172577600.0  # Tue, 27 Feb 2007 12:00:00 UTC


class ReadingTests(SynchronousTestCase):
    """RFC 5322 s.2.2."""

    def test_split(self) -> None:
        self.assertEqual(split(b"A: b\r\n\r\nbody\r\n\r\n"), (b"A: b\r\n\r\n", b"body\r\n\r\n"))
        self.assertEqual(split(b"\r\nbody"), (b"\r\n", b"body"))
        self.assertEqual(split(b"A: b\r\n"), (b"A: b\r\n", b""))
        self.assertEqual(split(b""), (b"", b""))

    def test_fields_come_in_order_folding_and_all(self) -> None:
        header = b"Subject: one\r\n two\r\n\tthree\r\nno field\r\n folded on\r\nTO : a\r\n: x\r\nb d: x\r\nEmpty:\r\n"
        header += b"\r\nBody: x\r\n"
        self.assertEqual(list(fields(header)), [("subject", b" one\r\n two\r\n\tthree"), ("to", b" a"), ("empty", b"")])
        self.assertEqual(list(fields(b"A: b")), [("a", b" b")])
        self.assertEqual(len(list(fields(b"A: b\r\n" * 10, limit=3))), 3)

    def test_unfold(self) -> None:
        self.assertEqual(unfold(b" one\r\n two\r\n\tthree \r\n"), "one two\tthree")
        self.assertEqual(unfold(b" \xff"), "\ufffd")

    def test_find_gives_the_first_of_each_name(self) -> None:
        header = (
            b"Message-ID: <1@x>\r\nX: Message-ID: 2\r\nmessage-id: <3@x>\r\nPRIORITY:\r\n urgent\r\n\r\nFrom: body\r\n"
        )
        self.assertEqual(find(header, "message-id", "priority", "from"), {"message-id": "<1@x>", "priority": "urgent"})
        self.assertEqual(find(b"", "a"), {})

    def test_received_fields_are_counted(self) -> None:
        header = b"Received: a\r\nreceived: b\r\nReceived-SPF: c\r\nX: d\r\n Received: e\r\n\r\nReceived: f\r\n"
        self.assertEqual(count_received(header), 2)

    def test_priorities(self) -> None:
        self.assertEqual(priority(" Urgent "), Priority.URGENT)
        self.assertEqual(priority("non-urgent"), Priority.NONURGENT)
        self.assertEqual(priority("whatever"), Priority.NORMAL)

    @settings(deadline=None)
    @given(st.lists(st.sampled_from([b"\r\n", b":", b" ", b"a", b"\t", b"\xff", b"\r", b"\n", b"received:"])))
    def test_garbage_never_raises(self, parts: list[bytes]) -> None:
        octets = b"".join(parts)
        for name, value in fields(octets):
            self.assertEqual(name, name.lower())
            unfold(value)
        found = find(octets, "a", "received")
        self.assertLessEqual(set(found), {"a", "received"})
        self.assertGreaterEqual(count_received(octets), 0)
        self.assertEqual(b"".join(split(octets)), octets)

    def test_time_is_linear(self) -> None:
        started = time.process_time()
        for octets in (
            b"\r\n" * 300000,
            b"A: b\r\n" * 100000,
            b"A:" + b"\r\n " * 200000,
            b":" * 600000,
            b"\r\n:" * 200000,
        ):
            list(fields(octets))
            find(octets, "a", "b", "c")
            count_received(octets)
        self.assertLess(time.process_time() - started, 2.0)


class BuildingTests(SynchronousTestCase):
    """Fields that are ours."""

    def setUp(self) -> None:
        zone = os.environ.get("TZ")
        os.environ["TZ"] = "XYZ-5:30"  # POSIX counts the other way: five and a half hours ahead of UTC
        time.tzset()
        headers._date.cache_clear()  # what other tests had formatted in their zone
        self.addCleanup(headers._date.cache_clear)

        def restore() -> None:
            if zone is None:
                del os.environ["TZ"]
            else:
                os.environ["TZ"] = zone
            time.tzset()

        self.addCleanup(restore)

    def test_dates(self) -> None:
        """RFC 5322 s.3.3; the seconds' cache must not mix them up."""
        self.assertEqual(date(NOON + 0.9), "Tue, 27 Feb 2007 17:30:00 +0530")
        self.assertEqual(date(NOON + 1), "Tue, 27 Feb 2007 17:30:01 +0530")
        self.assertEqual(date(NOON), "Tue, 27 Feb 2007 17:30:00 +0530")
        os.environ["TZ"] = "XYZ+3:30"
        time.tzset()
        self.assertEqual(date(NOON + 2), "Tue, 27 Feb 2007 08:30:02 -0330")

    def test_received(self) -> None:
        """RFC 5321 s.4.4."""
        self.assertEqual(
            received_field(
                helo="client.example.net",
                name="host.example.net",
                ip="192.0.2.7",
                host="mx.example.org",
                protocol="ESMTP",
                queue_id="0123456789abcde",
                moment=NOON,
                recipient="b@example.org",
            ),
            b"Received: from client.example.net (host.example.net [192.0.2.7])\r\n"
            b"\tby mx.example.org with ESMTP id 0123456789abcde\r\n"
            b"\tfor <b@example.org>; Tue, 27 Feb 2007 17:30:00 +0530\r\n",
        )
        self.assertEqual(
            received_field(
                helo="evil) by\x7f(x", ip="2001:db8::1", host="mx", protocol="SMTP", queue_id="1", moment=NOON
            ),
            b"Received: from evil??by??x ([IPv6:2001:db8::1])\r\n"
            b"\tby mx with SMTP id 1; Tue, 27 Feb 2007 17:30:00 +0530\r\n",
        )
        field = received_field(helo="", ip="", host="mx", protocol="SMTP", queue_id="1", moment=NOON)
        self.assertTrue(field.startswith(b"Received: from unknown\r\n"))

    def test_source_system(self) -> None:
        self.assertEqual(source_system("helo", "name", "192.0.2.1"), "helo (name [192.0.2.1])")
        self.assertEqual(source_system("helo", "", "192.0.2.1"), "helo ([192.0.2.1])")

    def complete(self, content: bytes, full_name: str = "") -> bytes:
        return complete(
            content, sender="a@example.org", host="mx.example.org", unique="u1", moment=NOON, full_name=full_name
        )

    ADDED = (
        b"Date: Tue, 27 Feb 2007 17:30:00 +0530\r\n",
        b"From: a@example.org\r\n",
        b"Message-ID: <u1@mx.example.org>\r\n",
    )

    def test_a_submission_gets_what_it_lacks(self) -> None:
        added = b"".join(self.ADDED)
        self.assertEqual(self.complete(b"To: b\r\n\r\nbody\r\n"), added + b"To: b\r\n\r\nbody\r\n")
        self.assertEqual(
            self.complete(b"date: x\r\nMESSAGE-id: y\r\n\r\nbody\r\n"),
            self.ADDED[1] + b"date: x\r\nMESSAGE-id: y\r\n\r\nbody\r\n",
        )

    def test_a_complete_submission_stays_as_it_is(self) -> None:
        content = b"Date: x\r\nFrom: y\r\nMessage-ID: z\r\n\r\nbody\r\n"
        self.assertEqual(self.complete(content), content)

    def test_text_without_a_header_gets_one(self) -> None:
        added = b"".join(self.ADDED)
        self.assertEqual(
            self.complete(b"just text\r\nDate: not a field\r\n"), added + b"\r\njust text\r\nDate: not a field\r\n"
        )
        self.assertEqual(self.complete(b"\r\nbody\r\n"), added + b"\r\nbody\r\n")
        self.assertEqual(self.complete(b"just text: really\r\n"), added + b"\r\njust text: really\r\n")
        self.assertEqual(self.complete(b""), added + b"\r\n")

    def test_a_header_alone_gets_its_empty_line(self) -> None:
        added = b"".join(self.ADDED)
        self.assertEqual(self.complete(b"To: b\r\n"), added + b"To: b\r\n\r\n")
        self.assertEqual(self.complete(b"To: b"), added + b"To: b\r\n\r\n")

    def test_names_cannot_break_out_of_their_field(self) -> None:
        content = self.complete(b"\r\n", full_name='A "B"\r\nBcc: x\\')
        self.assertIn(b'\r\nFrom: "A B  Bcc: x" <a@example.org>\r\n', content)
