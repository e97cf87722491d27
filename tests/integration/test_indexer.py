"""The index is kept while the daemon runs, by a process of its own."""

from __future__ import annotations

import gzip
import os
import signal
import time
from typing import ClassVar

from qmailpy.records.index import INDEX, LogIndex
from tests.integration.node import NodeCase, Settings


class IndexerTests(NodeCase):
    settings: ClassVar[Settings] = {"log.index_s": 0.2}

    def indexer(self) -> int:
        """Its process id; 0 = there is none."""
        worker = self.node.pid("mta-0")
        for name in os.listdir("/proc"):
            if name.isdecimal():
                try:
                    with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline", "rb") as line:
                        parent = int(stat.read().rpartition(")")[2].split()[1])
                        if parent == worker and b"index_child" in line.read():
                            return int(name)
                except (FileNotFoundError, ProcessLookupError):
                    continue
        return 0

    def known(self, subject: str) -> bool:
        path = self.node.path("log", INDEX)
        if not os.path.exists(path):
            return False
        with LogIndex(path) as index:
            return bool(index.by_subject(subject, 10))

    def send(self, subject: bytes) -> None:
        with self.node.talk() as talk:
            talk.mail(
                "alice@example.org",
                ["bob@example.org"],
                b"Subject: " + subject + b"\r\nMessage-ID: <i@x>\r\n\r\nHi\r\n",
            )

    def test_mail_is_in_it_soon_and_found_by_its_subject(self) -> None:
        """Nobody asks; the daemon's child does it at its leisure. It lives and dies with its worker."""
        self.send(b"=?utf-8?q?Caf=C3=A9?= at noon")
        self.until(lambda: self.known("café"))
        child = self.indexer()
        self.assertEqual(os.getpriority(os.PRIO_PROCESS, child), 19)
        self.assertIn('"Café at noon"', self.node.qmailpy("trace", "NOON caf"))
        self.assertIn("delivered to bob@example.org", self.node.qmailpy("trace", "noon", "--since", "1h"))
        os.kill(self.node.pid("mta-0"), signal.SIGKILL)
        self.until(lambda: not os.path.exists(f"/proc/{child}"))
        self.send(b"evening")
        self.until(lambda: self.known("evening"))
        child = self.indexer()
        self.node.stop()
        self.assertFalse(os.path.exists(f"/proc/{child}"))
        self.node.start()

    def test_the_books_are_read_from_packed_files_too(self) -> None:
        self.send(b"first")
        self.wait_idle()
        for _ in range(2):
            self.node.qmailpy("log", "roll")
        plain = self.node.path("log", "mail.log")
        made = self.node.path("packed")
        with open(plain, "rb") as source, gzip.open(made, "wb") as target:
            target.write(source.read())
        os.rename(made, f"{plain}.{time.strftime('%Y-%m-%d')}.gz")  # of an older day the index would not look at it
        os.unlink(plain)
        self.send(b"second")
        self.wait_idle()
        self.node.verify()
        self.assertIn('"first"', self.node.qmailpy("trace", "first"))
