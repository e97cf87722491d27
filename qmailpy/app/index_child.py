"""
C{python -m qmailpy.app.index_child}: the process that keeps the index of the transaction log, and packs old logs away.

Started by L{qmailpy.app.indexer}. Each line of its standard input is a JSON object: what to do from now on
(L{Orders<qmailpy.app.index_orders.Orders>}). The end of its input is the end of it: whoever started it is gone. What
it has to say goes to standard error, a line each.

It takes no time from mail: nice 19, and after each piece of work it rests as long as the piece took. It takes no room
from mail either: with less than twice the queue's reserve left it does nothing.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable

from qmailpy.app.index_orders import Orders
from qmailpy.disk.files import Files, RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.index import IndexBroken, thd_index
from qmailpy.records.packing import thd_pack

NICE = 19
PACK_S = 600.0
"""How often, and how long after the start at first, it is seen whether there is something to pack."""


class Ended(Exception):
    """There is nobody any more to work for."""


class Indexing:
    """The work; C{wait} is all it knows of the world."""

    def __init__(
        self,
        files: Files,
        wait: Callable[[float], Orders | None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        @param wait: waits so many seconds, less when there are new orders, which it gives; raises L{Ended} at the end.
        @param say: tells people.
        """
        self._files = files
        self._wait = wait
        self._say = say
        self._clock = clock
        self._orders: Orders | None = None
        self._worked = clock()
        self._pack_at = clock() + PACK_S
        self._said = ""
        self._damaged: list[str] = []

    def run(self) -> None:
        """@raise Ended: nobody is there any more."""
        while True:
            orders = self._orders
            self._rest(orders.log.index_s if orders is not None else 60.0)
            if self._orders is not None:
                self._round(self._orders)

    def _rest(self, seconds: float) -> None:
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            if (orders := self._wait(left)) is not None:
                self._orders = orders
                return
        self._worked = self._clock()

    def _pause(self) -> None:
        """After a piece of work."""
        spent = self._clock() - self._worked
        if (orders := self._wait(min(1.0, spent))) is not None:
            self._orders = orders
        self._worked = self._clock()

    def _round(self, orders: Orders) -> None:
        problem = ""
        self._worked = self._clock()
        try:
            if self._files.space(orders.directory).octets < 2 * orders.reserve_octets:
                problem = "the index of the log stands still: the disk is nearly full"
            else:
                self._work(orders)
        except (OSError, IndexBroken, CommandError) as error:  # the last: no package that reads zstd
            problem = f"the index of the log stands still: {error}"
        if problem != self._said:
            self._said = problem
            self._say(problem or "the index of the log goes on")

    def _work(self, orders: Orders) -> None:
        # A command that reads the log into the index does the same work.
        index = thd_index(self._files, orders.directory, orders.log, time.time(), pause=self._pause)
        index.close()
        if index.damaged != self._damaged:
            self._damaged = index.damaged
            for problem in index.damaged:
                self._say(f"{problem}; the index of the log lacks what comes behind that place")
        if self._clock() < self._pack_at:
            return
        self._pack_at = self._clock() + PACK_S
        thd_pack(
            self._files, orders.directory, orders.log.compress, orders.log.keep_days, time.time(), pause=self._pause
        )


class Input:
    """Orders from a descriptor."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._rest = b""

    def wait(self, seconds: float) -> Orders | None:
        """See L{Indexing}."""
        ready, _, _ = select.select([self._handle], [], [], seconds)
        if not ready:
            return None
        octets = os.read(self._handle, 65536)
        if not octets:
            raise Ended
        *lines, self._rest = (self._rest + octets).split(b"\n")
        return Orders.decode(lines[-1]) if lines else None


def main() -> None:
    """Work until the input ends."""
    os.umask(0o077)
    os.nice(NICE)
    try:
        Indexing(RealFiles(), Input(0).wait, lambda text: print(text, file=sys.stderr, flush=True)).run()  # noqa: T201
    except Ended:
        return


if __name__ == "__main__":
    main()
