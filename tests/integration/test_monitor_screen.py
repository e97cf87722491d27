"""C{qmailpy monitor} on a terminal, over a daemon that comes and goes."""

from __future__ import annotations

import os
import re

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.daemon_process import ROOT
from tests.integration.node import QMAILPY, Node, quick
from tests.integration.terminal import Terminal
from tests.integration.test_qm_large import fill


class ScreenTests(SynchronousTestCase):
    timeout = 90

    def test_it_shows_whose_mail_waits_follows_the_window_and_outlives_the_daemon(self) -> None:
        node = Node({**quick(9), "channel.tcp_local.stopped": True}, copied=True)
        self.addCleanup(node.clean_up)
        fill(node.home, 120)
        node.start()
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "TERM": "xterm", "LANG": "C.UTF-8"}
        command = [QMAILPY, "--home", node.home, "monitor", "--interval", "0.2"]
        with Terminal(command, environment) as terminal:
            terminal.wait("all that waits, counted ")
            terminal.wait("d0.example")
            rest = terminal.wait(" more")
            self.assertRegex(rest, r"d1\.example +2 +2")
            terminal.resize(40, 20)
            terminal.wait("all that waits, ")
            shown = terminal.wait("and ")
            self.assertNotIn("counted", shown)
            self.assertRegex(re.sub(r"\x1b\[[0-9;]*m", "", shown), r"d0\.example +2 +\r?\n")
            terminal.resize(120, 30)
            node.stop()
            terminal.wait("the daemon is not running; waiting for it")
            self.assertNotIn("all that waits", terminal.wait("the daemon is not running"))  # to the next frame
            node.start()
            terminal.wait("all that waits, counted ")
