"""An operator's work on a queue of which the disk cannot read a file any more."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from qmailpy.queue.entries import DONE, REFUSED, QueueFilter, Target
from qmailpy.queue.ids import to_number
from tests.queue.test_view import ViewCase


class UnreadableTests(ViewCase):
    def test_one_file_hides_no_other_message_and_refuses_no_other(self) -> None:
        """It is not in the list, as a damaged one; what is wanted of it is refused, with the reason."""
        ids = [self.world.send("later@out.example") for _ in range(3)]
        self.again()
        shard = self.world.shard
        assert shard is not None
        self.world.disk.fail("read", times=10**9, path=shard.layout.info(to_number(ids[1])))
        self.assertEqual(self.ids(), [ids[0], ids[2]])
        results = self.do(self.view.delete([Target(one) for one in ids]))
        self.assertEqual({one.id: one.outcome for one in results}, dict(zip(ids, (DONE, REFUSED, DONE), strict=True)))
        self.assertIn("Input/output error", results[1].text)

    def test_a_queue_that_cannot_be_read_at_all_is_no_empty_one(self) -> None:
        self.world.send("later@out.example")
        self.again()
        self.world.disk.fail("read", times=10**9, path=self.world.config.path("queue", "0", "chan"))
        asked = Deferred.fromCoroutine(self.view.page(QueueFilter(), None, 10))
        self.failureResultOf(asked, OSError)
