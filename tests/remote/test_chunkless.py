"""Tests of hosts that offer CHUNKING, or something before them does, and do not know BDAT (RFC 3030)."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.memory import CHUNKLESS_LIMIT, HostMemory
from qmailpy.remote.mx import destination
from qmailpy.remote.peers import Peer
from qmailpy.values import Disposition, MemoryContent, Verdict
from qmailpy.wire.client_events import Transaction
from qmailpy.wire.smtp_client import CHUNKS_FROM
from tests.remote.network import World

LARGE = MemoryContent(b"Subject: x\r\n\r\n" + b"a line of it\r\n" * (CHUNKS_FROM // 10))
MX = destination("mx.example", trusted=False)
OFFER = "250-x\n250-PIPELINING\n250-BINARYMIME\n250 CHUNKING"


class ChunklessTests(SynchronousTestCase):
    def send(self, world: World, *, binary: bool = False) -> Sequence[Disposition]:
        transaction = Transaction(
            sender="a@example.org", recipients=("b@mx.example", "c@mx.example"), size=LARGE.size, binary=binary
        )
        return self.successResultOf(world.run(world.remote.send(MX, transaction, LARGE)))

    def test_the_message_waits_and_goes_by_data_the_next_time(self) -> None:
        """It was not refused: the command was. In the middle of it, or at its end."""
        for script in ({"BDAT": "500 5.5.2 what?", ".": "502 5.5.1 what?"}, {".": "502 5.5.1 not implemented"}):
            world = World()
            sink = world.network.host("192.0.2.1", {"EHLO": OFFER, **script})
            found = self.send(world)
            self.assertEqual([one.verdict for one in found], [Verdict.DEFERRED] * 2)
            self.assertIn("BDAT is not known", found[0].diagnostic)
            self.assertNotIn("duplicate", found[0].diagnostic)
            sink.say(".", "250 2.0.0 ok")
            found = self.send(world)
            self.assertEqual([one.verdict for one in found], [Verdict.DELIVERED] * 2)
            self.assertEqual(sink.log.messages[-1].content, LARGE.read())
            self.assertIn("DATA", sink.log.commands)
            self.assertLessEqual(world.pool.total, 1)

    def test_a_refusal_of_the_message_is_one(self) -> None:
        world = World()
        world.network.host("192.0.2.1", {"EHLO": OFFER, ".": "554 5.7.1 no"})
        self.assertEqual([one.verdict for one in self.send(world)], [Verdict.FAILED] * 2)

    def test_what_is_no_lines_cannot_go_by_data(self) -> None:
        world = World()
        world.network.host("192.0.2.1", {"EHLO": OFFER, ".": "502 5.5.1 not implemented"})
        self.assertEqual([one.verdict for one in self.send(world, binary=True)], [Verdict.FAILED] * 2)

    def test_so_many_are_remembered(self) -> None:
        memory = HostMemory(lambda: 0.0)
        peers = [Peer(host=f"h{number}.example", address="192.0.2.1", port=25) for number in range(CHUNKLESS_LIMIT + 1)]
        for peer in peers:
            memory.found_chunkless(peer)
        self.assertEqual(sum(map(memory.chunkless, peers)), 1)
