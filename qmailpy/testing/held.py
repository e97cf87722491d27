"""Threads whose work waits until a test lets it be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

__all__ = ["HeldThreads"]


class HeldThreads:
    """
    In the place of C{in_thread}: what is asked for is done at once or, between L{hold} and L{go_on}, later.

    @ivar asked: names of all functions that were asked for, in order.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._held: list[Callable[[], None]] | None = None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        self.asked.append(function.__name__)
        if self._held is None:
            return maybeDeferred(function, *arguments)
        done: Deferred[Any] = Deferred()

        def run() -> None:
            maybeDeferred(function, *arguments).chainDeferred(done)

        self._held.append(run)
        return done

    def hold(self) -> None:
        """Nothing is done from now on."""
        self._held = []

    def go_on(self) -> None:
        """All that waits is done, in order, and what comes at once."""
        held, self._held = self._held or [], None
        for one in held:
            one()
