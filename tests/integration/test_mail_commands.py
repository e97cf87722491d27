"""C{qmailpy inject} and C{qmailpy sendmail} with the daemon there and away."""

from __future__ import annotations

import os
import subprocess
from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.daemon_process import ROOT
from tests.integration.node import QMAILPY, NodeCase, Settings, trace_and_message
from tests.integration.peers.client import message

NOTE = b"To: alice@example.org\nSubject: a note\n\nHello.\n.\nMore.\n"


class Commands(NodeCase):
    settings: ClassVar[Settings] = {}

    def dropped(self) -> list[str]:
        return os.listdir(self.node.path("queue", "drop"))

    def test_inject(self) -> None:
        """qmail-inject: recipients of the header, a header made complete."""
        self.node.qmailpy("inject", octets=NOTE, environment={"QMAILUSER": "bob", "QMAILHOST": "example.org"})
        (mail,) = self.node.wait_mailbox("alice", 1)
        fields, text = trace_and_message(mail)
        self.assertEqual(fields[0], b"Return-Path: <bob@example.org>\n")
        for name in (b"Date: ", b"From: ", b"Message-ID: ", b"\nSubject: a note\n"):
            self.assertIn(name, text)
        self.assertTrue(text.endswith(b"\n\nHello.\n.\nMore.\n"))
        self.wait_idle()
        self.assertEqual(self.dropped(), [])
        self.assertEqual(self.node.records(Action.ENQUEUED)[-1].source, "local")

    def test_sendmail(self) -> None:
        """-t with a recipient more, -i so that a dot does not end it, -f for the sender."""
        self.node.qmailpy("sendmail", "-t", "-i", "-f", "bob@example.org", "x@remote.example", octets=NOTE)
        (mail,) = self.node.wait_mailbox("alice", 1)
        self.assertTrue(mail.endswith(b"Hello.\n.\nMore.\n"))
        (remote,) = self.sink.wait_mails(1)
        self.assertEqual((remote.sender, remote.recipients), ("bob@example.org", ["x@remote.example"]))
        self.wait_idle()

    def test_sendmail_asks_for_reports(self) -> None:
        """-N, -R and -V, with the daemon there and away."""
        asked = ("sendmail", "-f", "bob@example.org", "-Nsuccess", "-Rhdrs", "-V", "QQ 314159", "alice@example.org")
        self.node.qmailpy(*asked, octets=NOTE)
        self.node.wait_mailbox("bob", 1)
        self.node.stop()
        self.node.qmailpy(*asked, octets=NOTE)
        self.node.start()
        for report in self.node.wait_mailbox("bob", 2):
            self.assertIn(b"\nAction: delivered\n", report)
            self.assertIn(b"\nOriginal-Envelope-Id: QQ 314159\n", report)
        self.wait_idle()
        self.assertEqual(len(self.node.mailbox("alice")), 2)

    def test_a_recipient_who_is_not_there_is_told_at_once(self) -> None:
        error = self.node.qmailpy("inject", "nobody@example.org", octets=NOTE, status=100)
        self.assertIn("nobody@example.org", error)
        self.node.qmailpy("sendmail", "nobody@example.org", octets=NOTE, status=67)
        self.assertEqual(self.dropped(), [])

    def test_sendmail_speaks_smtp(self) -> None:
        """-bs: as programs like mutt or git send."""
        dialogue = b"EHLO here\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n"
        dialogue += message("bs") + b".\r\nQUIT\r\n"
        printed = self.node.qmailpy("sendmail", "-bs", octets=dialogue)
        self.assertEqual([line[:3] for line in printed.splitlines() if line[3:4] == " "][-2:], ["250", "221"])
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()

    def test_mail_submitted_while_the_daemon_is_down_is_sent_at_its_start(self) -> None:
        """It waits in the drop directory; a bad file there is set aside and stops nothing."""
        self.assertEqual(self.node.stop(), 0)
        self.node.qmailpy("inject", octets=NOTE)
        self.node.qmailpy("sendmail", "-f", "bob@example.org", "alice@example.org", "x@remote.example", octets=NOTE)
        self.assertEqual(len(self.dropped()), 2)
        with open(self.node.path("queue", "drop", "0-bad"), "wb") as target:
            target.write(b"garbage")
        self.node.start()
        self.node.wait_mailbox("alice", 2)
        self.sink.wait_mails(1)
        self.until(lambda: self.dropped() == [])
        self.assertEqual(os.listdir(self.node.path("queue", "drop-corrupt")), ["0-bad"])
        self.wait_idle()

    def test_a_reader_that_goes_away_is_no_traceback(self) -> None:
        """C{qmailpy log tail} into C{head}, as people do."""
        self.node.qmailpy("inject", octets=NOTE)
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()
        command = f"{QMAILPY} --home {self.node.home} log tail -n 1000 | head -n 1"
        environment = {**os.environ, "PYTHONPATH": ROOT}
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=20, check=False)
        self.assertEqual(done.stderr, b"")
        self.assertEqual(done.stdout.count(b"\n"), 1)
