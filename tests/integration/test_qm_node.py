"""C{qmailpy qm} against the real daemon, against its home when it is stopped, and against the daemon again."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import subprocess
import time
from typing import Any

from tests.integration.daemon_process import ROOT, gone, until
from tests.integration.node import QMAILPY, NodeCase
from tests.integration.peers.client import message

DEFERRED = "later.example"


class NodeQueueTests(NodeCase):
    """One node; everything for later.example is deferred by the next hop."""

    fresh = True
    settings = {"channel.tcp_local.backoff": [3600.0]}

    def setUp(self) -> None:
        super().setUp()
        self.sink.answer = lambda line: (
            "451 4.2.0 later" if DEFERRED in line and line.upper().startswith("RCPT") else None
        )
        self.environment = {"XDG_CACHE_HOME": os.path.join(self.node.base, "cache")}

    def qm(self, *words: str, status: int = 0) -> str:
        return self.node.qmailpy("qm", *words, status=status, environment=self.environment)

    def listed(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.qm("directory", "--json", *words))
        return found

    def fill(self, *texts: str) -> list[str]:
        """A deferred message for each text; their ids in this order."""
        with self.node.talk() as talk:
            for text in texts:
                content = message(text, sender="alice@example.org")
                self.assertIn("250", talk.mail("alice@example.org", [f"{text}@{DEFERRED}"], content))
        until(lambda: self.counted().get("tcp_local", {}).get("attempted", (0,))[0] == len(texts))
        return [one["id"] for one in self.listed()]

    def test_the_prompt_goes_on_with_whoever_has_the_queue(self) -> None:
        """It is open while the daemon stops, starts, and is changed by another prompt meanwhile."""
        (first,) = self.fill("one")
        prompt = subprocess.Popen(
            [QMAILPY, "--home", self.node.home, "qm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment, "PYTHONPATH": ROOT, "PYTHONUNBUFFERED": "1"},
        )
        assert prompt.stdin is not None
        assert prompt.stdout is not None
        self.addCleanup(prompt.wait, 20)
        self.addCleanup(prompt.stdout.close)
        self.addCleanup(prompt.stdin.close)

        def says(command: str) -> str:
            assert prompt.stdin is not None
            assert prompt.stdout is not None
            prompt.stdin.write(f"{command}\n".encode())
            prompt.stdin.flush()
            return prompt.stdout.readline().decode()

        self.assertIn("from the running queue", says("view"))
        self.assertIn("%QM-I-HELD", says(f"hold {first}"))
        self.assertEqual(self.node.stop(), 0)
        self.assertIn("from the queue directory tree", says("view"))
        self.assertIn("%QM-I-RELEASED", says(f"release {first}"))
        self.assertIn("%QM-I-STOPPED", says("stop tcp_local"))
        self.node.start()
        self.assertIn("from the running queue", says("view"))
        self.assertIn("channel tcp_local started", says("start tcp_local"))
        self.assertIn("%QM-I-STOPPED", says("stop local"))
        summary = {one["channel"]: one for one in json.loads(self.qm("summarize", "--json"))}
        self.assertEqual([summary[name]["stopped"] for name in ("local", "tcp_local")], [True, False])
        self.assertIn("%QM-I-DELETED", says(f"delete -noconfirm {first}"))
        self.qm("start", "local")

    def test_same_mail_is_seen_and_changed_live_then_stopped_then_live(self) -> None:
        """Hold, release, delete, return, read, history, summarize, stop and start: the books hold throughout."""
        first, second, third, fourth, fifth = self.fill("one", "two", "three", "four", "five")
        # live
        self.qm("hold", first, "--reason", "look at it")
        self.qm("delete", second)
        self.assertIn("Subject: three", self.qm("read", third))
        self.assertIn("1 attempt failed", self.qm("history", third))
        live = self.listed()
        self.assertEqual([one["id"] for one in live], [first, third, fourth, fifth])
        self.assertEqual([one["held"] for one in live], [True, False, False, False])
        summary = {one["channel"]: one for one in json.loads(self.qm("summarize", "--json"))}
        self.assertEqual([summary["tcp_local"][key] for key in ("messages", "recipients", "held")], [4, 4, 1])
        self.assertEqual(self.qm("jobs"), "0 jobs under way.\n")
        self.qm("stop", "tcp_local")
        self.check_books()
        # stopped
        self.assertEqual(self.node.stop(), 0)
        before = self.files()
        self.assertEqual(self.listed(), live)
        offline = {one["channel"]: one for one in json.loads(self.qm("summarize", "--json"))}
        self.assertEqual({**offline["tcp_local"]}, {**summary["tcp_local"], "stopped": True})
        self.assertIn("Subject: three", self.qm("read", third))
        self.assertIn("look at it", self.qm("held"))
        self.assertEqual(self.files(), before)
        self.qm("release", first)
        self.qm("hold", third, fourth)
        self.qm("return", fifth, "--reason", "we will not")
        self.qm("delete", fourth)
        self.assertIn("not in the queue", self.qm("delete", second, status=1))
        self.assertIn("is not running", self.qm("run", "tcp_local", status=1))
        self.check_books()
        self.assertEqual({one["id"]: one["held"] for one in self.listed("tcp_local")}, {first: False, third: True})
        self.assertEqual(len(self.listed("process")), 1)
        # live again: the notice goes out, the channel is still stopped
        self.node.start()
        (notice,) = self.node.wait_mailbox("alice", 1)
        self.assertIn(b"we will not", notice)
        self.assertEqual({one["id"]: one["held"] for one in self.listed()}, {first: False, third: True})
        self.sink.forget()
        self.qm("start", "tcp_local")
        self.sink.wait_mails(1)
        self.qm("release", third)
        self.sink.wait_mails(2)
        self.wait_idle()
        self.assertEqual(self.listed(), [])

    def files(self) -> dict[str, bytes]:
        """The queue and the books, octet for octet."""
        found = {}
        for top in ("queue", "log", "run"):
            for folder, _, names in os.walk(self.node.path(top)):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as source:
                        found[os.path.join(folder, name)] = source.read()
        return found

    def test_home_whose_daemon_was_killed_is_seen_and_changed_all_the_same(self) -> None:
        """What only the journal knows is there too, and the lines that were not written are made up for."""
        first, second = self.fill("one", "two")
        assert self.node.process is not None
        workers = [self.node.pid("mta-0"), self.node.pid("directory-0")]
        self.node.process.kill()
        self.node.process.wait()
        until(lambda: all(map(gone, workers)))
        self.assertEqual([one["id"] for one in self.listed()], [first, second])
        self.qm("delete", first)
        self.check_books()
        self.assertEqual([one["id"] for one in self.listed()], [second])
        self.node.start()
        self.sink.forget()
        self.qm("run", "tcp_local")
        self.assertIn("two", self.sink.wait_mails(1)[0].recipients[0])
        self.wait_idle()

    def test_flush_why_and_qshape_live_and_stopped(self) -> None:
        """The next hop takes mail again: one destination is tried at once; what is gone is told from the log."""
        first, second = self.fill("one", "two")
        told = self.qm("why", first)
        self.assertRegex(told, r"It was tried once in vain; the last answer: \[127\.0\.0\.1\]: 451 4\.2\.0 later")
        self.assertIn("Next: an attempt at", told)
        self.assertRegex(self.qm("qshape"), r"later\.example +2 +2 +0")
        self.assertEqual(
            self.qm("flush", "nowhere.example"),
            "%QM-I-FLUSHED, nowhere.example: nothing waits but what is held or in a stopped channel\n",
        )
        self.sink.forget()
        self.sink.answer = lambda line: None
        self.qm("flush", first)
        self.sink.wait_mails(1)
        self.qm("flush", DEFERRED)
        self.sink.wait_mails(2)
        self.wait_idle()
        self.assertRegex(self.qm("why", second), "delivered to two@later.example")
        self.node.stop()
        self.assertIn("TOTAL", self.qm("qshape"))
        self.assertIn("is not running", self.qm("flush", DEFERRED, status=1))
        self.node.start()

    def test_damaged_message_leaves_the_books_when_the_operator_says_so(self) -> None:
        """Live; its files are kept."""
        (first,) = self.fill("one")
        self.node.stop()
        (path,) = glob.glob(self.node.path("queue", "0", "chan", "tcp_local", "*", first))
        with open(path, "r+b") as target:
            target.truncate(10)
        self.node.start()
        self.node.wait_for("were moved to")
        self.assertEqual(self.counted()["tcp_local"]["stored"][0], 1)
        self.assertIn("1 message, 1 recipient", self.qm("clean", "-corrupt", status=1))
        self.assertIn("%QM-I-SETTLED", self.qm("clean", "-corrupt", "-yes"))
        self.assertEqual(self.counted()["tcp_local"]["stored"][0], 0)
        self.check_books()
        self.assertEqual(self.qm("clean", "-corrupt"), "Nothing is in corrupt/.\n")
        self.assertTrue(glob.glob(self.node.path("queue", "0", "corrupt", "settled", f"{first}.*")))

    def test_shard_that_is_locked_is_told_in_one_line(self) -> None:
        """The daemon is just starting."""
        (first,) = self.fill("one")
        self.node.stop()
        with open(self.node.path("queue", "0", "lock"), "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for words in (("directory",), ("delete", first)):
                error = self.qm(*words, status=1)
                self.assertIn("queue shard 0 is in use by another process", error)
                self.assertEqual(error.count("\n"), 1)

    def test_daemon_waits_for_a_command_that_has_its_shard(self) -> None:
        """It begins as soon as the command has ended."""
        self.node.stop()
        with open(self.node.path("queue", "0", "lock"), "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.node.launch()
            until(lambda: _waits_for(self.node.path("run", "control")))
            time.sleep(0.3)
        self.node.wait_for("qmailpy is ready")
        self.assertEqual(self.node.printed().count("cannot take up its queue"), 0)


def _waits_for(folder: str) -> bool:
    return any(name.startswith("mta") for name in os.listdir(folder))
