"""How much mail there was today: C{qm counters today}."""

from __future__ import annotations

import time

from qmailpy.config.schema import LogConfig
from qmailpy.disk.files import Files
from qmailpy.records.fields import Unreadable
from qmailpy.records.logfile import CUMULATIVE, CURRENT, YESTERDAY
from qmailpy.records.reading import last_lines
from qmailpy.records.text import LineFormat
from qmailpy.stats.fold import apply
from qmailpy.stats.items import DELIVERED, Table

_LATE_S = 60.0  # lines of several processes need not be in order


def thd_today(files: Files, directory: str, options: LogConfig, now: float) -> int:
    """
    Messages that left the queue since local midnight, delivered or returned; a message on two channels is two. Blocks.

    Read backwards from the log's end, so it costs today's lines only.

    @param directory: HOME/log.
    @raise OSError: the log cannot be read.
    """
    clock = time.localtime(now)
    midnight = time.mktime((clock.tm_year, clock.tm_mon, clock.tm_mday, 0, 0, 0, 0, 0, -1))
    form = LineFormat(options)
    table: Table = {}
    for name in (CURRENT, YESTERDAY, CUMULATIVE):  # somebody may have rolled them
        path = f"{directory}/{name}"
        if not files.exists(path):
            continue
        handle = files.open(path)
        try:
            for _, line in last_lines(files, handle, files.size(handle)):
                try:
                    record = form.record(line)
                except Unreadable:
                    continue
                if record.time >= midnight:
                    apply(table, record)
                elif record.time < midnight - _LATE_S:
                    break
        finally:
            files.close(handle)
    return sum(row[DELIVERED] for row in table.values())
