"""
Tests for L{qmailpy.remote.sts} and L{qmailpy.remote.sts_file}: what holds when, by RFC 8461 s.3.3 and s.5.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.disk.files import RealFiles
from qmailpy.remote.https import HttpsAnswer, HttpsFailed
from qmailpy.remote.protection import StsFound
from qmailpy.remote.sts import FAILURE_S, StsPolicies
from qmailpy.remote.sts_file import DAY_S, Known, StsFile, merge
from qmailpy.testing.crashdisk import CrashDisk, PowerCut, Survivors
from qmailpy.testing.tables_resolver import TablesResolver
from qmailpy.wire.sts import Mode, parse_policy
from qmailpy.wire.tlsa import Mismatch

WEEK = 7 * DAY_S
TXT = "_mta-sts.d.example"
START = 1_700_000_000.0


def text(mode: str = "enforce", mx: str = "mx.d.example", max_age: int = WEEK) -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age}\n".encode()


class Web:
    """A web server: answers with what it has, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: HttpsAnswer | HttpsFailed | Deferred[HttpsAnswer] = HttpsAnswer(200, "text/plain", text())
        self.asked: list[str] = []

    async def __call__(self, url: str, timeout_s: float) -> HttpsAnswer:
        self.asked.append(url)
        if isinstance(self.answer, HttpsFailed):
            raise self.answer
        return await self.answer if isinstance(self.answer, Deferred) else self.answer


