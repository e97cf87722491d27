"""The ready list of one channel: limits, turns and shares."""

from __future__ import annotations

import gc
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue import fair
from qmailpy.queue.fair import FairQueue, Unit
from qmailpy.values import Priority

Queue = FairQueue[str]


def add(
    queue: Queue, number: int, destination: str = "", count: int = 1, priority: Priority = Priority.NORMAL
) -> list[Unit[str]]:
    """Add C{count} units of a message."""
    units = [Unit(number, destination, priority, f"{number}/{destination}/{at}") for at in range(count)]
    for unit in units:
        queue.add(unit)
    return units


def picks(queue: Queue, count: int) -> list[Unit[str]]:
    """The next C{count} units, each done at once."""
    found = []
    for _ in range(count):
        unit = queue.next()
        if unit is None:
            break
        found.append(unit)
        queue.done(unit)
    return found


def numbers(units: list[Unit[str]]) -> list[int]:
    """Their messages."""
    return [unit.number for unit in units]


class RemainsTests(SynchronousTestCase):
    """What is left of a destination that has nothing any more: each message to one of its own leaves some."""

    def test_the_collector_is_not_needed(self) -> None:
        queue: Queue = FairQueue(concurrency=2)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for number in range(100):
            add(queue, number, f"{number}.example")
            self.assertEqual(numbers(picks(queue, 1)), [number])
        for number in range(100, 200):
            add(queue, number, f"{number}.example")
            queue.remove_message(number)
        self.assertLess(gc.collect(), 100)


class LimitTests(SynchronousTestCase):
    """Concurrency."""

    def test_channel_hands_out_no_more_than_its_concurrency(self) -> None:
        """And goes on when one is done."""
        queue: Queue = FairQueue(concurrency=2)
        add(queue, 1, count=3)
        first, second = queue.next(), queue.next()
        self.assertIsNone(queue.next())
        assert first is not None and second is not None
        queue.done(second)
        self.assertIsNotNone(queue.next())
        self.assertEqual((queue.busy, len(queue)), (2, 0))

    def test_concurrency_of_zero_holds_the_channel(self) -> None:
        """As qmail's concurrencyremote 0."""
        queue: Queue = FairQueue(concurrency=0)
        add(queue, 1)
        self.assertIsNone(queue.next())
        queue.concurrency = 1
        self.assertIsNotNone(queue.next())

    def test_slow_destination_does_not_hold_the_others(self) -> None:
        """Its places are taken; others get theirs."""
        queue: Queue = FairQueue(concurrency=100, destination_concurrency=2)
        add(queue, 1, "slow", count=50)
        add(queue, 2, "quick", count=3)
        taken: Counter[str] = Counter()
        for _ in range(6):
            unit = queue.next()
            if unit is None:
                break
            taken[unit.destination] += 1
            if unit.destination == "quick":
                queue.done(unit)
        self.assertEqual(taken, {"slow": 2, "quick": 3})

    def test_adjusted_destinations_are_remembered_up_to_a_number(self) -> None:
        """The oldest is forgotten: hosts without end take no memory without end."""
        self.patch(fair, "LIMITS", 3)
        queue: FairQueue[int] = FairQueue(concurrency=9, destination_concurrency=5)
        for number in range(5):
            queue.set_limit(f"x{number}", 1)
        queue.set_limit("x4", 2)
        self.assertEqual([queue.load(f"x{number}").limit for number in range(5)], [5, 5, 1, 1, 2])

    def test_destination_concurrency_can_be_adjusted_both_ways(self) -> None:
        """Raising it takes effect at once; lowering it once enough units have come back."""
        queue: Queue = FairQueue(concurrency=100, destination_concurrency=1)
        add(queue, 1, "d", count=20)
        out = [queue.next()]
        self.assertIsNone(queue.next())
        queue.set_limit("d", 3)
        out += [queue.next(), queue.next()]
        self.assertIsNone(queue.next())
        queue.set_limit("d", 1)
        for unit in out[:2]:
            assert unit is not None
            queue.done(unit)
            self.assertIsNone(queue.next())
        assert out[2] is not None
        queue.done(out[2])
        self.assertIsNotNone(queue.next())
        queue.set_limit("d", None)
        self.assertEqual(queue.load("d").limit, 1)

    def test_adjusted_limit_outlives_an_idle_destination(self) -> None:
        """What was learned about a destination is not lost when its mail is done."""
        queue: Queue = FairQueue(concurrency=100, destination_concurrency=1)
        queue.set_limit("d", 2)
        add(queue, 1, "d", count=5)
        self.assertIsNotNone(queue.next())
        self.assertIsNotNone(queue.next())
        self.assertIsNone(queue.next())

    def test_no_destination_limit_where_destinations_mean_nothing(self) -> None:
        """The local channel."""
        queue: Queue = FairQueue(concurrency=100)
        add(queue, 1, count=150)
        self.assertEqual(sum(1 for _ in range(150) if queue.next()), 100)

    def test_overflow_tells_when_a_destination_has_enough(self) -> None:
        """Only that destination, and no longer once it has less."""
        queue: Queue = FairQueue(concurrency=1, destination_concurrency=1, waiting_limit=3)
        add(queue, 1, "a", count=2)
        self.assertFalse(queue.overflow("a"))
        add(queue, 1, "a")
        self.assertTrue(queue.overflow("a"))
        self.assertFalse(queue.overflow("b"))
        queue.next()
        self.assertFalse(queue.overflow("a"))

    def test_misuse_is_refused(self) -> None:
        """A unit is added once, and done once."""
        queue: Queue = FairQueue(concurrency=1)
        unit = add(queue, 1)[0]
        self.assertRaises(ValueError, queue.add, unit)
        self.assertRaises(ValueError, queue.done, unit)
        picks(queue, 1)
        self.assertRaises(ValueError, queue.done, unit)
        self.assertRaises(ValueError, queue.add, unit)


