"""
Runs C{twistd} with a recorder that does nothing, for L{benchmarks.recording}: C{python -m benchmarks.bookless ...}.

Its children do so, too. Records of messages are not even made; those of connections are left out by its configuration.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from qmailpy.queue.offline import NoRecorder
from qmailpy.records.record import LogRecord


class Bookless(NoRecorder):
    """In the place of L{qmailpy.stats.recorder.Recorder}."""

    lost = 0
    waiting = False

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Whatever the other is given."""

    def reopen(self) -> None:
        """There is no log."""

    def clear(self, keep_stored: bool) -> None:
        """There are no counters."""

    def close(self) -> None:
        """There is nothing to close."""


def _none(*what: Any) -> list[LogRecord]:
    return []


def main() -> None:
    """Never returns: twistd, or the child, ends the process."""
    from qmailpy.app import mta
    from qmailpy.queue import shard, state

    for module, name, other in (
        (mta, "Recorder", Bookless),
        (shard, "enqueued_lines", _none),
        (state, "_attempted_lines", _none),
    ):
        if not hasattr(module, name):
            raise SystemExit(f"{module.__name__}.{name} is not there any more")
        setattr(module, name, other)  # it is theirs, and not for others to replace
    if len(sys.argv) == 3 and sys.argv[2].isdigit():  # started below, as a child
        from qmailpy.app import child

        os._exit(child.main())

    from twisted.internet import reactor
    from twisted.scripts.twistd import run

    spawn: Any = reactor.spawnProcess

    def of_ours(protocol: Any, executable: str, args: list[str], *more: Any, **named: Any) -> Any:
        args = ["benchmarks.bookless" if word == "qmailpy.app.child" else word for word in args]
        return spawn(protocol, executable, args, *more, **named)

    setattr(reactor, "spawnProcess", of_ours)  # noqa: B010
    sys.argv = ["twistd", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
