"""Groups in parts, and answers, with the power cut at each write: nobody gets a message twice, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

from attrs import evolve
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.autoreply import AutoReplyChannel
from qmailpy.channels.parts import Parts
from qmailpy.channels.process import ProcessChannel
from qmailpy.config.schema import ChannelConfig, Config, RuleConfig
from qmailpy.interfaces import IChannel
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import AutoReply, Envelope, Group, Mailbox, Recipient
from tests.queue.world import HOME, World, configuration, forks

GROUP = "all@here.example"
NAMES = tuple(f"u{number}" for number in range(10))
MEMBERS = (*(f"{name}@here.example" for name in NAMES), "far@out.example")


def config() -> Config:
    made = configuration(recipients=4, segment_octets=16384)
    channels = {**made.channels, **{name: ChannelConfig(name=name, kind=name) for name in ("process", "autoreply")}}
    return evolve(made, channels=channels, rules=(RuleConfig(pattern=".", channel="tcp_local"),))


class Node(World):
    def directory(self) -> MemoryDirectory:
        found = super().directory()
        found.entries |= MemoryDirectory([], MEMBERS[:-1]).entries
        found.entries[GROUP] = Group(address=GROUP, members=("ann@here.example", *MEMBERS, "in@here.example"))
        found.entries["in@here.example"] = Group(address="in@here.example", members=(GROUP, *MEMBERS[::-1]))
        found.entries["bob@here.example"] = Mailbox(
            address="bob@here.example", path="here.example/bob/Maildir", auto_reply=AutoReply(text="I am away.")
        )
        return found

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        channels = self.config.channels
        return {
            **super().channels(parts),
            "process": ProcessChannel(self.config, channels["process"], parts),
            "autoreply": AutoReplyChannel(self.config, channels["autoreply"], parts, maybeDeferred),
        }

    def offer(self, to: str) -> None:
        """A message with a header, from outside."""
        assert self.shard is not None
        queue_id = self.shard.new_id()
        intake = self.shard.begin(queue_id)
        octets = f"To: {to}\r\nMessage-ID: <1@out.example>\r\n\r\nhello\r\n".encode()
        intake.write(octets)
        envelope = Envelope(
            sender="a@out.example",
            recipients=(Recipient(address=to, original=to, channel="local"),),
            source="tcp_local",
            arrival=self.clock.seconds(),
        )
        intake.commit(envelope).addCallback(lambda _: self.accepted.setdefault(queue_id, (envelope, octets)))
        self.pump()


class CrashTests(SynchronousTestCase):
    def lives(self, chance: Random, recipient: str, every: int) -> Iterator[tuple[int, Node]]:
        """A life that is cut short, now here, now there, each with another that is not; at last one that is whole."""
        world = Node(CrashDisk(directories=[HOME, f"{HOME}/log"]), config())

        def life(world: Node) -> None:
            world.up()
            world.offer(recipient)
            world.wait(100)

        cut = forks(world, life)[::every]
        self.assertGreater(len(cut), 10)
        for at, one in cut:
            after = one.crash(chance)
            after.up()
            after.wait(1000)
            yield at, after
        yield 0, world

    def copies(self, world: Node) -> Counter[str]:
        found = Counter({name: len(world.mailbox(name)) for name in ("ann", *NAMES)})
        found["far"] = sum(count for (address, _), count in world.outside.taken.items() if address == "far@out.example")
        return found

    def test_each_member_gets_it_once(self) -> None:
        """Those whose part was being delivered may be told twice by the outside alone, which no journal undoes."""
        chance = Random(3)
        wanted = Counter(dict.fromkeys(("ann", *NAMES, "far"), 1))
        for at, world in self.lives(chance, GROUP, 3):
            found = self.copies(world)
            if found["far"] == 2:
                found["far"] = 1
            if world.accepted:
                self.assertEqual(found, wanted, at)
            else:
                self.assertIn(found, (wanted, Counter(dict.fromkeys(wanted, 0))), at)
            self.assertEqual(world.stored(), {}, at)

    def test_each_sender_has_one_answer(self) -> None:
        chance = Random(5)
        for at, world in self.lives(chance, "bob@here.example", 1):
            answers = sum(count for (address, _), count in world.outside.taken.items() if address == "a@out.example")
            self.assertLessEqual(answers, 2, at)  # the outside again
            if world.accepted:
                self.assertGreaterEqual(answers, 1, at)
            different = {octets for (address, octets) in world.outside.taken if address == "a@out.example"}
            self.assertLessEqual(len(different), 1, at)
