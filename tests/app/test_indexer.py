"""The process that keeps the index: who has it, and what it does."""

from __future__ import annotations

import os
import time
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.index_child import PACK_S, Ended, Indexing, Input
from qmailpy.app.index_orders import Orders
from qmailpy.app.indexer import AGAIN_S, FIRST_S, KILL_S, Indexer
from qmailpy.config.schema import Config, LogConfig, ServerConfig
from qmailpy.disk.files import RealFiles, Space
from qmailpy.records.index import LogIndex
from tests.records.stories import MAIL, bounced


class _Transport:
    def __init__(self) -> None:
        self.pid = 77
        self.written: list[bytes] = []
        self.signals: list[str] = []
        self.closed = False

    def writeToChild(self, handle: int, data: bytes) -> None:
        self.written.append(data)

    def closeChildFD(self, handle: int) -> None:
        self.closed = True

    def signalProcess(self, name: str) -> None:
        if "gone" in self.signals:
            raise ProcessExitedAlready
        self.signals.append(name)


class _Reactor(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.children: list[Any] = []
        self.fails = False

    def spawnProcess(self, child: Any, *words: Any, **more: Any) -> None:
        if self.fails:
            raise OSError(11, "no processes left")
        child.transport = _Transport()
        self.children.append(child)


class IndexerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.config = Config(home="/h", server=ServerConfig(hostname="h.example"))

    def start(self, **log: Any) -> Indexer:
        config = evolve(self.config, log=LogConfig(**log))
        indexer = Indexer(self.reactor, config)  # type: ignore[arg-type]
        indexer.startService()
        return indexer

    def orders(self, number: int = -1) -> Orders:
        return Orders.decode(self.reactor.children[-1].transport.written[number])

    def test_it_begins_a_little_after_the_mail(self) -> None:
        indexer = self.start()
        self.assertEqual(self.reactor.children, [])
        self.reactor.advance(FIRST_S)
        self.assertEqual((len(self.reactor.children), indexer.pid), (1, 77))
        self.assertEqual(self.orders().directory, "/h/log")
        self.assertEqual(self.orders().log, LogConfig())

    def test_without_it_there_is_none(self) -> None:
        self.start(index_s=0.0)
        self.reactor.advance(1000)
        self.assertEqual(self.reactor.children, [])

    def test_one_that_died_is_started_again(self) -> None:
        indexer = self.start()
        self.reactor.advance(FIRST_S)
        self.reactor.children[0].processEnded(Failure(ProcessTerminated(signal=9)))
        self.assertEqual(indexer.pid, 0)
        self.reactor.advance(AGAIN_S)
        self.assertEqual(len(self.reactor.children), 2)

    def test_one_that_cannot_be_started_is_tried_again(self) -> None:
        self.start()
        self.reactor.fails = True
        self.reactor.advance(FIRST_S)
        self.reactor.fails = False
        self.reactor.advance(AGAIN_S)
        self.assertEqual(len(self.reactor.children), 1)

    def test_a_new_configuration_is_passed_on_but_for_the_form_of_the_lines(self) -> None:
        """That changes with the processes that write them."""
        indexer = self.start()
        self.reactor.advance(FIRST_S)
        log = LogConfig(node=True, index_s=3.0, index_days=9, compress="zstd", keep_days=4)
        indexer.reconfigure(evolve(self.config, log=log))
        self.assertEqual(self.orders().log, evolve(log, node=False))

    def test_it_can_be_switched_off_and_on(self) -> None:
        indexer = self.start()
        self.reactor.advance(FIRST_S)
        (child,) = self.reactor.children
        indexer.reconfigure(evolve(self.config, log=LogConfig(index_s=0.0)))
        self.assertTrue(child.transport.closed)
        child.processEnded(Failure(ProcessDone(0)))
        self.reactor.advance(1000)
        self.assertEqual(len(self.reactor.children), 1)
        indexer.reconfigure(self.config)
        self.reactor.advance(FIRST_S)
        self.assertEqual(len(self.reactor.children), 2)

    def test_it_ends_with_its_worker(self) -> None:
        indexer = self.start()
        self.reactor.advance(FIRST_S)
        (child,) = self.reactor.children
        stopped = indexer.stopService()
        assert stopped is not None
        self.assertEqual(child.transport.signals, ["TERM"])
        self.assertNoResult(stopped)
        self.reactor.advance(KILL_S)
        self.assertEqual(child.transport.signals, ["TERM", "KILL"])
        child.processEnded(Failure(ProcessTerminated(signal=9)))
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_before_its_start_there_is_nothing_to_end(self) -> None:
        self.assertIsNone(self.start().stopService())
        self.reactor.advance(1000)
        self.assertEqual(self.reactor.children, [])


class IndexingTests(SynchronousTestCase):
    """The work, with a world that is a list of what comes next."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.said: list[str] = []
        self.waits: list[float] = []
        self.now = 0.0
        self.orders = Orders(log=LogConfig(), directory=self.directory, reserve_octets=0)

    def run_for(self, *orders: Orders, rounds: int = 1) -> None:
        waiting = list(orders)
        left = [rounds]

        def wait(seconds: float) -> Orders | None:
            self.waits.append(seconds)
            if waiting:
                return waiting.pop(0)
            self.now += seconds
            if seconds >= 5:
                left[0] -= 1
                if left[0] <= 0:
                    raise Ended
            return None

        indexing = Indexing(RealFiles(), wait, self.said.append, lambda: self.now)
        self.assertRaises(Ended, indexing.run)

    def write(self) -> None:
        with open(f"{self.directory}/mail.log_current", "wb") as file:
            file.write(bounced(time.time() - 1000).octets)

    def found(self) -> int:
        with LogIndex(f"{self.directory}/index.sqlite") as index:
            return len(index.by_id(MAIL))

    def test_it_reads_what_is_new(self) -> None:
        self.write()
        self.run_for(self.orders)
        self.assertEqual((self.found(), self.said), (1, []))

    def test_it_rests_after_each_piece(self) -> None:
        """As long as the piece took, at most a second."""
        self.write()
        spent = [0.3]

        def update(*words: Any, pause: Any, **more: Any) -> Any:
            self.now += spent[0]
            pause()
            self.now += 50
            pause()
            return mock.Mock(damaged=[])

        with mock.patch("qmailpy.app.index_child.thd_index", update):
            self.run_for(self.orders)
        self.assertEqual([round(wait, 3) for wait in self.waits if 0 < wait < 5], [0.3, 1.0])

    def test_it_leaves_the_last_room_to_mail_and_says_so_once(self) -> None:
        self.write()
        files = Space(octets=100, inodes=100)
        with mock.patch.object(RealFiles, "space", lambda *_: files):
            self.run_for(evolve(self.orders, reserve_octets=51), rounds=3)
            self.assertEqual(self.said, ["the index of the log stands still: the disk is nearly full"])
            self.assertFalse(os.path.exists(f"{self.directory}/index.sqlite"))
            self.run_for(evolve(self.orders, reserve_octets=50))
        self.assertEqual(self.found(), 1)

    def test_trouble_is_told_once_and_its_end(self) -> None:
        with mock.patch(
            "qmailpy.app.index_child.thd_index", side_effect=[OSError("bad"), OSError("bad"), mock.Mock(damaged=[])]
        ):
            self.run_for(self.orders, rounds=3)
        self.assertEqual(self.said, ["the index of the log stands still: bad", "the index of the log goes on"])

    def test_a_packed_file_that_is_damaged_is_told_once_and_keeps_no_other_out(self) -> None:
        self.write()
        damaged = f"{self.directory}/mail.log.{time.strftime('%Y-%m-%d')}.zst"
        with open(damaged, "wb") as file:
            file.write(b"\x28\xb5\x2f\xfd" + b"damaged" * 5)
        os.utime(damaged, (1, 1))
        self.run_for(self.orders, rounds=3)
        (said,) = self.said
        self.assertIn(f"{damaged}: damaged: ", said)
        self.assertIn("the index of the log lacks what comes behind that place", said)
        self.assertEqual(self.found(), 1)

    def test_it_packs_now_and_then(self) -> None:
        orders = evolve(self.orders, log=LogConfig(compress="gzip", index_s=100.0, keep_days=3))
        with mock.patch("qmailpy.app.index_child.thd_pack") as pack:
            self.run_for(orders, rounds=int(2 * PACK_S / 100) + 2)
        self.assertEqual([call.args[1:4] for call in pack.call_args_list], [(self.directory, "gzip", 3)] * 2)

    def test_orders_are_lines(self) -> None:
        source, target = os.pipe()
        self.addCleanup(os.close, source)
        given = Input(source)
        self.assertIsNone(given.wait(0))
        line = self.orders.encode()
        later = evolve(self.orders, reserve_octets=5)
        os.write(target, line[:10])
        self.assertIsNone(given.wait(1))
        os.write(target, line[10:] + later.encode())
        self.assertEqual(given.wait(1), later)
        os.close(target)
        self.assertRaises(Ended, given.wait, 1)
