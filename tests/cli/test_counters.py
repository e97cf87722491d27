"""qmailpy qm counters, on a stopped home and beside a (scripted) daemon."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

from attrs import evolve
from click.testing import CliRunner, Result
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli import counters as module
from qmailpy.cli.counters import counters
from qmailpy.config.schema import ChannelConfig, Config, ServerConfig
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder
from tests.stats.test_recorder import OPTIONS, dequeue, enqueue


class CountersCase(SynchronousTestCase):
    """A home with a log and counters: two messages came, one left, today."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(f"{self.home}/run")
        self.running = False
        self.asked: list[bool] = []

        def ask(home: str, keep_stored: bool) -> bool:
            self.asked.append(keep_stored)
            return self.running

        self.patch(module, "control_clear", ask)
        channels = {"hold": ChannelConfig(name="hold", kind="hold")}
        self.patch(
            module,
            "load",
            lambda home: Config(home=home, server=ServerConfig(hostname="h"), log=OPTIONS, channels=channels),
        )
        recorder = self.recorder()
        now = time.time()
        recorder.write([evolve(record, time=now) for record in (enqueue(1), enqueue(2), dequeue(1))])
        recorder.close()

    def recorder(self) -> Recorder:
        lane = Lane(f"{self.home}/run/counters", "0", time.time)
        recorder = Recorder(Clock(), RealFiles(), f"{self.home}/log", lane, "0", OPTIONS)
        recorder.thd_recover(None)
        return recorder

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(counters, list(words), obj=SimpleNamespace(home=self.home))

    def done(self, *words: str) -> str:
        result = self.call(*words)
        self.assertEqual((result.exit_code, result.exception), (0, None), result.output)
        return result.output

    def refused(self, *words: str) -> str:
        result = self.call(*words)
        self.assertIsInstance(result.exception, CommandError)
        return str(result.exception)

    def stored(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.done("show", "--json"))["channels"]["local"]["stored"]
        return found


class CountersTests(CountersCase):
    def test_show_prints_the_documents_layout(self) -> None:
        """C9."""
        found = self.done("show")
        self.assertTrue(found.startswith("Channel          Messages    Recipients    Blocks\n-------"))
        self.assertIn("\nlocal\n   Received           2           2           4\n   Stored             1 ", found)
        self.assertIn("   Queue time/count        2/1 = 1.50\n", found)

    def test_show_has_the_ancestors_options(self) -> None:
        self.assertNotIn("Channel ", self.done("show", "-noheaders"))
        self.assertNotIn("Assocs", self.done("show", "-noassociations"))
        self.assertNotIn("Received", self.done("show", "-nochannels", "-headers", "-associations"))
        self.assertEqual(self.done("show", f"-output={self.home}/out"), "")
        with open(f"{self.home}/out") as file:
            self.assertEqual(file.read(), self.done("show"))

    def test_show_takes_names_of_channels_and_patterns(self) -> None:
        """C9, imta.md 3: each once, in the order of names; one where nothing came yet is shown with zeros."""
        everything = self.done("show")
        self.assertIn("\ntcp_local\n", everything)
        only = self.done("show", "local")
        self.assertIn("\nlocal\n   Received           2 ", only)
        self.assertNotIn("tcp_local", only)
        self.assertEqual(self.done("show", "*local", "local"), everything)
        self.assertEqual(list(json.loads(self.done("show", "tcp_*", "--json"))["channels"]), ["tcp_local"])
        self.assertIn("hold\n   Received           0 ", self.done("show", "hold"))
        self.assertIn("no channel is called nowhere; there are hold, local", self.refused("show", "local", "nowhere"))

    def test_clear_goes_to_zero_and_keeps_stored(self) -> None:
        """C9; neither option means both (imta.md 2.3), so Stored is the queue's content."""
        for options in ((), ("-channels",), ("-channels", "-associations")):
            self.done("clear", *options)
            self.assertEqual(self.stored()["messages"], 1)
            self.assertIn("   Received           0 ", self.done("show"))
        self.assertEqual(self.asked, [True] * 3)
        self.done("verify")

    def test_a_clear_to_plain_zero_goes_negative_and_tells_the_truth(self) -> None:
        """C6."""
        self.done("clear", "-associations")
        self.assertEqual(self.asked, [False])
        self.assertEqual(self.stored()["messages"], 0)
        recorder = self.recorder()
        recorder.write([dequeue(2), enqueue(3)])
        recorder.flush()
        recorder.write([dequeue(3)])
        recorder.write([enqueue(4)])
        recorder.close()
        found = self.stored()
        self.assertEqual(
            (found["messages"], found["minimum"], found["true"]),
            (0, {"messages": -1, "recipients": -1, "blocks": -2}, {"messages": 1, "recipients": 1, "blocks": 2}),
        )
        self.done("verify")

    def test_a_running_daemon_clears_itself(self) -> None:
        self.running = True
        before = self.done("show")
        self.done("clear")
        self.assertEqual(self.done("show"), before)  # the file is the daemon's

    def test_clear_makes_the_file_when_there_is_none(self) -> None:
        os.unlink(f"{self.home}/run/counters")
        self.done("clear")
        self.assertEqual(json.loads(self.done("show", "--json"))["channels"], {})

    def test_create_and_delete(self) -> None:
        self.done("create")
        self.assertEqual(self.stored()["messages"], 1)
        self.assertIn("delete them first", self.refused("create", "-max_channels=5"))
        self.done("delete")
        self.assertIn("no counters", self.refused("delete"))
        self.assertIn("and so does qmailpy qm counters create", self.refused("show"))
        self.assertIn("no counters", self.refused("verify"))
        self.done("create", "-max_channels=5")
        self.assertEqual(json.loads(self.done("show", "--json"))["max_channels"], 5)
        self.assertEqual(self.call("create", "-max_channels=0").exit_code, 2)

    def test_a_file_that_is_none_is_said(self) -> None:
        with open(f"{self.home}/run/counters", "wb") as file:
            file.write(b"x" * 1000)
        for words in (("show",), ("clear",), ("verify",), ("create",)):
            self.assertIn("damaged", self.refused(*words))

    def test_today_counts_what_left_the_queue(self) -> None:
        self.assertEqual(self.done("today"), "1 messages processed so far today\n")
        self.assertEqual(json.loads(self.done("today", "--json")), {"messages": 1})

    def test_verify_says_equal_or_what_differs(self) -> None:
        self.assertEqual(
            self.done("verify"), "the counters equal the transaction log: 3 records since the last clear\n"
        )
        self.assertTrue(json.loads(self.done("verify", "--json"))["equal"])
        with open(f"{self.home}/log/mail.log_current", "r+b") as file:
            file.truncate(0)
        result = self.call("verify")
        self.assertIsInstance(result.exception, CommandError)
        self.assertIn("local received_messages: counted 2, in the log 0", result.output)
        self.assertFalse(json.loads(self.call("verify", "--json").output)["equal"])

    def test_without_a_home_nothing_is_made(self) -> None:
        """A mistyped HOME is told, with the remedy; no counters appear where nobody looks for them."""
        self.home += "/none"
        for words in (("show",), ("clear",), ("create",), ("delete",)):
            self.assertIn("qmailpy init", str(self.call(*words).exception))
        self.assertFalse(os.path.exists(self.home))
