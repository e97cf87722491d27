"""Processes that stand still, seen from outside: a socket that somebody has, and nobody accepts."""

from __future__ import annotations

import os
import socket
import time

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.control.client import DIRECTORY, Json, ask_each, call, connect_unix, running, short_path
from qmailpy.errors import CommandError


class StandingStillTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(self.home, DIRECTORY))

    def stand(self, name: str, backlog: int = 50) -> str:
        """A process that has its control socket and does nothing."""
        path = os.path.join(self.home, DIRECTORY, f"{name}.sock")
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        with short_path(path) as short:
            listening.bind(short)
        listening.listen(backlog)
        return path

    def test_one_whose_socket_takes_no_more_is_there_still(self) -> None:
        """It was asked too often. Nobody may take it for one that does not run: its files are in use."""
        path = self.stand("mta-0", backlog=1)
        with self.assertRaises(BlockingIOError):
            for _ in range(100):
                self.addCleanup(connect_unix(path, 0.0).close)
        began = time.monotonic()
        self.assertEqual([one.name for one in running(self.home)], ["mta-0"])
        with self.assertRaisesRegex(CommandError, "mta-0: no answer to status within 0.3 s"):
            call(self.home, "mta-0", "status", timeout_s=0.3)
        self.assertLess(time.monotonic() - began, 2.0)

    def test_one_that_is_gone_is_not_there(self) -> None:
        path = os.path.join(self.home, DIRECTORY, "mta-0.sock")
        with socket.socket(socket.AF_UNIX) as listening, short_path(path) as short:
            listening.bind(short)
            listening.listen(1)
        self.assertEqual(running(self.home), [])

    def test_several_cost_one_timeout_together(self) -> None:
        names = [f"mta-{number}" for number in range(5)]
        for name in names:
            self.stand(name)

        def ask(name: str) -> Json:
            return call(self.home, name, "status", timeout_s=0.3) if name != "mta-2" else 7

        began = time.monotonic()
        found = ask_each(names, ask)
        self.assertLess(time.monotonic() - began, 1.0)
        self.assertEqual(list(found), names)
        self.assertEqual(found.pop("mta-2"), 7)
        self.assertEqual({str(one)[5:] for one in found.values()}, {": no answer to status within 0.3 s"})