class TurnTests(SynchronousTestCase):
    """Fairness among messages and destinations."""

    def test_list_to_100000_destinations_delays_nobody(self) -> None:
        """A single mail, to a destination of the list or to another, goes within a few picks, and so do later ones."""
        queue: Queue = FairQueue(concurrency=20, destination_concurrency=5)
        for at in range(100_000):
            add(queue, 1, f"d{at}")
        for number in range(2, 200):
            add(queue, number, f"d{99_999 - number * 7}" if number % 2 else f"new{number}")
            found = picks(queue, 5)
            self.assertIn(number, numbers(found))
            self.assertIn(1, numbers(found))

    def test_list_of_100000_to_one_destination_delays_nobody(self) -> None:
        """The messages of a destination take turns, also long after the list began."""
        queue: Queue = FairQueue(concurrency=20, destination_concurrency=20)
        add(queue, 1, "a", count=100_000)
        for number in range(2, 100):
            picks(queue, 200)
            add(queue, number, "a" if number % 2 else "b")
            self.assertIn(number, numbers(picks(queue, 5)))

    def test_list_that_fell_behind_does_not_hold_its_destination(self) -> None:
        """A list whose destination was slow while the rest went on has no claim to the turns it missed."""
        queue: Queue = FairQueue(concurrency=100, destination_concurrency=1)
        add(queue, 1, "slow", count=5000)
        held = queue.next()
        assert held is not None
        add(queue, 2, "quick", count=3000)
        picks(queue, 3000)
        add(queue, 3, "slow")
        queue.done(held)
        self.assertIn(3, numbers(picks(queue, 3)))

    def test_two_lists_and_a_crowd_delay_a_newcomer_by_a_few_turns(self) -> None:
        """
        Two lists to the same 2,000 destinations, and 2,000 messages to one of them. A newcomer to a destination of the
        lists waits for their units there, each in turn with what else goes on.
        """
        queue: Queue = FairQueue(concurrency=20, destination_concurrency=20)
        for at in range(2000):
            add(queue, 1, f"d{at}")
            add(queue, 2, f"d{at}")
            add(queue, 100 + at, "d0")
        picks(queue, 500)
        for number, destination in ((10, "elsewhere"), (11, "d1999")):
            add(queue, number, destination)
            self.assertIn(number, numbers(picks(queue, 16)))

    def test_many_messages_to_one_destination_do_not_delay_another(self) -> None:
        """Destinations take turns however much waits for each."""
        queue: Queue = FairQueue(concurrency=20)
        for number in range(5000):
            add(queue, number, "a")
        picks(queue, 100)
        add(queue, 9999, "b")
        self.assertIn(9999, numbers(picks(queue, 3)))

    def test_destination_that_was_full_has_no_claim_to_turns_it_missed(self) -> None:
        """When its units come back after a long time, it takes turns with the others again."""
        queue: Queue = FairQueue(concurrency=100, destination_concurrency=5)
        for number in range(2000):
            add(queue, number, "a" if number < 1000 else "b")
        held: list[Unit[str]] = []
        while len(held) < 5:
            unit = queue.next()
            assert unit is not None
            if unit.destination == "a":
                held.append(unit)
            else:
                queue.done(unit)
        picks(queue, 500)
        for unit in held:
            queue.done(unit)
        self.assertLessEqual(Counter(unit.destination for unit in picks(queue, 20))["a"], 11)

    def test_destinations_share_evenly(self) -> None:
        """One unit each in turn."""
        queue: Queue = FairQueue(concurrency=20)
        for number, destination in enumerate("abc"):
            add(queue, number, destination, count=30)
        self.assertEqual(set(Counter(unit.destination for unit in picks(queue, 30)).values()), {10})


