"""What the lines of an attempt say, and what the books make of them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.records.record import Action
from qmailpy.stats.fold import balanced
from qmailpy.stats.items import DELIVERED, FAILED
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Notify
from tests.queue.world import HOME, World, configuration


class LineTests(SynchronousTestCase):
    def up(self, **queue: object) -> World:
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(**queue))
        world.up()
        return world

    def test_what_leaves_in_one_attempt_is_grouped_by_what_became_of_it(self) -> None:
        """Whatever the order of the envelope: the books count an event where its lines begin."""
        world = self.up()
        to = [f"{user}@out.example" for user in ("bad", "ok", "bad", "ok")]
        world.send(*to, notify=Notify.NEVER)
        log = [one for one in world.log() if one.action is not Action.ENQUEUED]
        self.assertEqual("".join(one.action.value for one in log), "DDKK")
        places = [one.file for one in log if one.file is not None]
        self.assertEqual(
            [(one.remaining, one.continued) for one in places], [(3, False), (2, True), (1, False), (0, True)]
        )
        row = world.recorder.table["tcp_local"]
        self.assertEqual((row[FAILED], row[FAILED + 1], row[DELIVERED]), (1, 2, 1))
        self.assertTrue(balanced(row))

    def test_who_is_told_of_a_delay_has_a_line_each(self) -> None:
        """The first begins the event. Who does not want to know has none."""
        world = self.up(warn_s=(0.0,))
        world.send("never@out.example", "later@out.example")
        told = [one for one in world.log() if one.action is Action.WARNED]
        self.assertEqual([one.file is not None and one.file.continued for one in told], [False, True])
        world = self.up(warn_s=(0.0,))
        world.send("never@out.example", notify=Notify.FAILURE)
        self.assertEqual([one for one in world.log() if one.action is Action.WARNED], [])
