"""What is done every so often, and does not end with the first failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.drops import LOOK_S, Drops
from qmailpy.app.expiry import CertificateWatch
from qmailpy.app.tls_reports import LOOK_S as REPORTS_S
from qmailpy.app.tls_reports import TlsReports
from qmailpy.config.schema import Config, ServerConfig, TlsrptConfig
from qmailpy.rounds import Rounds
from qmailpy.testing.memory_events import MemoryEvents

CONFIG = Config(home="/nowhere", server=ServerConfig(hostname="mx.example"), tlsrpt=TlsrptConfig(send=True))


class RoundsTests(SynchronousTestCase):
    """L{Rounds}, and who goes by them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.calls = 0

    def failing(self, *problems: BaseException) -> Callable[..., Any]:
        """What fails so, call by call, and then gives nothing."""
        left = list(problems)

        def do(*_: object) -> Any:
            self.calls += 1
            return fail(left.pop(0)) if left else succeed([])

        return do

    def test_one_that_fails_is_told_of_and_the_next_one_comes(self) -> None:
        disk = OSError(5, "Input/output error")
        rounds = Rounds(self.clock, "the round", self.failing(disk, disk, ValueError("bug"), disk, disk))
        with capturedLogs() as logs:
            rounds.start(10)
            self.clock.pump([10, 10, 10])
            self.clock.pump([10, 10, 10])
        self.assertEqual(self.calls, 7)
        self.assertEqual([one["log_level"].name for one in logs], ["error", "critical", "error"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        rounds.stop()
        rounds.stop()
        self.clock.advance(100)
        self.assertEqual((self.calls, self.clock.getDelayedCalls()), (7, []))

    def test_none_begins_while_one_is_under_way(self) -> None:
        waiting: Deferred[None] = Deferred()
        begun: list[int] = []

        def do() -> Awaitable[None]:
            begun.append(1)
            return waiting

        rounds = Rounds(self.clock, "the round", do)
        rounds.start(10, now=False)
        self.assertEqual(begun, [])
        self.clock.pump([10, 10, 10])
        self.assertEqual(begun, [1])
        waiting.callback(None)
        self.clock.advance(10)
        self.assertEqual(begun, [1, 1])
        rounds.stop()

    def test_mail_that_was_dropped_is_looked_for_after_a_disk_error_too(self) -> None:
        """It waited for the next start."""
        nothing: Any = None
        in_thread = self.failing(OSError(2, "No such file or directory"), OSError(28, "No space left on device"))
        drops = Drops(cast(Any, self.clock), CONFIG, nothing, nothing, nothing, in_thread)
        drops.startService()
        self.clock.pump([LOOK_S] * 3)
        self.assertEqual(self.calls, 4)
        drops.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reports_on_tls_go_out_the_next_day_whatever_happens_today(self) -> None:
        nothing: Any = None
        in_thread = self.failing(KeyError("bug"), OSError(5, "Input/output error"))
        files: Any = MemoryEvents()
        files.thd_days = nothing
        reports = TlsReports(cast(Any, self.clock), CONFIG, files, nothing, nothing, nothing, nothing, in_thread)
        reports.startService()
        self.clock.pump([REPORTS_S] * 4)
        self.assertEqual(self.calls, 4)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        reports.stopService()

    def test_certificates_are_looked_at_the_next_day_whatever_happens_today(self) -> None:
        nothing: Any = None
        look = self.failing(OSError(5, "Input/output error"))
        watch = CertificateWatch(
            cast(Any, self.clock), MemoryEvents(), nothing, nothing, lambda _: look().addCallback(dict)
        )
        watch.startService()
        self.clock.pump([86400.0] * 2)
        self.assertEqual(self.calls, 3)
        watch.stopService()
