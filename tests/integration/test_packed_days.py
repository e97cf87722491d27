"""Days pass (Debian's faketime): the daemon rolls, packs and forgets its log by itself, and C{trace} goes along."""

from __future__ import annotations

import glob
import os
import time
from typing import ClassVar

from qmailpy.records.index import INDEX, LogIndex
from tests.integration.node import Node, NodeCase, Settings

DAY_S = 86400
_LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"
_VARIABLES = ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "TZ")


class DaysTests(NodeCase):
    """Three days are kept, seven indexed."""

    settings: ClassVar[Settings] = {
        "log.index_s": 0.2,
        "log.compress": "zstd",
        "log.keep_days": 3,
        "log.index_days": 7,
    }
    fresh: ClassVar[bool] = True
    timeout = 120

    def make_node(self, settings: Settings) -> Node:
        node = super().make_node(settings)
        (library,) = glob.glob(_LIBRARIES)
        self.stamp = os.path.join(node.base, "clock")
        self.shift(0)
        before = {name: os.environ.get(name) for name in _VARIABLES}
        self.addCleanup(self.restore, before)
        os.environ.update(
            {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": self.stamp, "FAKETIME_NO_CACHE": "1", "TZ": "UTC"}
        )
        return node

    def restore(self, before: dict[str, str | None]) -> None:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})

    def shift(self, days: float) -> None:
        """From now on the processes see a clock that is so far ahead."""
        with open(f"{self.stamp}.new", "w") as file:
            file.write(f"{days * DAY_S:+.0f}s\n")
        os.rename(f"{self.stamp}.new", self.stamp)

    def send(self, day: int) -> str:
        """The name of the day."""
        with self.node.talk() as talk:
            talk.mail(
                "alice@example.org",
                ["bob@example.org"],
                b"Subject: day %d\r\nMessage-ID: <day%d@x.example>\r\n\r\nHi\r\n" % (day, day),
            )
        self.wait_idle()
        return time.strftime("%Y-%m-%d", time.gmtime(time.time() + (day + 1) * DAY_S))

    def files(self) -> set[str]:
        return {*os.listdir(self.node.path("log"))}

    def earlier(self) -> set[str]:
        """What there is of the log from before yesterday."""
        return {name for name in self.files() if name == "mail.log" or name.startswith("mail.log.")}

    def packed(self) -> set[str]:
        return {name for name in self.files() if name.endswith(".zst")}

    def current(self) -> int:
        """Which file the current one is; 0 in the middle of a roll."""
        try:
            return os.stat(self.node.path("log", "mail.log_current")).st_ino
        except FileNotFoundError:
            return 0

    def last(self) -> str:
        """The Message-ID that the index heard of last."""
        with LogIndex(self.node.path("log", INDEX)) as index:
            found = index.by_address("bob@example.org", 1)
            return found[0].message_id if found else ""

    def check_books(self) -> None:
        """The log of the first days is gone, and the counters with it have nothing to be compared with."""

    def test_days_are_packed_and_removed_and_the_index_knows_as_much(self) -> None:
        names: list[str] = []
        noon = 1.5 - time.time() % DAY_S / DAY_S  # of tomorrow: no clock is set back
        self.until(lambda: INDEX in self.files())  # the indexer has begun, and counts its ten minutes
        for day in range(6):
            before = self.current()
            self.shift(day + noon)
            self.until(lambda before=before: self.current() not in (0, before))  # type: ignore[misc] # rolled
            names.append(self.send(day))
            if day >= 2:  # at noon the day before yesterday is more than half a day old
                self.shift(day + noon + 0.01)  # the indexer looks for what to pack every ten minutes
                self.until(lambda: bool(self.packed()) and self.packed() == self.earlier())
        self.until(lambda: self.last() == "<day5@x.example>")
        # A line that is written while the file is rolled is in the old one, which has the next day's name then.
        self.assertIn(len(self.packed()), (2, 3), self.files())
        self.assertFalse({"mail.log", f"mail.log.{names[0]}.zst"} & self.files())
        for day in range(2, 6):
            told = self.node.qmailpy("trace", f"day{day}@x.example")
            self.assertIn(names[day], told)
            self.assertIn("delivered to bob@example.org", told)
        self.assertIn("the log of the last 4 days", self.node.qmailpy("trace", "day0@x.example", status=1))
        os.unlink(self.node.path("log", INDEX))
        for day in range(2, 6):
            self.assertIn("finished after", self.node.qmailpy("trace", f"day{day}@x.example"), day)
        account = self.node.qmailpy("log", "account", "--by", "day")
        days = [line.split()[0] for line in account.splitlines()[1:]]
        self.assertEqual(days[-4:], names[2:])
        self.assertNotIn(names[0], days)
