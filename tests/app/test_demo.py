"""The demonstration's parts, without processes (tests/integration/test_demo.py runs the whole)."""

from __future__ import annotations

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.demo_home import Stage, ports
from qmailpy.app.demo_mail import Ledger, Mail, mails
from qmailpy.app.demo_programs import READY, Daemon
from qmailpy.app.demo_sink import SinkFactory, Taken
from qmailpy.config.load import parse
from qmailpy.config.schema import Config
from qmailpy.config.template import HomeChoices, home_text
from qmailpy.errors import CommandError
from qmailpy.records.record import Action, LogRecord, QueueFile


def config(*, relay: str = "127.0.0.1:11025", unprivileged: bool = True) -> Config:
    choices = HomeChoices(
        hostname="mail.example.org", domain="example.org", unprivileged=unprivileged, relay=relay, user="root"
    )
    return parse(home_text(choices), "qmailpy.toml", "/nowhere")


def stage() -> Stage:
    return Stage(
        home="/nowhere", config=config(), made=False, domain="example.org", passwords={}, port=10025, sink_port=11025
    )


def record(mail: Mail, action: Action, recipient: str, source: str, queue_id: str = "0") -> LogRecord:
    return LogRecord(
        action=action,
        time=0.0,
        source=source,
        sender=mail.sender,
        original_to=recipient,
        current_to=recipient,
        message_id=mail.message_id,
        file=QueueFile(channel=source, id=queue_id, attempts=0),
    )


class LedgerTests(SynchronousTestCase):
    """L{Ledger}."""

    def setUp(self) -> None:
        self.sent = mails(stage(), "1")
        self.ledger = Ledger(self.sent, ["local"])

    def all_delivered(self) -> None:
        for mail in self.sent[:3]:
            for recipient in mail.recipients:
                channel = "local" if recipient.endswith("@example.org") else "tcp_local"
                self.ledger.add(record(mail, Action.DEQUEUED, recipient, channel, "q" + mail.what[:4]))

    def notice(self) -> LogRecord:
        return LogRecord(action=Action.DEQUEUED, time=0.0, source="local", current_to="alice@example.org")

    def test_it_is_content_when_all_is_told(self) -> None:
        """Each delivery, the failure and its notice: then nothing is missing."""
        self.all_delivered()
        self.ledger.add(record(self.sent[3], Action.FAILED, "nobody@example.net", "tcp_local"))
        self.assertEqual(str(self.ledger), "no failure notice for alice@example.org")
        self.ledger.add(self.notice())
        self.assertEqual(self.ledger.missing, set())
        self.assertEqual(self.ledger.delivered[self.sent[0].message_id], "qTo a")

    def test_one_recipient_of_two_is_not_enough(self) -> None:
        """A message over two channels has two ends."""
        mail = self.sent[1]
        self.ledger.add(record(mail, Action.DEQUEUED, mail.recipients[0], "local"))
        self.assertIn(mail.recipients[1] + " " + mail.message_id, str(self.ledger))

    def test_the_mail_of_an_earlier_run_does_not_count(self) -> None:
        """Message-IDs are of one run; a notice before our failure is another's."""
        for mail in mails(stage(), "0"):
            for recipient in mail.recipients:
                self.ledger.add(record(mail, Action.DEQUEUED, recipient, "local"))
        self.ledger.add(self.notice())
        self.assertEqual(len(self.ledger.missing), 6)

    def test_a_delivery_that_failed_is_no_delivery(self) -> None:
        """R does not stand for D, nor D for R."""
        self.ledger.add(record(self.sent[0], Action.FAILED, "bob@example.org", "local"))
        self.ledger.add(record(self.sent[3], Action.DEQUEUED, "nobody@example.net", "tcp_local"))
        self.assertEqual(len(self.ledger.missing), 6)


