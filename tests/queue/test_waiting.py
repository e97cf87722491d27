"""What waits for its time: when it is taken, how much of it, and what cannot be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue import waiting as module
from qmailpy.queue.state import Message
from qmailpy.queue.waiting import AGAIN_S, LOADING, TELL_S, Waiting


class Files:
    """A shard, as far as it matters: messages by number, some in memory, the others to be read."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(messages={})
        self.asked: list[tuple[list[int], Deferred[list[Any]]]] = []
        self.silent = False  # who reads waits until L{answer}
        self.broken: set[int] = set()

    def load(self, numbers: list[int]) -> Deferred[list[Any]]:
        done: Deferred[list[Any]] = Deferred()
        self.asked.append((numbers, done))
        if not self.silent:
            self.answer()
        return done

    def answer(self) -> None:
        numbers, done = self.asked[-1]
        if self.broken.intersection(numbers):
            done.errback(OSError(5, "Input/output error"))
        else:
            done.callback([SimpleNamespace(number=number) for number in numbers])


class WaitingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.files = Files()
        self.taken: list[tuple[int, bool]] = []
        self.pumped = 0
        self.room = 1000
        self.resting = False
        self.waiting = Waiting(
            name="tcp_local",
            shard=cast(Any, self.files),
            clock=self.clock,
            seconds=self.clock.seconds,
            room=lambda: self.room,
            resting=lambda: self.resting,
            take=self.take,
            pump=self.pump,
        )

    def take(self, message: Message, now: float, hurried: bool) -> None:
        self.taken.append((message.number, hurried))

    def pump(self) -> None:
        self.pumped += 1

    def numbers(self) -> list[int]:
        return [number for number, _ in self.taken]

    def in_memory(self, *numbers: int) -> None:
        self.files.state.messages.update({number: SimpleNamespace(number=number) for number in numbers})

    def test_it_is_taken_at_its_time_from_memory_or_files(self) -> None:
        self.in_memory(1)
        self.waiting.push(20.0, 2)
        self.waiting.push(10.0, 1)
        self.clock.advance(9)
        self.assertEqual(self.taken, [])
        self.clock.advance(1)
        self.assertEqual((self.taken, self.files.asked), ([(1, False)], []))
        self.clock.advance(10)
        self.assertEqual((self.taken[1:], self.files.asked[0][0]), ([(2, False)], [2]))

    def test_no_more_are_read_at_once_than_may_be(self) -> None:
        self.files.silent = True
        for number in range(LOADING + 20):
            self.waiting.push(1.0, number)
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual([len(numbers) for numbers, _ in self.files.asked], [LOADING])
        self.files.answer()
        self.assertEqual([len(numbers) for numbers, _ in self.files.asked], [LOADING, 20])
        self.files.answer()
        self.assertEqual(self.numbers(), list(range(LOADING + 20)))

    def test_nothing_is_taken_without_room(self) -> None:
        self.files.silent = True
        self.room = LOADING // 2 - 1
        for number in range(LOADING):
            self.waiting.push(0.0, number)
        self.waiting.refill()
        self.assertEqual(self.files.asked, [])
        self.room = LOADING // 2
        self.waiting.refill()
        self.assertEqual([numbers for numbers, _ in self.files.asked], [list(range(LOADING // 2))])

    def test_what_was_hurried_comes_before_what_is_due(self) -> None:
        self.in_memory(1, 2, 3)
        self.waiting.push(1e9, 3)
        self.waiting.hurry_all()
        self.waiting.push(0.0, 1)
        self.waiting.hurry([2])
        self.waiting.refill()
        self.assertEqual((sorted(self.taken[:2]), self.taken[2:]), ([(2, True), (3, True)], [(1, False)]))

    def test_of_much_that_was_hurried_the_rest_comes_a_turn_later(self) -> None:
        self.in_memory(*range(LOADING + 20))
        self.waiting.push(1e9, LOADING + 20)
        self.waiting.hurry(range(LOADING + 20))
        self.waiting.refill()
        self.assertEqual(len(self.taken), LOADING)
        self.clock.advance(0)
        self.assertEqual(len(self.taken), LOADING + 20)

    def test_nothing_is_taken_while_the_channel_rests(self) -> None:
        self.in_memory(1)
        self.resting = True
        self.waiting.push(0.0, 1)
        self.waiting.refill()
        self.assertEqual((self.taken, self.clock.getDelayedCalls()), ([], []))
        self.resting = False
        self.waiting.arm()
        self.clock.advance(0)
        self.assertEqual((self.numbers(), self.pumped), ([1], 1))

    def test_what_cannot_be_read_waits_by_itself(self) -> None:
        """The others of its batch do not; nor is each of its tries told."""
        said: list[float] = []
        self.patch(module.Waiting, "_log", SimpleNamespace(error=lambda *_, **__: said.append(self.clock.seconds())))
        self.files.broken = {2, 3}
        for number in (1, 2, 3, 4):
            self.waiting.push(1.0, number)
        self.clock.advance(1)
        self.assertEqual((sorted(self.numbers()), said), ([1, 4], [1.0]))
        self.files.broken = {3}
        self.clock.advance(AGAIN_S - 0.1)
        self.assertEqual(len(self.taken), 2)
        self.clock.advance(0.1)
        self.assertEqual((self.numbers()[2:], said), ([2], [1.0, 1.0 + AGAIN_S]))
        self.assertLess(TELL_S, AGAIN_S)
        self.files.broken = set()
        self.clock.advance(AGAIN_S)
        self.assertEqual(self.numbers()[3:], [3])

    def test_at_the_end_nothing_rings(self) -> None:
        self.waiting.push(1.0, 1)
        self.waiting.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])
