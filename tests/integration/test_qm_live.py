"""The queue manager's view of a running worker, over a real control socket."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from qmailpy.cli.livequeue import open_view
from qmailpy.control import Json
from qmailpy.errors import CommandError
from qmailpy.queue.entries import DONE, QueueFilter, Target
from qmailpy.servers.control import ControlServer, Registry
from tests.cli.fakequeue import CONTENT, IDS, FakeQueue, FakeWorker, entry

METHODS = ["list", "read", "history", "hold", "release", "delete", "return", "summary", "stop_channel", "start_channel"]


class LiveQueueTests(TestCase):
    """A worker with a queue in memory; the blocking client in a thread."""

    def setUp(self) -> None:
        self.home = tempfile.mkdtemp(prefix="qm")
        self.addCleanup(shutil.rmtree, self.home)
        os.makedirs(os.path.join(self.home, "run"))
        self.queue = FakeQueue([entry(number) for number in range(1, 9)])
        worker = FakeWorker(self.queue)
        registry = Registry()
        for verb in METHODS:
            registry.add(f"queue.{verb}", _method(worker, f"queue.{verb}"))
        server = ControlServer(reactor, self.home, "mta-0", registry)
        server.startService()
        self.addCleanup(server.stopService)

    async def test_worker_is_found_and_asked(self) -> None:
        """List, read, delete: what the commands are made of."""

        def ask() -> tuple[list[str], bytes, str]:
            view = open_view(self.home)
            listed = [one.id for one in view.entries(QueueFilter())]
            message = view.read(IDS[0])
            assert message is not None
            content = b"".join(message.content)
            (result,) = view.delete([Target(IDS[0])])
            return listed, content, result.outcome

        listed, content, outcome = await deferToThread(ask)
        self.assertEqual((listed, content, outcome), (list(IDS[:8]), CONTENT, DONE))
        self.assertEqual(len(self.queue.list), 7)

    async def test_workers_refusal_is_a_command_error(self) -> None:
        """With the worker's words."""
        with self.assertRaises(CommandError) as caught:
            await deferToThread(lambda: open_view(self.home).stop("nowhere"))
        self.assertIn("nowhere", str(caught.exception))


def _method(worker: FakeWorker, name: str) -> Callable[..., Awaitable[Json]]:
    async def answer(**arguments: Any) -> Json:
        return worker.answer(name, arguments)

    return answer
