"""Getting to know old mail after a start, while the disk does not let us."""

from __future__ import annotations

import errno
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

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
