"""C{qm.maint>} on a terminal, where Python and readline are told that there is only ASCII."""

from __future__ import annotations

import os
import shutil
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.daemon_process import ROOT
from tests.integration.node import QMAILPY, Node, quick
from tests.integration.terminal import Terminal
from tests.integration.test_qm_large import fill

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


class PromptTests(SynchronousTestCase):
    """A home without a daemon."""

    timeout = 60

    def setUp(self) -> None:
        self.node = Node({**quick(9), "channel.tcp_local.stopped": True}, copied=True)
        self.addCleanup(self.node.clean_up)
        self.cache = tempfile.mkdtemp(prefix="qmailpy-test-")
        self.addCleanup(shutil.rmtree, self.cache)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ROOT,
            "XDG_CACHE_HOME": self.cache,
            "TERM": "xterm",
            **ASCII,
        }

    def prompt(self) -> Terminal:
        return Terminal([QMAILPY, "--home", self.node.home, "qm"], self.environment, columns=200)

    def history(self) -> list[str]:
        with open(os.path.join(self.cache, "qmailpy", "qm_history"), encoding="utf-8") as file:
            return file.read().splitlines()

    def test_what_is_typed_is_utf_8_and_kept_whatever_happens(self) -> None:
        """Killed, the session leaves its history to the next; a question ends on its own line."""
        fill(self.node.home, 3)
        with self.prompt() as terminal:
            terminal.wait("qm.maint> ")
            terminal.press("directory -subject=Grüße\r")
            self.assertIn("No messages", terminal.wait("qm.maint> "))
            terminal.press("delete -all\r")
            terminal.wait("[y/N]: ")
            self.assertRegex(terminal.interrupt("qm.maint> "), r"\r\nqmailpy: nothing was done\r\n")
        self.assertEqual(self.history(), ["directory -subject=Grüße", "delete -all"])
        with self.prompt() as terminal:
            terminal.wait("qm.maint> ")
            terminal.press("\x1b[A\x1b[A\r")
            shown = terminal.wait("No messages")
            self.assertIn("irectory -subject=Grüße", shown)  # its first letter was there already

    def test_words_of_a_command_are_utf_8_too(self) -> None:
        """And what a terminal cannot show is shown as an escape."""
        told = self.node.qmailpy("trace", "Grüße", status=1, environment=ASCII)
        self.assertIn("is about Grüße (it has no mail)", told)
        self.node.qmailpy("user", "set", "alice@example.org", "name=Alice 午")
        latin = {"PYTHONIOENCODING": "latin-1"}
        self.assertIn("Alice \\u5348", self.node.qmailpy("user", "list", environment=latin))
