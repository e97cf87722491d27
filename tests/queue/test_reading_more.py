"""Choosing by text, ages by destination, how a message stands, and what is forgiven."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from attrs import evolve

from qmailpy.config.schema import ChannelConfig, Config, ServerConfig
from qmailpy.queue.entries import DONE, REFUSED, QueueFilter, ShapeRow, Target
from qmailpy.queue.fair import FairQueue, Unit
from qmailpy.queue.standing import standing
from qmailpy.values import Priority
from qmailpy.wire.partial import WAITS
from tests.queue.test_deadline import send
from tests.queue.test_view import ViewCase


class ReadingTests(ViewCase):
    def put(self, address: str) -> str:
        found = send(self.world, address)
        self.world.pump()
        return found

    def again_from_files(self) -> None:
        assert self.world.shard is not None
        self.world.settle()
        self.world.settle()
        self.again()

    def test_texts_are_found_in_memory_and_in_files(self) -> None:
        queue_id = self.put("later@a.example")
        for _ in range(2):
            (one,) = self.listed(subject="x", texts=True)
            self.assertEqual((one.id, one.subject, one.body), (queue_id, "x", ""))
            self.assertEqual(self.listed(subject="y"), [])
            self.assertEqual(self.listed(content="y"), [])
            self.again_from_files()

    def test_ages_count_recipients_of_memory_and_files(self) -> None:
        self.put("later@a.example")
        self.world.wait(4.0)
        for _ in range(2):
            looked: list[int] = []
            wanted = QueueFilter()
            rows, cursor = self.do(self.view.ages(wanted, None, [300.0, 600.0], False, looked.append))
            self.assertEqual((rows, cursor, sum(looked)), ([ShapeRow(name="a.example", counts=(1, 0, 0))], None, 1))
            rows, _ = self.do(self.view.ages(wanted, None, [1.0, 600.0], True))
            self.assertEqual(rows, [ShapeRow(name="here.example", counts=(0, 1, 0))])
            self.again_from_files()

    def test_standing_tells_what_is_next(self) -> None:
        queue_id = self.put("later@a.example")
        found = self.do(self.view.standing(queue_id))
        assert found is not None
        (one,) = found.standings
        self.assertEqual((one.state, one.attempts, one.host, one.stopped), ("waiting", 1, "a.example", ""))
        self.assertIn("later", one.last_error)
        self.do(self.view.hold([Target(queue_id)], "look"))
        self.do(self.view.stop("tcp_local"))
        found = self.do(self.view.standing(queue_id))
        assert found is not None
        self.assertEqual((found.standings[0].state, found.standings[0].reason), ("held", "look"))
        self.assertIn("operator", found.standings[0].stopped)
        self.assertIsNone(self.do(self.view.standing("0" * 15)))

    def test_a_piece_is_waited_for_by_the_channel_that_gathers_them(self) -> None:
        """Where that is why it was deferred; not when it could not be handed on, or the disk was full."""
        self.put("later@a.example")
        assert self.world.shard is not None
        (message,) = self.world.shard.shard.state.messages.values()
        (copy,) = message.copies.values()
        until = message.envelope.arrival + 50.0
        for kind, error, gathered in (
            ("defragment", f"451 4.4.7 {WAITS}", until),
            ("defragment", "451 4.3.0 The pieces cannot be gathered now", 0.0),
            ("smtp", f"451 4.4.7 {WAITS}", 0.0),
        ):
            copy.pending = {number: evolve(item, error=error) for number, item in copy.pending.items()}
            channel = ChannelConfig(name="tcp_local", kind=kind, gather_s=50.0)
            config = Config(home="/", server=ServerConfig(hostname="h"), channels={"tcp_local": channel})
            (one,) = standing(message, {}, config).standings
            self.assertEqual((one.attempts, one.gathered, one.kind), (1, gathered, kind))

    def test_what_waits_for_its_turn_is_counted_where_it_counts(self) -> None:
        """A relay is one destination, whatever the domain; no more at once than the channel allows."""
        self.put("later@a.example")
        assert self.world.shard is not None
        (message,) = self.world.shard.shard.state.messages.values()
        channel = ChannelConfig(name="tcp_local", kind="smtp", relay="192.0.2.1", concurrency=2)
        config = Config(home="/", server=ServerConfig(hostname="h"), channels={"tcp_local": channel})
        fair = FairQueue[tuple[int, ...]](concurrency=2, destination_concurrency=10)
        for number in range(3):
            fair.add(Unit(number, "192.0.2.1", Priority.NORMAL, (0,)))
        runner: Any = SimpleNamespace(fair=fair, place=lambda host: "192.0.2.1", stopped=False, channel=None)
        (one,) = standing(message, {"tcp_local": runner}, config).standings
        self.assertEqual((one.ahead, one.limit), (3, 2))

    def test_one_message_is_tried_now_unless_it_is_held(self) -> None:
        queue_id = self.put("later@a.example")
        (result,) = self.do(self.view.try_now([Target(queue_id)]))
        self.world.pump()
        self.assertEqual(result.outcome, DONE)
        self.assertEqual(self.outside.asked[queue_id, "later@a.example"], 2)
        self.do(self.view.hold([Target(queue_id)], "look"))
        (result,) = self.do(self.view.try_now([Target(queue_id)]))
        self.assertEqual((result.outcome, result.text), (REFUSED, "it is held; release it"))
        self.do(self.view.release([Target(queue_id)]))
