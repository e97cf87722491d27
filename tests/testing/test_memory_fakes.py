"""The fakes keep the contracts of what they stand for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from qmailpy.errors import Temporary
from qmailpy.interfaces import IRecorder, IRouter
from qmailpy.records.record import Action, LogRecord
from qmailpy.testing.memory_queue import MemoryQueue
from qmailpy.testing.memory_recorder import MemoryRecorder
from qmailpy.testing.scripted_router import ScriptedRouter, local, unknown_user
from qmailpy.values import Reply
from tests.testing.enqueue_contract import EnqueueContract


class MemoryQueueTests(EnqueueContract, SynchronousTestCase):
    """L{MemoryQueue}."""

    def setUp(self) -> None:
        self.queue = MemoryQueue()
        self.enqueue = self.queue

    def contents(self) -> dict[str, bytes]:
        return {message.id: message.content for message in self.queue.messages}

    def test_it_fails_and_waits_as_told(self) -> None:
        trouble = Temporary(Reply(452, "4.3.1", "No space"))
        self.queue.held = True
        waiting = self.queue.begin(self.queue.new_id()).commit(self.ENVELOPE)
        failing = self.queue.begin(self.queue.new_id()).commit(self.ENVELOPE)
        self.assertNoResult(waiting)
        self.queue.release()
        self.queue.release(trouble)
        self.successResultOf(waiting)
        self.failureResultOf(failing, Temporary)
        self.queue.refuse_commit = trouble
        self.failureResultOf(self.queue.begin(self.queue.new_id()).commit(self.ENVELOPE), Temporary)
        self.queue.refuse_begin = trouble
        self.assertRaises(Temporary, self.queue.begin, self.queue.new_id())
        self.assertEqual(len(self.contents()), 1)

    def test_an_intake_ends_once(self) -> None:
        intake = self.queue.begin(self.queue.new_id())
        intake.commit(self.ENVELOPE)
        self.assertRaises(RuntimeError, intake.commit, self.ENVELOPE)
        self.assertRaises(RuntimeError, intake.write, b"x")
        self.assertRaises(RuntimeError, intake.abort)


class ScriptedRouterTests(SynchronousTestCase):
    """L{ScriptedRouter}."""

    def test_it_answers_from_its_tables_or_when_told(self) -> None:
        router = ScriptedRouter(now={"a@x": local("a@x")}, later={"b@x": unknown_user()})
        verifyObject(IRouter, router)
        self.assertEqual(router.route_now("a@x", "tcp_local"), local("a@x"))
        self.assertIsNone(router.route_now("b@x", "tcp_local"))
        self.assertEqual(self.successResultOf(router.route("a@x", "s")), local("a@x"))
        self.assertEqual(self.successResultOf(router.route("b@x", "s")), unknown_user())
        self.assertEqual(router.asked, [("a@x", "tcp_local"), ("b@x", "tcp_local")])


class MemoryRecorderTests(SynchronousTestCase):
    """L{MemoryRecorder}."""

    def test_it_numbers_and_keeps_records(self) -> None:
        recorder = MemoryRecorder(lane="3")
        verifyObject(IRecorder, recorder)
        record = LogRecord(action=Action.OPENED, time=1.0, source="tcp_local")
        recorder.write([record, record])
        here = recorder.checkpoint()
        recorder.write([record])
        recorder.flush()
        recorder.thd_sync()
        self.assertEqual([(each.lane, each.sequence) for each in recorder.records], [("3", 1), ("3", 2), ("3", 3)])
        self.assertEqual((here.sequence, recorder.synced, recorder.actions()), (2, 3, "OOO"))
        self.assertEqual([each.sequence for each in recorder.thd_recover(here)], [3])
        self.assertEqual(len(recorder.thd_recover(None)), 3)
