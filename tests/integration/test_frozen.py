"""Processes that stand still (SIGSTOP stands for whatever may hold one up): told of, seen from outside, outlived."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, ClassVar

from qmailpy.cli import status
from qmailpy.config.load import load
from qmailpy.control.client import call
from qmailpy.errors import CommandError
from qmailpy.events.reading import Event, thd_events
from qmailpy.servers import metrics
from qmailpy.stats.health import Level, Limits, worst
from qmailpy.watch import look
from tests.integration.daemon_process import gone, until
from tests.integration.node import Node, NodeCase, Settings
from tests.integration.peers.client import message
from tests.integration.peers.sink import always


class FrozenCase(NodeCase):
    """Asked five times a second, so told of after 0.6 s; never killed for it."""

    question = "0.2"

    def begin(self, node: Node) -> None:
        node.options = ["--question", self.question]
        super().begin(node)

    def freeze(self, target: str) -> int:
        pid = self.node.pid(target)
        os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        self.addCleanup(go_on)
        return pid

    def events(self, name: str) -> list[Event]:
        return [one for one in thd_events(self.node.path("log")) if one.event == name]

    def defer(self, *addresses: str) -> None:
        self.sink.answer = always("RCPT", "451 4.3.0 later")
        with self.node.talk() as talk:
            talk.mail("alice@example.org", addresses, message("waits"))

    def examined(self) -> tuple[Level, str]:
        found = status.examine(load(self.node.home), Limits(), time.time())
        return worst(found), "; ".join(one.text for one in found)


class Sole(FrozenCase):
    settings: ClassVar[Settings] = {"server.frozen_s": 0.0, "monitor.interval_s": 1}

    def test_the_only_worker_is_told_of_by_the_supervisor_and_that_it_goes_on(self) -> None:
        """Once each. From outside the same is seen, in bounded time, and nothing is made up."""
        self.patch(status, "TIMEOUT_S", 0.5)
        self.patch(look, "TIMEOUT_S", 0.5)
        pid = self.freeze("mta-0")
        until(lambda: bool(self.events("worker.down")), 5)
        (event,) = self.events("worker.down")
        self.assertEqual(
            (event.process, event.severity.value, event.fields["worker"]), ("supervisor", "critical", "mta-0")
        )
        began = time.monotonic()
        level, text = self.examined()
        self.assertLess(time.monotonic() - began, 2.0)
        self.assertEqual(level, Level.CRITICAL)
        self.assertIn("mta-0 not answering; no answer from mta-0", text)
        seen = look.thd_look(load(self.node.home), ["directory-0", "mta-0"], time.time())
        self.assertEqual((seen.whole, seen.silent, seen.channels), (False, ["mta-0"], []))
        self.assertFalse(gone(pid), "frozen_s = 0")
        os.kill(pid, signal.SIGCONT)
        until(lambda: bool(self.events("trouble.over")), 5)
        (over,) = self.events("trouble.over")
        self.assertEqual((over.fields["event"], over.fields["about"]), ("worker.down", "mta-0"))
        self.assertEqual(len(self.events("worker.down")), 1)
        with self.node.talk() as talk:
            self.assertEqual(talk.mail("a@b.example", ["alice@example.org"], message("on"))[:3], "250")
        self.node.wait_mailbox("alice", 1)
        self.wait_idle()


class Several(FrozenCase):
    settings: ClassVar[Settings] = {
        "server.workers": 2,
        "server.frozen_s": 0.0,
        "monitor.endpoint": "unix:run/monitor.sock",
        "monitor.interval_s": 1,
        "monitor.queue_messages": 2,
    }

    def test_figures_without_one_of_two_workers_are_no_sums_and_nothing_is_over(self) -> None:
        """Its share of the queue is as it was, for all anybody knows."""
        shares: dict[str, int] = {}
        while len(shares) < 2 or sum(shares.values()) < 3:  # the kernel gives connections to either
            self.defer("x@waits.example")
            shares = {}
            for one in self.node.queued():
                shard = self.shard_of(one["id"])
                shares[shard] = shares.get(shard, 0) + 1
        until(lambda: bool(self.events("queue.size")), 10)
        for number, frozen in enumerate(("mta-1", "mta-0"), 1):  # the first one, too: the other gives the figures
            pid = self.freeze(frozen)
            until(lambda: len(self.events("worker.down")) == number, 5)  # noqa: B023
            began = time.monotonic()
            text = self.node.metrics()
            self.assertLess(time.monotonic() - began, metrics.TIMEOUT_S + 2)
            for name in ("mta-0", "mta-1"):
                self.assertIn(f'qmailpy_process_up{{process="{name}"}} {float(name != frozen)}', text)
            self.assertIn(f'qmailpy_events_total{{event="worker.down",severity="critical"}} {float(number)}', text)
            self.assertNotIn("qmailpy_queue_messages{", text)
            self.assertIn("qmailpy_stored_messages{", text)
            os.kill(pid, signal.SIGCONT)
            until(lambda: len(self.events("trouble.over")) == number, 5)  # noqa: B023
        self.assertEqual([one for one in self.events("trouble.over") if one.fields["event"] == "queue.size"], [])
        self.sink.answer = lambda _: None

    def tearDown(self) -> None:
        self.doCleanups()  # the books want to hear of both
        self.node.qmailpy("qm", "run")
        self.wait_idle()
        super().tearDown()

    def shard_of(self, queue_id: str) -> str:
        from qmailpy.queue.ids import shard_of

        return str(shard_of(queue_id))


class Outlived(FrozenCase):
    """A worker that stands still while its daemon is killed."""

    fresh = True
    question = "5"

    def kill_supervisor(self) -> None:
        assert self.node.process is not None
        self.node.process.kill()
        self.node.process.wait()

    def test_a_new_daemon_waits_for_it_and_then_ends_it(self) -> None:
        """Nobody opens the queue while it might go on: it is killed first, which does not need its help."""
        self.defer("x@waits.example")
        pid = self.freeze("mta-0")
        self.kill_supervisor()
        self.sink.answer = lambda _: None
        self.node.launch()
        until(lambda: gone(pid), 15)
        self.assertNotIn("mta-0 started", self.node.printed())
        self.node.wait_for("qmailpy is ready")
        self.sink.wait_mails(1)
        self.wait_idle()

    def test_without_the_daemons_lock_the_queues_own_keeps_a_second_one_out(self) -> None:
        """
        Somebody has emptied HOME/run, which looks like rubbish behind a crash: the new daemon knows of nobody. Its
        worker finds the shard locked, for as long as the other has it open. That one sees when it goes on that its
        daemon is gone, and ends by itself.
        """
        self.defer("x@waits.example")
        pid = self.freeze("mta-0")
        journal = self.written()
        self.kill_supervisor()
        for name in ("lock", "children.lock"):
            os.unlink(self.node.path("run", name))
        self.sink.answer = lambda _: None
        self.node.launch()
        self.node.wait_for("mta-0 started, process ")
        until(lambda: self.young_worker()["uptime"] > 0.7)  # it asks for the shard five times a second
        self.assertFalse(self.young_worker()["ready"])
        self.assertEqual((self.written(), gone(pid)), (journal, False))
        os.kill(pid, signal.SIGCONT)
        until(lambda: gone(pid), 5)
        self.node.wait_for("qmailpy is ready")
        self.sink.wait_mails(1)
        self.wait_idle()

    def young_worker(self) -> dict[str, Any]:
        """What the new one says of itself."""
        found: Any = {"uptime": 0.0}
        with contextlib.suppress(CommandError):
            found = call(self.node.home, "mta-0", "status", timeout_s=1.0)
        return {**found}

    def written(self) -> dict[str, int]:
        """When each file of the queue was changed the last time."""
        return {
            os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_mtime_ns
            for folder, _, names in os.walk(self.node.path("queue"))
            for name in names
        }
