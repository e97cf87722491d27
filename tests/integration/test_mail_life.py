"""Deaths, stops, reloads and restarts of the real daemon while mail flows: nothing that was accepted is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from typing import ClassVar

from qmailpy.control import call, running
from qmailpy.errors import CommandError
from qmailpy.records.record import Action
from tests.integration.daemon_process import until
from tests.integration.node import BIN, Node, NodeCase, Settings
from tests.integration.peers.client import Talk, message


class Load(threading.Thread):
    """A client that sends one message after the other, on new connections when one breaks, and keeps count."""

    def __init__(self, port: int, name: str, to: str = "alice@example.org") -> None:
        super().__init__(daemon=True)
        self.port = port
        self.label = name
        self.to = to
        self.kept: list[str] = []  # what was answered with 250
        self.maybe: set[str] = set()  # no answer came
        self.refused = 0
        self.number = 0
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                with Talk(self.port, timeout_s=10) as talk:
                    while not self.ending.is_set() and self._one(talk):
                        pass
            except OSError:
                if self.ending.wait(0.02):
                    return

    def _one(self, talk: Talk) -> bool:
        self.number += 1
        subject = f"{self.label}-{self.number}"
        self.maybe.add(subject)
        reply = talk.mail("a@b.example", [self.to], message(subject))
        if not reply:
            return False
        self.maybe.discard(subject)
        if reply.startswith("250"):
            self.kept.append(subject)
            return True
        self.refused += 1
        return False

    def end(self) -> None:
        self.ending.set()
        self.join(15)


def subjects(mails: list[bytes]) -> list[str]:
    return [mail.partition(b"Subject: ")[2].split(b"\n")[0].decode() for mail in mails]


class LifeCase(NodeCase):
    settings: ClassVar[Settings] = {"server.drain_s": 8.0}

    def loads(self, count: int = 4) -> list[Load]:
        found = [Load(self.node.port, f"{self.id()}-{number}") for number in range(count)]
        for load in found:
            self.addCleanup(load.end)
        self.flowing(found, 5)
        return found

    def flowing(self, loads: list[Load], more: int) -> None:
        """Until each of them got some more messages accepted."""
        before = [len(load.kept) for load in loads]
        self.until(lambda: all(len(load.kept) >= n + more for load, n in zip(loads, before, strict=True)))

    def check_kept(self, loads: list[Load]) -> None:
        """Everything accepted is in the mailbox, and what is not known to be accepted at most once."""
        for load in loads:
            load.end()
        self.wait_idle()
        # Mail of other tests, removed from the mailbox by them, may be there again: a replay of the journal cannot tell
        # what a user has removed in the last seconds from what a power cut took.
        found = [one for one in subjects(self.node.mailbox("alice")) if one.startswith(f"{self.id()}-")]
        kept = [subject for load in loads for subject in load.kept]
        maybe = {subject for load in loads for subject in load.maybe}
        self.assertEqual(set(kept) - set(found), set(), "accepted and lost")
        self.assertEqual(set(found) - set(kept) - maybe, set(), "never sent")
        self.assertEqual(len(found), len(set(found)), "delivered twice")


class Deaths(LifeCase):
    def test_a_worker_killed_while_mail_flows_is_back_within_a_second(self) -> None:
        """Its port never refuses; the books hold; nothing is lost and nothing comes twice."""
        loads = self.loads()
        took = []
        for _ in range(3):
            self.node.kill()
            start = time.monotonic()
            with Talk(self.node.port) as talk:  # its greeting and the answer to EHLO
                took.append(time.monotonic() - start)
                self.assertTrue(talk.mail("a@b.example", ["bob@example.org"], message("me")).startswith("250"))
            self.flowing(loads, 5)
        self.check_kept(loads)
        self.assertEqual(sorted(subjects(self.node.mailbox("bob"))), ["me"] * 3)
        # A quiet machine needs 0.4 to 0.6 s; here are loads and other tests beside it.
        self.assertLess(min(took), 1.5, took)
        self.check_books()

    def test_sigterm_during_load_keeps_every_250(self) -> None:
        loads = self.loads()
        self.assertEqual(self.node.stop(), 0)
        for load in loads:
            load.end()
        self.assertNotIn("did not end in time", self.node.printed())
        self.node.start()
        self.check_kept(loads)

    def test_all_of_it_killed_during_load_keeps_every_250(self) -> None:
        """Supervisor and children, as in a crash of the machine but for its memory."""
        loads = self.loads()
        assert self.node.process is not None
        pids = [self.node.process.pid, self.node.pid("mta-0"), self.node.pid("directory-0")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.node.process.wait(10)
        for load in loads:
            load.end()
        self.node.start()
        self.check_kept(loads)

    def test_a_second_daemon_is_refused(self) -> None:
        command = [os.path.join(BIN, "twistd"), "-n", "--pidfile=", "qmailpy", "--home", self.node.home]
        done = subprocess.run(command, cwd=self.node.base, capture_output=True, timeout=15, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"another qmailpy runs on", done.stdout + done.stderr)
        with self.node.talk() as talk:
            self.assertTrue(talk.mail("a@b.example", ["bob@example.org"], message("still here")).startswith("250"))
        self.node.wait_mailbox("bob", 1)
        self.wait_idle()

    def test_the_directory_killed_is_back_and_mail_was_not_refused_for_good(self) -> None:
        """Temporary answers or those of the cache, never "no such user"."""
        loads = self.loads(2)
        pid = self.node.pid("directory-0")
        os.kill(pid, signal.SIGSTOP)  # neither there nor gone, so that its absence is met
        os.kill(pid, signal.SIGKILL)
        with self.node.talk() as talk:
            reply = talk.envelope("a@b.example", ["bob@example.org"])[1]
        self.assertIn(reply[:3], ("250", "451"), reply)
        self.until(lambda: any(one.name == "directory-0" for one in running(self.node.home)) and self.answers())
        self.flowing(loads, 3)
        self.check_kept(loads)
        new = [one for one in self.node.records(Action.REJECTED) if "5.1.1" in one.diagnostic]
        self.assertEqual(new, [])

    def answers(self) -> bool:
        try:
            return isinstance(call(self.node.home, "directory-0", "status"), dict)
        except CommandError:
            return False


class DirectoryAway(NodeCase):
    """Nobody is in the cache."""

    settings: ClassVar[Settings] = {
        "directory.embedded_s": 0.0,
        "directory.negative_s": 0.0,
        "directory.timeout_s": 1.0,
    }

    def test_a_directory_that_hangs_defers(self) -> None:
        pid = self.node.pid("directory-0")
        os.kill(pid, signal.SIGSTOP)
        try:
            with self.node.talk() as talk:
                replies = talk.envelope("a@b.example", ["bob@example.org", "nobody@example.org"])
            self.assertEqual([reply[:3] for reply in replies], ["250", "451", "451"])
        finally:
            os.kill(pid, signal.SIGCONT)

        def answers() -> bool:
            with self.node.talk() as talk:
                replies = talk.envelope("a@b.example", ["bob@example.org", "nobody@example.org"])
            return [reply[:3] for reply in replies] == ["250", "250", "550"]

        until(answers, 5)


class Reload(LifeCase):
    def test_a_bad_configuration_stays_out_and_a_good_one_comes_in(self) -> None:
        """SIGHUP while mail flows: no connection is lost; a new rule is obeyed."""
        loads = self.loads(2)
        assert self.node.process is not None
        with open(self.node.path("etc", "qmailpy.toml")) as source:
            good = source.read()
        with open(self.node.path("etc", "qmailpy.toml"), "w") as target:
            target.write(good + "\n[server]\n")
        self.node.process.send_signal(signal.SIGHUP)
        self.node.wait_for("the old configuration stays in force")
        self.flowing(loads, 3)
        with open(self.node.path("etc", "qmailpy.toml"), "w") as target:
            target.write(good)
        rule = {"pattern": "moved.example", "channel": "local", "address": "bob@example.org"}
        self.node.set({"rewrite": [rule]})
        self.node.process.send_signal(signal.SIGHUP)
        self.node.wait_for("mta-0 has the new configuration")
        with self.node.talk() as talk:
            self.assertTrue(talk.mail("a@b.example", ["x@moved.example"], message("moved")).startswith("250"))
        self.node.wait_mailbox("bob", 1)
        self.check_kept(loads)
        self.assertEqual([load.refused for load in loads], [0, 0])

    def test_the_log_is_rolled_during_load_and_loses_no_line(self) -> None:
        loads = self.loads(2)
        for _ in range(3):
            self.node.qmailpy("log", "roll")
            self.flowing(loads, 5)
        self.check_kept(loads)
        kept = sum(len(load.kept) for load in loads)
        delivered = [one for one in self.node.records(Action.DEQUEUED) if one.source == "local"]
        self.assertGreaterEqual(len(delivered), kept)
        numbers = sorted(one.sequence for one in self.node.records())
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        for name in ("mail.log", "mail.log_yesterday", "mail.log_current"):
            self.assertGreater(os.path.getsize(self.node.path("log", name)), 0)


class Workers(LifeCase):
    """Another number of workers at each start; the sink defers, so that there is mail to take over."""

    fresh = True

    def begin(self, node: Node) -> None:
        node.set({"server.workers": 2, "channel.tcp_local.backoff": [600.0]})
        node.start()
        node.wait_for("mta-1 is ready")

    def test_from_two_to_one_to_none_and_back(self) -> None:
        """A shard without a worker is adopted; what waits in it is delivered; its books go on."""
        self.sink.answer = lambda line: "451 4.3.0 wait" if line.startswith("RCPT") else None
        pids = [self.node.pid("mta-0"), self.node.pid("mta-1")]
        for pid in pids:  # one stands still, so that the other takes it
            os.kill(pid, signal.SIGSTOP)
            try:
                with self.node.talk() as talk:
                    reply = talk.mail("alice@example.org", ["x@remote.example"], message(str(pid)))
                self.assertTrue(reply.startswith("250"))
            finally:
                os.kill(pid, signal.SIGCONT)
        self.until(lambda: len(self.node.records(Action.DEFERRED)) == 2)
        self.assertEqual({one.lane for one in self.node.records(Action.DEFERRED)}, {"0", "1"})
        self.assertEqual(self.node.stop(), 0)
        for workers in (1, 0):
            self.node.set({"server.workers": workers})
            self.node.start()
            status = call(self.node.home, "mta-0", "status")
            assert isinstance(status, dict)
            self.assertEqual(status["shards"], ["0", "1"])
            self.assertEqual(len(self.node.queued()), 2)
            self.check_books()
            if workers:
                self.assertEqual(self.node.stop(), 0)
        self.sink.answer = lambda _: None
        ids = [one["id"] for one in self.node.queued()]
        self.node.qmailpy("qm", "hold", "--no-confirm", *ids)
        self.node.qmailpy("qm", "release", *ids)
        mails = self.sink.wait_mails(2)
        found = {mail.content.partition(b"Subject: ")[2].split(b"\r\n")[0] for mail in mails}
        self.assertEqual(found, {str(pid).encode() for pid in pids})
        self.wait_idle()
        with self.node.talk() as talk:  # everything in one process takes mail too
            self.assertTrue(talk.mail("a@b.example", ["bob@example.org"], message("alone")).startswith("250"))
        self.node.wait_mailbox("bob", 1)
        self.assertEqual(self.node.stop(), 0)
        self.node.set({"server.workers": 2})
        self.node.start()
        self.check_books()