class PriorityTests(SynchronousTestCase):
    """Levels and their shares."""

    def test_levels_share_8_4_1(self) -> None:
        """When all wait."""
        for destinations in (("a", "a", "a"), ("a", "b", "c")):
            queue: Queue = FairQueue(concurrency=20)
            for priority, destination in zip(Priority, destinations, strict=True):
                add(queue, int(priority), destination, count=200, priority=priority)
            self.assertEqual(Counter(numbers(picks(queue, 130))), {0: 80, 1: 40, 2: 10})

    def test_urgent_mail_passes_a_backlog(self) -> None:
        """Ten thousand normal messages are waiting; at most five of them go first."""
        queue: Queue = FairQueue(concurrency=20)
        for number in range(10_000):
            add(queue, number, f"d{number % 100}")
        picks(queue, 50)
        add(queue, 77_777, "d3", priority=Priority.URGENT)
        self.assertIn(77_777, numbers(picks(queue, 6)))

    def test_lower_level_alone_gets_every_turn(self) -> None:
        """Shares of what does not wait are not kept free."""
        queue: Queue = FairQueue(concurrency=20)
        add(queue, 1, "a", count=50, priority=Priority.NONURGENT)
        self.assertEqual(len(picks(queue, 60)), 50)

    def test_full_destination_still_gets_its_non_urgent_mail(self) -> None:
        """
        One place for a destination that never runs out of urgent mail, beside one that has non-urgent mail only: a
        share by channel alone would let the second take every non-urgent turn.
        """
        queue: Queue = FairQueue(concurrency=20, destination_concurrency=1)
        add(queue, 1, "a", count=500, priority=Priority.URGENT)
        add(queue, 2, "a", count=5, priority=Priority.NONURGENT)
        add(queue, 3, "b", count=500, priority=Priority.NONURGENT)
        found: list[int] = []
        for _ in range(150):
            both = [unit for unit in (queue.next(), queue.next()) if unit is not None]
            found += numbers(both)
            for unit in both:
                queue.done(unit)
        self.assertEqual(Counter(found)[2], 5)


