"""What every L{IEnqueue} does: run on the fake and on the real one alike."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.interfaces import IEnqueue, IIntake
from qmailpy.values import Envelope, Recipient


class EnqueueContract:
    """
    Mix into a L{SynchronousTestCase}.

    @ivar enqueue: the object under test, set by C{setUp}.
    """

    enqueue: IEnqueue

    ENVELOPE = Envelope(
        sender="a@example.net",
        recipients=(Recipient(address="b@example.org", original="b@example.org", channel="hold"),),
        source="tcp_local",
        arrival=1172577600.0,
    )

    def settle(self) -> None:
        """Let work of other threads that is simulated come to its end."""

    def contents(self) -> dict[str, bytes]:
        """What was accepted: content by id."""
        raise NotImplementedError

    def test_a_committed_message_is_there_whole(self) -> None:
        assert isinstance(self, SynchronousTestCase)
        verifyObject(IEnqueue, self.enqueue)
        queue_id = self.enqueue.new_id()
        intake = self.enqueue.begin(queue_id)
        verifyObject(IIntake, intake)
        self.assertEqual(intake.id, queue_id)
        intake.write(b"Subject: x\r\n")
        intake.write(b"\r\nbody\r\n")
        self.assertEqual(intake.size, 20)
        done = intake.commit(self.ENVELOPE)
        self.settle()
        self.successResultOf(done)
        self.assertEqual(self.contents(), {queue_id: b"Subject: x\r\n\r\nbody\r\n"})

    def test_an_aborted_message_leaves_nothing(self) -> None:
        assert isinstance(self, SynchronousTestCase)
        intake = self.enqueue.begin(self.enqueue.new_id())
        intake.write(b"Subject: x\r\n")
        intake.abort()
        self.settle()
        self.assertEqual(self.contents(), {})

    def test_ids_are_never_the_same(self) -> None:
        assert isinstance(self, SynchronousTestCase)
        ids = {self.enqueue.new_id() for _ in range(1000)}
        self.assertEqual(len(ids), 1000)
        self.assertEqual({len(each) for each in ids}, {15})
