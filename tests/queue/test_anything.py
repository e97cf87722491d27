"""
A node through anything at once: operators at work, disks that fail, channels with bugs, mail that expires.

Beside L{tests.queue.test_machine}, which is strict about how often what arrives while nothing but the power fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import Config
from qmailpy.queue import runner, segments, waiting
from qmailpy.queue.entries import DONE, REFUSED, ActionResult, Target
from qmailpy.queue.service import QueueShard
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.records.record import LogRecord
from qmailpy.stats.fold import balanced
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Job, Recipient, Reply, Verdict
from tests.queue.world import HOME, Outside, World, configuration, in_thread

ADDRESSES = (
    "bob@here.example",
    "eve@here.example",
    "gone@here.example",
    "ok@out.example",
    "ok@else.example",
    "later@out.example",
    "later@else.example",
    "never@out.example",
    "bad@out.example",
    "bad@third.example",
    "kept@out.example",
    "fwd@out.example",
)

LIFETIME = 6000.0

EXAMPLES = int(os.environ.get("QMAILPY_EXAMPLES", "40"))

FAULTS = (
    ("open", "/queue/0/journal", errno.EMFILE),
    ("pwrite", "/queue/0/journal", errno.ENOSPC),
    ("fdatasync", "/queue/0/journal", errno.EIO),
    ("open", "/queue/0", errno.EMFILE),
    ("pwrite", "/queue/0", errno.ENOSPC),
    ("pread", "/queue/0", errno.EIO),
    ("read", "/queue/0", errno.EIO),
    ("fsync", "/queue/0", errno.EIO),
    ("rename", "/queue/0", errno.EIO),
    ("unlink", "/queue/0", errno.EIO),
    ("sync_directory", "/queue/0", errno.EIO),
    ("syncfs", "/queue/0", errno.EIO),
    ("open", "/mail", errno.EMFILE),
    ("hold", "/mail", errno.EMFILE),
    ("syncfs", "/mail", errno.EIO),
    ("fsync", "/mail", errno.EIO),
    ("rename", "/mail", errno.EACCES),
    ("append", "/log", errno.ENOSPC),
    ("fsync", "/log", errno.EIO),
    ("fdatasync", "/log", errno.EIO),
)


class Whimsical(Outside):
    """Also holds mail for C{kept@}, hands mail for C{fwd@} on to Bob, and has bugs when told to."""

    def __init__(self, name: str = "tcp_local") -> None:
        super().__init__(name)
        self.bugs: list[str] = []

    def forget(self) -> None:
        """Who was asked is dead."""
        self.silent = False
        self._waiting.clear()

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        bug = self.bugs.pop() if self.bugs else ""
        if bug == "before":
            raise ZeroDivisionError
        said = await super().dequeue(job)
        if bug == "after":
            raise ZeroDivisionError
        return [*said, *said] if bug == "long" else said

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        user = recipient.address.partition("@")[0]
        if user == "kept":
            return Disposition(verdict=Verdict.HELD, reply=Reply(250, "2.0.0", "kept"))
        if user == "fwd":
            bob = Recipient(address="bob@here.example", original=recipient.original, channel="local")
            return Disposition(verdict=Verdict.FORWARDED, reply=Reply(250, "2.1.5", "ok"), onward=(bob,))
        return super()._one(job, recipient)


class Node(World):
    """A world with an operator."""

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        super().__init__(disk, config or _configuration())
        self.outside = self.whims = Whimsical()

    def up(self, replay: bool = True) -> QueueShard:
        found = super().up(replay)
        self.view = QueueOperations(
            lambda: parts_of({"0": found}), self.config, self.clock.seconds, self.switches, in_thread
        )
        return found

    def log(self) -> list[LogRecord]:
        """A write that failed may have come through in part; readers drop what is repeated then."""
        found, last = [], 0
        for record in super().log():
            if record.sequence > last:
                found.append(record)
                last = record.sequence
        return found


def _configuration() -> Config:
    config = configuration(warn_s=(1000,), lifetime_s=LIFETIME)
    channels = {
        "local": config.channels["local"],
        "tcp_local": evolve(config.channels["tcp_local"], concurrency=4, destination_concurrency=2),
    }
    return evolve(config, channels=channels)


class AnythingMachine(RuleBasedStateMachine):
    """One node, and no mercy."""

    @initialize()
    def begin(self) -> None:
        """A first life."""
        self.taken: set[tuple[str, str]] = set()  # (id, channel) of what an operator took out or gave back
        self.world = Node(CrashDisk(directories=[HOME, f"{HOME}/log", f"{HOME}/mail"]))
        self.outside = self.world.whims
        self.crashed = False
        self.world.up()

    def check(self) -> None:
        """A journal that is broken ends the life."""
        assert self.world.shard is not None
        if self.world.shard.shard.broken is not None:
            self.next_life("killed", 0)

    def next_life(self, how: str, seed: int) -> None:
        self.world.disk.heal()
        self.outside.forget()
        self.crashed = True
        survivors = Random(seed) if how == "random" else how
        self.world = self.world.crash(survivors, killed=how == "killed")
        self.world.up(replay=how != "killed")

    def pick(self, seed: int) -> list[Target]:
        """Some copy that is there."""
        assert self.world.shard is not None
        numbers = sorted(self.world.accepted)
        if not numbers:
            return []
        chance = Random(seed)
        return [
            Target(id=chance.choice(numbers), channel=chance.choice(["", "local", "tcp_local"]))
            for _ in range(chance.choice([1, 1, 2, 5]))
        ]

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """By hand."""
        answers: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(answers.append)
        self.world.pump()
        return answers[0] if answers else None

    @rule(
        to=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=6, unique=True),
        sender=st.sampled_from(["ann@here.example", ""]),
        size=st.sampled_from([0, 50, 700, 3000, 9000]),
        hold=st.booleans(),
    )
    def send(self, to: list[str], sender: str, size: int, hold: bool) -> None:
        """Mail comes."""
        self.world.send(*to, sender=sender, body=b"m" * size, hold=hold)
        self.check()

    @rule(seconds=st.sampled_from([0, 1, 20, 70, 450, 1500, 5000]))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.world.wait(seconds)
        self.check()

    @rule()
    def settle(self) -> None:
        """Into files."""
        self.world.settle()
        self.check()

    @rule(seed=st.integers(0, 2**16), how=st.sampled_from(["none", "all", "random", "killed"]))
    def crash(self, seed: int, how: str) -> None:
        """Power cut or kill, and the next life."""
        self.next_life(how, seed)

    @rule()
    def restart(self) -> None:
        """An orderly stop and start: whatever goes on, it comes to an end."""
        self.world.disk.heal()
        if self.outside.silent:
            self.outside.release()
        self.world.wait(10)
        self.check()
        assert self.world.shard is not None
        ended: list[object] = []
        self.world.shard.drain().addBoth(ended.append)
        self.world.pump()
        assert ended, "the drain does not end"
        self.world.down()
        self.world = self.world.crash("none")
        self.world.up()

    @rule(silent=st.booleans())
    def quiet(self, silent: bool) -> None:
        """Nobody answers for a time."""
        if silent:
            self.outside.silent = True
        else:
            self.outside.release()
            self.world.pump()
            self.check()

    @rule(bug=st.sampled_from(["before", "after", "long"]))
    def bug(self, bug: str) -> None:
        """In the channel."""
        self.outside.bugs.append(bug)

    @rule(times=st.integers(1, 2))
    def no_notice(self, times: int) -> None:
        """Cannot be made."""
        self.world.broken_notices = times

    @rule(fault=st.sampled_from(FAULTS), nth=st.integers(1, 4), times=st.sampled_from([1, 2, 1000]))
    def fault(self, fault: tuple[str, str, int], nth: int, times: int) -> None:
        """Of the disk."""
        operation, path, number = fault
        self.world.disk.fail(operation, nth, number, path=HOME + path, times=times)

    @rule()
    def heard_elsewhere(self) -> None:
        """Another program syncs, and is told in our place that the disk has failed."""
        self.world.disk.lose(f"{HOME}/mail")

    @rule()
    def heal(self) -> None:
        """The disk."""
        self.world.disk.heal()
        self.world.wait(6)
        self.check()

    @rule(what=st.sampled_from(["hold", "release", "delete", "return"]), seed=st.integers(0, 2**16))
    def by_hand(self, what: str, seed: int) -> None:
        """An operator changes some mail."""
        targets = self.pick(seed)
        view = self.world.view
        if what == "hold":
            self.do(view.hold(targets, "why not"))
        elif what == "release":
            self.do(view.release(targets))
        else:
            work = view.delete(targets) if what == "delete" else view.return_(targets, "enough")
            answer = self.do(work)
            if isinstance(answer, list):
                known = [one for one in answer if isinstance(one, ActionResult)]
                # Refused: what a broken journal did not tell of may have reached the disk all the same.
                self.taken |= {(one.id, one.channel) for one in known if one.outcome in (DONE, REFUSED)}
            if not isinstance(answer, list) or any(one.outcome == REFUSED for one in answer):
                for target in targets:
                    self.taken |= {(target.id, "local"), (target.id, "tcp_local")}
        self.check()

    @rule(what=st.sampled_from(["stop", "start", "run"]), channel=st.sampled_from(["local", "tcp_local"]))
    def channels(self, what: str, channel: str) -> None:
        """An operator changes a channel."""
        self.do(getattr(self.world.view, what)(channel))
        self.check()

    def teardown(self) -> None:
        """What was promised."""
        if not hasattr(self, "world"):
            return
        world, outside = self.world, self.outside
        world.disk.heal()
        outside.bugs.clear()
        world.broken_notices = 0
        if outside.silent:
            outside.release()
        world.wait(10)
        self.check()
        world = self.world
        for channel in ("local", "tcp_local"):
            self.do(world.view.start(channel))
        for _ in range(3):
            world.wait(20000)
            for queue_id in sorted(world.offered):
                for channel in ("local", "tcp_local"):
                    self.do(world.view.release([Target(id=queue_id, channel=channel)]))
        kept = [Target(id=queue_id, channel="tcp_local") for queue_id in sorted(world.offered)]
        world.wait(100)
        for target in kept:
            self.do(world.view.delete([target]))
        world.wait(100)
        boxes = {name: world.mailbox(name) for name in ("ann", "bob", "eve")}
        for queue_id, (envelope, octets) in world.accepted.items():
            notices = [each for each in boxes["ann"] if each.startswith(b"failed: ") and queue_id.encode() in each]
            for recipient in envelope.recipients:
                address = recipient.address
                user, _, domain = address.partition("@")
                if (queue_id, recipient.channel) in self.taken or user == "kept":
                    continue
                told = not envelope.sender or any(address.encode() in each for each in notices)
                if domain == "here.example" and user != "gone":
                    box = boxes[user].count(octets)
                    assert box >= 1 or told, (queue_id, address)
                    if user == "eve":
                        assert box <= 1, (queue_id, address)
                elif user == "fwd":
                    assert octets in boxes["bob"] or told, (queue_id, address)
                elif user in ("gone", "bad", "never"):
                    assert told, (queue_id, address)
                else:
                    assert outside.taken[address, octets] >= 1 or told, (queue_id, address)
                    if not self.crashed:
                        bugs = outside.asked[queue_id, address]
                        assert outside.taken[address, octets] <= max(bugs, 1), (queue_id, address)
        log, counters = world.books()
        assert log == counters
        assert all(balanced(row) for row in counters.values())
        assert world.stored() == {}, world.stored()


class AnythingTests(SynchronousTestCase):
    """trial does not collect hypothesis's own test case."""

    def test_nothing_is_lost_whatever_happens(self) -> None:
        """The state machine; with little room among what is ready, and files composed one at a time."""
        self.patch(runner, "READY", 8)
        self.patch(waiting, "LOADING", 4)
        self.patch(segments, "SLICE", 1)
        run_state_machine_as_test(
            AnythingMachine,
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
        for failure in self.flushLoggedErrors():
            self.assertIsNotNone(failure.check(ZeroDivisionError, OSError, ValueError), failure.getTraceback())
