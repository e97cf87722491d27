"""Delay notices by age: of mail that nobody tries meanwhile, too, and each age once whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.due import CoarseList
from qmailpy.queue.entries import Target
from qmailpy.queue.runner import Runner
from qmailpy.queue.verdicts import INotices
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.queue.watching import GRACE_S, PATIENCE_S, QUIET_S, SCAN_S
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Job, Notify, Recipient, Reply, Verdict
from tests.queue.test_deadline import send as send_by
from tests.queue.test_wedged import DelayTrouble
from tests.queue.world import HOME, START, Outside, PlainNotices, World, configuration, forks, in_thread

HOUR = 3600.0
AGES = (4 * HOUR, 24 * HOUR)


class Fickle(Outside):
    """Knows nobody's mind at the first attempt; then fails C{soon@} and does not answer for C{slow@}."""

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        if job.attempt > 1 and job.recipients[0].address.startswith("slow@"):
            await Deferred()
        return await super().dequeue(job)

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        if job.attempt > 1 and recipient.address.startswith("soon@"):
            return Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.1.1", "unknown"))
        self.asked[job.id, recipient.address] += 1
        return Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.2.0", "later"))


def node(ages: tuple[float, ...] = AGES, backoff: tuple[float, ...] = (), **keys: Any) -> World:
    """Warns at these ages; tcp_local with these keys."""
    config = configuration(warn_s=ages, lifetime_s=40 * HOUR)
    channel = evolve(config.channels["tcp_local"], backoff=backoff, jitter=0.0, **keys)
    world = World(
        CrashDisk(directories=[HOME, f"{HOME}/log"]),
        evolve(config, channels={**config.channels, "tcp_local": channel}),
    )
    world.up()
    return world


def runner(world: World) -> Runner:
    """Of the channel that leads outside."""
    assert world.shard is not None
    return world.shard.runner("tcp_local")


def stop(world: World) -> None:
    """An operator stops it, for all lives."""
    world.switches.thd_switch("tcp_local", True)
    runner(world).stop()


def delays(world: World) -> list[bytes]:
    """The delay notices that Ann has got."""
    return [one for one in world.mailbox("ann") if one.startswith(b"delayed")]


def warned(world: World) -> list[tuple[float, str]]:
    """Age, by our clock, and address of each W line."""
    return [(one.time - START, one.current_to) for one in world.log() if one.action.value == "W"]


