"""Tests of mail for one destination that is tried at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.entries import ActionResult, Target, destined
from qmailpy.queue.view import QueueOperations, parts_of
from tests.queue.test_deadline import HOUR, send, world
from tests.queue.world import START, World, in_thread


class FlushTests(SynchronousTestCase):
    def flush(self, node: World, destination: str) -> int:
        shard = node.shard
        assert shard is not None
        queue = QueueOperations(
            lambda: parts_of({"0": shard}), node.config, node.clock.seconds, node.switches, in_thread
        )
        done: Deferred[int] = Deferred.fromCoroutine(queue.flush(destination))
        node.pump()
        return self.successResultOf(done)

    def asked(self, node: World) -> dict[str, int]:
        return {address: count for (_, address), count in node.outside.asked.items()}

    def queued(self, **queue: Any) -> World:
        node = world(**queue)
        for address in ("later@a.example", "later@x.a.example", "later@b.example"):
            send(node, address)
        return node

    def test_only_its_mail_is_tried(self) -> None:
        node = self.queued()
        self.assertEqual(self.flush(node, "A.example"), 1)
        self.assertEqual(self.asked(node), {"later@a.example": 2, "later@x.a.example": 1, "later@b.example": 1})
        self.assertEqual(self.flush(node, ".a.example"), 1)
        self.assertEqual(self.asked(node)["later@x.a.example"], 2)
        self.assertEqual(self.flush(node, "c.example"), 0)

    def test_mail_that_is_in_files_alone_is_found(self) -> None:
        node = self.queued()
        node.settle()
        node.settle()
        node.down()
        node = node.crash("none")
        node.up()
        self.assertEqual(self.flush(node, "a.example"), 1)
        self.assertEqual(self.asked(node)["later@a.example"], 2)

    def test_what_is_held_stays(self) -> None:
        """By its sender, and by an operator."""
        node = world()
        send(node, "ok@a.example", hold_until=START + HOUR)
        self.assertEqual(self.flush(node, "a.example"), 1)
        self.assertEqual(self.asked(node), {})
        node.wait(HOUR + 1)
        self.assertEqual(self.asked(node), {"ok@a.example": 1})

    def test_a_message_by_its_id(self) -> None:
        """What its sender holds is not said to be tried; once an operator has let it go it can be."""
        node = world()
        queue_id = send(node, "later@a.example", hold_until=START + HOUR)
        shard = node.shard
        assert shard is not None
        queue = QueueOperations(
            lambda: parts_of({"0": shard}), node.config, node.clock.seconds, node.switches, in_thread
        )

        def outcome(done: Coroutine[Deferred[Any], Any, list[ActionResult]]) -> list[str]:
            results = Deferred.fromCoroutine(done)
            node.pump()
            return [one.outcome for one in self.successResultOf(results)]

        self.assertEqual(outcome(queue.try_now([Target(queue_id)])), ["refused"])
        self.assertEqual(outcome(queue.release([Target(queue_id)])), ["done"])
        self.assertEqual(self.asked(node), {"later@a.example": 1})
        self.assertEqual(outcome(queue.try_now([Target(queue_id)])), ["done"])
        self.assertEqual(self.asked(node), {"later@a.example": 2})

    def test_patterns(self) -> None:
        self.assertTrue(destined("A.example")("a.EXAMPLE"))
        self.assertFalse(destined("a.example")("x.a.example"))
        self.assertTrue(destined(".a.example")("x.a.example"))
        self.assertFalse(destined(".a.example")("a.example"))
