"""Pieces wait in the queue until the last one comes; nothing is lost, whatever happens between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import permutations

from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.channels.defragment import DefragmentChannel
from qmailpy.channels.parts import Parts
from qmailpy.config.conversion_schema import ConversionConfig
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel, IRecorded
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from qmailpy.testing.scripted_router import ScriptedRouter, local, unknown_user
from qmailpy.values import Envelope, Recipient, Verdict
from tests.channels.common import make_config, make_job, make_parts
from tests.queue.world import HOME, World, configuration

WHOLE = b"From: a@b.example\r\nSubject: all\r\n\r\none\r\ntwo\r\nthree\r\n"
GATHER = ChannelConfig(name="defragment", kind="defragment", backoff=(60.0,), jitter=0.0, gather_s=1000.0)


def piece(number: int, total: int | None = 3, name: str = "x@y", subject: str = "p") -> bytes:
    """One of three."""
    words = {1: b"Subject: all\r\nX: y\r\n\r\none\r\n", 2: b"two\r\n", 3: b"three\r\n"}
    more = f"; total={total}" if total else ""
    value = f"Content-Type: message/partial; id={name}; number={number}{more}\r\n"
    return f"From: a@b.example\r\nSubject: {subject}\r\n{value}\r\n".encode() + words[number]


class Gathering(World):
    """A node whose mail for local users is looked at for pieces."""

    place = ""
    life = "1"  # of the system

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        plain = configuration()
        table = ConversionConfig(destination="local", partial=True, channel="defragment")
        ours = evolve(plain, channels={**plain.channels, "defragment": GATHER}, selections=(table,))
        super().__init__(disk, config or ours)

    def again(self, *, killed: bool = False) -> Gathering:
        """The next life; locks went with the process."""
        for lead in self.gathering._leads.values():
            lead.close()
        after = self.crash(killed=killed)
        after.place = self.place
        after.life = self.life if killed else f"{self.life}1"
        after.up()
        return after

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        config = evolve(self.config, home=self.place)
        parts = evolve(parts, seconds=self.clock.seconds)
        self.gathering = DefragmentChannel(config, GATHER, parts, maybeDeferred, lambda: self.life)
        return {**super().channels(parts), "defragment": self.gathering}

    taken = 0  # messages that were told 250

    def _count(self, _: None) -> None:
        self.taken += 1

    def give(self, octets: bytes, *to: str) -> None:
        """Mail as it comes in."""
        assert self.shard is not None
        names = to or ("bob",)
        recipients = tuple(
            Recipient(address=f"{name}@here.example", original=f"{name}@here.example", channel="local")
            for name in names
        )
        intake = self.shard.begin(self.shard.new_id())
        intake.write(octets)
        envelope = Envelope(sender="", recipients=recipients, source="tcp_local", arrival=self.clock.seconds())
        intake.commit(envelope).addCallback(self._count).addErrback(lambda _: None)
        self.pump()


class InTheQueueTests(SynchronousTestCase):
    def world(self, disk: CrashDisk | None = None) -> Gathering:
        world = Gathering(disk or CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.place = self.mktemp()
        world.up()
        return world

    def test_pieces_in_any_order_become_one_message(self) -> None:
        """Records: an E and in the end a D for each piece, E and D for the whole; the books hold."""
        for order in permutations((1, 2, 3)):
            world = self.world()
            for number in order:
                world.give(piece(number))
            self.assertEqual(world.mailbox("bob"), [WHOLE], order)
            world.wait(200)
            self.assertEqual(world.mailbox("bob"), [WHOLE])
            self.assertEqual(world.stored(), {})
            lines = [(one.source, one.destination, one.action.value) for one in world.log()]
            self.assertEqual(lines.count(("tcp_local", "defragment", "E")), 3)
            self.assertEqual(lines.count(("defragment", "local", "E")), 1)
            self.assertEqual(lines.count(("defragment", "", "D")), 3)
            self.assertEqual(lines.count(("local", "", "D")), 1)
            self.assertEqual(*world.books())

    def test_the_log_calls_the_whole_by_its_own_name(self) -> None:
        """So that it can be traced by what its reader sees; the piece it goes on with has another."""
        world = self.world()
        first = piece(1).replace(b"\r\n\r\nSubject:", b"\r\n\r\nMessage-ID: <whole@x>\r\nSubject:")
        for octets in (piece(3), piece(2), first):
            world.give(octets)
        (whole,) = [one for one in world.log() if (one.source, one.action.value) == ("defragment", "E")]
        self.assertEqual((whole.message_id, whole.subject), ("<whole@x>", "all"))

    def test_other_mail_does_not_come_here(self) -> None:
        world = self.world()
        world.give(b"Subject: x\r\n\r\nx\r\n")
        self.assertEqual(world.actions(), "ED")

    def test_mail_that_is_too_large_to_tell_passes_through(self) -> None:
        world = self.world()
        octets = b"Subject: x\r\n\r\n" + b"x" * 2000 + b"\r\n"
        world.give(octets)
        self.assertEqual((world.actions(), world.mailbox("bob")), ("EEDD", [octets]))

    def test_pieces_go_on_as_they_are_when_one_is_missing_too_long(self) -> None:
        world = self.world()
        world.give(piece(1))
        world.give(piece(3))
        world.wait(900)
        self.assertEqual(world.mailbox("bob"), [])
        world.wait(300)
        self.assertEqual(sorted(world.mailbox("bob")), sorted([piece(1), piece(3)]))
        self.assertEqual(world.stored(), {})

    def test_pieces_of_different_messages_are_kept_apart(self) -> None:
        world = self.world()
        for name in ("a", "b"):
            for number in (1, 2):
                world.give(piece(number, name=name))
        world.give(piece(3, name="b"))
        self.assertEqual(len(world.mailbox("bob")), 1)
        world.give(piece(3, name="a"), "ann")  # for somebody else
        self.assertEqual((len(world.mailbox("bob")), len(world.mailbox("ann"))), (1, 0))

    def test_the_total_may_be_in_the_last_alone(self) -> None:
        world = self.world()
        for number, total in ((1, None), (2, None), (3, 3)):
            world.give(piece(number, total))
        self.assertEqual(world.mailbox("bob"), [WHOLE])

    def test_a_restart_gathers_again(self) -> None:
        world = self.world()
        world.give(piece(3))
        world.give(piece(1))
        world = world.again()
        world.give(piece(2))
        world.wait(200)
        self.assertEqual(world.mailbox("bob"), [WHOLE])
        self.assertEqual(world.stored(), {})

    def test_what_is_sent_again_under_the_same_name_is_not_thrown_away(self) -> None:
        world = self.world()
        for number in (1, 2, 3):
            world.give(piece(number))
        again = piece(2, subject="again")
        world.give(again)
        self.assertEqual(sorted(world.mailbox("bob")), sorted([WHOLE, again]))
        world.wait(200)
        self.assertEqual(world.stored(), {})

    def outcomes(self, *, killed: bool) -> Iterator[list[bytes]]:
        """What is in the mailbox in the end, for a power cut, or the process's death, at each step."""
        die_at = 0
        while True:
            die_at += 1
            world = self.world()
            for number in (1, 2):
                world.give(piece(number))
            world.disk.die_at = world.disk.count() + die_at
            try:
                world.give(piece(3))
                world.wait(200)
            except PowerCut:
                pass
            else:
                return
            accepted = world.taken
            world = world.again(killed=killed)
            if accepted < 3:
                world.give(piece(3))
            world.wait(2000)
            self.assertEqual(world.stored(), {})
            yield world.mailbox("bob")

    def test_nothing_is_lost_however_the_power_fails(self) -> None:
        """At least the whole, or every piece; and never the whole twice."""
        for killed in (False, True):
            count = 0
            for found in self.outcomes(killed=killed):
                count += 1
                pieces = {octets for octets in found if octets != WHOLE}
                self.assertTrue(WHOLE in found or pieces >= {piece(1), piece(2), piece(3)}, (killed, found))
                self.assertLess(found.count(WHOLE), 2, (killed, count))
            self.assertGreater(count, 5)
        self.flushLoggedErrors(PowerCut)


class ChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = self.mktemp()
        config = evolve(make_config({"defragment": GATHER}), home=self.home)
        self.router = ScriptedRouter(later={"a@x.example": local("a@x.example")})
        self.channel = DefragmentChannel(config, GATHER, make_parts(config, router=self.router), maybeDeferred)

    def dequeue(self, octets: bytes, address: str = "a@x.example") -> Verdict:
        job = make_job(address, octets=octets, channel="defragment")
        job = evolve(job, envelope=evolve(job.envelope, arrival=self.channel._seconds()))
        (said,) = self.successResultOf(Deferred.fromCoroutine(self.channel.dequeue(job)))
        verdict: Verdict = said.verdict
        return verdict

    def test_it_is_what_it_says(self) -> None:
        verifyObject(IChannel, self.channel)
        verifyObject(IRecorded, self.channel)

    def test_totals_that_differ_make_no_message(self) -> None:
        self.assertIs(self.dequeue(piece(1, 2)), Verdict.DEFERRED)
        self.assertIs(self.dequeue(piece(2, 3)), Verdict.DEFERRED)
        self.assertIs(self.dequeue(piece(3, 3)), Verdict.DEFERRED)

    def test_addresses_that_lead_nowhere_bounce(self) -> None:
        self.router.later["a@x.example"] = unknown_user()
        self.assertIs(self.dequeue(b"Subject: x\r\n\r\n"), Verdict.FAILED)

    def test_a_disk_in_trouble_makes_mail_wait(self) -> None:
        os.makedirs(os.path.dirname(self.home), exist_ok=True)
        with open(self.home, "w") as target:
            target.write("no directory")
        self.assertIs(self.dequeue(piece(1)), Verdict.DEFERRED)
