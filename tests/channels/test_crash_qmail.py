"""
What .qmail files say, with the power cut before each step: an mbox, a Maildir and a forward, for mail of several sizes.

Whatever was told 250 is in all three places in the end; the mbox holds whole messages and nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.channels.local import LocalChannel
from qmailpy.channels.parts import Parts
from qmailpy.config.schema import ChannelConfig, Config, RuleConfig
from qmailpy.interfaces import IChannel
from qmailpy.local.dotqmail import Found, parse
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.inline import InlineThreads
from qmailpy.testing.memory_directory import MemoryDirectory
from qmailpy.values import Mailbox
from tests.queue.world import HOME, World, configuration, forks

BOB_HOME = f"{HOME}/mail/here.example/bob"
DIRECTORIES = (HOME, f"{HOME}/log", BOB_HOME)
RULES = b"./Maildir/\n./mbox\n&ok@out.example\n"


def config() -> Config:
    made = configuration()
    process = ChannelConfig(name="process", kind="process")
    rules = (RuleConfig(pattern=".", channel="tcp_local"),)
    return evolve(made, channels={**made.channels, "process": process}, rules=rules)


class Node(World):
    """Bob has a .qmail file."""

    def directory(self) -> MemoryDirectory:
        found = super().directory()
        found.entries["bob@here.example"] = Mailbox(
            address="bob@here.example", path="here.example/bob/Maildir", dot_qmail=True
        )
        return found

    def channels(self, parts: Parts) -> dict[str, IChannel]:
        def find(home: str, extension: str, owners: Sequence[int]) -> Found | None:
            return Found(lines=parse(RULES))

        def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
            return maybeDeferred(function, *arguments)

        channel = self.config.channels["local"]
        parts = evolve(parts, seconds=self.clock.seconds)
        local = LocalChannel(self.config, channel, parts, InlineThreads(), in_thread=in_thread, find=find)
        return {**super().channels(parts), "local": local}

    def mbox(self) -> list[bytes]:
        """The messages in it, in pieces at each From line; with CRLF and without fields of ours, where they are."""
        path = f"{BOB_HOME}/mbox"
        octets = self.disk.read(path) if self.disk.exists(path) else b""
        found = []
        for piece in re.split(rb"(?:\A|\n\n)(?=From )", octets.removesuffix(b"\n\n"))[1:]:
            _, _, rest = piece.partition(b"\nDelivered-To: bob@here.example\n")
            found.append((rest or piece).replace(b"\n", b"\r\n") + b"\r\n")
        return found


def messages(world: Node) -> None:
    world.send("bob@here.example", body=b"x" * 1200)
    world.send("bob@here.example", body=b"two at once", hold=True)
    world.send("bob@here.example", body=b"y" * 600)
    world.settle()


class CrashTests(SynchronousTestCase):
    def survive(self, ignore: Callable[[str, str], bool] | None = None, step: int = 1, **crash: Any) -> int:
        """How many cuts there were."""
        first = Node(CrashDisk(directories=DIRECTORIES), config())
        first.up()  # the start is tests.queue.test_crash's
        first.disk.ignore_sync = ignore
        count = 0
        for die_at, world in forks(first, messages)[::step]:
            count += 1
            after = world.crash(**crash)
            after.up(replay=not crash.get("killed"))
            after.wait(200)
            where = (die_at, world.disk.operations)
            sent = {octets for _, octets in after.offered.values()}
            found, boxed = Counter(after.mbox()), Counter(after.mailbox("bob"))
            self.assertLessEqual(set(found), sent, where)
            self.assertEqual(set(boxed.values()) - {1}, set(), where)
            for _, octets in after.accepted.values():
                self.assertEqual(found[octets], 1, where)
                self.assertEqual(boxed[octets], 1, where)
                forwarded = [one for to, one in after.outside.taken if to == "ok@out.example" and octets in one]
                self.assertGreaterEqual(len(forwarded), 1, where)
            self.assertLessEqual(set(found.values()), {1}, where)
            log, counters = after.books()
            self.assertEqual(log, counters, where)
            self.assertEqual(after.stored(), {}, where)
        return count

    def test_nothing_unsynced_survives(self) -> None:
        self.assertGreater(self.survive(survivors="none"), 50)

    def test_everything_survives(self) -> None:
        self.survive(survivors="all", step=2)

    def test_a_random_part_survives(self) -> None:
        chance = Random(20261124)
        self.survive(survivors=chance)
        self.survive(survivors=chance, reorder=True)

    def test_the_process_is_killed(self) -> None:
        self.survive(killed=True, step=2)

    def test_each_sync_counts(self) -> None:
        for kind, path in (("fsync", r"/mbox$"), ("sync_directory", r"/bob$"), ("fsync", r"/Maildir/new/")):
            wanted = re.compile(path)

            def ignore(operation: str, where: str, kind: str = kind, wanted: re.Pattern[str] = wanted) -> bool:
                return operation == kind and wanted.search(where) is not None

            with self.assertRaises(self.failureException, msg=path):
                self.survive(ignore, survivors="none")
