"""A large message whose content vanished from mess/: it is not tried for ever."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World, configuration


class VanishedContentTests(SynchronousTestCase):
    def test_it_goes_back_without_its_content_and_the_books_hold(self) -> None:
        """At the end of its lifetime, or when it is refused: one notice, to a sender who is here."""
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(lifetime_s=1000.0))
        world.up()
        queue_id = world.send("never@out.example", sender="ann@here.example", body=b"x" * 5000)
        assert world.shard is not None
        world.disk.unlink(world.shard.layout.mess_of(queue_id))
        world.wait(5000)
        (notice,) = world.mailbox("ann")
        self.assertIn(b"failed: never@out.example", notice)
        self.assertNotIn(b"xxx", notice)
        self.assertEqual(world.shard.shard.recorder.stored("tcp_local"), (0, 0, 0))
        self.assertEqual(world.shard.shard.state.messages, {})
        self.assertEqual(len(self.flushLoggedErrors()), 0)
