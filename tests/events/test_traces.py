"""
Tests for L{qmailpy.events.traces}.
"""

from __future__ import annotations

import os
import stat

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.events import traces
from qmailpy.events.traces import Traces, Wanted


class TracesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1.7e9)
        self.folder = os.path.abspath(self.mktemp())
        self.traces = Traces(self.clock, self.folder, "mta-0", self.clock.seconds)
        self.addCleanup(self.traces.close)

    def text(self, path: str) -> str:
        with open(path) as source:
            return source.read()

    def out(self, channel: str = "tcp_local", destination: str = "d.example", address: str = "192.0.2.1") -> bool:
        return self.traces.outgoing(channel, ("r.example", destination), "mx.d.example", address) is not None

    def test_a_channel_a_destination_or_a_listener_is_traced(self) -> None:
        for what, fits in (
            ("tcp_local", True),
            ("TCP_local", True),
            ("tcp_other", False),
            ("d.example", True),
            ("mx.D.example", True),
            (".example", True),
            (".d.example", True),
            ("example", False),
            ("192.0.2.1", True),
            ("listener:tcp_local", False),
        ):
            self.traces.switch_on(Wanted(what=what))
            self.assertTrue(self.traces.active)
            self.assertEqual(self.out(), fits, what)
            self.traces.switch_off(what)
            self.assertFalse(self.traces.active)
        self.traces.switch_on(Wanted(what="listener:smtp"))
        self.assertIsNotNone(self.traces.incoming("smtp", "192.0.2.1"))
        self.assertIsNone(self.traces.incoming("other", "192.0.2.1"))

    def test_a_file_that_its_owner_alone_reads_holds_the_sessions(self) -> None:
        path = self.traces.switch_on(Wanted(what="listener:smtp"))
        self.assertRegex(path, r"/listener_smtp-[0-9]{8}-[0-9]{6}-mta-0\.log$")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.folder).st_mode), 0o700)
        for ip in ("192.0.2.1", "192.0.2.2"):
            session = self.traces.incoming("smtp", ip)
            assert session is not None
            session.commands(b"NOOP\r\n")
            session.ended("quit")
        lines = [line.split(" ", 2)[2] for line in self.text(path).splitlines()]
        self.assertEqual(lines[0], "[1] smtp from [192.0.2.1]")
        self.assertEqual(lines[1:4], ["[1] C: NOOP", "[1] closed: quit", "[2] smtp from [192.0.2.2]"])

    def test_two_of_a_second_have_files_of_their_own(self) -> None:
        self.assertNotEqual(*(self.traces.switch_on(Wanted(what="a.example")) for _ in range(2)))

    def test_names_cannot_leave_the_folder(self) -> None:
        for what in ("../../x.example", "/etc/x.example", ".", ".." * 40, "a\0b.example"):
            path = self.traces.switch_on(Wanted(what=what))
            self.assertEqual(os.path.dirname(os.path.realpath(path)), os.path.realpath(self.folder))

    def test_only_sessions_with_one_client_or_so_many(self) -> None:
        self.traces.switch_on(Wanted(what="tcp_local", client="192.0.2.7", sessions=2))
        self.assertEqual([self.out(address=one) for one in ("192.0.2.1", "192.0.2.7")], [False, True])
        self.assertEqual([self.out(address="192.0.2.7") for _ in range(2)], [True, False])

    def test_a_host_that_was_not_reached_is_no_session(self) -> None:
        path = self.traces.switch_on(Wanted(what="tcp_local", sessions=1))
        session = self.traces.outgoing("tcp_local", ("d.example",), "h.example", "192.0.2.1")
        assert session is not None
        session.unreached("connection refused")
        self.assertEqual([self.out(), self.out()], [True, False])
        self.assertIn("[1] not reached: connection refused", self.text(path))

    def test_a_session_keeps_its_place(self) -> None:
        self.traces.switch_on(Wanted(what="tcp_local", sessions=1))
        first = self.traces.outgoing("tcp_local", ("d.example",), "h.example", "192.0.2.1")
        again = self.traces.outgoing("tcp_local", ("d.example",), "h.example", "192.0.2.1", first)
        self.assertIs(again, first)

    def test_it_ends_with_its_time(self) -> None:
        path = self.traces.switch_on(Wanted(what="tcp_local", minutes=5))
        session = self.traces.outgoing("tcp_local", ("d.example",), "h.example", "192.0.2.1")
        assert session is not None
        self.clock.advance(299)
        self.assertTrue(self.traces.active)
        self.clock.advance(2)
        self.assertFalse(self.traces.active)
        size = os.path.getsize(path)
        session.commands(b"NOOP\r\n")  # the session goes on
        session.ended("")
        self.assertEqual(os.path.getsize(path), size)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_file_is_bounded(self) -> None:
        self.patch(traces, "OCTETS", 1000)
        path = self.traces.switch_on(Wanted(what="tcp_local"))
        session = self.traces.outgoing("tcp_local", ("d.example",), "h.example", "192.0.2.1")
        assert session is not None
        for _ in range(100):
            session.commands(b"NOOP\r\n")
        text = self.text(path)
        self.assertLess(len(text), 1200)
        self.assertIn("nothing more is written", text.splitlines()[-1])
        self.assertFalse(self.out())
        [one] = self.traces.current()
        self.assertIn("1000 octets", str(traces.to_json(one)["ended"]))

    def test_there_are_not_too_many(self) -> None:
        for number in range(traces.MOST):
            self.traces.switch_on(Wanted(what=f"{number}.example"))
        self.assertRaises(ValueError, self.traces.switch_on, Wanted(what="x.example"))
        self.assertEqual(len(self.traces.switch_off()), traces.MOST)

    def test_channels_with_master_debug_are_traced_until_it_is_gone(self) -> None:
        self.traces.configure(["tcp_local"])
        self.assertTrue(self.out())
        self.clock.advance(1e6)
        self.traces.configure(["tcp_local"])
        self.assertEqual(len(self.traces.current()), 1)
        self.traces.configure([])
        self.assertFalse(self.traces.active)

    def test_a_folder_that_cannot_be_made_is_an_error_of_the_one_who_asks(self) -> None:
        with open(self.folder, "w"):
            pass
        self.assertRaises(OSError, self.traces.switch_on, Wanted(what="x.example"))
        self.assertFalse(self.traces.active)
        self.traces.configure(["tcp_local"])
        self.assertEqual(len(self.flushLoggedErrors()), 0)
