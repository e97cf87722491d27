"""
The reactor of the daemon's children: Twisted's for epoll, but that it does not change the context of the log around
each event. That is for messages which do not say whose they are; ours do, and it costs as much as a system call.
"""

from __future__ import annotations

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor


class Reactor(EPollReactor):
    """See the module's text."""

    def doPoll(self, timeout: float | None) -> None:
        """
        Wait for events, and have what is ready read or write.

        @param timeout: seconds; C{None} = for as long as it takes.
        """
        selectables = self._selectables
        for handle, event in self._poller.poll(-1 if timeout is None else timeout, max(1, len(selectables))):
            selectable = selectables.get(handle)
            if selectable is not None:  # else what was ready before it has ended it
                self._doReadOrWrite(selectable, handle, event)

    doIteration = doPoll


def install() -> None:
    """Make it the global one; before anything imports that."""
    installReactor(Reactor())
