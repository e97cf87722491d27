"""
Waiting for the transaction log to tell what it must: woken by the kernel whenever the log grows.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, INotify
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from qmailpy.app.demo_mail import Ledger
from qmailpy.config.schema import Config
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError
from qmailpy.records.fields import Unreadable
from qmailpy.records.follow import Follower
from qmailpy.records.text import LineFormat


class LogWatch:
    """
    Follows HOME/log from now on.

    @ivar lines: how many there have been.
    """

    def __init__(self, reactor: Any, config: Config) -> None:
        self._reactor = reactor
        self._folder = config.path("log")
        os.makedirs(self._folder, exist_ok=True)
        self._format = LineFormat(config.log, config.server.hostname)
        self._follower = Follower(RealFiles(), self._folder)
        with contextlib.suppress(FileNotFoundError):  # no mail yet; the follower finds the file when it is made
            self._follower.thd_last(0)  # brief: nothing is read
        self._ledger: Ledger | None = None
        self._done: Deferred[None] | None = None
        self._reading = False
        self._again = False
        self.lines = 0
        self._notifier = INotify(reactor)
        self._notifier.startReading()
        self._notifier.watch(
            FilePath(self._folder), mask=IN_CREATE | IN_MODIFY | IN_MOVED_TO, callbacks=[lambda *_: self._look()]
        )

    def until(self, ledger: Ledger, limit_s: float) -> Deferred[None]:
        """
        Fires when nothing is missing from C{ledger}.

        @raise CommandError: in the Deferred; something is missing after so many seconds.
        """
        self._ledger = ledger
        done = self._done = Deferred(lambda _: limit.active() and limit.cancel())

        def late() -> None:
            if not done.called:
                done.errback(Failure(CommandError(f"after {limit_s:g} s the transaction log has {ledger}")))

        limit = self._reactor.callLater(limit_s, late)
        done.addBoth(lambda result: (limit.cancel() if limit.active() else None, result)[1])
        self._look()
        return done

    def _look(self) -> None:
        """Read what there is to read, once at a time."""
        if self._reading:
            self._again = True
            return
        self._reading = True
        self._again = False
        read = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._follower.thd_more)
        read.addCallback(self._take)
        read.addErrback(self._failed)

    def _take(self, lines: list[bytes]) -> None:
        self._reading = False
        self.lines += len(lines)
        if self._ledger is not None:
            for line in lines:
                try:
                    self._ledger.add(self._format.record(line))
                except Unreadable:
                    continue  # an older line, with other options
            if not self._ledger.missing and self._done is not None and not self._done.called:
                self._done.callback(None)
        if self._again:
            self._look()

    def _failed(self, failure: Failure) -> None:
        self._reading = False
        if self._done is not None and not self._done.called:
            self._done.errback(failure)

    def stop(self) -> None:
        """Let go of everything."""
        self._notifier.loseConnection()
        self._follower.close()
