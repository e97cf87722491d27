"""
Tests for L{qmailpy.remote.memory}.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.remote.memory import HOSTS_LIMIT, LONGEST_S, HostMemory
from qmailpy.remote.peers import Peer

PEER = Peer("mx.example", "192.0.2.1", 25)


class MemoryTests(SynchronousTestCase):
    """Hosts that fail."""

    def test_pauses_double_up_to_the_longest(self) -> None:
        """5, 10, 20 ... seconds, half an hour at most."""
        clock = Clock()
        memory = HostMemory(clock.seconds)
        pauses = []
        for _ in range(12):
            memory.failed(PEER, "dead")
            blocked = memory.blocked(PEER)
            assert blocked is not None
            pauses.append(blocked.seconds)
            clock.advance(blocked.seconds)
            self.assertIsNone(memory.blocked(PEER))
        self.assertEqual(pauses[:4], [5.0, 10.0, 20.0, 40.0])
        self.assertEqual(pauses[-1], LONGEST_S)

    def test_failures_of_attempts_under_way_together_count_once(self) -> None:
        """Ten jobs that meet one dead host are one failure."""
        clock = Clock()
        memory = HostMemory(clock.seconds)
        for _ in range(10):
            memory.failed(PEER, "dead")
        clock.advance(5)
        self.assertIsNone(memory.blocked(PEER))

    def test_an_answer_forgives_all(self) -> None:
        """The next pause is the shortest again."""
        clock = Clock()
        memory = HostMemory(clock.seconds)
        for _ in range(3):
            memory.failed(PEER, "dead")
            clock.advance(100)
        memory.reached(PEER)
        memory.failed(PEER, "dead")
        blocked = memory.blocked(PEER)
        self.assertEqual(blocked and (blocked.why, blocked.seconds), ("dead", 5.0))

    def test_memory_is_bounded(self) -> None:
        """The oldest failure is forgotten."""
        memory = HostMemory(Clock().seconds)
        peers = [Peer("mx.example", "192.0.2.1", port) for port in range(HOSTS_LIMIT + 10)]
        for peer in peers:
            memory.failed(peer, "dead")
        self.assertIsNone(memory.blocked(peers[9]))
        self.assertIsNotNone(memory.blocked(peers[10]))

    def test_pardon_is_for_one_destination_and_for_what_was_before(self) -> None:
        """Mail for others still passes the host over; a new failure counts again."""
        memory = HostMemory(Clock().seconds)
        memory.failed(PEER, "dead")
        memory.pardon("A.example")
        self.assertIsNotNone(memory.blocked(PEER, "b.example"))
        self.assertIsNone(memory.blocked(PEER, "a.example"))
        memory.failed(PEER, "dead")
        self.assertIsNotNone(memory.blocked(PEER, "a.example"))
        memory.pardon(".example")
        self.assertIsNotNone(memory.blocked(PEER, "example"))
        self.assertIsNone(memory.blocked(PEER, "x.b.example"))
        memory.failed(PEER, "dead")
        memory.pardon("")
        self.assertIsNone(memory.blocked(PEER))
