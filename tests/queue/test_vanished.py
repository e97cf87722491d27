"""A large message whose content vanished from mess/: it is not tried for ever."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.parts import Parts
from qmailpy.interfaces import IChannel
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Notify
from tests.queue.test_converting import PassingOn
from tests.queue.world import HOME, World, configuration


class Passing(World):
    """A node whose outside passes everything on."""

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        return {**super().channels(parts), "tcp_local": PassingOn()}


class VanishedContentTests(SynchronousTestCase):
    def lost(self, world: World, *to: str, notify: int = 0, settled: bool = False) -> str:
        """A message that waits, and whose file somebody removes."""
        world.up()
        assert world.shard is not None
        for runner in world.shard.runners.values():
            runner.stop()
        queue_id = world.send(*to, body=b"x" * 5000, notify=notify)
        if settled:
            world.settle()
            world.settle()
        world.disk.unlink(world.shard.layout.mess_of(queue_id))
        for runner in world.shard.runners.values():
            runner.start()
        world.wait(1000)
        self.assertEqual(world.stored(), {})
        self.assertEqual(world.shard.shard.state.messages, {})
        log, counters = world.books()
        self.assertEqual(log, counters)
        told = [fields for name, fields in world.events.happenings if name == "message.lost"]
        self.assertEqual([fields["id"] for fields in told], [queue_id] * len(told))
        self.assertGreater(len(told), 0)
        return queue_id

    def world(self, kind: type[World] = World) -> World:
        return kind(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration())

    def test_the_first_attempt_ends_it(self) -> None:
        """R with the reason, an event for the operator, one notice to a sender who is here, without the content."""
        for settled in (False, True):
            for kind, to in ((World, "bob@here.example"), (World, "never@out.example"), (Passing, "ok@out.example")):
                world = self.world(kind)
                queue_id = self.lost(world, to, settled=settled)
                (notice,) = world.mailbox("ann")
                self.assertIn(b"failed: " + to.encode(), notice)
                self.assertNotIn(b"xxx", notice)
                records = [one for one in world.log() if one.file is not None and one.file.id == queue_id]
                self.assertEqual([one.action.value for one in records], ["E", "R"])
                self.assertIn("5.3.0", records[-1].diagnostic)
                self.flushLoggedErrors(OSError)

    def test_a_small_one_that_was_let_go_of_ends_as_well(self) -> None:
        """Deferred, settled, out of memory: its envelope is read back, and tells whose it was."""
        for kind, to in ((World, "bob@here.example"), (World, "never@out.example"), (Passing, "ok@out.example")):
            world = self.world(kind)
            world.up()
            assert world.shard is not None
            for runner in world.shard.runners.values():
                runner.stop()
            queue_id = world.send(to, body=b"x" * 100)
            for _ in range(3):
                world.settle()
            content = world.shard.layout.mess_of(queue_id)
            world = world.crash("all")
            world.disk.unlink(content)
            world.up()
            world.wait(1000)
            (told,) = (fields for name, fields in world.events.happenings if name == "message.lost")
            self.assertEqual(told["id"], queue_id)
            (notice,) = world.mailbox("ann")
            self.assertIn(b"failed: " + to.encode(), notice)
            self.assertEqual(world.stored(), {})
            log, counters = world.books()
            self.assertEqual(log, counters)
            self.flushLoggedErrors(OSError)

    def test_who_wants_no_notice_has_none(self) -> None:
        world = self.world()
        self.lost(world, "never@out.example", notify=int(Notify.NEVER))
        self.assertEqual((world.actions(), world.mailbox("ann")), ("EK", []))

    def test_what_is_merely_not_mounted_waits(self) -> None:
        world = self.world()
        world.up()
        assert world.shard is not None
        queue_id = world.send("never@out.example", body=b"x" * 5000)
        mess = world.shard.layout.mess_of(queue_id).rpartition("/")[0]
        world.disk.rename(mess, f"{HOME}/away")
        world.wait(1000)
        self.assertNotIn("R", world.actions())
        world.disk.rename(f"{HOME}/away", mess)
        world.disk.fail("open", path=mess, times=10)
        world.wait(1000)
        self.assertEqual((world.stored(), world.events.happenings), ({"tcp_local": 1}, []))
