"""Keys of channels that limit what goes by them, and what they leave in log and counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.entries import DONE, Target
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Envelope, Job, Recipient
from tests.queue.world import HOME, Outside, World, configuration, in_thread


class Noting(Outside):
    """Remembers the recipients of each job."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[list[str]] = []

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        self.jobs.append([one.address for one in job.recipients])
        return await super().dequeue(job)


class KeywordTests(SynchronousTestCase):
    def world(self, queue: dict[str, Any] | None = None, **options: Any) -> World:
        config = configuration(**(queue or {}))
        channel = evolve(config.channels["tcp_local"], **options)
        world = World(
            CrashDisk(directories=[HOME, f"{HOME}/log"]),
            evolve(config, channels={**config.channels, "tcp_local": channel}),
        )
        self.outside = world.outside = Noting()
        world.up()
        return world

    def release(self, world: World, queue_id: str) -> None:
        shard = world.shard
        assert shard is not None
        view = QueueOperations(
            lambda: parts_of({"0": shard}), world.config, world.clock.seconds, world.switches, in_thread
        )
        releasing = Deferred.fromCoroutine(view.release([Target(queue_id)]))
        world.pump()
        [result] = self.successResultOf(releasing)
        self.assertEqual(result.outcome, DONE)

    def held(self, world: World) -> list[str]:
        assert world.shard is not None
        messages = world.shard.shard.state.messages.values()
        return [copy.held for one in messages for copy in one.copies.values() if copy.held is not None]

    def check_books(self, world: World) -> None:
        world.recorder.flush()
        folded, counted = world.books()
        self.assertEqual(folded, counted)

    def test_what_is_too_large_for_its_channel_goes_back(self) -> None:
        """blocklimit: R, 5.3.4, without an attempt; others of the message are no matter."""
        world = self.world(blocklimit=2000)
        world.send("ok@out.example", "bob@here.example", body=b"x" * 3000)
        world.send("ok@out.example", body=b"x" * 300)
        self.assertEqual(len(self.outside.jobs), 1)
        self.assertEqual(len(world.mailbox("bob")), 1)
        [failed] = [one for one in world.log() if one.action.value == "R"]
        self.assertIn("552 5.3.4 Message is larger than the 2000 octets that go by tcp_local", failed.diagnostic)
        self.assertIn(b"failed: ok@out.example", world.mailbox("ann")[0])
        self.assertEqual(world.stored(), {})
        self.check_books(world)

    def test_more_recipients_than_holdlimit_wait_for_the_operator(self) -> None:
        """Only E until then; the event names the message; released, they all go."""
        world = self.world(holdlimit=3, recipients_per_job=2)
        people = [f"ok{number}@out.example" for number in range(4)]
        queue_id = world.send(*people)
        world.send(*people[:3])
        self.assertEqual(world.actions(), "EEEEEEEDDD")
        self.assertEqual(self.held(world), ["4 recipients, more than the 3 of holdlimit"])
        self.assertEqual(world.stored(), {"tcp_local": 4})
        name, fields = world.events.happenings[0]
        self.assertEqual((name, fields["channel"], fields["id"]), ("message.held", "tcp_local", queue_id))
        world.wait(86400.0)
        self.assertEqual(world.stored(), {"tcp_local": 4})
        self.release(world, queue_id)
        self.assertEqual(world.actions().count("D"), 7)
        self.assertEqual((world.stored(), self.held(world)), ({}, []))
        self.check_books(world)

    def test_what_was_released_and_put_off_is_not_held_again(self) -> None:
        """Neither the word of an operator nor the attempt is forgotten when a message leaves memory."""
        world = self.world(holdlimit=1)
        queue_id = world.send("later@out.example", "later@two.example")
        self.release(world, queue_id)
        self.assertEqual(world.actions(), "EEQQ")
        world.settle()
        world.wait(3600.0)
        self.assertEqual(world.stored(), {})
        self.assertEqual(self.held(world), [])

    def test_what_was_released_and_not_tried_yet_is_not_held_again_by_a_restart(self) -> None:
        """Whether the word is in the journal or in the copy's file when the power fails; held anew it is gone."""
        for settled in (0, 1, 2):
            world = self.world(holdlimit=1)
            queue_id = world.send("ok1@out.example", "ok2@two.example")
            for _ in range(settled - 1):
                world.settle()
            assert world.shard is not None
            world.shard.runners["tcp_local"].stop()
            self.release(world, queue_id)
            for _ in range(settled):
                world.settle()
            after = world.crash("none")
            after.up()
            after.wait(10)
            self.assertEqual((after.stored(), self.held(after)), ({}, []), settled)
            self.check_books(after)

    def test_held_is_held_after_a_crash_too(self) -> None:
        world = self.world(holdlimit=1)
        world.send("ok1@out.example", "ok2@out.example")
        after = world.crash("all")
        after.up()
        after.wait(3600.0)
        self.assertEqual((after.stored(), self.outside.jobs), ({"tcp_local": 2}, []))

    def test_a_message_that_has_come_round_too_often_is_held(self) -> None:
        """maxreceived, in memory and in a file; one less goes."""
        trace = b"Received: by x; Thu, 1 Jan 2026 00:00:00 +0000\r\n\tsecond line\r\n"
        for filling in (b"", b"y" * 3000):
            world = self.world(maxreceived=5)
            for count, held in ((5, []), (6, ["6 Received fields, more than the 5 of maxreceived: a loop?"])):
                queue_id = self.send(world, trace * count + b"Subject: x\r\n\r\nReceived: no\r\n" + filling + b"\r\n")
                self.assertEqual(self.held(world), held)
            self.release(world, queue_id)
            self.assertEqual((len(self.outside.jobs), world.stored()), (2, {}))

    def send(self, world: World, octets: bytes) -> str:
        """With a header of its own."""
        shard = world.shard
        assert shard is not None
        queue_id = shard.new_id()
        intake = shard.begin(queue_id)
        intake.write(octets)
        recipient = Recipient(address="ok@out.example", original="ok@out.example", channel="tcp_local")
        now = world.clock.seconds()
        intake.commit(Envelope(sender="ann@here.example", recipients=(recipient,), source="tcp_local", arrival=now))
        world.pump()
        return queue_id

    def test_single_gives_each_recipient_a_transaction(self) -> None:
        people = [f"ok{number}@out.example" for number in range(3)]
        self.world(single=True).send(*people)
        self.assertEqual(sorted(self.outside.jobs), [[one] for one in people])
        self.world().send(*people)
        self.assertEqual(self.outside.jobs, [people])

    def test_by_a_relay_domains_share_a_transaction_unless_single_sys(self) -> None:
        people = ["ok1@a.example", "ok2@b.example", "ok3@a.example"]
        for options, expected in (
            ({}, [[people[0], people[2]], [people[1]]]),
            ({"relay": "r.example"}, [people]),
            ({"relay": "r.example", "single_sys": True}, [[people[0], people[2]], [people[1]]]),
            ({"relay": "r.example", "single": True}, [[one] for one in people]),
        ):
            world = self.world(**options)
            world.send(*people)
            self.assertEqual(self.outside.jobs, expected, options)
            self.assertEqual(world.stored(), {})

    def test_delay_notices_come_at_the_ages_of_the_channel(self) -> None:
        """notices; without it, those of [queue]."""
        for options, count in (({"notices": (1000.0,)}, 1), ({}, 0), ({"notices": (1000.0, 3000.0)}, 2)):
            world = self.world({"warn_s": (50000.0,)}, backoff=(600.0,), jitter=0.0, **options)
            world.send("never@out.example")
            world.wait(7000.0)
            self.assertEqual(len([one for one in world.mailbox("ann") if one.startswith(b"delayed")]), count)

    def test_other_settings_hold_from_a_reload_on(self) -> None:
        world = self.world()
        shard = world.shard
        assert shard is not None
        channel = evolve(world.config.channels["tcp_local"], holdlimit=1, single=True, relay="r.example")
        config = evolve(world.config, channels={**world.config.channels, "tcp_local": channel})
        shard.reconfigure(config, {})
        world.send("ok1@out.example", "ok2@out.example")
        self.assertEqual((len(self.held(world)), self.outside.jobs), (1, []))
