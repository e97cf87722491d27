"""What an operator asks of a running server: what happened to this mail, who sent how much, is all well."""

from __future__ import annotations

import json
import os
import signal
from typing import ClassVar

from qmailpy.records.record import Action
from tests.integration.node import NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always


class Operator(NodeCase):
    """A daemon with its figures on a socket below HOME."""

    settings: ClassVar[Settings] = {"monitor.endpoint": "unix:run/monitor.sock"}

    def bounce(self, to: str) -> str:
        """Alice writes to somebody the next hop does not know, and is told; the queue id of her mail."""
        self.sink.answer = always("RCPT", "550 5.1.1 unknown here")
        before = len(self.node.mailbox("alice"))
        with self.node.talk() as talk:
            talk.mail("alice@example.org", [to], message("asked after"))
        self.node.wait_mailbox("alice", before + 1)
        self.wait_idle()
        (failed,) = [record for record in self.node.records(Action.FAILED) if record.original_to == to]
        assert failed.file is not None
        return failed.file.id

    def answer(self, *words: str) -> str:
        return self.node.qmailpy(*words)

    def test_a_bounce_is_told_to_its_end(self) -> None:
        """The most repeated wish of all: what happened to this mail? Also when its log was rolled away."""
        queue_id = self.bounce("gone@traced.example")
        for roll in range(3):
            told = self.answer("trace", "gone@traced.example")
            for text in (
                f"{queue_id}: message from alice@example.org",
                "given up for gone@traced.example by tcp_local",
                "550 5.1.1 unknown here",
                f"bounce of {queue_id} from <>",
                "delivered to alice@example.org by local",
                "all have it",
            ):
                self.assertIn(text, told, roll)
            self.answer("log", "roll")
        self.assertEqual(self.answer("trace", queue_id), told)

    def test_accounts_are_those_of_the_log(self) -> None:
        self.bounce("gone@counted.example")
        lines = json.loads(self.answer("log", "account", "--by", "domain", "--json"))["lines"]
        found = {line["key"]: line for line in lines}
        self.assertEqual(found["counted.example"]["failed"], 1)
        counters = self.node.counters()
        lines = json.loads(self.answer("log", "account", "--by", "channel", "--json"))["lines"]
        for line in lines:
            row = counters[line["key"]]
            self.assertEqual(line["sent_messages"], row["submitted"]["messages"], line["key"])
            self.assertEqual(line["failed"], row["failed"]["recipients"], line["key"])
            self.assertEqual(line["delivered_recipients"] + line["failed"], row["delivered"]["recipients"], line["key"])

    def test_the_status_is_that_of_the_processes(self) -> None:
        """S2."""
        found = json.loads(self.answer("status", "--json"))
        levels = {finding["name"]: finding["level"] for finding in found["findings"]}
        self.assertEqual(levels["queue"], "ok", found)
        self.assertIn(found["findings"][0]["level"], ("ok", "warning"), found)

    def test_prometheus_reads_the_counters(self) -> None:
        """S2: of all processes, in one answer."""
        self.bounce("gone@measured.example")
        found = self.node.monitor("/metrics")
        self.assertTrue(found.startswith("HTTP/1.0 200"), found[:200])
        row = self.node.counters()["local"]["delivered"]
        for text in (
            f'qmailpy_delivered_messages_total{{channel="local"}} {row["messages"]:.1f}',
            'qmailpy_queue_messages{channel="tcp_local"} 0.0',
            'qmailpy_process_up{process="directory-0"} 1.0',
            'qmailpy_process_up{process="mta-0"} 1.0',
        ):
            self.assertIn(text, found)
        self.assertIn("HTTP/1.0 404", self.node.monitor("/"))

    def test_figures_are_back_after_the_worker_died(self) -> None:
        os.kill(self.node.pid("mta-0"), signal.SIGKILL)
        self.assertIn('qmailpy_process_up{process="mta-0"} 1.0', self.node.monitor("/metrics"))
