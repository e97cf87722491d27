"""
The power fails, or the process is killed, before every single step the queue takes on its disk.

After that the node is started again and left alone for a while. What was promised must hold: everything that was told
250 is where it belongs, whole; nothing is there that nobody sent; the books are the log, and they balance.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.stats.fold import balanced
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from tests.queue.world import HOME, World, configuration, forks

Scenario = Callable[[World], None]


def mixed(world: World) -> None:
    """Everything that happens to mail, in little: batches, two channels, a bounce, retries, large mail, settling."""
    world.up()
    world.send("bob@here.example")
    world.send("bob@here.example", "ok@out.example", hold=True)
    world.send("eve@here.example", hold=True)
    world.send("bad@out.example", sender="eve@here.example")
    world.send("later@out.example", "bob@here.example", body=b"x" * 100)
    world.send("eve@here.example", "later@out.example", body=b"y" * 2000)
    world.settle()
    world.wait(500)
    world.send("later@else.example", "bad@out.example", sender="bob@here.example")
    for _ in range(6):
        world.send("bob@here.example", body=b"z" * 800)
    world.wait(1300)
    world.settle()
    world.wait(900)
    world.down()


def restarted(world: World) -> None:
    """An orderly stop and a start with mail waiting."""
    world.up()
    world.send("later@out.example")
    world.send("bob@here.example", "later@out.example", body=b"x" * 2000)
    world.down()
    after = World(world.disk, world.config)
    after.clock.advance(world.clock.seconds() - after.clock.seconds() + 1)
    after.outside, after.accepted, after.offered, after.lives = world.outside, world.accepted, world.offered, 2
    after.up()
    after.wait(2500)
    after.down()


Ignore = Callable[[str, str], bool]


def cuts(scenario: Scenario, ignore: Ignore | None = None) -> list[tuple[int, World]]:
    """The node as it dies before each step of the scenario."""
    world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(warn_s=(0.0,)))
    world.disk.ignore_sync = ignore
    return forks(world, scenario)


SYNCS = {
    "the journal before the 250": ("fdatasync", r"/journal/"),
    "the name of a new segment": ("sync_directory", r"/journal$"),
    "the directories at the start": ("syncfs", r"/queue/0$"),
    "a content file": ("fsync", r"/mess/"),
    "the name of a content file": ("sync_directory", r"/mess/"),
    "an envelope file": ("fsync", r"/info/"),
    "the name of an envelope file": ("sync_directory", r"/info/"),
    "a recipients file": ("fsync", r"/chan/.*/[0-9a-v]{15}$"),
    "a recipients file that replaces another": ("fsync", r"/chan/.*[.]tmp$"),
    "the names in chan/": ("sync_directory", r"/chan/"),
    "the transaction log": ("fdatasync", r"/log/mail.log_current$"),
    "a delivery": ("fsync", r"/mail/.*/new/"),
    "the name of a delivery": ("sync_directory", r"/Maildir/new$"),
    "a mailbox": ("sync_directory", r"/mail/here.example/"),
}
"""
What is synced, and how to know it in the disk's list of operations. Not here: the fsync of a new segment, which is for
speed and space and not for safety (tests.queue.test_journal).
"""


class Surviving(SynchronousTestCase):
    """What must hold after a crash."""

    def examine(self, world: World, killed: bool) -> None:
        """Let a restarted node finish its work, then compare with what was promised."""
        world.wait(4000)
        mailboxes = {name: world.mailbox(name) for name in ("ann", "bob", "eve")}
        for queue_id, (envelope, octets) in world.accepted.items():
            for recipient in envelope.recipients:
                user, _, domain = recipient.address.partition("@")
                if domain == "here.example":
                    self.assertEqual(mailboxes[user].count(octets), 1, f"{queue_id} for {recipient.address}")
                elif user == "bad":
                    box = mailboxes[envelope.sender.partition("@")[0]]
                    notices = [each for each in box if each.startswith(b"failed") and queue_id.encode() in each]
                    self.assertEqual(len(notices), 1, f"notice of {queue_id}")
                else:
                    self.assertGreaterEqual(world.outside.taken[recipient.address, octets], 1, queue_id)
        delayed = [octets for box in mailboxes.values() for octets in box if octets.startswith(b"delayed")]
        self.assertEqual(len(delayed), len({octets[:24] for octets in delayed}), "told twice of a delay")
        sent = {octets for _, octets in world.offered.values()}
        for boxed in mailboxes.values():
            for octets in boxed:
                self.assertTrue(octets in sent or octets.startswith((b"failed: ", b"delayed: ")), octets[:200])
            self.assertEqual(len(boxed), len(set(boxed)))
        for _, octets in world.outside.taken:
            self.assertIn(octets, sent)
        log, counters = world.books()
        self.assertEqual(log, counters)
        self.assertTrue(all(balanced(row) for row in counters.values()), counters)
        self.assertEqual(world.stored(), {})

    def survive(self, dying: Sequence[tuple[int, World]], **crash: Any) -> None:
        for die_at, world in dying:
            after = world.crash(**crash)
            try:
                after.up(replay=not crash.get("killed"))
                self.examine(after, bool(crash.get("killed")))
            except self.failureException as problem:
                raise self.failureException(
                    f"dead before step {die_at}, after {world.disk.operations}: {problem}"
                ) from None


class CrashTests(Surviving):
    """No acknowledged message is lost or altered, none is invented, recovery is idempotent, the books hold."""

    def test_nothing_unsynced_survives(self) -> None:
        """Every step; the disk has exactly what was synced."""
        self.survive(cuts(mixed), survivors="none")

    def test_everything_survives(self) -> None:
        """Every step; the disk has everything, the process had no time for more."""
        self.survive(cuts(mixed), survivors="all")

    def test_a_random_part_survives(self) -> None:
        """Every step; torn writes, names out of order."""
        chance = Random(20261124)
        self.survive(cuts(mixed), survivors=chance)
        self.survive(cuts(mixed), survivors=chance, reorder=True)

    def test_the_process_is_killed(self) -> None:
        """Every step; the machine goes on, deliveries are trusted."""
        self.survive(cuts(mixed), killed=True)

    def test_a_restart_with_waiting_mail(self) -> None:
        """Listing and reading from files."""
        self.survive(cuts(restarted), survivors="none")
        self.survive(cuts(restarted), survivors=Random(1), reorder=True)

    def test_power_fails_again_during_recovery(self) -> None:
        """At steps spread over everything, then at steps of what follows; recovery may run any number of times."""
        for _, world in cuts(mixed)[::20]:
            again = 0
            while True:
                middle = world.crash("none")
                middle.disk.die_at = again
                with contextlib.suppress(PowerCut):
                    middle.up()
                self.flushLoggedErrors(PowerCut)
                if not middle.disk.dead:
                    break
                after = middle.crash("none")
                after.up()
                self.examine(after, killed=False)
                again += 3

    def test_each_sync_counts(self) -> None:
        """Left out, it is missed: otherwise these tests, or the sync, would be worth nothing."""
        idle = [name for name in SYNCS if not self.missed(name)]
        self.assertEqual(idle, [])

    def missed(self, name: str) -> bool:
        """Whether anything turns out wrong without that sync."""
        kind, pattern = SYNCS[name]
        wanted = re.compile(pattern)

        def ignore(operation: str, path: str) -> bool:
            return operation == kind and wanted.search(path) is not None

        for crash in ({"survivors": "none"}, {"survivors": Random(3), "reorder": True}):
            for scenario in (mixed, restarted):
                dying = cuts(scenario, ignore)
                Random(len(dying)).shuffle(dying)  # sooner than in order
                try:
                    self.survive(dying, **crash)
                except (self.failureException, OSError, Exception):
                    self.flushLoggedErrors()
                    return True
        return False
