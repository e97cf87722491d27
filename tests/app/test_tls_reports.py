"""
Tests for L{qmailpy.app.tls_reports}: what goes out when.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from typing import Any

import dkim
from attrs import evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.tls_reports import FIRST_S, LOOK_S, SPREAD_S, TlsReports
from qmailpy.auth.dkim import record, thd_make, thd_read_key
from qmailpy.config.schema import Config, ServerConfig, TlsrptConfig
from qmailpy.errors import Temporary
from qmailpy.remote.https import HttpsAnswer, HttpsFailed
from qmailpy.remote.tls_results import DAY_S, ResultFiles, TlsResults
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.testing.memory_queue import MemoryQueue
from qmailpy.testing.scripted_router import ScriptedRouter, remote
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.values import Notify, Reply
from qmailpy.wire.tlsa import Mismatch
from qmailpy.wire.tlsrpt import NOTHING, Failed

PLACE = "/queue/tls-results"
MIDNIGHT = 20001.0 * DAY_S


class Posted:
    """A web server."""

    def __init__(self) -> None:
        self.status = 200
        self.down = False
        self.taken: list[tuple[str, str, bytes]] = []

    async def post(self, url: str, media_type: str, body: bytes, timeout_s: float) -> HttpsAnswer:
        if self.down:
            raise HttpsFailed(Mismatch("", "down"))
        self.taken.append((url, media_type, body))
        return HttpsAnswer(self.status, "", b"")


class Latest:
    """As late as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class ReportsTests(SynchronousTestCase):
    """Yesterday there was one good and one bad session with each of three domains."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = MIDNIGHT - 10
        self.disk = CrashDisk(directories=["/queue"])
        results = TlsResults(self.disk, PLACE, "mta0.1.1", self.clock.seconds)
        for domain in ("mail.example", "web.example", "silent.example"):
            results.note(domain, NOTHING, None)
            results.note(domain, NOTHING, Failed("starttls-not-supported", "mx.example"))
        results.thd_write(results.pending())
        self.dns = TablesResolver(
            texts={
                "_smtp._tls.mail.example": ["v=TLSRPTv1; rua=mailto:Tls@Mail.example"],
                "_smtp._tls.web.example": ["v=TLSRPTv1; rua=https://web.example/in"],
            }
        )
        self.web = Posted()
        self.queue = MemoryQueue()
        self.router = ScriptedRouter(later={"Tls@mail.example": remote("Tls@mail.example")})
        self.config = Config(
            home="/home",
            server=ServerConfig(hostname="us.example"),
            tlsrpt=TlsrptConfig(send=True, contact="tls@us.example"),
        )
        self.reports = self.service()

    def service(self) -> TlsReports:
        def in_thread(work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            return maybeDeferred(work, *arguments)

        web: Any = self.web
        reports = TlsReports(
            self.clock,
            self.config,
            ResultFiles(self.disk, PLACE),
            self.dns,
            web,
            self.queue,
            self.router,
            in_thread,
            Latest(),
        )
        reports.startService()
        self.addCleanup(reports.stopService)
        return reports

    def until(self, moment: float) -> None:
        while self.clock.seconds() < moment:
            self.clock.advance(min(LOOK_S, moment - self.clock.seconds()))

    def days(self) -> list[int]:
        return ResultFiles(self.disk, PLACE).thd_days()

    def test_yesterdays_reports_go_out_once(self) -> None:
        """To those that ask; some time after midnight, spread from node to node."""
        self.until(MIDNIGHT + SPREAD_S - LOOK_S)
        self.assertEqual((self.queue.messages, self.web.taken, self.days()), ([], [], [20000]))
        self.until(MIDNIGHT + 2 * SPREAD_S)
        [mail] = self.queue.messages
        [(url, media_type, body)] = self.web.taken
        self.assertEqual((url, media_type), ("https://web.example/in", "application/tlsrpt+gzip"))
        told = json.loads(gzip.decompress(body))
        self.assertEqual(told["policies"][0]["policy"]["policy-domain"], "web.example")
        self.assertEqual(told["date-range"]["start-datetime"], "2024-10-04T00:00:00Z")
        self.assertIn(b"\r\nTo: <Tls@Mail.example>\r\n", mail.content)
        self.assertEqual(self.days(), [])
        self.assertGreater(SPREAD_S, FIRST_S)

    def test_nobody_is_told_what_becomes_of_one(self) -> None:
        """And it does not fail for want of TLS (RFC 8460 s.3)."""
        self.until(MIDNIGHT + 2 * SPREAD_S)
        envelope = self.queue.messages[0].envelope
        self.assertEqual((envelope.sender, envelope.tls_optional), ("tls@us.example", True))
        self.assertEqual([each.notify for each in envelope.recipients], [Notify.NEVER])

    def test_those_by_mail_are_signed_where_there_is_a_key(self) -> None:
        """RFC 8460 s.3; taken up at a reload. Without the key it goes unsigned, and that is told."""
        home = self.mktemp()
        os.makedirs(os.path.join(home, "etc"))
        options = evolve(self.config.tlsrpt, dkim_selector="t1")
        self.reports.config = evolve(self.config, home=home, tlsrpt=options)
        thd_make(os.path.join(home, "etc", "t1.dkim.pem"))
        self.until(MIDNIGHT + 2 * SPREAD_S)
        text = record(thd_read_key(os.path.join(home, "etc", "t1.dkim.pem")), service="tlsrpt").encode()
        content = self.queue.messages[0].content
        self.assertTrue(dkim.verify(content, dnsfunc=lambda name, timeout=5: text, tlsrpt="strict"))
        self.assertIn(b"d=us.example;", content)

    def test_without_its_key_one_goes_unsigned(self) -> None:
        self.reports.config = evolve(self.config, tlsrpt=evolve(self.config.tlsrpt, dkim_selector="t1"))
        with capturedLogs() as logs:
            self.until(MIDNIGHT + 2 * SPREAD_S)
        self.assertTrue(self.queue.messages[0].content.startswith(b"From: "))
        [told] = [log_event for log_event in logs if "not signed" in str(log_event.get("log_format"))]
        self.assertEqual(told["path"], "/home/etc/t1.dkim.pem")

    def test_today_is_not_over(self) -> None:
        """Not even late in the day."""
        self.until(MIDNIGHT + SPREAD_S)
        results = TlsResults(self.disk, PLACE, "mta0.2.2", self.clock.seconds)
        results.note("mail.example", NOTHING, None)
        results.thd_write(results.pending())
        self.until(MIDNIGHT + DAY_S - 1)
        self.assertEqual((len(self.queue.messages), self.days()), (1, [20001]))

    def test_what_could_not_be_sent_is_tried_again(self) -> None:
        """By itself: the others have theirs already. After two days it is over."""
        self.web.down = True
        self.queue.refuse_commit = Temporary(Reply(452, "4.3.1", "no space"))
        self.until(MIDNIGHT + 2 * SPREAD_S)
        self.assertEqual((self.queue.messages, self.days()), ([], [20000]))
        self.queue.refuse_commit = None
        self.until(MIDNIGHT + 3 * SPREAD_S)
        self.assertEqual((len(self.queue.messages), self.days()), (1, [20000]))
        self.web.down = False
        self.web.status = 503
        self.until(MIDNIGHT + 4 * SPREAD_S)
        self.assertEqual(self.days(), [20000])
        self.web.status = 403
        self.until(MIDNIGHT + 5 * SPREAD_S)
        self.assertEqual((len(self.queue.messages), self.days()), (1, []))

    def test_a_domain_that_cannot_be_asked_is_given_up_in_the_end(self) -> None:
        self.dns._broken.add("_smtp._tls.silent.example")
        self.until(MIDNIGHT + 2 * DAY_S - 1)
        self.assertEqual((len(self.queue.messages), self.days()), (1, [20000]))
        self.until(MIDNIGHT + 3 * DAY_S)
        self.assertEqual((len(self.queue.messages), self.days()), (1, []))

    def test_it_can_be_switched_on_and_off(self) -> None:
        """[tlsrpt] send, at a reload."""
        self.reports.config = evolve(self.config, tlsrpt=TlsrptConfig())
        self.until(MIDNIGHT + 2 * SPREAD_S)
        self.assertEqual((self.queue.messages, self.days()), ([], [20000]))
        self.reports.config = evolve(self.config, tlsrpt=TlsrptConfig(send=True))
        self.until(MIDNIGHT + 3 * SPREAD_S)
        self.assertEqual(self.queue.messages[0].envelope.sender, "postmaster@us.example")
