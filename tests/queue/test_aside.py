"""Messages that were set aside leave the books when an operator says so."""

from __future__ import annotations

from random import Random

from qmailpy.queue.aside import left_of
from qmailpy.queue.entries import DONE, REFUSED, UNKNOWN, Target
from qmailpy.queue.ids import to_number
from qmailpy.records.removed import SET_ASIDE
from tests.queue.test_view import ViewCase


class AsideTests(ViewCase):
    def damaged(self, what: str = "chan") -> str:
        """A message with two recipients, one of them served, of which a file is cut short (or removed: mess)."""
        queue_id = self.world.send("later@a.example", "ok@b.example")
        self.world.send("later@c.example")
        self.world.settle()
        self.world.settle()
        shard = self.world.shard
        assert shard is not None
        self.world.down()
        number = to_number(queue_id)
        layout = shard.layout
        path = {"info": layout.info(number), "mess": layout.mess(number), "chan": layout.chan("tcp_local", number)}[
            what
        ]
        self.cut(path)
        self.world = self.world.crash("all")
        self.up()
        self.world.wait(2000)
        self.assertEqual([name for name, _ in self.world.events.happenings], ["message.aside"])
        return queue_id

    def cut(self, path: str) -> None:
        """Damage a file."""
        handle = self.world.disk.open(path)
        self.world.disk.truncate(handle, 5)
        self.world.disk.fsync(handle)
        self.world.disk.close(handle)

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

    def test_what_its_other_files_tell_leaves_the_books_at_once(self) -> None:
        """And there is nothing left to be taken out by hand, but files to be put away."""
        for what in ("info", "mess"):
            queue_id = self.damaged(what)
            self.assertEqual(self.stored(), (0, 0, 0), what)
            line = next(one for one in self.world.log() if one.diagnostic == SET_ASIDE)
            self.assertEqual((line.action.value, line.current_to), ("D", "later@a.example"))
            self.assertEqual(line.sender, "" if what == "info" else "ann@here.example")
            self.assertEqual(self.do(self.view.aside()), [queue_id])
            left = left_of(queue_id, self.world.log())
            self.assertEqual(left, [])
            self.assertEqual(self.do(self.view.settle(queue_id, left)).outcome, DONE)
            folded, counted = self.world.books()
            self.assertEqual(folded, counted)
            self.setUp()

    def test_what_recovery_finds_stays_counted(self) -> None:
        """Its file says less than the journal: what has left already would leave twice."""
        queue_id = self.world.send("later@a.example", "later@b.example")
        self.world.settle()
        self.world.settle()
        shard = self.world.shard
        assert shard is not None
        self.do(self.view.hold([Target(queue_id)], "wait"))
        self.cut(shard.layout.mess(to_number(queue_id)))
        self.world = self.world.crash("all")
        self.up()
        self.world.wait(100)
        self.assertEqual((self.do(self.view.aside()), self.stored()[1]), ([queue_id], 2))
        left = left_of(queue_id, self.world.log())
        self.do(self.view.settle(queue_id, left))
        self.assertEqual(self.stored(), (0, 0, 0))

    def test_what_is_in_the_queue_is_not_touched(self) -> None:
        queue_id = self.world.send("never@a.example")
        shard = self.world.shard
        assert shard is not None
        handle = self.world.disk.open(f"{shard.layout.corrupt}/{queue_id}.info", create=True)
        self.world.disk.close(handle)
        self.assertEqual(self.do(self.view.settle(queue_id, [])).outcome, REFUSED)
        self.assertEqual(self.do(self.view.settle("0" * 15, [])).outcome, UNKNOWN)

    def test_a_power_cut_does_not_bring_it_back(self) -> None:
        """It would leave the books twice."""
        queue_id = self.world.send("later@a.example")
        self.world.settle()
        self.world.settle()
        shard = self.world.shard
        assert shard is not None
        number = to_number(queue_id)
        shard.shelf.thd_set_aside(number, "a test wants it")
        for seed in range(20):
            disk = self.world.disk.reboot(Random(seed), reorder=True)
            self.assertTrue(disk.exists(f"{shard.layout.corrupt}/{queue_id}.info"))
            self.assertFalse(disk.exists(shard.layout.info(number)))
            self.assertFalse(disk.exists(shard.layout.chan("tcp_local", number)))

    def test_it_is_told_of_though_the_disk_has_trouble_then(self) -> None:
        """Its files have gone already: nobody comes by again."""
        queue_id = self.world.send("later@a.example")
        self.world.settle()
        self.world.settle()
        shard = self.world.shard
        assert shard is not None
        handle = self.world.disk.open(shard.layout.info(to_number(queue_id)))
        self.world.disk.truncate(handle, 5)
        self.world.disk.close(handle)
        self.world.disk.fail("sync_directory", path=shard.layout.corrupt)
        self.world.wait(5000)
        self.assertEqual([fields["id"] for _, fields in self.world.events.happenings], [queue_id])
        self.assertEqual([one.diagnostic for one in self.world.log()].count(SET_ASIDE), 1)
        self.assertEqual(self.stored(), (0, 0, 0))
