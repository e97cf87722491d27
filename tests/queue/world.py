"""
A node's queue on a disk that can lose power: everything real but the disk, the threads, the clock and the outside.

The outside takes mail for C{ok@}, refuses C{bad@}, defers C{later@} twice and C{never@} for ever, and keeps all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from tempfile import gettempdir
from typing import Any, Self, TypeVar, cast
from uuid import uuid4

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from qmailpy.channels.local import LocalChannel
from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config, QueueConfig, ServerConfig
from qmailpy.errors import Temporary
from qmailpy.interfaces import IChannel
from qmailpy.queue.committer import StepCommitter
from qmailpy.queue.journal import Journal
from qmailpy.queue.opening import Surroundings, thd_open
from qmailpy.queue.service import QueueShard
from qmailpy.queue.switches import Switches
from qmailpy.queue.verdicts import INotices
from qmailpy.records.fields import Unreadable
from qmailpy.records.reading import lines
from qmailpy.records.record import LogRecord
from qmailpy.records.text import LineFormat
from qmailpy.routing.router import Router
from qmailpy.stats.fold import apply
from qmailpy.stats.items import STORED, Table
from qmailpy.stats.lanes import Lane
from qmailpy.stats.recorder import Recorder
from qmailpy.testing.crashdisk import CrashDisk, PowerCut
from qmailpy.testing.inline import InlineThreads
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.values import (
    Content,
    Disposition,
    Envelope,
    Job,
    Recipient,
    Reply,
    Verdict,
)

HOME = "/home"
START = 1.8e9


@implementer(IChannel)
class Outside:
    """The remote channel, and everybody behind it."""

    def __init__(self, name: str = "tcp_local") -> None:
        self.name = name
        self.taken: Counter[tuple[str, bytes]] = Counter()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.silent = False  # nobody answers until L{release}
        self._waiting: list[Deferred[None]] = []

    def fork(self) -> Self:
        """Another with what this one has, and nobody waiting."""
        twin = type(self)(self.name)
        twin.taken, twin.asked = self.taken.copy(), self.asked.copy()
        return twin

    def release(self) -> None:
        """Answer everybody."""
        waiting, self._waiting, self.silent = self._waiting, [], False
        for each in waiting:
            each.callback(None)

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        if self.silent:
            self._waiting.append(Deferred())
            await self._waiting[-1]
        return [self._one(job, recipient) for recipient in job.recipients]

    def _one(self, job: Job, recipient: Recipient) -> Disposition:
        user = recipient.address.partition("@")[0]
        self.asked[job.id, recipient.address] += 1
        if user == "bad":
            return Disposition(verdict=Verdict.FAILED, reply=Reply(550, "5.1.1", "unknown"))
        if user == "never" or (user == "later" and self.asked[job.id, recipient.address] < 3):
            return Disposition(verdict=Verdict.DEFERRED, reply=Reply(451, "4.2.0", "later"))
        self.taken[recipient.address, job.content.read()] += 1
        return Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "ok"))

    async def stop(self) -> None:
        """Nothing to end."""


class PlainNotices:
    """Notices of one line, routed straight to where they go."""

    def __init__(self, world: World) -> None:
        self._world = world

    def build_failure(
        self,
        envelope: Envelope,
        queue_id: str,
        failures: Sequence[tuple[Recipient, Disposition]],
        content: Content,
        now: float,
    ) -> tuple[Envelope, bytes] | None:
        if self._world.broken_notices:
            self._world.broken_notices -= 1
            raise ZeroDivisionError
        if not envelope.sender:
            return None
        local = envelope.sender.endswith("@here.example")
        back = Recipient(
            address=envelope.sender,
            original=envelope.sender,
            channel="local" if local else "tcp_local",
            host="" if local else "out.example",
        )
        octets = b"failed: " + b",".join(recipient.address.encode() for recipient, _ in failures) + b"\r\n"
        octets += content.header()
        return Envelope(sender="", recipients=(back,), source="tcp_local", arrival=now), octets

    def build_delay(
        self,
        envelope: Envelope,
        queue_id: str,
        delayed: Sequence[tuple[Recipient, Disposition]],
        content: Content,
        now: float,
        until: float | None,
        tried_now: int,
    ) -> tuple[Envelope, bytes] | None:
        back = Recipient(address=envelope.sender, original=envelope.sender, channel="local")
        octets = b"delayed: " + queue_id.encode() + b",".join(one.address.encode() for one, _ in delayed) + b"\r\n"
        return Envelope(sender="", recipients=(back,), source="tcp_local", arrival=now), octets

    def build_success(
        self,
        envelope: Envelope,
        queue_id: str,
        successes: Sequence[tuple[Recipient, Disposition, str]],
        content: Content,
        now: float,
    ) -> tuple[Envelope, bytes] | None:
        if self._world.broken_notices:
            self._world.broken_notices -= 1
            raise OSError(5, "cannot be read")
        back = Recipient(address=envelope.sender, original=envelope.sender, channel="local")
        told = b",".join(f"{one.address} {action}".encode() for one, _, action in successes)
        octets = b"success: " + queue_id.encode() + b": " + told + b"\r\n"
        return Envelope(sender="", recipients=(back,), source="tcp_local", arrival=now), octets


def configuration(**queue: Any) -> Config:
    """A node with small segments."""
    settings: dict[str, Any] = {
        "segment_octets": 4096,
        "segments": 4,
        "spill_octets": 1024,
        "reserve_octets": 0,
        "warn_s": (),
    }
    settings |= queue
    return Config(
        home=HOME,
        server=ServerConfig(hostname="mx.here.example"),
        queue=QueueConfig(**settings),
        channels={
            "local": ChannelConfig(name="local", kind="local", quadratic_s=10),
            "tcp_local": ChannelConfig(name="tcp_local", kind="smtp"),
        },
    )


def in_thread(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """At once; a power cut goes right through."""
    try:
        return succeed(function(*arguments))
    except OSError as problem:
        return fail(problem)


class World:
    """One node, one life of it after another."""

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        self.disk = disk
        self.config = config or configuration()
        self.clock = Clock()
        self.clock.advance(START)
        self.set_by = 0.0  # seconds by which the time of day is another than that of the timers
        self.outside = Outside()
        self.events = MemoryEvents()
        self.lives = 1
        self.broken_notices = 0  # so many notices fail to be made
        self.accepted: dict[str, tuple[Envelope, bytes]] = {}  # id: what was told 250
        self.offered: dict[str, tuple[Envelope, bytes]] = {}  # id: what a 250 may have been about to be told of
        self.shard: QueueShard | None = None
        self.switches = Switches(disk, f"{HOME}/queue/stopped")

    def directory(self) -> MemoryDirectory:
        """Who lives here."""
        return MemoryDirectory(["here.example"], [f"{name}@here.example" for name in ("ann", "bob", "eve")])

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        """The ways out."""
        local = LocalChannel(self.config, self.config.channels["local"], parts, InlineThreads())
        return {"local": local, "tcp_local": self.outside}

    def notices(self) -> INotices:
        """Who writes to senders."""
        return PlainNotices(self)

    def up(self, replay: bool = True) -> QueueShard:
        """Start. A power cut comes as an exception."""
        around = self.surroundings(replay)
        self.shard = QueueShard(thd_open("0", around), around)
        self.shard.take_up()
        self.pump()
        return self.shard

    def surroundings(self, replay: bool = True) -> Surroundings:
        """What a shard of the next life works with."""
        self.recorder = Recorder(
            self.clock,
            self.disk,
            f"{HOME}/log",
            Lane(f"{gettempdir()}/qmailpy-none-{uuid4().hex}/counters", "0", self.clock.seconds),
            "0",
            self.config.log,
            process=self.lives,
            alone=True,
        )
        directory = self.directory()
        parts = Parts(
            reactor=cast(Any, self.clock),
            files=self.disk,
            directory=directory,
            router=Router(self.config, directory),
            resolver=cast(Any, None),
            recorder=self.recorder,
            config=self.config,
        )

        def committer(journal: Journal) -> StepCommitter:
            self.committer = StepCommitter(journal)
            return self.committer

        return Surroundings(
            config=self.config,
            files=self.disk,
            recorder=self.recorder,
            channels=self.channels(parts),
            notices=self.notices(),
            clock=self.clock,
            seconds=lambda: self.clock.seconds() + self.set_by,
            chance=Random(7),
            in_thread=in_thread,
            committer=committer,
            replay=replay,
            stopped=self.switches.thd_stopped().__contains__,
            events=self.events,
        )

    def send(
        self, *to: str, sender: str = "ann@here.example", body: bytes = b"", hold: bool = False, notify: int = 0
    ) -> str:
        """
        Offer a message; it counts as accepted when the queue says so.

        @param notify: what the sender wants to be told of each recipient.
        @param hold: do not pump, so that more can come into the same batch.
        """
        assert self.shard is not None
        queue_id = self.shard.new_id()
        recipients = tuple(
            Recipient(address=one, original=one, channel="local")
            if one.endswith("@here.example")
            else Recipient(address=one, original=one, channel="tcp_local", host=one.partition("@")[2])
            for one in to
        )
        if notify:
            recipients = tuple([evolve(one, notify=notify) for one in recipients])
        envelope = Envelope(sender=sender, recipients=recipients, source="tcp_local", arrival=self.clock.seconds())
        octets = b"Subject: " + queue_id.encode() + b"\r\n\r\n" + body + b"\r\n"
        self.offered[queue_id] = (envelope, octets)
        try:
            intake = self.shard.begin(queue_id)
        except Temporary:
            return ""
        for at in range(0, len(octets), 300):
            intake.write(octets[at : at + 300])

        def accepted(_: None) -> None:
            self.accepted[queue_id] = (envelope, octets)

        intake.commit(envelope).addCallbacks(accepted, lambda failure: failure.trap(Temporary) and None)
        if not hold:
            self.pump()
        return queue_id

    def pump(self) -> None:
        """Do whatever can be done without time passing."""
        while True:
            if self.disk.dead:
                raise PowerCut
            busy = self.committer.step()
            due = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]
            if not busy and not due:
                return
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """Let time pass, a timer at a time."""
        end = self.clock.seconds() + seconds
        while True:
            self.pump()
            calls = [call.getTime() for call in self.clock.getDelayedCalls()]
            if not calls or min(calls) > end:
                break
            self.clock.advance(max(0.0, min(calls) - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.pump()

    def settle(self) -> None:
        """Everything into files, as the upkeep does after a while."""
        assert self.shard is not None
        self.shard.settle()
        self.pump()

    def down(self) -> None:
        """An orderly stop."""
        assert self.shard is not None
        self.shard.drain()
        self.pump()
        self.settle()
        self.settle()
        self.shard.close()
        self._silence()

    def _silence(self) -> None:
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()
        self.shard = None

    def crash(self, survivors: Any = "none", *, reorder: bool = False, killed: bool = False) -> Self:
        """The next life of the node, after a power cut or (killed) the death of its process."""
        self.disk.cut()
        self._silence()
        disk = self.disk.kill() if killed else self.disk.reboot(survivors, reorder=reorder)
        after = type(self)(disk, self.config)
        after.clock.advance(self.clock.seconds() - START + 1)
        after.outside, after.lives = self.outside, self.lives + 1
        after.accepted, after.offered = dict(self.accepted), dict(self.offered)
        return after

    def fork(self) -> Self:
        """
        What is left of the node if all ends now: to be crashed, while this one goes on. Its disk lists no operation but
        the last before the fork.
        """
        twin = type(self)(self.disk.fork(), self.config)
        twin.disk.operations = self.disk.operations[-1:]
        twin.clock.advance(self.clock.seconds() - START)
        twin.outside, twin.lives = self.outside.fork(), self.lives
        twin.accepted, twin.offered = dict(self.accepted), dict(self.offered)
        return twin

    # --- what there is ---------------------------------------------------------------------------------------

    def mailbox(self, name: str) -> list[bytes]:
        """The messages in a mailbox of ours, without the delivery's own header fields, with CRLF."""
        found = []
        for part in ("new", "cur"):
            folder = f"{HOME}/mail/here.example/{name}/Maildir/{part}"
            for file in self.disk.listdir(folder):
                octets = self.disk.read(f"{folder}/{file}")
                _, _, rest = octets.partition(b"\nDelivered-To: ")
                found.append(rest.partition(b"\n")[2].replace(b"\n", b"\r\n"))
        return found

    def files(self, top: str = HOME) -> list[str]:
        """The paths of all files, in order."""
        found = []
        for name in self.disk.listdir(top):
            path = f"{top}/{name}"
            try:
                found += self.files(path)
            except NotADirectoryError:
                found.append(path)
        return sorted(found)

    def log(self) -> list[LogRecord]:
        """The lines of the transaction log that can be read."""
        self.recorder.flush()
        path = f"{HOME}/log/mail.log_current"
        if not self.disk.exists(path):
            return []
        found = []
        form = LineFormat(self.config.log, "")
        handle = self.disk.open(path)
        for line in lines(self.disk, handle):
            try:
                found.append(form.record(line))
            except Unreadable:
                continue
        self.disk.close(handle)
        return found

    def actions(self) -> str:
        """Their action letters."""
        return "".join(record.action.value for record in self.log())

    def books(self) -> tuple[Table, Table]:
        """The fold of the log, and the counters."""
        table: Table = {}
        for record in self.log():
            apply(table, record)
        return table, self.recorder.table

    def stored(self) -> dict[str, int]:
        """Recipients queued by channel, as the counters have it."""
        self.recorder.flush()
        return {channel: row[STORED + 1] for channel, row in self.recorder.table.items() if row[STORED + 1]}


W = TypeVar("W", bound=World)


def forks(world: W, scenario: Callable[[W], object]) -> list[tuple[int, W]]:
    """
    Let it happen, once; what a power cut before each step of it would have left, with the number of the step.

    One in sixteen of the directories that split a large one stands for all: they are made one after the other.
    """
    found: list[tuple[int, W]] = []

    def before(kind: str, path: str) -> None:
        split = kind == "mkdir" and path[-3:-2] == "/"
        if not split or path.endswith("0"):
            found.append((len(world.disk.operations), world.fork()))

    world.disk.before = before
    scenario(world)
    world.disk.before = None
    return found
