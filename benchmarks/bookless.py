"""
Runs C{twistd} with a recorder that does nothing, for L{benchmarks.recording}: C{python -m benchmarks.bookless ...}.

Its children do so, too. Records are still made, for those who make them do not know; they are neither formatted,
written nor counted.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from qmailpy.queue.offline import NoRecorder


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


def main() -> None:
    """Never returns: twistd, or the child, ends the process."""
    from qmailpy.app import mta

    setattr(mta, "Recorder", Bookless)  # noqa: B010 - it is theirs, and not for others to replace
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
