"""Commands that go on until they are interrupted, without waiting for anything."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace


def pausing(*steps: Callable[[], object]) -> SimpleNamespace:
    """In the place of the module C{time}: each pause has the next thing happen, the one after the last is Ctrl-C."""
    left = list(steps)

    def sleep(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    return SimpleNamespace(sleep=sleep)