class SinkTests(SynchronousTestCase):
    """L{qmailpy.app.demo_sink.Sink}."""

    def talk(self, *lines: str) -> list[str]:
        """Send lines to a new sink, all at once; what it answered."""
        sink = SinkFactory("example.net", self.taken.append).buildProtocol(None)
        transport = StringTransport()
        sink.makeConnection(transport)
        sink.dataReceived("".join(f"{line}\r\n" for line in lines).encode())
        said: bytes = transport.value()
        return said.decode().splitlines()

    def setUp(self) -> None:
        self.taken: list[Taken] = []

    def test_it_takes_mail_and_refuses_nobody(self) -> None:
        """One recipient is refused, the other gets the message."""
        answers = self.talk(
            "HELO a.example",
            "MAIL FROM:<a@example.org>",
            "RCPT TO:<nobody@example.net>",
            "RCPT TO:<friend@example.net>",
            "RCPT TO:<a@example.com>",
            "DATA",
            "hello",
            ".",
            "QUIT",
        )
        self.assertEqual(" ".join(answer[:3] for answer in answers), "220 250 250 550 250 550 354 250 221")
        self.assertEqual(self.taken, [Taken(sender="a@example.org", recipients=("friend@example.net",), size=7)])

    def test_each_message_has_its_own_recipients(self) -> None:
        """A second message in a session does not inherit those of the first."""
        once = ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "DATA", ".")
        self.talk("HELO a.example", *once, *once)
        self.assertEqual([taken.recipients for taken in self.taken], [("b@example.net",)] * 2)


class PortsTests(SynchronousTestCase):
    """L{ports}: which homes a demonstration may run on."""

    def test_the_ports_are_those_of_the_configuration(self) -> None:
        """Somebody may have changed them."""
        self.assertEqual(ports(config(relay="127.0.0.1:2525")), (10025, 2525))

    def test_a_home_that_sends_into_the_world_is_refused(self) -> None:
        """A demonstration never sends mail to real servers."""
        for relay in ("", "relay.example.com:25", "127.0.0.1"):
            self.assertIn("--home", str(self.assertRaises(CommandError, ports, config(relay=relay))))


class DaemonTests(SynchronousTestCase):
    """L{Daemon}."""

    def test_it_is_ready_when_it_says_so(self) -> None:
        """The line may come in pieces."""
        daemon = Daemon()
        daemon.childDataReceived(1, b"info " + READY[:7])
        self.assertNoResult(daemon.ready)
        daemon.childDataReceived(1, READY[7:] + b"\n")
        self.successResultOf(daemon.ready)

    def test_its_last_words_tell_why_it_did_not_start(self) -> None:
        """In one line, with nothing a terminal would act upon."""
        daemon = Daemon()
        daemon.childDataReceived(2, b"listener smtp: taken\x1b[2J\n")
        daemon.processEnded(Failure(ProcessTerminated(exitCode=1)))
        why = str(self.failureResultOf(daemon.ready, CommandError).value)
        self.assertIn("listener smtp: taken\\x1b[2J", why)
        self.assertEqual(self.successResultOf(daemon.end()), 1)

    def test_whoever_waits_learns_of_its_end(self) -> None:
        """Before and after; a signal is a negative number."""
        daemon = Daemon()
        daemon.ready.addErrback(lambda _: None)
        before = daemon.end()
        daemon.processEnded(Failure(ProcessTerminated(signal=9)))
        self.assertEqual(self.successResultOf(before), -9)
        other = Daemon()
        other.ready.addErrback(lambda _: None)
        other.processEnded(Failure(ProcessDone(0)))
        self.assertEqual(self.successResultOf(other.end()), 0)

    def test_a_daemon_that_dies_again_and_again_is_not_waited_for(self) -> None:
        """The supervisor never gives up; the demonstration does, with the reason."""
        daemon = Daemon()
        daemon.childDataReceived(1, b"x critical mta-0[1] mta cannot start: why\nx error: restarts are held back\n")
        self.assertIn("mta cannot start: why", str(self.failureResultOf(daemon.ready, CommandError).value))


class MailTests(SynchronousTestCase):
    """L{mails}."""

    def test_every_line_ends_in_crlf(self) -> None:
        """As RFC 5322 has it; and the text ends with a line."""
        for mail in mails(stage(), "1"):
            octets = mail.octets("Mon, 1 Jan 2024 00:00:00 +0000")
            self.assertEqual(octets.count(b"\n"), octets.count(b"\r\n"))
            self.assertTrue(octets.endswith(b"\r\n"))
            self.assertIn(b"\r\n\r\n", octets)
