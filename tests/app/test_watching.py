"""The first worker's looks at the node."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.watching import Watching
from qmailpy.config.schema import Config, MonitorConfig, ServerConfig
from qmailpy.disk.files import Space
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.watch.look import Look

_CONFIG = Config(home="/h", server=ServerConfig(hostname="h"))


class WatchingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events = MemoryEvents()
        self.looks = 0
        self.in_thread: Any = maybeDeferred
        self.watching = Watching(
            self.clock, _CONFIG, self.events, lambda config: ["mta-0"], lambda *words: self.in_thread(*words), self.look
        )
        self.watching.startService()

    def look(self, config: Config, expected: list[str], now: float) -> Look:
        self.looks += 1
        return Look(time=now, processes=(), missing=(), channels=(), space={"queue": Space(0, 0)})

    def test_it_looks_once_in_an_interval_and_not_at_once(self) -> None:
        """Processes that start behind this one are not missing."""
        self.assertEqual(self.looks, 0)
        self.clock.pump([60, 60])
        self.assertEqual((self.looks, self.events.names), (2, ["disk.full"] * 2))
        answer: Any = self.successResultOf(Deferred.fromCoroutine(self.watching.conditions()))
        self.assertEqual([one["event"] for one in answer["conditions"]], ["disk.full"])

    def test_another_interval_counts_from_the_reload_on(self) -> None:
        self.watching.reconfigure(evolve(_CONFIG, monitor=MonitorConfig(interval_s=5)))
        self.clock.pump([5, 5])
        self.assertEqual(self.looks, 2)

    def test_a_look_that_fails_ends_nothing(self) -> None:
        self.in_thread = lambda *_: fail(OSError("no descriptors"))
        self.clock.advance(60)
        self.in_thread = maybeDeferred
        self.clock.advance(60)
        self.assertEqual(self.looks, 1)

    def test_what_comes_after_the_end_is_not_told(self) -> None:
        waiting: Deferred[Look] = Deferred()
        self.in_thread = lambda *_: waiting
        self.clock.advance(60)
        self.watching.stopService()
        waiting.callback(self.look(_CONFIG, [], 0.0))
        self.assertEqual((self.events.names, self.clock.getDelayedCalls()), ([], []))
