"""qmailpy log."""

from __future__ import annotations

import gzip
import json
import os
from types import SimpleNamespace

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import log as module
from qmailpy.cli.log import log
from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.record import Action, LogRecord, QueueFile
from qmailpy.records.text import LineFormat
from tests.cli.pausing import pausing


class LogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(f"{self.home}/log")

    def write(self, octets: bytes) -> None:
        with open(f"{self.home}/log/mail.log_current", "ab") as file:
            file.write(octets)

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(log, list(words), obj=SimpleNamespace(home=self.home))

    def test_tail_shows_the_last_lines(self) -> None:
        self.write(b"".join(b"%d\n" % number for number in range(20)))
        self.assertEqual(self.call("tail").output, "".join(f"{number}\n" for number in range(10, 20)))
        self.assertEqual(self.call("tail", "-n", "2").output, "18\n19\n")
        self.assertEqual(self.call("tail", "-n", "0").output, "")

    def test_tail_is_safe_for_a_terminal(self) -> None:
        """Even where somebody else wrote the line."""
        self.write(b"\x1b[2J\xff\n")
        self.assertEqual(self.call("tail").output, "\\x1b[2J\ufffd\n")

    def test_following_shows_what_comes_over_a_roll(self) -> None:
        self.patch(
            module,
            "time",
            pausing(lambda: self.write(b"2\n"), lambda: self.call("roll"), lambda: self.write(b"3\n"), lambda: None),
        )
        self.write(b"1\n")
        result = self.call("tail", "-f")
        self.assertEqual((result.output, result.exit_code), ("1\n2\n3\n", 0))

    def test_following_waits_for_a_log(self) -> None:
        self.patch(module, "time", pausing(lambda: self.write(b"1\n"), lambda: None))
        self.assertIsInstance(self.call("tail").exception, CommandError)
        self.assertEqual(self.call("tail", "-f").output, "1\n")

    def test_roll(self) -> None:
        self.write(b"1\n")
        self.assertEqual(self.call("roll").exit_code, 0)
        self.write(b"2\n")
        self.assertEqual(self.call("roll").exit_code, 0)
        names = ("mail.log", "mail.log_yesterday", "mail.log_current")
        self.assertEqual([RealFiles().read(f"{self.home}/log/{name}") for name in names], [b"1\n", b"2\n", b""])

    def test_roll_says_why_not(self) -> None:
        handle = RealFiles().lock(f"{self.home}/log/mail.log_lock")
        self.assertEqual(str(self.call("roll").exception), "another process is rolling the log")
        os.close(handle)
        self.home += "/log"
        self.assertEqual(str(self.call("roll").exception), "there is no log directory: is it a home?")

    def test_without_a_home_the_remedy_is_named(self) -> None:
        """The most common mistake of all: HOME was forgotten or mistyped."""
        self.home += "/none"
        for words in (("tail",), ("roll",)):
            self.assertIn("qmailpy init", str(self.call(*words).exception))

    def test_tail_as_json_is_a_record_a_line(self) -> None:
        """What cannot be read is passed on as it stands: a reader must not think it was never there."""
        record = LogRecord(
            action=Action.DEQUEUED,
            time=1.5,
            source="local",
            sender="a@example.org",
            original_to="b@example.org",
            current_to="c@example.org",
            file=QueueFile(channel="local", id="0", attempts=0),
            queue_time=0.25,
        )
        self.patch(module, "load", lambda home: SimpleNamespace(log=LogConfig(), server=SimpleNamespace(hostname="h")))
        self.write(LineFormat(LogConfig()).line(record) + b"torn\n")
        found, torn = map(json.loads, self.call("tail", "--json").output.splitlines())
        self.assertEqual((found["action"], found["source"], found["current_to"]), ("D", "local", "c@example.org"))
        self.assertEqual((found["file"]["id"], found["queue_time"], found["time"]), ("0", 0.25, 1.5))
        self.assertEqual(torn, {"unreadable": "torn"})

    def records(self) -> None:
        """A delivery of a to b, a deferral of c to d, and something torn."""
        self.patch(module, "load", lambda home: SimpleNamespace(log=LogConfig(), server=SimpleNamespace(hostname="h")))
        for action, channel, sender, to, number in (
            (Action.DEQUEUED, "local", "a@one.example", "b@two.example", "06kq9q5g5k3l0a0"),
            (Action.DEFERRED, "tcp_local", "c@one.example", "d@six.example", "06kq9q5g5k3l0b0"),
        ):
            record = LogRecord(
                action=action,
                time=1.5,
                source=channel,
                sender=sender,
                original_to=to,
                current_to=to,
                file=QueueFile(channel=channel, id=number, attempts=0),
                message_id=f"<{number}@x>",
            )
            self.write(LineFormat(LogConfig()).line(record))
        self.write(b"torn\n")

    def test_tail_shows_what_is_asked_for(self) -> None:
        self.records()
        for words, senders in (
            (("--channel", "local"), "a"),
            (("--action", "qz"), "c"),
            (("--action", "DQ"), "ac"),
            (("--address", "six.example"), "c"),
            (("--address", "a@*"), "a"),
            (("--id", "06kq9q5g5k3l0a0"), "a"),
            (("--id", "<06kq9q5g5k3l0b0@x>"), "c"),
            (("--id", "local/0a/ZZ06kq9q5g5k3l0a0.01+"), "a"),
            (("--id", "Z906kq9q5g5k3l0b0.HELD"), "c"),
            (("--channel", "local", "--action", "Q"), ""),
        ):
            lines = self.call("tail", *words, "--json").output.splitlines()
            self.assertEqual("".join(json.loads(line)["sender"][0] for line in lines), senders, words)

    def test_tail_reads_other_files_and_other_formats(self) -> None:
        """An iMTA's, packed, without a home of ours."""
        old = (
            b"16-Feb-2007 14:55:02.10 ims-ms                    D 5 a@b rfc822;b@example.com b@x\n"
            b"16-Feb-2007 14:55:03.10 tcp_local                 Q 1 c@d rfc822;e@example.org e@example.org\n"
        )
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(gzip.compress(old * 3))
        self.home += "/none"
        words = ("tail", "--format", "sun", "--action", "Q", "-n", "2", path)
        self.assertEqual(self.call(*words).output, old.splitlines(keepends=True)[1].decode() * 2)
        found = [json.loads(line)["sender"] for line in self.call(*words, "--json").output.splitlines()]
        self.assertEqual(found, ["c@d", "c@d"])
        self.assertEqual(self.call("tail", path).output, (old * 3).decode())
        for bad in (("tail", "--format", "sun"), ("tail", "-f", path)):
            self.assertEqual(self.call(*bad).exit_code, 2)

    def test_tail_shows_mail_of_a_subject(self) -> None:
        self.records()
        record = LogRecord(action=Action.ENQUEUED, time=1.5, source="x", destination="y", subject="Über uns")
        self.write(LineFormat(LogConfig()).line(record))
        self.assertIn("Über uns", self.call("tail", "--subject", "über").output)
        self.assertEqual(self.call("tail", "--subject", "uber").output, "")

    def test_tail_goes_back_until_it_has_enough(self) -> None:
        """The last 10 lines of a channel, not what is of the channel among the last 10 lines."""
        self.records()
        self.write(b"torn\n" * 100)
        self.assertEqual(len(self.call("tail", "-n", "1", "--channel", "local").output.splitlines()), 1)

    def test_a_terminal_gets_colours(self) -> None:
        self.records()
        self.patch(module, "_colours", lambda: True)
        lines = CliRunner().invoke(log, ["tail"], obj=SimpleNamespace(home=self.home), color=True).output.splitlines()
        self.assertEqual([line[:5] for line in lines], ["\x1b[32m", "\x1b[33m", "\x1b[35m"])
