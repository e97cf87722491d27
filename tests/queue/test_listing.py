"""Getting to know old mail after a start, while the disk does not let us."""

from __future__ import annotations

import errno
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.queue.ids import to_number
from qmailpy.queue.layout import Layout
from qmailpy.testing.crashdisk import CrashDisk
from tests.queue.world import HOME, World


class ListingTests(SynchronousTestCase):
    def test_a_listing_that_fails_begins_anew(self) -> None:
        """No descriptors for a moment: mail that waits is not forgotten until the next start."""
        first = World(CrashDisk(directories=[HOME, HOME + "/log"]))
        first.up()
        queue_id = first.send("later@out.example")
        first.down()
        after = first.crash("none")
        disk: Any = after.disk
        real, left = disk.listdir, [2]

        def listdir(path: str) -> list[str]:
            if path.endswith("/chan") and left[0]:
                left[0] -= 1
                raise OSError(errno.EMFILE, "Too many open files", path)
            names: list[str] = real(path)
            return names

        self.patch(disk, "listdir", listdir)
        after.up()
        after.wait(3000)
        self.assertEqual(left, [0])
        self.assertEqual(after.outside.taken["later@out.example", first.accepted[queue_id][1]], 1)

    def stopped(self, *bodies: bytes, apart: bool = True) -> tuple[World, list[str]]:
        """A node with mail that waits in files, about to be started."""
        first = World(CrashDisk(directories=[HOME, HOME + "/log"]))
        first.up()
        ids = []
        for body in bodies:
            ids.append(first.send("later@out.example", body=body))
            first.wait(0.003 if apart else 0)  # in another sub-directory
        first.down()
        return first.crash("none"), ids

    def test_what_cannot_be_read_keeps_no_other_mail_from_being_listed(self) -> None:
        """Not a file, not a directory; and what is listed has one entry, however often the rest is tried."""
        for kind, cut in (("read", 0), ("listdir", 16)):
            after, ids = self.stopped(*[b"x"] * 5, apart=kind == "listdir")
            path = Layout(f"{HOME}/queue/0", "00").chan("tcp_local", to_number(ids[2]))
            path = path if not cut else path[:-cut]
            after.disk.fail(kind, times=10**9, path=path)
            shard = after.up()
            out = shard.runners["tcp_local"]
            out.stop()
            after.wait(300)
            self.assertLessEqual(len(out.due), 5, kind)
            out.start()
            after.wait(20000)
            self.assertEqual(sum(after.outside.taken.values()), 4, kind)
            after.disk.heal()
            after.wait(60000)
            self.assertEqual((sum(after.outside.taken.values()), after.stored()), (5, {}), kind)

    def test_what_may_be_there_keeps_what_belongs_to_it(self) -> None:
        """The disk does not tell whether a message has its other files: nothing of it is taken for left over."""
        for kind in ("info", "chan", "hold"):
            after, [queue_id] = self.stopped(b"x" * 5000)
            number, layout = to_number(queue_id), Layout(f"{HOME}/queue/0", "00")
            path = layout.info(number) if kind == "info" else layout.chan("tcp_local", number, kind == "hold")
            after.disk.fail("exists", times=4, path=path)
            after.up()
            after.wait(60000)
            self.assertEqual((sum(after.outside.taken.values()), after.stored()), (1, {}), kind)
