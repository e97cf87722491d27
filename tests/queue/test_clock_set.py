"""What becomes of waiting mail when somebody sets the clock of the machine."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.runner import BACK_S
from tests.queue.test_deadline import HOUR, send, world
from tests.queue.world import START, World


class ClockSetTests(SynchronousTestCase):
    def set_by(self, node: World, step: float) -> None:
        """The queue sees the other time of day only: its timers go on."""
        shard = node.shard
        assert shard is not None
        node.set_by += step
        for runner in shard.runners.values():
            runner.clock_set(step)
        node.pump()

    def asked(self, node: World) -> dict[str, int]:
        return {address: count for (_, address), count in node.outside.asked.items()}

    def test_back_by_a_year_it_does_not_wait_for_a_year(self) -> None:
        node = world()
        send(node, "later@a.example")
        self.set_by(node, -365 * 24 * HOUR)
        self.assertEqual(self.asked(node), {"later@a.example": 2})
        node.wait(HOUR)
        self.assertGreater(self.asked(node)["later@a.example"], 2)

    def test_what_its_sender_wants_held_is(self) -> None:
        node = world()
        send(node, "ok@a.example", hold_until=START + HOUR)
        self.set_by(node, -2 * BACK_S)
        self.assertEqual(self.asked(node), {})

    def test_back_and_a_restart_it_does_not_wait_either(self) -> None:
        """Mail that came when the clock was ahead: in the journal, or in its files; tried already, or not."""
        for filed in (False, True):
            for address in ("later@a.example", "ok@a.example"):
                node = world()
                assert node.shard is not None
                node.outside.silent = address.startswith("ok")
                node.set_by = 365 * 24 * HOUR
                send(node, address, arrival=node.clock.seconds() + node.set_by)
                if filed:
                    node.settle()
                    node.settle()
                tried = self.asked(node).get(address, 0)
                node.outside.silent = False
                node.set_by = 0.0
                after = node.crash(killed=True)
                after.up(replay=False)
                after.wait(HOUR)
                self.assertGreater(self.asked(after)[address], tried, (filed, address))

    def test_what_is_held_is_so_after_a_restart(self) -> None:
        """Even longer than it may live from then on."""
        node = world(lifetime_s=HOUR)
        send(node, "ok@a.example", hold_until=START + 9 * HOUR)
        node.settle()
        node.settle()
        after = node.crash(killed=True)
        after.up(replay=False)
        after.wait(8 * HOUR)
        self.assertEqual(self.asked(after), {})
        after.wait(2 * HOUR)
        self.assertEqual(self.asked(after), {"ok@a.example": 1})

    def test_by_a_little_it_waits_that_much_longer(self) -> None:
        node = world()
        send(node, "later@a.example")
        self.set_by(node, -BACK_S / 2)
        self.assertEqual(self.asked(node), {"later@a.example": 1})

    def test_forward_it_goes_when_it_is_due_by_the_new_time(self) -> None:
        """A machine that slept has all its timers where they were."""
        node = world()
        send(node, "later@a.example")
        self.set_by(node, HOUR)
        node.wait(0)
        self.assertEqual(self.asked(node), {"later@a.example": 2})

    def test_forward_its_sender_hears_of_it_by_the_new_time(self) -> None:
        """Also where no attempt brings it: the channel is stopped."""
        node = world(warn_s=(HOUR,))
        assert node.shard is not None
        node.shard.runners["tcp_local"].stop()
        send(node, "later@a.example")
        self.set_by(node, HOUR)
        node.wait(60)
        self.assertEqual(len(node.mailbox("ann")), 1)
