"""
Telling the running processes that the directory has changed, so that their caches forget at once.

Who can reach the processes registers a function here; until then a change is seen when cache entries expire.
"""

from __future__ import annotations

from collections.abc import Callable

Hook = Callable[[str, str], None]
"""Called with HOME and what changed: an address, or a domain for everything in it."""

_hooks: list[Hook] = []


def register(hook: Hook) -> None:
    """Have C{hook} called after every change from now on; registering twice is once."""
    if hook not in _hooks:
        _hooks.append(hook)


def notify_directory_change(home: str, address: str) -> None:
    """
    Called by the commands after a change is durable; may block, never raises on account of a process that is away.

    @param address: an address, or a domain name.
    """
    for hook in _hooks:
        hook(home, address)