class PoliciesTests(SynchronousTestCase):
    """One domain, and time that passes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = START
        self.web = Web()
        self.dns = TablesResolver(texts={TXT: ["v=STSv1; id=1"]})
        self.policies = self.process()

    def process(self, file: StsFile | None = None) -> StsPolicies:
        async def in_thread(work: Callable[[], Any]) -> Any:
            return work()

        policies = StsPolicies(self.dns, self.web, self.clock.seconds, in_thread, file)
        policies.thd_load()
        return policies

    def find(self, policies: StsPolicies | None = None) -> StsFound:
        return self.successResultOf(Deferred.fromCoroutine((policies or self.policies).find("d.example")))

    def mode(self) -> Mode | None:
        found = self.find().policy
        return None if found is None else found.mode

    def cannot(self, kind: str = "sts-policy-fetch-error") -> None:
        self.web.answer = HttpsFailed(Mismatch(kind, "down"))

    def test_a_policy_is_fetched_once_and_kept(self) -> None:
        for _ in range(3):
            self.assertEqual(self.mode(), Mode.ENFORCE)
        self.assertEqual(self.web.asked, ["https://mta-sts.d.example/.well-known/mta-sts.txt"])

    def test_without_a_record_nobody_asks_the_web(self) -> None:
        self.dns.texts.clear()
        self.assertIsNone(self.mode())
        self.assertEqual(self.web.asked, [])

    def test_who_asks_meanwhile_waits_for_the_same_answer(self) -> None:
        late: Deferred[HttpsAnswer] = Deferred()
        self.web.answer = late
        both = [Deferred.fromCoroutine(self.policies.find("d.example")) for _ in range(2)]
        late.callback(HttpsAnswer(200, "text/plain", text()))
        for each in both:
            found = self.successResultOf(each)
            self.assertEqual(found.policy and found.policy.mode, Mode.ENFORCE)
        self.assertEqual(len(self.web.asked), 1)

    def test_another_id_means_another_policy(self) -> None:
        self.mode()
        self.web.answer = HttpsAnswer(200, "text/plain", text("none"))
        self.assertEqual(self.mode(), Mode.ENFORCE)
        self.dns.texts[TXT] = ["v=STSv1; id=2"]
        self.assertEqual(self.mode(), Mode.NONE)

    def test_a_known_policy_holds_whatever_happens(self) -> None:
        """No record any more, no answer of the DNS, a web server that is down, one that talks nonsense."""
        self.mode()
        self.cannot()
        for texts in ([], ["v=STSv1; id=2"], ["v=STSv1; id=3", "v=STSv1; id=4"]):
            self.dns.texts[TXT] = texts
            self.assertEqual(self.mode(), Mode.ENFORCE)
        self.web.answer = HttpsAnswer(200, "text/plain", b"hello")
        self.dns.texts[TXT] = ["v=STSv1; id=5"]
        found = self.find()
        self.assertEqual(
            (found.policy and found.policy.mode, found.failure and found.failure.kind),
            (Mode.ENFORCE, "sts-policy-invalid"),
        )
        broken = self.process()
        self.dns._broken.add(TXT)
        self.assertEqual(self.mode(), Mode.ENFORCE)
        self.assertIsNone(self.find(broken).policy)

    def test_it_holds_for_its_time(self) -> None:
        self.mode()
        self.dns.texts.clear()
        self.clock.advance(WEEK - 1)
        self.assertEqual(self.mode(), Mode.ENFORCE)
        self.clock.advance(1)
        self.assertIsNone(self.mode())

    def test_one_that_has_run_out_is_fetched_again(self) -> None:
        self.mode()
        self.clock.advance(WEEK)
        self.assertEqual(self.mode(), Mode.ENFORCE)
        self.assertEqual(len(self.web.asked), 2)

    def test_a_failure_is_remembered_for_a_while(self) -> None:
        """And told; another id is another matter."""
        self.cannot("sts-webpki-invalid")
        for _ in range(3):
            self.assertEqual(self.find(), StsFound(None, Mismatch("sts-webpki-invalid", "down")))
        self.assertEqual(len(self.web.asked), 1)
        self.dns.texts[TXT] = ["v=STSv1; id=2"]
        self.find()
        self.assertEqual(len(self.web.asked), 2)
        self.clock.advance(FAILURE_S)
        self.web.answer = HttpsAnswer(200, "text/plain", text())
        self.assertEqual(self.mode(), Mode.ENFORCE)

    def test_answers_that_are_no_policy(self) -> None:
        """RFC 8461 s.3.3: 200 and text/plain, nothing else; and no redirect."""
        for number, (answer, kind) in enumerate(
            (
                (HttpsAnswer(301, "text/plain", text()), "sts-policy-fetch-error"),
                (HttpsAnswer(404, "text/plain", text()), "sts-policy-fetch-error"),
                (HttpsAnswer(206, "text/plain", text()), "sts-policy-fetch-error"),
                (HttpsAnswer(200, "text/html", text()), "sts-policy-fetch-error"),
                (HttpsAnswer(200, "", text()), "sts-policy-fetch-error"),
                (HttpsAnswer(200, "text/plain", b""), "sts-policy-invalid"),
            ),
            10,
        ):
            self.web.answer = answer
            self.dns.texts[TXT] = [f"v=STSv1; id={number}"]
            found = self.find()
            self.assertEqual((found.policy, found.failure and found.failure.kind), (None, kind))

    def refresh(self, policies: StsPolicies | None = None) -> None:
        self.successResultOf(Deferred.fromCoroutine((policies or self.policies).refresh()))

    def test_policies_in_use_are_had_anew_before_they_run_out(self) -> None:
        """Once a day; those that nobody uses are not."""
        self.mode()
        self.refresh()
        self.assertEqual(len(self.web.asked), 1)
        for day in range(2, 17):
            self.clock.advance(DAY_S)
            self.refresh()
            self.refresh()
            self.assertEqual(len(self.web.asked), min(day, 15))
        self.clock.advance(DAY_S)
        self.refresh()
        self.assertEqual(len(self.web.asked), 15)

    def test_a_refresh_that_fails_leaves_what_there_is(self) -> None:
        self.mode()
        self.cannot()
        self.clock.advance(DAY_S)
        self.refresh()
        self.assertEqual((self.mode(), len(self.web.asked)), (Mode.ENFORCE, 2))

    def test_processes_share_what_they_know(self) -> None:
        """And keep it over a restart, when the record is gone."""
        place = self.mktemp()
        os.mkdir(place)
        one, other = (self.process(StsFile(RealFiles(), f"{place}/tls-policies")) for _ in range(2))
        for each in (one, other):
            found = self.find(each).policy
            self.assertEqual(found and found.mode, Mode.ENFORCE)
        self.assertEqual(len(self.web.asked), 1)
        self.clock.advance(DAY_S)
        self.refresh(one)
        self.successResultOf(Deferred.fromCoroutine(other.sync()))
        self.dns.texts.clear()
        self.clock.advance(WEEK - 1)
        later = self.process(StsFile(RealFiles(), f"{place}/tls-policies"))
        for each in (one, other, later):
            self.assertIsNotNone(self.find(each).policy)


def known(name: str, fetched: float = START, used: int = 0) -> Known:
    return Known(id=name, policy=parse_policy(text()), fetched=fetched, used=used)


class FileTests(SynchronousTestCase):
    """The file."""

    def test_the_later_one_counts(self) -> None:
        old, new = known("old", START, 9), known("new", START + 1, 3)
        for found in (merge({"d": old}, {"d": new}, START), merge({"d": new}, {"d": old}, START)):
            self.assertEqual((found["d"].id, found["d"].used), ("new", 9))
        self.assertEqual(merge({"d": old}, {}, START + WEEK), {})
        self.assertEqual(merge({"d": known("x", START + 9 * DAY_S)}, {}, START), {})

    def test_the_power_may_fail_at_any_time(self) -> None:
        """The old content, or the new."""
        for die_at in count():
            disk = CrashDisk(directories=["/queue"])
            file = StsFile(disk, "/queue/tls-policies")
            file.thd_merge({"a": known("a")}, START)
            disk.die_at = len(disk.operations) + die_at
            try:
                file.thd_merge({"b": known("b")}, START)
            except PowerCut:
                rest: Survivors
                for rest in ("none", "all", Random(die_at)):
                    after = StsFile(disk.reboot(rest), "/queue/tls-policies").thd_read()
                    self.assertIn(set(after), ({"a"}, {"a", "b"}))
                continue
            break
        self.assertEqual(set(file.thd_read()), {"a", "b"})

    def test_a_file_that_cannot_be_read_is_an_empty_one(self) -> None:
        place = self.mktemp()
        os.mkdir(place)
        file = StsFile(RealFiles(), f"{place}/x")
        for octets in (b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "policies": {"d": {}}}', b"\xff" * 9):
            with open(f"{place}/x", "wb") as target:
                target.write(octets)
            self.assertEqual(file.thd_read(), {})
        file.thd_merge({"d": known("d")}, START)
        self.assertEqual(file.thd_read(), {"d": known("d")})

    def test_a_lock_that_is_kept_is_an_error(self) -> None:
        place = self.mktemp()
        os.mkdir(place)
        files = RealFiles()
        handle = files.lock(f"{place}/x.lock")
        self.addCleanup(files.close, handle)
        self.assertRaises(OSError, StsFile(files, f"{place}/x", lambda seconds: None).thd_merge, {}, START)
