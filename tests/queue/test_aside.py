"""Messages that were set aside leave the books when an operator says so."""

from __future__ import annotations

from qmailpy.queue.aside import left_of
from qmailpy.queue.entries import DONE, REFUSED, UNKNOWN
from qmailpy.queue.ids import to_number
from tests.queue.test_view import ViewCase


class AsideTests(ViewCase):
    def damaged(self) -> str:
        """A message with two recipients, one of them served, whose file is cut short."""
        queue_id = self.world.send("later@a.example", "ok@b.example")
        self.world.send("later@c.example")
        self.world.settle()
        self.world.settle()
        shard = self.world.shard
        assert shard is not None
        self.world.down()
        path = shard.layout.info(to_number(queue_id))
        handle = self.world.disk.open(path)
        self.world.disk.truncate(handle, 5)
        self.world.disk.fsync(handle)
        self.world.disk.close(handle)
        self.world = self.world.crash("all")
        self.up()
        self.world.wait(2000)
        return queue_id

    def stored(self) -> tuple[int, int, int]:
        self.world.recorder.flush()
        return self.world.recorder.stored("tcp_local")

    def test_its_lines_are_written_once_and_its_files_are_kept(self) -> None:
        queue_id = self.damaged()
        self.assertEqual(self.do(self.view.aside()), [queue_id])
        self.assertEqual(self.stored()[:2], (1, 1))
        left = left_of(queue_id, self.world.log())
        self.assertEqual([one.recipient for one in left], ["later@a.example"])
        result = self.do(self.view.settle(queue_id, left))
        self.assertEqual((result.outcome, self.stored()), (DONE, (0, 0, 0)))
        self.assertEqual(self.do(self.view.aside()), [])
        self.assertEqual(left_of(queue_id, self.world.log()), [])
        shard = self.world.shard
        assert shard is not None
        self.assertTrue(self.world.disk.exists(f"{shard.layout.corrupt}/settled/{queue_id}.info"))
        self.assertEqual(self.do(self.view.settle(queue_id, left)).outcome, UNKNOWN)
        folded, counted = self.world.books()
        self.assertEqual(folded, counted)

    def test_what_is_in_the_queue_is_not_touched(self) -> None:
        queue_id = self.world.send("never@a.example")
        shard = self.world.shard
        assert shard is not None
        handle = self.world.disk.open(f"{shard.layout.corrupt}/{queue_id}.info", create=True)
        self.world.disk.close(handle)
        self.assertEqual(self.do(self.view.settle(queue_id, [])).outcome, REFUSED)
        self.assertEqual(self.do(self.view.settle("0" * 15, [])).outcome, UNKNOWN)
