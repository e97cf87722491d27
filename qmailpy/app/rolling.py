"""The daily rollover of the transaction log, and the one on demand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from qmailpy.config.schema import Config
from qmailpy.control.client import Json, call_all
from qmailpy.disk.files import Files
from qmailpy.errors import CommandError
from qmailpy.interfaces import InThread
from qmailpy.records.logfile import CURRENT, roll


def seconds_until(clock: str, now: float) -> float:
    """
    How long until it is next that time of day here.

    @param clock: C{HH:MM}, local time.
    @param now: seconds since the epoch.
    @return: more than 0.
    """
    hour, _, minute = clock.partition(":")
    here = time.localtime(now)
    for day in (0, 1, 2):  # mktime knows about days of 23 and 25 hours
        then = time.mktime((here.tm_year, here.tm_mon, here.tm_mday + day, int(hour), int(minute), 0, 0, 0, -1))
        if then > now:
            return then - now
    return 86400.0


class Rolling(Service):
    """Rolls for the whole node; the first mail worker has it."""

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, config: Config, files: Files, reopen: Callable[[], None], in_thread: InThread
    ) -> None:
        """@param reopen: has this process's recorders open the log again."""
        self._reactor = reactor
        self._config = config
        self._files = files
        self._reopen = reopen
        self._in_thread = in_thread
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        if self._config.log.roll:
            self._in_thread(self._thd_missed).addCallbacks(
                lambda missed: self._roll() if missed else None,
                lambda failure: self._log.error("log rollover: {why}", why=failure.value),
            )
        self._arm()

    def reconfigure(self, config: Config) -> None:
        """Take another time of day."""
        before, self._config = self._config, config
        if self.running and before.log.roll != config.log.roll:
            self._disarm()
            self._arm()

    def clock_set(self) -> None:
        """The clock of the machine was set: the time of day comes sooner or later."""
        if self.running:
            self._disarm()
            self._arm()

    def _thd_missed(self) -> bool:
        """Whether the log was last written before the latest time of day at which it should have been rolled."""
        now = time.time()
        latest = now + seconds_until(self._config.log.roll, now) - 86400
        try:
            found = os.stat(self._config.path("log", CURRENT))
        except FileNotFoundError:
            return False
        return found.st_size > 0 and found.st_mtime < latest

    def stopService(self) -> None:
        super().stopService()
        self._disarm()

    def _disarm(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _arm(self) -> None:
        if self._config.log.roll:
            self._call = self._reactor.callLater(seconds_until(self._config.log.roll, time.time()), self._ring)

    def _ring(self) -> None:
        self._roll()
        self._arm()

    def _roll(self) -> None:
        self._in_thread(self._thd_roll).addCallbacks(
            lambda _: self._rolled(), lambda failure: self._log.error("log rollover: {why}", why=failure.value)
        )

    def _thd_roll(self) -> None:
        with suppress(BlockingIOError):  # somebody else is rolling
            roll(self._files, self._config.path("log"))

    def _rolled(self) -> None:
        self._reopen()
        if self._config.server.workers > 1:
            self._in_thread(self._thd_tell).addErrback(
                lambda failure: self._log.error("log rollover: {why}", why=failure.value)
            )

    def _thd_tell(self) -> Any:
        try:
            return call_all(self._config.home, "mta", "log.reopen")
        except CommandError as problem:
            self._log.error("log rollover: {why}", why=str(problem))

    async def roll(self) -> Json:
        """The control method: now."""
        await self._in_thread(self._thd_roll)
        self._rolled()
        return None
