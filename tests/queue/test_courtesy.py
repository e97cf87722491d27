"""What comes beside a delivery, and cannot be queued, does not have it done again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config
from qmailpy.interfaces import IChannel
from qmailpy.local.quota import named_size
from qmailpy.local.usage import Usage
from qmailpy.queue.codec import Enqueued, Op
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import (
    AutoReply,
    Content,
    Disposition,
    Envelope,
    Job,
    Mailbox,
    MemoryContent,
    NewMail,
    Recipient,
    Reply,
    Verdict,
)
from tests.queue.world import HOME, Outside, World, configuration, in_thread

TO = Recipient(address="ok@else.example", original="ok@else.example", channel="tcp_local", host="else.example")


class Unreadable:
    """Content that nobody can read."""

    def __init__(self, problem: Exception) -> None:
        self.size = 0
        self.in_memory = True
        self.problem = problem

    def read(self) -> bytes:
        raise self.problem

    def header(self, limit: int = 65536) -> bytes:
        return b""

    def chunks(self, octets: int = 65536) -> Iterator[bytes]:
        raise self.problem


class Answering(Outside):
    """Delivers, and has something to say about it."""

    def __init__(self, content: Content, courtesy: bool) -> None:
        super().__init__()
        self.jobs = 0
        self.content = content
        self.courtesy = courtesy

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        if job.recipients[0] == TO:
            return await super().dequeue(job)
        self.jobs += 1
        envelope = Envelope(sender="", recipients=(TO,), source="tcp_local", arrival=0.0)
        mail = NewMail(envelope=envelope, content=self.content, courtesy=self.courtesy)
        said = Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.1.5", "ok"), mails=(mail,))
        return [said] * len(job.recipients)


class CourtesyTests(SynchronousTestCase):
    def world(self, content: Content, courtesy: bool) -> tuple[World, Answering]:
        world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.outside = outside = Answering(content, courtesy)
        world.up()
        return world, outside

    def test_one_that_cannot_be_read_is_left_out(self) -> None:
        """Whatever the trouble; one of the two recipients shares it with the other."""
        problem: Exception
        for problem in (OSError(5, "gone"), ZeroDivisionError()):
            world, outside = self.world(Unreadable(problem), True)
            world.send("a@out.example", "b@out.example")
            world.wait(4000)
            self.assertEqual((outside.jobs, world.actions(), world.stored()), (1, "EEDD", {}))
            self.flushLoggedErrors(type(problem))

    def test_what_is_no_courtesy_waits(self) -> None:
        world, outside = self.world(Unreadable(OSError(5, "gone")), False)
        world.send("a@out.example")
        world.wait(1000)
        self.assertGreater(outside.jobs, 1)
        self.assertNotIn("D", world.actions())

    def test_there_may_be_room_for_the_mark_alone(self) -> None:
        for courtesy in (True, False):
            world, outside = self.world(MemoryContent(b"Subject: x\r\n\r\n"), courtesy)
            assert world.shard is not None
            shard = world.shard.shard
            self.patch(shard, "commit", full(shard.commit))
            world.send("a@out.example")
            world.wait(30)
            self.assertEqual(outside.jobs, 1)
            self.assertEqual((world.actions(), world.stored()), ("ED", {}) if courtesy else ("E", {"tcp_local": 1}))


def full(commit: Callable[..., None]) -> Callable[..., None]:
    """A journal with room for marks."""

    def tried(ops: Sequence[Op], done: Callable[[OSError | None], None]) -> None:
        if any(isinstance(op, Enqueued) for op in ops):
            done(OSError(errno.ENOSPC, "full"))
        else:
            commit(ops, done)

    return tried


class Away(World):
    """Bob is away, and his mailbox nearly full."""

    def __init__(self, disk: CrashDisk, config: Config | None = None) -> None:
        plain = configuration()
        channels = {**plain.channels, "autoreply": ChannelConfig(name="autoreply", kind="autoreply")}
        super().__init__(disk, config or evolve(plain, channels=channels))

    def directory(self) -> MemoryDirectory:
        found = super().directory()
        found.entries["bob@here.example"] = Mailbox(
            address="bob@here.example",
            path="here.example/bob/Maildir",
            quota_octets=1000,
            auto_reply=AutoReply(text="I am away."),
        )
        return found

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        usage = Usage(self.disk, self.config, in_thread, self.clock.seconds, self.clock.seconds)
        return {**super().channels(evolve(parts, usage=usage)), "autoreply": self.outside}


class LocalTests(SynchronousTestCase):
    def test_answers_and_warnings_are_courtesies(self) -> None:
        """With no room but for marks the mail is delivered, once, and neither of them is made."""
        world = Away(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        world.up()
        assert world.shard is not None
        shard = world.shard.shard
        self.patch(shard, "commit", full(shard.commit))
        queue_id = world.shard.new_id()
        intake = world.shard.begin(queue_id)
        intake.write(b"To: bob@here.example\r\nMessage-ID: <1@x>\r\n\r\n" + b"x" * 850 + b"\r\n")
        bob = Recipient(address="bob@here.example", original="bob@here.example", channel="local")
        intake.commit(
            Envelope(sender="a@out.example", recipients=(bob,), source="tcp_local", arrival=world.clock.seconds())
        )
        world.pump()
        (name,) = world.disk.listdir(f"{HOME}/mail/here.example/bob/Maildir/new")
        self.assertGreater(named_size(name), 900)  # beyond the mark
        world.wait(100)
        self.assertEqual((world.actions(), world.stored()), ("ED", {}))
        self.assertEqual(len(world.mailbox("bob")), 1)
