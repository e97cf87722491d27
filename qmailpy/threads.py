"""Blocking functions in the threads of a reactor."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from qmailpy.interfaces import InThread


def in_pool(reactor: Any) -> InThread:
    """
    What runs functions in the pool that the reactor has itself, and nothing of the queue is in.

    @param reactor: IReactorThreads and IReactorFromThreads; asked for its pool with each function.
    """

    def in_thread(function: Any, *arguments: Any) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)

    return in_thread
