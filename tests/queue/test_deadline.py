"""Tests of messages with a time of their own: held until then (RFC 4865), or of use until then only (RFC 2852)."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.deadline import begins, ends, limited, overdue, warned_at
from qmailpy.queue.entries import QueueFilter, Target
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Envelope, Job, Recipient, Reply, Verdict
from tests.queue.world import HOME, START, Outside, World, configuration, in_thread

HOUR = 3600.0
PLAIN = Envelope(sender="a@b.example", recipients=(), source="tcp_local", arrival=1000.0)


def world(**queue: Any) -> World:
    made = World(CrashDisk(directories=[HOME, f"{HOME}/log"]), configuration(**queue))
    made.up()
    return made


def send(world: World, to: str, **envelope: Any) -> str:
    """Offer a message with more in its envelope."""
    assert world.shard is not None
    host = to.partition("@")[2]
    recipient = Recipient(address=to, original=to, channel="tcp_local", host=host)
    if host == "here.example":
        recipient = Recipient(address=to, original=to, channel="local")
    now = world.clock.seconds()
    intake = world.shard.begin(world.shard.new_id())
    intake.write(b"Subject: x\r\n\r\n")
    intake.commit(
        Envelope(
            **{"sender": "ann@here.example", "source": "tcp_local", "arrival": now, **envelope},
            recipients=(recipient,),
        )
    )
    world.pump()
    return intake.id


class Passing(Outside):
    """Passes on to Bob what came for C{new@}."""

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        if not recipient.address.startswith("new@"):
            return super()._one(job, recipient)
        bob = Recipient(address="bob@here.example", original=recipient.original, channel="local")
        return Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.1.5", "ok"), onward=(bob,))


class HoldTests(SynchronousTestCase):
    def test_nothing_happens_before_the_release(self) -> None:
        """The E line is there at once; no attempt, no delay notice; then it goes."""
        node = world(warn_s=(60.0,))
        send(node, "ok@out.example", hold_until=START + HOUR)
        self.assertEqual(node.actions(), "E")
        node.wait(HOUR - 1)
        self.assertEqual((node.actions(), len(node.outside.asked), node.mailbox("ann")), ("E", 0, []))
        node.wait(2)
        self.assertEqual(node.actions(), "ED")

    def test_retries_count_from_the_release(self) -> None:
        """As if it had come then: the same times between attempts, and the lifetime."""
        node = world(lifetime_s=2000.0)
        send(node, "never@out.example", hold_until=START + HOUR)
        node.wait(HOUR + 1999)
        self.assertNotIn("R", node.actions())
        attempts = len(node.outside.asked)
        self.assertEqual(attempts, 1)
        node.wait(2)
        self.assertIn("R", node.actions())
        times = [record.time - START - HOUR for record in node.log() if record.action.value == "Q"]
        self.assertEqual(round(times[0]), 0)
        self.assertTrue(400 <= times[1] < 480, times)

    def test_what_an_operator_releases_is_not_held_again(self) -> None:
        """Neither by the next attempt nor where it goes on to."""
        node = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        node.outside = Passing()
        shard = node.up()
        late = send(node, "later@out.example", hold_until=START + 1000 * HOUR)
        passed = send(node, "new@out.example", hold_until=START + 1000 * HOUR)
        queue = QueueOperations(
            lambda: parts_of({"0": shard}), node.config, node.clock.seconds, node.switches, in_thread
        )
        Deferred.fromCoroutine(queue.release([Target(late), Target(passed)]))
        node.pump()
        self.assertEqual(node.actions(), "EEQEDD")
        node.wait(1500)
        self.assertEqual(node.actions(), "EEQEDDQD")

    def test_a_crash_does_not_release(self) -> None:
        """Neither from the journal nor from the files."""
        for settled in (False, True):
            node = world()
            send(node, "ok@out.example", hold_until=START + HOUR)
            if settled:
                node.settle()
            node = node.crash("none")
            node.up()
            node.wait(HOUR - 100)
            self.assertEqual(len(node.outside.asked), 0)
            node.wait(200)
            self.assertEqual(sum(node.outside.asked.values()), 1)

    def test_running_a_channel_does_not_release(self) -> None:
        """Its schedule is the sender's. An operator who names the message may."""
        node = world()
        assert node.shard is not None
        shard = node.shard
        queue = QueueOperations(
            lambda: parts_of({"0": shard}), node.config, node.clock.seconds, node.switches, in_thread
        )
        held = send(node, "ok@out.example", hold_until=START + HOUR)
        send(node, "later@out.example")
        self.successResultOf(self.deferred(queue.run("tcp_local")))
        node.wait(1)
        self.assertEqual([address for _, address in node.outside.asked], ["later@out.example"])
        self.assertEqual(sum(node.outside.asked.values()), 2)
        [entry] = [one for one in self.successResultOf(self.deferred(self.entries(queue))) if one.id == held]
        self.assertEqual((entry.next_attempt, entry.hold_until, entry.attempts), (START + HOUR, START + HOUR, 0))
        node.wait(HOUR)
        self.assertEqual(node.outside.asked[held, "ok@out.example"], 1)

    def deferred(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    async def entries(self, queue: QueueOperations) -> Any:
        found, _ = await queue.page(QueueFilter(), None, 10)
        return found


class DeliverByTests(SynchronousTestCase):
    def test_what_is_late_comes_back(self) -> None:
        """Mode R: 5.4.7, in time, without another attempt and in one transaction with the notice."""
        node = world()
        send(node, "never@out.example", deliver_by=START + 100, by_mode="R")
        node.wait(99)
        self.assertEqual(node.actions(), "EQ")
        node.wait(2)
        self.assertEqual(node.actions(), "EQERD")
        self.assertEqual(sum(node.outside.asked.values()), 1)
        failed = next(record for record in node.log() if record.action.value == "R")
        self.assertIn("554 5.4.7 delivery time expired", failed.diagnostic)
        self.assertEqual(len(node.mailbox("ann")), 1)

    def test_an_attempt_that_ends_late_is_the_last(self) -> None:
        node = world()
        node.outside.silent = True
        send(node, "never@out.example", deliver_by=START + 100, by_mode="R")
        node.wait(200)
        self.assertEqual(node.actions(), "E")
        node.outside.release()
        node.pump()
        self.assertEqual(node.actions(), "EERD")

    def test_what_arrives_in_time_is_delivered(self) -> None:
        node = world()
        send(node, "ok@out.example", deliver_by=START + 100, by_mode="R")
        send(node, "bob@here.example", deliver_by=START + 100, by_mode="R")
        node.wait(1000)
        self.assertEqual((node.actions().count("D"), node.mailbox("ann")), (2, []))

    def test_a_late_message_in_mode_n_goes_on_and_its_sender_is_told_once(self) -> None:
        """One more attempt at that time, then the delay notice; the retries go on as ever."""
        node = world()
        send(node, "never@out.example", deliver_by=START + 100, by_mode="N")
        node.wait(99)
        self.assertEqual(node.actions(), "EQ")
        node.wait(2)
        self.assertEqual(node.actions(), "EQQEWD")
        node.wait(5000)
        self.assertEqual(len(node.mailbox("ann")), 1)
        self.assertNotIn("R", node.actions())

    def test_who_was_late_before_us_has_been_told(self) -> None:
        node = world()
        send(node, "never@out.example", deliver_by=START - 40, by_mode="N")
        node.wait(5000)
        self.assertEqual(node.mailbox("ann"), [])

    def test_a_crash_does_not_lengthen_patience(self) -> None:
        node = world()
        send(node, "never@out.example", deliver_by=START + 1000, by_mode="R")
        node = node.crash("none")
        node.clock.advance(2000)
        node.up()
        node.wait(301)  # what is overdue after a downtime is spread
        self.assertEqual(sum(node.outside.asked.values()), 1)
        self.assertEqual(len(node.mailbox("ann")), 1)

    def test_a_notice_is_as_secret_as_what_it_tells_of(self) -> None:
        """RFC 8689 s.5."""
        node = world()
        assert node.shard is not None
        send(node, "ok@out.example")
        node.outside.silent = True
        send(node, "bad@out.example", require_tls=True)
        made: list[Envelope] = []
        whole = node.shard.shard.new_message

        def spy(envelope: Envelope, content: Any, room: int | None = None, **more: bool) -> Any:
            made.append(envelope)
            return whole(envelope, content, room, **more)

        node.shard.shard.new_message = spy  # type: ignore[method-assign]
        node.outside.release()
        node.pump()
        self.assertEqual([envelope.require_tls for envelope in made], [True])


class PureTests(SynchronousTestCase):
    def test_age_begins_with_the_release(self) -> None:
        self.assertEqual(begins(PLAIN), 1000.0)
        self.assertEqual(begins(evolve(PLAIN, hold_until=1500.0)), 1500.0)
        self.assertEqual(begins(evolve(PLAIN, hold_until=500.0)), 1000.0)

    def test_only_mode_r_is_ever_overdue(self) -> None:
        late = evolve(PLAIN, deliver_by=1100.0, by_mode="RT")
        self.assertEqual([overdue(late, now) for now in (1099.0, 1100.0)], [False, True])
        self.assertFalse(overdue(evolve(late, by_mode="NT"), 2000.0))
        self.assertFalse(overdue(PLAIN, 2000.0))

    def test_an_attempt_is_drawn_to_the_deadline_before_it_and_not_behind_it(self) -> None:
        some = evolve(PLAIN, deliver_by=1100.0, by_mode="N")
        self.assertEqual(limited(some, 1400.0, 1000.0), 1100.0)
        self.assertEqual(limited(some, 1050.0, 1000.0), 1050.0)
        self.assertEqual(limited(some, 1400.0, 1100.0), 1400.0)
        self.assertEqual(limited(PLAIN, 1400.0, 1000.0), 1400.0)

    def test_delay_notices_and_the_end(self) -> None:
        some = evolve(PLAIN, deliver_by=1100.0, by_mode="N")
        self.assertEqual(warned_at(some, (50.0,)), (50.0, 100.0))
        self.assertEqual(warned_at(evolve(some, by_mode="R"), (50.0,)), (50.0,))
        self.assertEqual(warned_at(evolve(some, deliver_by=900.0), (50.0,)), (50.0,))
        self.assertEqual((ends(some, 500.0), ends(evolve(some, by_mode="R"), 500.0)), (1500.0, 1100.0))
