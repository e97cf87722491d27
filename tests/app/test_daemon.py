"""What the daemon decides by itself: shards for workers, what a reload may change."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from typing import ClassVar, cast
from unittest import mock

from attrs import evolve
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app import daemon
from qmailpy.app.daemon import Daemon, OneProcess, Running, Seat, effective, places, shards
from qmailpy.config.schema import Config, DirectoryConfig, ListenerConfig, ServerConfig

CONFIG = Config(
    home="/nowhere",
    server=ServerConfig(hostname="mail.example.org", workers=2),
    listeners=(
        ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25"),
        ListenerConfig(name="inside", kind="smtp", endpoint="tcp:26"),
    ),
)
BOUND = {"smtp": "tcp:25", "inside": "tcp:26"}


class Shards(SynchronousTestCase):
    def queue(self, *names: str) -> str:
        path: str = self.mktemp()
        for name in names:
            os.makedirs(os.path.join(path, name))
        return path

    def test_each_worker_has_its_shard_even_before_there_is_a_queue(self) -> None:
        self.assertEqual(shards("/nowhere/queue", 2), [("0",), ("1",)])

    def test_shards_without_a_worker_are_adopted_by_the_first(self) -> None:
        """Fewer workers than last time: their mail must not wait for ever."""
        queue = self.queue("0", "1", "2", "10", "drop", "0.old")
        self.assertEqual(shards(queue, 2), [("0", "2", "10"), ("1",)])

    def test_one_process_holds_every_shard(self) -> None:
        home = self.mktemp()
        os.makedirs(os.path.join(home, "queue", "3"))
        config = evolve(CONFIG, home=home, server=evolve(CONFIG.server, workers=0))
        self.assertEqual(
            [(one.name, one.shards) for one in places(config)], [("directory-0", ()), ("mta-0", ("0", "3"))]
        )

    def test_there_is_a_process_for_mailboxes_where_one_is_listened_for(self) -> None:
        pop3 = ListenerConfig(name="pop3", kind="pop3", endpoint="tcp:110")
        self.assertNotIn("access", [one.role for one in places(CONFIG)])
        found = places(evolve(CONFIG, listeners=(*CONFIG.listeners, pop3)))
        self.assertEqual([one.name for one in found], ["directory-0", "mta-0", "mta-1", "access-0"])
        self.assertGreater(found[3].rank, found[2].rank)
        self.assertTrue(found[3].patient)


class PaperHost:
    """A role of one process."""

    made: ClassVar[list[PaperHost]] = []

    def __init__(
        self, reactor: object, config: Config, *, role: str, ready: Callable[[], None], **more: object
    ) -> None:
        self.context = mock.Mock()
        self.context.name = f"{role}-0"
        self.ready = ready
        self.running = False
        self.made.append(self)

    def startService(self) -> None:
        self.running = True


class OneProcessTests(SynchronousTestCase):
    """C{workers = 0}."""

    def test_mailboxes_stay_closed_until_the_queue_was_taken_up(self) -> None:
        self.patch(daemon, "RoleHost", PaperHost)
        self.patch(PaperHost, "made", [])
        told: list[str] = []
        pop3 = ListenerConfig(name="pop3", kind="pop3", endpoint="tcp:110")
        work = OneProcess(
            MemoryReactorClock(),
            evolve(CONFIG, listeners=(pop3,), server=evolve(CONFIG.server, workers=0)),
            listening=mock.Mock(of=lambda role: {}),
            session="s",
            on_ready=lambda: told.append("ready"),
            asked=told.append,
        )
        work.start()
        directory, mta, access = PaperHost.made
        directory.ready()
        self.assertEqual([one.running for one in PaperHost.made], [True, True, False])
        mta.ready()
        self.assertTrue(access.running)
        self.assertEqual(told, [])
        access.ready()
        self.assertEqual(told, ["ready"])


class Watching(SynchronousTestCase):
    def test_the_service_manager_hears_from_us_only_while_children_answer(self) -> None:
        """Or it would never end a daemon whose children are stuck where no signal reaches them."""
        clock = MemoryReactorClock()
        told: list[str] = []
        notifier = mock.Mock(watchdog_s=10.0, tell=lambda *lines: told.extend(lines))
        seat = Seat(instance=mock.Mock(), listening=mock.Mock(), logfile=mock.Mock(), notifier=notifier)
        work = mock.Mock(answering=True)
        ready: list[Callable[[], None]] = []

        def make(tell: Callable[[], None], asked: Callable[[str], None]) -> Running:
            ready.append(tell)
            return cast(Running, work)

        daemon = Daemon(clock, CONFIG, seat, make, lambda home: CONFIG, mock.Mock())
        daemon.startService()
        ready[0]()
        self.assertEqual(told.count("WATCHDOG=1"), 1)
        clock.advance(5.0)
        self.assertEqual(told.count("WATCHDOG=1"), 2)
        work.answering = False
        clock.advance(5.0)
        self.assertEqual(told.count("WATCHDOG=1"), 2)
        work.answering = True
        clock.advance(5.0)
        self.assertEqual(told.count("WATCHDOG=1"), 3)


class Reload(SynchronousTestCase):
    def test_settings_change_and_what_is_bound_stays(self) -> None:
        wanted = evolve(
            CONFIG,
            server=ServerConfig(
                hostname="new.example.org", workers=4, user="other", directory_user="third", drain_s=5.0
            ),
            directory=DirectoryConfig(endpoint="tcp:1389", positive_s=1.0),
            listeners=(
                ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:2525", errors=3),
                ListenerConfig(name="new", kind="smtp", endpoint="tcp:27"),
            ),
        )
        got, late = effective(wanted, CONFIG, BOUND)
        self.assertEqual((got.server.hostname, got.server.drain_s), (CONFIG.server.hostname, 5.0))
        self.assertEqual((got.server.workers, got.server.user), (2, "qmailpy"))
        self.assertEqual((got.directory.positive_s, got.directory.endpoint), (1.0, CONFIG.directory.endpoint))
        self.assertEqual(
            [(one.name, one.endpoint, one.errors) for one in got.listeners],
            [
                ("smtp", "tcp:25", 3),
                ("inside", "tcp:26", 20),
            ],
        )
        for word in ("smtp", "inside", "new", "workers", "user", "directory_user", "[directory]", "hostname"):
            self.assertTrue(any(word in line for line in late), (word, late))

    def test_the_journal_keeps_its_measures_and_no_message_outgrows_them(self) -> None:
        """Its segments are as large as they were made: what is kept in memory must fit into them."""
        before = CONFIG.queue
        for spill, got_spill, told in ((before.segment_octets // 4, before.segment_octets // 4, 2), (1 << 24, None, 3)):
            queue = evolve(before, segment_octets=1 << 26, segments=3, spill_octets=spill, roll_s=1.0)
            got, late = effective(evolve(CONFIG, queue=queue), CONFIG, BOUND)
            expected = evolve(before, spill_octets=got_spill or before.spill_octets, roll_s=1.0)
            self.assertEqual((got.queue, len(late)), (expected, told))

    def test_what_the_template_says_needs_a_restart_stays_and_is_told_of(self) -> None:
        """Each key whose text ends so."""
        with resources.files("qmailpy.config").joinpath("qmailpy.toml").open() as source:
            text = source.read()
        section, restart, found = "", False, []
        for line in text.splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            if line.startswith("#"):
                restart = line.endswith("Restart.") or (restart and not line.startswith("# ----"))
            elif not line.strip():
                restart = False
            elif restart and " = " in line:
                found.append((section, line.partition(" ")[0]))
        self.assertIn(("server", "hostname"), found)
        self.assertGreater(len(found), 9)
        for name, key in found:
            part = getattr(CONFIG, name)
            value = getattr(part, key)
            other = value + 1 if isinstance(value, int) else value + "x"
            got, late = effective(evolve(CONFIG, **{name: evolve(part, **{key: other})}), CONFIG, BOUND)
            self.assertEqual(late, [f"[{name}] {key} has changed"])
            self.assertEqual(getattr(getattr(got, name), key), value)

    def test_an_unchanged_configuration_needs_no_restart(self) -> None:
        self.assertEqual(effective(CONFIG, CONFIG, BOUND), (CONFIG, []))