class StoppedTests(SynchronousTestCase):
    def test_mail_of_a_stopped_channel_is_warned_of_at_its_ages(self) -> None:
        """Tried before or not; once an age; and it is not given back."""
        world = node()
        world.send("never@a.example")
        world.wait(10.0)
        stop(world)
        world.send("ok@b.example")
        world.wait(4 * HOUR - 20.0)
        self.assertEqual(warned(world), [])
        world.wait(60.0)
        self.assertEqual(len(delays(world)), 2)
        world.wait(60 * HOUR)
        self.assertEqual((len(delays(world)), "R" in world.actions()), (4, False))
        self.assertEqual(len(world.outside.asked), 1)
        for number, (age, _) in enumerate(warned(world)):
            self.assertTrue(0 <= age - AGES[number // 2] - (10 if number % 2 else 0) <= 16, warned(world))

    def test_what_is_overdue_has_its_last_attempt_when_the_channel_goes_on(self) -> None:
        world = node()
        stop(world)
        world.send("never@a.example")
        world.send("ok@b.example")
        world.wait(100 * HOUR)
        self.assertEqual((len(delays(world)), world.actions().count("R")), (4, 0))
        world.switches.thd_switch("tcp_local", False)
        runner(world).start()
        world.wait(1.0)
        self.assertEqual((world.outside.asked.total(), world.actions().count("R"), len(delays(world))), (2, 1, 4))
        self.assertEqual(sum(one.startswith(b"failed") for one in world.mailbox("ann")), 1)

    def test_it_goes_on_in_the_next_life(self) -> None:
        """From files or the journal; what was warned of is not warned of again."""
        for settled in (False, True):
            world = node()
            stop(world)
            world.send("ok@b.example")
            world.wait(5 * HOUR)
            if settled:
                world.settle()
            world = world.crash("none")
            world.up()
            world.wait(18 * HOUR)
            self.assertEqual(len(delays(world)), 1)
            world.wait(2 * HOUR)
            self.assertEqual((len(delays(world)), world.outside.asked.total()), (2, 0), settled)

    def test_mail_of_a_channel_that_is_not_configured_any_more_is_warned_of(self) -> None:
        for settled in (False, True):
            world = node()
            world.send("never@a.example")
            if settled:
                world.settle()
            world = world.crash("none")
            world.config = evolve(world.config, channels={"local": world.config.channels["local"]})
            world.up()
            world.wait(25 * HOUR)
            self.assertEqual((len(delays(world)), "R" in world.actions()), (2, False), settled)

    def test_after_a_long_downtime_there_is_one_notice(self) -> None:
        for settled in (False, True):
            world = node((HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR))
            stop(world)
            world.send("ok@b.example")
            if settled:
                world.settle()
            world = world.crash("none")
            world.clock.advance(30 * HOUR)
            world.up()
            world.wait(QUIET_S + 5)
            self.assertEqual(len(delays(world)), 1, settled)
            world.wait(30 * HOUR)
            self.assertEqual(len(delays(world)), 1, settled)

    def test_the_end_of_a_senders_patience_is_an_age(self) -> None:
        """Mode N; the file tells of it in the next life."""
        for settled in (False, True):
            world = node()
            stop(world)
            send_by(world, "ok@b.example", deliver_by=START + 2 * HOUR, by_mode="N")
            if settled:
                world.settle()
                world = world.crash("none")
                world.up()
            world.wait(2 * HOUR - 10)
            self.assertEqual(len(delays(world)), 0)
            world.wait(40)
            self.assertEqual(len(delays(world)), 1)
            if settled:
                world.settle()
                world = world.crash("none")
                world.up()
            world.wait(2 * HOUR)
            self.assertEqual(len(delays(world)), 2, settled)

    def test_a_message_its_sender_holds_is_as_old_as_its_release(self) -> None:
        for settled in (False, True):
            world = node()
            stop(world)
            send_by(world, "ok@b.example", hold_until=START + 10 * HOUR)
            if settled:
                world.settle()
                world = world.crash("none")
                world.up()
            world.wait(14 * HOUR - 20)
            self.assertEqual(len(delays(world)), 0)
            world.wait(60)
            self.assertEqual(len(delays(world)), 1, settled)

    def test_a_notice_says_no_more_than_is_known(self) -> None:
        """Nobody knows when it ends, once it should have; nor when it was tried."""
        seen: list[tuple[Any, ...]] = []
        world = node((HOUR, 50 * HOUR))
        assert world.shard is not None
        verdicts = runner(world)._settling.verdicts

        class Spy:
            def __getattr__(self, name: str) -> Any:
                def build(*arguments: Any) -> Any:
                    seen.append((*arguments[5:], arguments[2][0][1].reply.text))
                    return getattr(world.notices(), name)(*arguments)

                return build

        spy: Any = Spy()
        verdicts._notices = spy
        stop(world)
        world.send("ok@b.example")
        world.wait(60 * HOUR)
        self.assertEqual([one[:2] for one in seen], [(START + 40 * HOUR, 0), (None, 0)])
        self.assertIn("suspended", seen[0][2])


class RunningTests(SynchronousTestCase):
    def test_a_notice_does_not_wait_for_the_next_attempt(self) -> None:
        world = node(backoff=(3 * HOUR, 30 * HOUR))
        world.send("never@a.example")
        world.wait(4 * HOUR + 30)
        self.assertEqual((len(delays(world)), world.outside.asked.total()), (1, 2))
        self.assertTrue(0 <= warned(world)[0][0] - 4 * HOUR <= 16)

    def test_an_attempt_at_the_same_time_comes_first(self) -> None:
        """It may well succeed; then nobody is told."""
        for user, notices in (("later", 0), ("never", 1)):
            world = node(backoff=(2 * HOUR,))
            world.send(f"{user}@a.example")
            world.wait(5 * HOUR)
            self.assertEqual((len(delays(world)), world.outside.asked.total()), (notices, 3))

    def test_so_does_one_of_what_is_overdue_after_a_downtime(self) -> None:
        for settled in (False, True):
            for user, notices in (("later", 0), ("never", 1)):
                world = node(backoff=(60.0,))
                world.send(f"{user}@a.example")
                world.wait(61.0)
                if settled:
                    world.settle()
                world = world.crash("none")
                world.clock.advance(30 * HOUR)
                world.up()
                world.wait(HOUR)
                self.assertEqual(len(delays(world)), notices, (settled, user))

    def test_mail_whose_turn_does_not_come_is_warned_of(self) -> None:
        """It is ready, parked, or due and left on disk; what is out is not."""
        world = node((HOUR,), destination_concurrency=1)
        world.outside.silent = True
        for _ in range(600):
            world.send("ok@a.example", hold=True)
        world.pump()
        world.wait(HOUR + GRACE_S - 5)
        self.assertEqual(warned(world), [])
        world.wait(5 + 2 * SCAN_S)
        self.assertEqual(len(warned(world)), 599)
        world.outside.release()
        world.pump()
        world.wait(HOUR)
        self.assertEqual((len(warned(world)), sum(world.outside.taken.values())), (599, 600))

    def test_recipients_that_are_out_do_not_keep_the_others_from_it(self) -> None:
        """One slow destination of a list; a recipient that is in the ready list waits."""
        world = node((HOUR,))
        world.outside.silent = True
        world.send("ok@a.example", "ok@b.example")
        world.wait(10.0)
        world.outside.release()
        world.send("never@a.example", "ok@b.example")
        world.wait(HOUR + 60)
        self.assertEqual([address for _, address in warned(world)], ["never@a.example"])

    def test_mail_that_goes_out_at_once_has_no_entry(self) -> None:
        world = node()
        for _ in range(5):
            world.send("ok@a.example", "bob@here.example")
        assert world.shard is not None
        for one in world.shard.runners.values():
            self.assertEqual((len(one._watch), one._watch._wakeup.set, one._watch._scan), (0, False, None))
        world.send("never@a.example")
        self.assertEqual(len(runner(world)._watch), 1)
        for _ in range(10):
            world.wait(HOUR / 3)
            world.settle()
        self.assertEqual(len(runner(world)._watch), 1)

    def test_other_ages_count_from_the_reload_on(self) -> None:
        for settled in (False, True):
            world = node((30 * HOUR,))
            stop(world)
            world.send("ok@a.example")
            world.wait(2 * HOUR)
            if settled:
                world.settle()
            assert world.shard is not None
            config = evolve(world.config, queue=evolve(world.config.queue, warn_s=(HOUR, 5 * HOUR)))
            world.shard.reconfigure(config, {})
            world.wait(60)
            self.assertEqual(len(delays(world)), 1, settled)
            world.wait(3 * HOUR)
            self.assertEqual(len(delays(world)), 2, settled)
            world.wait(30 * HOUR)
            self.assertEqual(len(delays(world)), 2, settled)


class WhoTests(SynchronousTestCase):
    def test_held_mail_is_not_warned_of_before_it_is_released(self) -> None:
        for settled in (False, True):
            world = node()
            assert world.shard is not None
            parts = partial(parts_of, {"0": world.shard})
            queue = QueueOperations(parts, world.config, world.clock.seconds, world.switches, in_thread)
            queue_id = world.send("never@a.example")
            Deferred.fromCoroutine(queue.hold([Target(queue_id)], "why not"))
            world.pump()
            if settled:
                world.settle()
            world.wait(5 * HOUR)
            self.assertEqual(delays(world), [])
            stop(world)
            Deferred.fromCoroutine(queue.release([Target(queue_id)]))
            world.pump()
            world.wait(60)
            self.assertEqual(len(delays(world)), 1, settled)

    def test_nobody_is_told_of_a_notice_nor_who_does_not_want_it(self) -> None:
        world = node()
        stop(world)
        world.send("ok@a.example", sender="")
        world.send("ok@b.example", notify=Notify.FAILURE)
        world.wait(30 * HOUR)
        self.assertEqual((delays(world), warned(world)), ([], []))

    def test_whose_failure_waits_to_be_told_is_not_warned_of(self) -> None:
        """It has failed, and the failure notice comes within a minute; beside an attempt and by age."""
        for first in (100.0, 99.0):
            world = node((100.0,), backoff=(first, 1000.0))
            world.outside = Fickle()
            world = world.crash("none")
            world.up()
            world.send("slow@a.example", "soon@b.example", "never@c.example")
            world.wait(135.0)
            self.assertEqual([address for _, address in warned(world)], ["slow@a.example", "never@c.example"], first)
            [notice] = delays(world)
            self.assertNotIn(b"soon@b.example", notice)
            self.assertEqual(world.actions().count("R"), 0)
            world.wait(60.0)
            self.assertEqual((world.actions().count("R"), len(delays(world))), (1, 1))
            # What the journal says of it is the same in the next life.
            before = sorted(world.actions())
            world = world.crash("none")
            world.up()
            self.assertEqual(sorted(world.actions()), before, first)

    def test_a_notice_that_cannot_be_made_is_made_later(self) -> None:
        world = node()
        trouble: INotices = DelayTrouble(world)
        verdicts = runner(world)._settling.verdicts
        whole, verdicts._notices = verdicts._notices, trouble
        stop(world)
        world.send("ok@a.example")
        world.wait(4 * HOUR + 60)
        self.assertTrue(self.flushLoggedErrors(OSError))
        verdicts._notices = whole
        world.wait(300)
        self.assertEqual(len(delays(world)), 1)

    def test_nor_is_one_beside_an_attempt_lost(self) -> None:
        world = node(backoff=(4 * HOUR,))
        trouble: INotices = DelayTrouble(world)
        verdicts = runner(world)._settling.verdicts
        whole, verdicts._notices = verdicts._notices, trouble
        world.send("never@a.example")
        world.wait(4 * HOUR)
        self.assertTrue(self.flushLoggedErrors(OSError))
        verdicts._notices = whole
        world.wait(60)
        self.assertEqual((len(delays(world)), len(warned(world))), (1, 1))


class Threads:
    """Does at once what is asked for, but these functions: them when it is told to."""

    def __init__(self, whole: Callable[..., Any], *slow: str) -> None:
        self.names: list[str] = []
        self._whole = whole
        self._slow = slow
        self._waiting: list[tuple[str, Deferred[None]]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        name = getattr(function, "__name__", "")
        self.names.append(name)
        if name not in self._slow:
            return cast("Deferred[Any]", self._whole(function, *arguments))
        told: Deferred[None] = Deferred()
        self._waiting.append((name, told))
        return told.addCallback(lambda _: function(*arguments))

    def go_on(self, *names: str) -> None:
        """@param names: these alone."""
        for one in list(self._waiting):
            if not names or one[0] in names:
                self._waiting.remove(one)
                one[1].callback(None)


class TogetherTests(SynchronousTestCase):
    """Several destinations of one message, of which some come back while a notice is due."""

    def told(self, world: World) -> list[list[str]]:
        """The addresses in each notice; what is recorded as told has to be the same."""
        found = [
            sorted(word for word in one.partition(b"\r\n")[0].decode()[9 + 15 :].split(",")) for one in delays(world)
        ]
        everybody = sorted(address for some in found for address in some)
        self.assertEqual(everybody, sorted(address for _, address in warned(world)))
        return found

    def test_destinations_that_come_back_in_one_turn_make_one_notice(self) -> None:
        """Of those that wait; whoever comes back first knows nothing of the others."""
        for user, told in (
            ("never", ["never@a.example", "never@b.example"]),
            ("ok", ["never@a.example"]),
            ("bad", ["never@a.example"]),
        ):
            for others in ([f"{user}@b.example", "never@a.example"], ["never@a.example", f"{user}@b.example"]):
                world = node((HOUR,), backoff=(5 * HOUR,))
                world.outside.silent = True
                world.send(*others)
                world.wait(HOUR + 60)
                self.assertEqual(delays(world), [])
                world.outside.release()
                world.wait(2 * GRACE_S)
                self.assertEqual(self.told(world), [told], others)
                world.wait(HOUR)
                self.assertEqual(self.told(world), [told], others)

    def test_what_is_out_beside_a_deferral_is_told_of_when_it_stays_out(self) -> None:
        world = node((100.0,), backoff=(100.0, 5 * HOUR))
        world.outside = Fickle()
        world = world.crash("none")
        world.up()
        world.send("slow@a.example", "never@c.example")
        world.wait(101.0)
        self.assertEqual(delays(world), [])
        world.wait(GRACE_S)
        self.assertEqual(self.told(world), [["never@c.example", "slow@a.example"]])

    def test_failures_told_of_with_a_deferral_are_not_delayed(self) -> None:
        """They had waited for it; the notice comes with the attempt."""
        world = node((100.0,), backoff=(100.0, 5 * HOUR))
        world.outside = Fickle()
        world = world.crash("none")
        world.up()
        just_now: list[int] = []

        class Spy(PlainNotices):
            def build_delay(self, *arguments: Any) -> Any:
                just_now.append(arguments[-1])
                return super().build_delay(*arguments)

        runner(world)._settling.verdicts._notices = Spy(world)
        world.send("soon@a.example", "never@c.example")
        world.wait(101.0)
        self.assertEqual((self.told(world), world.actions().count("R")), ([["never@c.example"]], 1))
        self.assertEqual(just_now, [1])

    def test_failures_that_go_on_waiting_are_not_delayed(self) -> None:
        """For another channel; they do not keep the notice from coming with the attempt."""
        world = node((100.0,), backoff=(100.0, 5 * HOUR))
        world.outside = Fickle()
        world = world.crash("none")
        world.up()
        assert world.shard is not None
        local = world.shard.runner("local")
        local.stop()  # its copy is there, and was never tried
        world.send("soon@a.example", "never@c.example", "bob@here.example")
        world.wait(101.0)
        self.assertEqual(world.actions().count("R"), 0)
        self.assertEqual(sorted(address for _, address in warned(world)), ["bob@here.example", "never@c.example"])
        local.start()
        world.pump()
        self.assertIn(["never@c.example"], self.told(world))
        self.assertEqual(world.actions().count("R"), 1)

    def test_what_has_failed_and_is_not_recorded_is_not_delayed(self) -> None:
        """Its failure notice is being made; the delay notice about the others waits for the record."""
        for forever in (False, True):
            world = node((100.0,), backoff=(90.0, 5 * HOUR))
            world.outside = Fickle()
            world = world.crash("none")
            world.up()
            assert world.shard is not None
            shard = world.shard.shard
            threads = shard.in_thread = Threads(shard.in_thread, "build_failure")
            world.send("never@c.example", "soon@a.example")
            world.wait(200.0)
            self.assertEqual((world.actions().count("R"), self.told(world)), (0, []))
            self.assertNotIn("build_delay", threads.names)
            if forever:  # it cannot wait without an end
                world.wait(100.0 + PATIENCE_S)
                self.assertEqual(self.told(world), [["never@c.example", "soon@a.example"]])
            threads.go_on()
            world.wait(GRACE_S + 1)
            if not forever:
                self.assertEqual(self.told(world), [["never@c.example"]])
            self.assertEqual((world.actions().count("R"), len(delays(world))), (1, 1))

    def test_what_fails_while_a_notice_is_made_is_not_delayed(self) -> None:
        world = node((100.0,), backoff=(140.0, 5 * HOUR))
        world.outside = Fickle()
        world = world.crash("none")
        world.up()
        assert world.shard is not None
        threads = world.shard.shard.in_thread = Threads(world.shard.shard.in_thread, "build_delay", "build_failure")
        world.send("never@c.example", "soon@a.example")
        world.wait(150.0)
        self.assertEqual([name for name in threads.names if name.startswith("build")], ["build_delay", "build_failure"])
        threads.go_on("build_delay")
        world.pump()
        self.assertEqual(self.told(world), [])
        threads.go_on()
        world.wait(GRACE_S + 1)
        threads.go_on()
        world.pump()
        self.assertEqual((self.told(world), world.actions().count("R")), ([["never@c.example"]], 1))

    def test_a_notice_that_failed_does_not_stand_for_a_later_one(self) -> None:
        """Two ages, both notices in the making: that of the first cannot be made, that of the second is not doubled."""
        world = node((HOUR, 2 * HOUR))
        stop(world)
        world.send("never@a.example")
        assert world.shard is not None
        shard = world.shard.shard
        [message] = shard.state.messages.values()
        [copy] = message.copies.values()
        verdicts = runner(world)._settling.verdicts
        making: list[Deferred[Any]] = []

        def slow(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            making.append(Deferred())
            return making[-1].addCallback(lambda _: function(*arguments))

        whole, shard.in_thread = shard.in_thread, slow
        world.clock.rightNow += HOUR
        first = Deferred.fromCoroutine(verdicts.overdue(message, copy, stopped=True))
        world.clock.rightNow += HOUR
        second = Deferred.fromCoroutine(verdicts.overdue(message, copy, stopped=True))
        making[0].errback(OSError(5, ""))
        self.assertEqual(self.successResultOf(first), [])
        self.assertTrue(self.flushLoggedErrors(OSError))
        third = self.successResultOf(Deferred.fromCoroutine(verdicts.overdue(message, copy, stopped=True)))
        making[1].callback(None)
        shard.in_thread = whole
        self.assertEqual((len(self.successResultOf(second)), third), (2, []))


class SlowTests(SynchronousTestCase):
    """A notice is made in a thread, and things happen meanwhile."""

    def setUp(self) -> None:
        self.world = world = node((HOUR,))
        stop(world)
        world.send("never@a.example")
        world.settle()
        assert world.shard is not None
        self.shard = world.shard.shard
        self.notices: list[Deferred[None]] = []
        whole = self.shard.in_thread

        def slow(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            if getattr(function, "__name__", "") != "build_delay":
                return whole(function, *arguments)
            self.notices.append(Deferred())
            return self.notices[-1].addCallback(lambda _: function(*arguments))

        self.shard.in_thread = slow
        world.wait(HOUR + 20)
        self.assertEqual(len(self.notices), 1)

    def go_on(self) -> None:
        for one in self.notices:
            one.callback(None)
        self.world.pump()

    def test_the_message_stays_in_memory(self) -> None:
        """The record is of a message that is there."""
        [message] = self.shard.state.messages.values()
        self.shard.evict(message)
        self.assertEqual(list(self.shard.state.messages.values()), [message])
        self.go_on()
        self.assertEqual((len(delays(self.world)), len(warned(self.world))), (1, 1))
        self.world.settle()
        self.world.settle()
        self.assertEqual(len(self.shard.state.messages), 0)

    def test_an_attempt_makes_no_second_one(self) -> None:
        runner(self.world).start()
        self.world.pump()
        self.assertEqual(self.world.outside.asked.total(), 1)
        self.go_on()
        self.world.wait(1000)
        self.assertEqual((len(delays(self.world)), len(warned(self.world)), len(self.notices)), (1, 1, 1))

    def test_what_is_being_tried_by_then_is_not_told_of(self) -> None:
        """It may be delivered before the record is made, which would be of nothing."""
        self.world.outside.silent = True
        runner(self.world).start()
        self.world.pump()
        self.go_on()
        self.assertEqual(warned(self.world), [])
        self.world.outside.release()
        self.world.pump()
        self.world.wait(GRACE_S + 1)
        self.go_on_again()
        self.assertEqual((len(delays(self.world)), len(warned(self.world))), (1, 1))

    def go_on_again(self) -> None:
        self.notices = [one for one in self.notices if not one.called]
        self.go_on()

    def test_a_daemon_that_stops_waits_for_it(self) -> None:
        assert self.world.shard is not None
        ended: list[object] = []
        self.world.shard.drain().addCallback(ended.append)
        self.world.pump()
        self.assertEqual(ended, [])
        self.go_on()
        self.assertEqual((len(ended), len(warned(self.world))), (1, 1))


class CrashTests(SynchronousTestCase):
    def test_power_may_fail_before_any_step(self) -> None:
        """Then the notice went out with its W or goes out in the next life: one in all, and the books hold."""

        def happens(world: World) -> None:
            world.wait(4 * HOUR + 60)
            world.settle()

        self._cut(happens)

    def test_so_it_may_when_several_destinations_come_back(self) -> None:
        """Nobody is told of twice, nobody is left out."""

        def happens(world: World) -> None:
            world.outside.release()
            world.wait(2 * GRACE_S)
            world.settle()

        world = node((HOUR,), backoff=(10 * HOUR,))
        world.outside.silent = True
        world.send("never@a.example", "never@b.example")
        world.wait(HOUR + 60)
        for step, left in forks(world, happens):
            for survivors in ("none", "all"):
                after = left.fork().crash(survivors)
                after.up()
                after.wait(HOUR)
                self.assertEqual((len(delays(after)), len(warned(after))), (1, 2), (step, survivors))

    def _cut(self, scenario: Callable[[World], None]) -> None:
        for settled in (False, True):
            world = node((4 * HOUR,))
            stop(world)
            world.send("ok@a.example")
            if settled:
                world.settle()
            for step, left in forks(world, scenario):
                for survivors in ("none", "all"):
                    after = left.fork().crash(survivors)
                    after.up()
                    after.wait(5 * HOUR)
                    self.assertEqual((len(delays(after)), len(warned(after))), (1, 1), (settled, step, survivors))
                    log, counters = after.books()
                    self.assertEqual(log, counters)


class CoarseListTests(SynchronousTestCase):
    def test_nothing_is_early_and_all_of_it_comes(self) -> None:
        some = CoarseList()
        for when, number in ((1010.2, 1), (1000.0, 2), (5.0, 3), (9000.5, 4), (9001.0, 5)):
            some.push(when, number, 1000.0)
        self.assertEqual((len(some), some.earliest(), some.pop_due(1000.9, 9)), (5, 1001.0, []))
        self.assertEqual(sorted(some.pop_due(1001.0, 9)), [2, 3])
        self.assertEqual((some.pop_due(1010.9, 9), some.pop_due(1011.0, 9)), ([], [1]))
        self.assertEqual(some.earliest(), 9015.0)
        self.assertEqual((len(some.pop_due(9999.0, 1)), len(some.pop_due(9999.0, 9))), (1, 1))
        self.assertEqual((len(some), some.earliest(), some.pop_due(1e9, 9)), (0, None, []))