class RemovalTests(SynchronousTestCase):
    """Messages taken out by an administrator."""

    def test_removed_message_is_not_handed_out(self) -> None:
        """What is out stays out; the rest is returned."""
        queue: Queue = FairQueue(concurrency=20, destination_concurrency=5)
        add(queue, 1, "a", count=3)
        add(queue, 1, "b", count=2)
        add(queue, 2, "a")
        out = queue.next()
        assert out is not None and out.number == 1
        self.assertEqual(len(queue.remove_message(1)), 4)
        self.assertEqual(queue.remove_message(1), [])
        self.assertEqual(numbers(picks(queue, 9)), [2])
        queue.done(out)
        self.assertEqual(list(queue.destinations()), [])

    def test_statistics_follow_every_step(self) -> None:
        """Waiting and busy of each destination."""
        queue: Queue = FairQueue(concurrency=20, destination_concurrency=5)
        add(queue, 1, "a", count=3)
        queue.next()
        load = queue.load("a")
        self.assertEqual((load.waiting, load.busy, load.limit), (2, 1, 5))
        self.assertEqual(list(queue.destinations()), [load])
        self.assertEqual(queue.load("b").waiting, 0)

    def test_nothing_is_kept_of_what_is_over(self) -> None:
        """Memory stays bounded over a long life of adding, handing out and removing."""
        queue: Queue = FairQueue(concurrency=3, destination_concurrency=1)
        add(queue, 0, "z", count=1000, priority=Priority.NONURGENT)
        for number in range(1, 5000):
            add(queue, number, f"d{number % 5}", count=2, priority=Priority(number % 3))
            if number % 7 == 0:
                queue.remove_message(number)
            picks(queue, 2)
        queue.remove_message(0)
        while picks(queue, 100):
            pass
        self.assertEqual((len(queue), queue.busy), (0, 0))
        self.assertEqual((queue._destinations, queue._messages), ({}, {}))
        self.assertLessEqual(sum(len(level.heap) for level in queue._levels), 200)

    def test_lane_brought_forward_again_and_again_keeps_one_entry(self) -> None:
        """Its far turn, for a list, stays in the heap while newcomers bring near ones; stale copies are swept."""
        queue: Queue = FairQueue(concurrency=3)
        add(queue, 1, "x", count=20_000)
        add(queue, 1, "y", count=3000)
        for number in range(2, 2800):
            add(queue, number, "y")
            while picks(queue, 1)[0].number != number:
                pass
        self.assertLessEqual(sum(len(level.heap) for level in queue._levels), 200)

    def test_removed_messages_leave_no_tickets_behind(self) -> None:
        """However many come and are removed while their destination waits."""
        queue: Queue = FairQueue(concurrency=0)
        add(queue, 1, "a")
        for number in range(2, 1000):
            add(queue, number, "a")
            queue.remove_message(number)
        lane = queue._destinations["a"].lanes[Priority.NORMAL]
        assert lane is not None
        self.assertLessEqual(len(lane.tickets), 100)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Steps: add (message, destination), next, done (which), remove (message), limit (destination, number)."""
    step = st.one_of(
        st.tuples(st.just("add"), st.integers(0, 12), st.integers(0, 4)),
        st.tuples(st.just("add"), st.integers(0, 12), st.integers(0, 4)),
        st.tuples(st.just("next"), st.just(0), st.just(0)),
        st.tuples(st.just("next"), st.just(0), st.just(0)),
        st.tuples(st.just("done"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("limit"), st.integers(0, 4), st.integers(0, 4)),
    )
    return draw(st.lists(step, max_size=120))


class AnyHistoryTests(SynchronousTestCase):
    """What holds whatever happens."""

    @settings(max_examples=300, deadline=None)
    @given(histories(), st.integers(1, 6), st.integers(0, 3))
    def test_limits_hold_and_each_unit_comes_once(
        self, history: list[tuple[str, int, int]], concurrency: int, destination_concurrency: int
    ) -> None:
        """Against a model of sets: limits, statistics, exactly once, and nothing idles while something may start."""
        queue: Queue = FairQueue(concurrency=concurrency, destination_concurrency=destination_concurrency)
        waiting: list[Unit[str]] = []
        out: list[Unit[str]] = []
        limits: dict[str, int] = {}

        def may_start(destination: str) -> bool:
            limit = limits.get(destination, destination_concurrency)
            return not limit or sum(1 for unit in out if unit.destination == destination) < limit

        def take() -> Unit[str] | None:
            unit = queue.next()
            startable = [one for one in waiting if may_start(one.destination)]
            if len(out) >= concurrency or not startable:
                self.assertIsNone(unit)
                return None
            assert unit is not None
            self.assertIn(unit, startable)
            waiting.remove(unit)
            out.append(unit)
            return unit

        for verb, first, second in history:
            if verb == "add":
                waiting += add(queue, first, f"d{second}", priority=Priority(first % 3))
            elif verb == "next":
                take()
            elif verb == "done" and out:
                queue.done(out.pop(first % len(out)))
            elif verb == "remove":
                removed = queue.remove_message(first)
                self.assertCountEqual(removed, [unit for unit in waiting if unit.number == first])
                waiting = [unit for unit in waiting if unit.number != first]
            elif verb == "limit":
                name = f"d{first}"
                queue.set_limit(name, second or None)
                limits.pop(name, None)
                if second:
                    limits[name] = second
            self.assertEqual((len(queue), queue.busy), (len(waiting), len(out)))
            loads = {load.name: (load.waiting, load.busy) for load in queue.destinations()}
            both = {unit.destination for unit in waiting + out}
            self.assertEqual(
                loads,
                {
                    name: (
                        sum(1 for unit in waiting if unit.destination == name),
                        sum(1 for unit in out if unit.destination == name),
                    )
                    for name in both
                },
            )
        while waiting or out:
            while take() is not None:
                pass
            queue.done(out.pop(0))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=40),
        st.integers(1, 4),
        st.integers(1, 3),
        st.sampled_from(Priority),
    )
    def test_no_unit_waits_forever_under_a_flood(
        self, backlog: list[tuple[int, int]], concurrency: int, limit: int, victim: Priority
    ) -> None:
        """A unit of any priority is handed out although new mail keeps coming faster than it leaves."""
        queue: Queue = FairQueue(concurrency=concurrency, destination_concurrency=limit)
        for number, destination in backlog:
            add(queue, number, f"d{destination}", priority=Priority(number % 3))
        watched = add(queue, 5000, "d0", priority=victim)[0]
        number = 6000
        for _ in range(13 * 13 * (len(backlog) + 8)):
            found = picks(queue, 1)
            if watched in found:
                return
            for priority in Priority:
                add(queue, number, f"d{number % 4}", priority=priority)
                number += 1
            add(queue, number, "d0", priority=Priority.URGENT)
            number += 1
        self.fail(f"still waiting after {number - 6000} other units were added")
