"""The delivery thread with the real reactor: batches, answers in the reactor, and an orderly end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThread
from twisted.python.threadable import isInIOThread
from twisted.trial.unittest import TestCase

from qmailpy.local.maildir import Delivery
from qmailpy.local.writer import BATCH, BATCH_OCTETS, ReactorThreads, ThreadWriter, Work
from qmailpy.values import Disposition, MemoryContent, Reply, Verdict

reactor = cast(IReactorFromThreads, global_reactor)


def job(number: int, content: bytes = b"") -> list[Delivery]:
    message = MemoryContent(content)
    return [Delivery(id="q", number=number, arrival=0.0, sender="", address="a@b", mailbox="m", content=message)]


def done(jobs: Sequence[Sequence[Delivery]]) -> list[list[Disposition]]:
    return [
        [Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "", str(one.number))) for one in deliveries]
        for deliveries in jobs
    ]


class CountingReactor:
    """The reactor's way in from threads, with a count of its uses."""

    def __init__(self) -> None:
        self.calls = 0

    def callFromThread(self, call: object, *args: object) -> None:
        self.calls += 1
        reactor.callFromThread(call, *args)  # type: ignore[arg-type]


class ThreadWriterTests(TestCase):
    def make(self, thd_work: Work) -> ThreadWriter:
        self.counting = CountingReactor()
        self.ended: list[str] = []

        def thd_end() -> None:
            self.ended.append(threading.current_thread().name)

        writer = ThreadWriter(cast(IReactorFromThreads, self.counting), thd_work, thd_end, "test delivery")
        self.addCleanup(writer.stop)
        return writer

    async def test_jobs_are_answered_in_the_reactor_each_with_its_own(self) -> None:
        seen: list[bool] = []

        def note(result: list[Disposition]) -> list[Disposition]:
            seen.append(isInIOThread())
            return result

        writer = self.make(done)
        answers = [writer.submit(job(number)).addCallback(note) for number in range(200)]
        results = await gatherResults(answers)
        self.assertEqual([result[0].reply.text for result in results], [str(number) for number in range(200)])
        self.assertEqual(set(seen), {True})

    async def test_large_messages_do_not_wait_for_many_others(self) -> None:
        begun, release = threading.Event(), threading.Event()
        batches: list[list[int]] = []

        def thd_work(jobs: Sequence[Sequence[Delivery]]) -> list[list[Disposition]]:
            begun.set()
            release.wait(10)
            batches.append([one.number for deliveries in jobs for one in deliveries])
            return done(jobs)

        writer = self.make(thd_work)
        answers = [writer.submit(job(100))]
        self.assertTrue(begun.wait(10))
        half, more = bytes(BATCH_OCTETS // 2), bytes(BATCH_OCTETS + 1)
        contents = (half, half, b"x", half, more, more, b"")
        answers += [writer.submit(job(number, content)) for number, content in enumerate(contents)]
        release.set()
        await gatherResults(answers)
        self.assertEqual(batches, [[100], [0, 1], [2, 3], [4], [5], [6]])

    async def test_what_waits_while_the_thread_is_busy_is_answered_in_one_call(self) -> None:
        release = threading.Event()

        def thd_work(jobs: Sequence[Sequence[Delivery]]) -> list[list[Disposition]]:
            release.wait(10)
            return done(jobs)

        writer = self.make(thd_work)
        answers = [writer.submit(job(number)) for number in range(BATCH * 2)]
        release.set()
        await gatherResults(answers)
        self.assertLessEqual(self.counting.calls, 3)

    async def test_work_that_blows_up_fails_for_its_jobs_and_the_thread_goes_on(self) -> None:
        def thd_work(jobs: Sequence[Sequence[Delivery]]) -> list[list[Disposition]]:
            if any(one.number == 1 for job in jobs for one in job):
                raise ZeroDivisionError
            return done(jobs)

        writer = self.make(thd_work)
        await writer.submit(job(0))
        await self.assertFailure(writer.submit(job(1)), ZeroDivisionError)
        await writer.submit(job(2))

    async def test_stop_waits_for_what_was_submitted_and_ends_the_thread(self) -> None:
        writer = self.make(done)
        answers = [writer.submit(job(number)) for number in range(100)]
        fired: list[object] = []
        for answer in answers:
            answer.addCallback(fired.append)
        await writer.stop()
        self.assertEqual(len(fired), 100)
        self.assertEqual(self.ended, ["test delivery"])
        self.assertRaises(RuntimeError, writer.submit, job(1))

    async def test_a_writer_that_never_worked_stops_at_once(self) -> None:
        await self.make(done).stop()

    def test_a_thread_can_ask_the_reactor_and_wait(self) -> Deferred[None]:
        threads = ReactorThreads(reactor)

        async def ask() -> bool:
            waited: Deferred[None] = Deferred()
            reactor.callFromThread(waited.callback, None)
            await waited
            return bool(isInIOThread())

        asked: Deferred[bool] = deferToThread(lambda: threads.thd_wait(ask))
        return asked.addCallback(self.assertTrue)
