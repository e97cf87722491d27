"""A queue of 20,000 messages in files: what it takes to list it and to change some of it, with and without a daemon."""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from collections import Counter
from typing import ClassVar

from twisted.internet.defer import Deferred

from qmailpy.cli.livequeue import open_view
from qmailpy.cli.offline import OfflineQueueView
from qmailpy.cli.opened import OpenShards
from qmailpy.config.load import load
from qmailpy.disk.files import RealFiles
from qmailpy.queue.entries import DONE, QueueFilter, Target
from qmailpy.queue.switches import Switches
from qmailpy.values import Envelope, Recipient
from tests.integration.node import Node, NodeCase

COUNT = 20_000
MEBIBYTE = 1024 * 1024


def fill(home: str, count: int) -> None:
    """Put so many messages for a channel that is stopped into the queue of a stopped home, and into its books."""
    config = load(home)
    files = RealFiles()
    switches = Switches(files, config.path("queue", "stopped"))
    work = OpenShards(config, files, switches, alone=True)
    try:
        work.open("0")
        shard = work.shards["0"]
        accepted: list[Deferred[None]] = []
        octets = b"Subject: one of many\r\n\r\n" + b"x" * 500 + b"\r\n"
        for start in range(0, count, 500):
            for at in range(start, min(start + 500, count)):
                recipient = Recipient(
                    address=f"r{at}@d{at % 100}.example",
                    original=f"r{at}@d{at % 100}.example",
                    channel="tcp_local",
                    host=f"d{at % 100}.example",
                )
                envelope = Envelope(
                    sender=f"s{at % 7}@example.org", recipients=(recipient,), source="tcp_local", arrival=time.time()
                )
                intake = shard.begin(shard.new_id())
                intake.write(octets)
                accepted.append(intake.commit(envelope))
            work.step()
        if sum(one.called for one in accepted) != count:
            raise AssertionError("not all of them were accepted")
    finally:
        work.close()


class LargeQueueTests(NodeCase):
    """Made once; all of it waits for a channel that is stopped."""

    settings: ClassVar = {"queue.segment_octets": 4 << 20, "channel.tcp_local.stopped": True}
    timeout = 120

    def setUp(self) -> None:
        if os.access("/dev/shm", os.W_OK):  # in memory 60,000 files are made in seconds
            self.patch(tempfile, "tempdir", "/dev/shm")
        super().setUp()

    def begin(self, node: Node) -> None:
        fill(node.home, COUNT)

    def _is_down(self) -> bool:
        return False

    def log(self) -> str:
        return super().log() if os.path.exists(self.node.path("log", "qmailpy.log")) else ""

    def test_list_and_summary_take_little_time_and_no_more_memory_than_the_walk(self) -> None:
        """On the stopped home: read where it lies, nothing kept but 8 octets a message."""
        view = OfflineQueueView(load(self.node.home))
        tracemalloc.start()
        try:
            start = time.monotonic()
            seen = 0
            before = ""
            for entry in view.entries(QueueFilter()):
                self.assertLess(before, entry.id)
                before = entry.id
                seen += 1
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertEqual(seen, COUNT)
        self.assertLess(peak, 12 * MEBIBYTE)
        self.assertLess(time.monotonic() - start, 60)
        looked: list[int] = []
        table = Counter[str]()
        for row in view.ages(QueueFilter(), [300.0, 600.0], False, looked.append):
            table[row.name] += sum(row.counts)
        self.assertEqual((len(table), set(table.values()), sum(looked)), (100, {COUNT // 100}, COUNT))
        (one,) = [one for one in view.summary() if one.messages]
        self.assertEqual((one.channel, one.messages, one.recipients), ("tcp_local", COUNT, COUNT))

    def test_running_daemon_lists_it_in_slices_and_changes_what_is_meant(self) -> None:
        """Its memory does not grow by the listing, and the books agree with what is left."""
        self.node.start()
        self.addCleanup(self.node.stop)
        view = open_view(self.node.home)
        resident = self.node.rss()
        start = time.monotonic()
        ids = [entry.id for entry in view.entries(QueueFilter())]
        took = time.monotonic() - start
        self.assertEqual((len(ids), len(set(ids))), (COUNT, COUNT))
        self.assertLess(self.node.rss() - resident, 24 * MEBIBYTE)
        self.assertLess(took, 60)
        results = view.delete([Target(one) for one in ids[::100]])
        self.assertEqual({one.outcome for one in results}, {DONE})
        left = COUNT - len(results)
        summary = {one.channel: one for one in view.summary()}["tcp_local"]
        self.assertEqual((summary.messages, summary.recipients), (left, left))
        self.assertEqual(sum(1 for _ in view.entries(QueueFilter(sender="s3@"))), self.expected(ids))

    def expected(self, ids: list[str]) -> int:
        """Messages of s3@ that were not deleted."""
        return sum(1 for at in range(len(ids)) if at % 7 == 3 and at % 100)
