"""
Work that has a thread of its own in the daemon, done at once: for commands and tests, which have no reactor.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed

from qmailpy.local.maildir import Delivery
from qmailpy.local.writer import Work, Writer
from qmailpy.values import Disposition

T = TypeVar("T")


class InlineWriter:
    """L{qmailpy.local.writer.Writer} that has finished before C{submit} returns; a power cut goes right through it."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def submit(self, deliveries: Sequence[Delivery]) -> Deferred[list[Disposition]]:
        [said] = self._work([deliveries])
        return succeed(said)

    def stop(self) -> Deferred[None]:
        return succeed(None)


class InlineThreads:
    """L{qmailpy.local.writer.Threads} without any; what is asked must answer without waiting."""

    def writer(self, thd_work: Work, thd_end: Callable[[], None], name: str) -> Writer:
        return InlineWriter(thd_work)

    def thd_wait(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        coroutine = ask()
        try:
            coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        coroutine.close()
        raise AssertionError("it waits, and nobody is there to wait for")
