"""
Who logged in lately: the directory is told of a mailbox's login once an hour, behind the login's back.

A login never waits for it and never fails of it: a note that is lost is made up for in an hour. So many notes are under
way at once, and so many mailboxes are remembered, at most; what is more is left out.
"""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from qmailpy.interfaces import IDirectory

EVERY_S = 3600.0
_MOST = 100000
_MOST_AT_ONCE = 16


class Lately:
    """One for all servers of a process."""

    log = Logger()

    def __init__(self, clock: IReactorTime, directory: IDirectory) -> None:
        self._now = clock.seconds
        self._directory = directory
        self._noted: OrderedDict[str, float] = OrderedDict()
        self._under_way = 0
        self._failing = False

    def seen(self, address: str, service: str, ip: str) -> None:
        """
        A mailbox was opened. Returns at once.

        @param address: the mailbox's own.
        @param service: "pop3", "submission"...
        @param ip: the client's IP address, "" when it has none.
        """
        now = self._now()
        if now < self._noted.get(address, float("-inf")) + EVERY_S or self._under_way >= _MOST_AT_ONCE:
            return
        self._noted.pop(address, None)
        self._noted[address] = now
        while len(self._noted) > _MOST:
            self._noted.popitem(last=False)
        self._under_way += 1
        telling = Deferred.fromCoroutine(self._directory.logged_in(address, service, ip))
        telling.addErrback(self._failed).addBoth(self._ended)

    def _failed(self, problem: Failure) -> None:
        if not self._failing:
            self._failing = True
            self.log.info("last logins cannot be noted: {why}", why=str(problem.value)[:200])

    def _ended(self, _: object) -> None:
        self._under_way -= 1
