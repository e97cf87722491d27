"""The daemon's own log."""

from __future__ import annotations

import os

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.log import LogFile


def event(text: str, namespace: str = "log_legacy") -> dict[str, object]:
    return {
        "log_namespace": namespace,
        "log_text": text,
        "log_format": "{log_text}",
        "log_level": LogLevel.info,
        "log_time": 0.0,
    }


class LogFileTests(SynchronousTestCase):
    """L{LogFile}."""

    def written(self, *events: dict[str, object]) -> str:
        path = os.path.join(self.mktemp())
        log = LogFile(path, "mta-0")
        for one in events:
            log(one)
        with open(path) as source:
            return source.read()

    def test_sockets_of_dns_questions_are_not_told(self) -> None:
        """Two lines a question would bury all others; they come from Twisted, which has no switch for them."""
        self.assertEqual(self.written(event("_Datagram starting on 4711"), event("(UDP Port 4711 Closed)")), "")

    def test_ports_of_listeners_are_told(self) -> None:
        """Where the daemon listens is worth a line."""
        written = self.written(event("SmtpFactory starting on 25"), event("(TCP Port 25 Closed)"))
        self.assertEqual(len(written.splitlines()), 2)

    def test_our_own_words_are_never_noise(self) -> None:
        """Only what Twisted says is looked at: a peer's words in a line of ours do not silence it."""
        self.assertIn("Closed", self.written(event("(UDP Port 1 Closed)", namespace="qmailpy.app.mta.MailWorker")))

    def test_control_characters_do_not_break_a_line(self) -> None:
        """One event is one line, whatever a peer sends."""
        written = self.written(event("a\nb\x1b[2J\u2028c"))
        self.assertEqual(written.count("\n"), 1)
        self.assertIn("a\\nb\\x1b[2J\\u2028c", written)
