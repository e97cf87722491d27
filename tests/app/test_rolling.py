"""When the transaction log is rolled."""

from __future__ import annotations

import os
import time
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.rolling import Rolling, seconds_until
from qmailpy.config.schema import Config, LogConfig, ServerConfig
from qmailpy.disk.files import RealFiles


def at_once(function: Any, *arguments: Any) -> Deferred[Any]:
    """A thread that has finished."""
    return succeed(function(*arguments))


class RollingTests(SynchronousTestCase):
    """Daily, on demand, and late when the daemon was down."""

    def setUp(self) -> None:
        home = os.path.abspath(self.mktemp())
        os.makedirs(f"{home}/log")
        self.config = Config(home=home, server=ServerConfig(hostname="h.example"), log=LogConfig(roll="00:00"))
        self.reopened = 0
        self.clock = Clock()

    def rolling(self, config: Config | None = None) -> Rolling:
        def reopen() -> None:
            self.reopened += 1

        made = Rolling(self.clock, config or self.config, RealFiles(), reopen, at_once)
        self.addCleanup(made.stopService)
        return made

    def write(self, age_s: float) -> None:
        path = self.config.path("log", "mail.log_current")
        with open(path, "w") as target:
            target.write("a line\n")
        then = time.time() - age_s
        os.utime(path, (then, then))

    def test_the_next_time_is_always_ahead(self) -> None:
        """At most a day, also on days of 23 and 25 hours."""
        now = time.time()
        for hour in range(24):
            wait = seconds_until(f"{hour:02d}:30", now)
            self.assertTrue(0 < wait <= 90000, wait)
            self.assertEqual(time.localtime(now + wait)[3:5], (hour, 30))

    def test_another_time_of_day_holds_from_now_on(self) -> None:
        """On a reload; none at all stops it."""
        self.write(0)
        rolling = self.rolling()
        rolling.startService()
        now = time.localtime(time.time() + 7200)
        rolling.reconfigure(evolve(self.config, log=LogConfig(roll=f"{now.tm_hour:02d}:{now.tm_min:02d}")))
        (call,) = self.clock.getDelayedCalls()
        self.assertTrue(7000 < call.getTime() <= 7200, call.getTime())
        rolling.reconfigure(evolve(self.config, log=LogConfig(roll="")))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_rolls_when_the_time_comes(self) -> None:
        """And again a day later."""
        self.write(0)
        self.rolling().startService()
        self.clock.advance(seconds_until("00:00", time.time()) + 1)
        self.assertEqual(self.reopened, 1)
        self.assertTrue(os.path.exists(self.config.path("log", "mail.log_yesterday")))

    def test_a_roll_that_was_missed_is_made_up_for(self) -> None:
        """The daemon was down at midnight."""
        self.write(90000)
        self.rolling().startService()
        self.assertEqual(self.reopened, 1)

    def test_a_log_of_today_is_left_alone(self) -> None:
        """A restart is no reason to roll."""
        self.write(0)
        self.rolling().startService()
        self.assertEqual(self.reopened, 0)

    def test_only_on_demand(self) -> None:
        """roll = "": never by itself."""
        self.write(90000)
        made = self.rolling(evolve(self.config, log=LogConfig(roll="")))
        made.startService()
        self.clock.advance(100000)
        self.assertEqual(self.reopened, 0)
        self.successResultOf(Deferred.fromCoroutine(made.roll()))
        self.assertEqual(self.reopened, 1)
