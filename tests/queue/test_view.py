"""The queue in an operator's hands: what is shown, what is changed, and that the books agree afterwards."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.errors import QmailpyError
from qmailpy.queue.entries import BUSY, DONE, REFUSED, UNKNOWN, ActionResult, QueueEntry, QueueFilter, Target
from qmailpy.queue.ids import to_number
from qmailpy.queue.listing import Listing
from qmailpy.queue.reading import QueueReading
from qmailpy.queue.view import QueueOperations, parts_of
from qmailpy.queue.walk import BUCKET, _thd_merged
from qmailpy.records.record import Action
from qmailpy.stats.fold import balanced
from qmailpy.stats.items import STORED, Table
from qmailpy.testing.crashdisk import CrashDisk
from qmailpy.values import Disposition, Job, Reply, Verdict
from tests.queue.world import HOME, Outside, World, in_thread

T = TypeVar("T")


class Patient(Outside):
    """The outside, which answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: list[Deferred[None]] = []

    async def dequeue(self, job: Job) -> Sequence[Disposition]:
        if any(one.address.startswith("slow@") for one in job.recipients):
            waiting: Deferred[None] = Deferred()
            self.slow.append(waiting)
            await waiting
            return [Disposition(verdict=Verdict.DELIVERED, reply=Reply(250, "2.0.0", "ok")) for _ in job.recipients]
        return await super().dequeue(job)


class ViewCase(SynchronousTestCase):
    """A node and its operator."""

    def setUp(self) -> None:
        self.world = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        self.outside = self.world.outside = Patient()
        self.up()

    def up(self) -> None:
        """Start, and see to it that somebody looks."""
        shard = self.world.up()
        self.view = QueueOperations(
            lambda: parts_of({"0": shard}), self.world.config, self.world.clock.seconds, self.world.switches, in_thread
        )

    def again(self) -> None:
        """An orderly stop and a new life."""
        self.world.down()
        self.world = self.world.crash("all")
        self.up()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run an operation to its end."""
        running = Deferred.fromCoroutine(coroutine)
        self.world.pump()
        return self.successResultOf(running)

    def listed(self, limit: int = 1000, **wanted: Any) -> list[QueueEntry]:
        """All pages of a list."""
        found: list[QueueEntry] = []
        cursor: str | None = None
        while True:
            entries, cursor = self.do(self.view.page(QueueFilter(**wanted), cursor, limit))
            found += entries
            if cursor is None:
                return found

    def ids(self, **wanted: Any) -> list[str]:
        return [entry.id for entry in self.listed(**wanted)]

    def outcomes(self, results: Sequence[ActionResult]) -> list[str]:
        return [result.outcome for result in results]

    def actions(self) -> str:
        return self.world.actions()

    def table(self) -> Table:
        """The counters, which balance and agree with the list."""
        table, live = self.world.books()
        self.assertEqual(table, live)
        self.assertTrue(all(balanced(row) for row in table.values()))
        found = self.listed()
        for channel, row in table.items():
            here = [entry for entry in found if entry.channel == channel]
            self.assertEqual(row[STORED : STORED + 2], [len(here), sum(entry.remaining for entry in here)], channel)
        return table


class ListTests(ViewCase):
    """Lists of a queue that lives on meanwhile."""

    def test_mail_in_memory_and_in_files_is_listed_by_channel_and_id(self) -> None:
        """Once each, wherever it is."""
        first = self.world.send("later@out.example", "never@out.example")
        self.world.settle()
        second = self.world.send("never@out.example", sender="")
        (one, two) = self.listed(envelope=True)
        self.assertEqual((one.id, two.id), (first, second))
        self.assertEqual((one.remaining, one.attempts, one.sender), (2, 1, "ann@here.example"))
        self.assertEqual(one.recipients, ("later@out.example", "never@out.example"))
        self.assertEqual((one.last_error, two.sender), ("451 4.2.0 later", ""))
        self.assertGreater(one.next_attempt or 0, self.world.clock.seconds())
        self.assertFalse(one.busy or one.held)
        self.table()

    def test_pages_neither_repeat_nor_omit_while_mail_comes_moves_and_goes(self) -> None:
        """Settled, evicted, held, released and deleted between two pages."""
        ids = []
        for at in range(60):
            ids.append(self.world.send("never@out.example"))
            if at == 20:
                self.world.settle()
        self.world.wait(1)
        seen: list[str] = []
        cursor: str | None = None
        deleted = ids[50:52]
        for step in range(100):
            entries, cursor = self.do(self.view.page(QueueFilter(), cursor, 7))
            seen += [entry.id for entry in entries]
            if cursor is None:
                break
            if step == 1:
                self.world.settle()  # what was in memory alone is in files alone
                self.assertEqual(self.world.shard.shard.state.messages, {})  # type: ignore[union-attr]
            elif step == 2:
                self.do(self.view.hold([Target(one) for one in ids[25:50]], "wait"))
                self.world.settle()  # and moves from chan/ to hold/
            elif step == 3:
                self.do(self.view.delete([Target(one) for one in deleted]))
                self.world.send("never@out.example")
            elif step == 4:
                self.do(self.view.release([Target(one) for one in ids[40:45]]))
                self.world.settle()
        self.assertEqual([one for one in seen if one in ids], [one for one in ids if one not in deleted])
        self.assertEqual(len(seen), len(set(seen)))
        self.table()

    def test_message_that_left_for_its_files_after_the_walk_is_listed(self) -> None:
        """Born before the listing began, in memory alone while the directories were read."""
        first, second = self.world.send("never@out.example"), self.world.send("never@out.example")
        entries, cursor = self.do(self.view.page(QueueFilter(), None, 1))
        self.world.settle()
        more, _ = self.do(self.view.page(QueueFilter(), cursor, 9))
        self.assertEqual([one.id for one in (*entries, *more)], [first, second])

    def test_filters_are_applied_to_files_and_memory_alike(self) -> None:
        """Held or not, tried or not, sender and recipient."""
        first = self.world.send("never@out.example", sender="eve@here.example")
        second = self.world.send("later@out.example")
        self.do(self.view.hold([Target(second)], "why not"))
        for _ in range(2):
            self.assertEqual(self.ids(held=True), [second])
            self.assertEqual(self.ids(held=False), [first])
            self.assertEqual(self.ids(sender="eve@*"), [first])
            self.assertEqual(self.ids(recipient="later@"), [second])
            self.assertEqual(self.ids(channel="loc*"), [])
            self.world.settle()

    def test_finished_mail_whose_files_are_still_there_is_not_listed(self) -> None:
        """They tell of the past until the next segment is retired."""
        first = self.world.send("never@out.example")
        self.world.settle()
        self.do(self.view.delete([Target(first)]))
        self.assertEqual(self.listed(), [])
        self.assertTrue(self.world.disk.exists(self.world.shard.layout.mess_of(first)))  # type: ignore[union-attr]
        self.assertEqual(self.do(self.view.read(first, 0, 10)), None)

    def test_cursor_of_somebody_else_is_refused(self) -> None:
        """Not obeyed."""
        for cursor in ("", "x", "a/b", "local/0123"):
            self.failureResultOf(Deferred.fromCoroutine(self.view.page(QueueFilter(), cursor, 1)), QmailpyError)

    def test_summary_agrees_with_the_list(self) -> None:
        """Messages, recipients, blocks, held, the oldest."""
        first = self.world.send("later@out.example", "never@out.example")
        self.world.settle()
        self.world.wait(5)
        second = self.world.send("never@out.example", body=b"x" * 3000)
        self.do(self.view.hold([Target(second)], "big"))
        for _ in range(2):
            found = {one.channel: one for one in self.do(self.view.summary())}
            self.assertEqual(set(found), {"local", "tcp_local"})
            out = found["tcp_local"]
            self.assertEqual((out.messages, out.recipients, out.held, out.size_octets), (2, 3, 1, 4 * 1024))
            self.assertEqual(out.oldest, self.world.accepted[first][0].arrival)
            self.assertEqual((found["local"].messages, found["local"].oldest), (0, None))
            self.world.settle()

    def test_message_is_read_in_pieces_from_memory_and_from_files(self) -> None:
        """Large ones and small ones."""
        small = self.world.send("never@out.example")
        large = self.world.send("never@out.example", body=b"z" * 5000)
        for _ in range(2):
            for queue_id in (small, large):
                octets, offset = b"", 0
                while True:
                    piece = self.do(self.view.read(queue_id, offset, 600))
                    assert piece is not None
                    self.assertEqual(piece.envelope is None, offset > 0)
                    octets += piece.content
                    if piece.next is None:
                        break
                    offset = piece.next
                self.assertEqual(octets, self.world.accepted[queue_id][1])
            self.world.settle()
            self.assertEqual(self.world.shard.shard.state.messages, {})  # type: ignore[union-attr]
        self.assertIsNone(self.do(self.view.read("0" * 15, 0, 1)))
        self.assertIsNone(self.do(self.view.read("rubbish", 0, 1)))

    def test_history_tells_what_is_known(self) -> None:
        """Who is done and who waits, and nothing that is guessed."""
        first = self.world.send("ok@out.example", "never@out.example")
        for _ in range(2):
            events = self.do(self.view.history(first))
            assert events is not None
            self.assertEqual(
                [(one.event, one.recipients) for one in events], [("enqueued", 2), ("delivered", 1), ("waiting", 1)]
            )
            self.assertIn("1 attempt failed; 451 4.2.0 later", events[-1].text)
            self.world.settle()
        self.do(self.view.hold([Target(first)], "enough"))
        events = self.do(self.view.history(first))
        assert events is not None
        self.assertEqual((events[-1].event, events[-1].text), ("held", "enough"))


class ChangeTests(ViewCase):
    """Hold, release, delete, return; in memory and from files."""

    def waiting(self, *to: str, settled: bool) -> str:
        queue_id = self.world.send(*(to or ("never@out.example",)))
        if settled:
            self.world.settle()
        return queue_id

    def test_held_mail_is_not_tried_until_it_is_released_and_then_at_once(self) -> None:
        """Over a restart too."""
        for settled in (False, True):
            first = self.waiting(f"later@{settled}.example", settled=settled)
            self.assertEqual(self.outcomes(self.do(self.view.hold([Target(first)], "a\x1b\nb"))), [DONE])
            (entry,) = self.listed()
            self.assertEqual((entry.held, entry.reason, entry.next_attempt), (True, "a  b", None))
            asked = self.outside.asked.total()
            self.world.wait(7200)
            self.again()
            self.world.wait(7200)
            self.assertEqual(self.world.outside.asked.total(), asked)
            self.do(self.view.release([Target(first, "tcp_local")]))
            self.assertEqual(self.world.outside.asked.total(), asked + 1)
            self.world.wait(20000)
            self.assertEqual(self.listed(), [])
            self.table()

    def test_waiting_mail_that_is_released_is_tried_at_once(self) -> None:
        """The same as qmail's ALRM, for one message."""
        first = self.waiting("later@out.example", settled=True)
        self.do(self.view.release([Target(first)]))
        self.do(self.view.release([Target(first)]))
        self.assertEqual(self.actions(), "EQQD")
        self.world.wait(100000)
        self.assertEqual(self.actions(), "EQQD")

    def test_released_mail_goes_ahead_of_others(self) -> None:
        """Though a hundred wait for the same place."""
        first = self.waiting("later@slow.example", settled=True)
        for _ in range(30):
            self.world.send("slow@slow.example")
        asked = self.outside.asked.total()
        self.do(self.view.release([Target(first)]))
        self.assertEqual((self.outside.asked.total(), len(self.outside.slow)), (asked, 10))
        self.outside.slow.pop(0).callback(None)
        self.world.pump()
        self.assertEqual(self.outside.asked.total(), asked + 1)

    def test_deleted_mail_is_gone_without_a_word_for_good(self) -> None:
        """No entry of the waiting list brings it back from files that are still there."""
        for settled in (False, True):
            before = len(self.actions())
            first = self.waiting("never@out.example", "later@out.example", settled=settled)
            self.assertEqual(self.outcomes(self.do(self.view.delete([Target(first)]))), [DONE])
            self.assertEqual(self.actions()[before:], "EEQQDD")
            self.assertEqual(self.world.log()[-1].diagnostic, "deleted by the operator")
            self.assertEqual(self.table()["tcp_local"][STORED], 0)
            asked = self.outside.asked.total()
            self.world.wait(100000)
            self.again()
            self.world.wait(100000)
            self.assertEqual((self.listed(), self.world.outside.asked.total()), ([], asked))
            self.assertEqual(self.world.mailbox("ann"), [])

    def test_returned_mail_fails_and_its_sender_is_told_in_the_same_commit(self) -> None:
        """The notice's E before the R; a held copy can be returned too."""
        for settled in (False, True):
            before = len(self.actions())
            first = self.waiting("never@out.example", settled=settled)
            self.do(self.view.hold([Target(first)], "x"))
            self.assertEqual(self.outcomes(self.do(self.view.return_([Target(first)], "no such luck"))), [DONE])
            self.assertEqual(self.actions()[before:], "EQERD")
            failed = [one for one in self.world.log() if one.action is Action.FAILED]
            self.assertEqual(failed[-1].diagnostic, "550 5.0.0 no such luck")
            self.assertEqual(self.listed(), [])
            self.table()
        self.assertEqual(len(self.world.mailbox("ann")), 2)

    def test_mail_is_not_said_to_be_returned_when_no_notice_can_be_made(self) -> None:
        """It stays, is told to have stayed, and can be returned later."""
        first = self.waiting("never@out.example", settled=True)
        self.world.broken_notices = 1
        (result,) = self.do(self.view.return_([Target(first)], "no such luck"))
        self.assertEqual(result.outcome, REFUSED)
        self.assertIn("stays in the queue", result.text)
        self.assertEqual([one.id for one in self.listed()], [first])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.outcomes(self.do(self.view.return_([Target(first)], "no such luck"))), [DONE])
        self.assertEqual((self.listed(), len(self.world.mailbox("ann"))), ([], 1))

    def test_what_is_being_tried_is_busy_and_what_is_ready_is_taken_back(self) -> None:
        """Ten are out to one destination; the eleventh only waits for its turn."""
        ids = [self.world.send("slow@out.example") for _ in range(11)]
        self.assertEqual([one.busy for one in self.listed()], [True] * 10 + [False])
        targets = [Target(ids[0]), Target(ids[10])]
        self.assertEqual(self.outcomes(self.do(self.view.delete(targets))), [BUSY, DONE])
        self.assertEqual(self.outcomes(self.do(self.view.return_(targets, "x"))), [BUSY, UNKNOWN])
        for waiting in self.outside.slow:
            waiting.callback(None)
        self.world.pump()
        self.assertEqual((len(self.outside.slow), self.listed()), (10, []))
        self.assertEqual(self.table()["tcp_local"][STORED], 0)

    def test_hold_of_what_is_being_tried_counts_from_the_end_of_the_attempt(self) -> None:
        """One is delivered then, the one behind it is held."""
        ids = [self.world.send("slow@out.example") for _ in range(11)]
        held = self.do(self.view.hold([Target(ids[0]), Target(ids[10])], "x"))
        self.assertEqual(self.outcomes(held), [DONE, DONE])
        for waiting in self.outside.slow:
            waiting.callback(None)
        self.world.pump()
        self.assertEqual(self.ids(), [ids[10]])
        self.table()

    def test_hold_that_meets_the_end_of_the_last_attempt_changes_nothing(self) -> None:
        """Both are in the same batch of the journal, the attempt's end before."""
        first = self.world.send("slow@out.example")
        self.outside.slow[0].callback(None)
        self.assertEqual(self.outcomes(self.do(self.view.hold([Target(first)], "x"))), [UNKNOWN])
        self.assertEqual(self.listed(), [])

    def test_two_operators_do_not_remove_a_copy_twice(self) -> None:
        """The second finds it taken."""
        first = self.waiting(settled=True)
        one = Deferred.fromCoroutine(self.view.delete([Target(first)]))
        two = Deferred.fromCoroutine(self.view.return_([Target(first)], "x"))
        self.world.pump()
        self.assertEqual(self.outcomes([*self.successResultOf(one), *self.successResultOf(two)]), [DONE, BUSY])
        self.assertEqual(self.actions(), "EQD")

    def test_one_copy_of_two_is_changed(self) -> None:
        """When the target names a channel; without one all are."""
        self.do(self.view.stop("local"))
        first = self.world.send("bob@here.example", "never@out.example")
        results = self.do(self.view.delete([Target(first, "local"), Target(first, "nowhere"), Target("0" * 15)]))
        self.assertEqual(
            sorted((one.channel, one.outcome) for one in results),
            [("", UNKNOWN), ("local", DONE), ("nowhere", UNKNOWN)],
        )
        self.assertEqual([one.channel for one in self.listed()], ["tcp_local"])
        self.table()

    def test_changes_survive_a_crash(self) -> None:
        """Told means durable."""
        ids = [self.waiting(settled=True) for _ in range(3)]
        self.do(self.view.hold([Target(ids[0])], "x"))
        self.do(self.view.delete([Target(ids[1])]))
        self.do(self.view.return_([Target(ids[2])], "x"))
        self.world = self.world.crash("none")
        self.up()
        self.world.wait(10)
        self.assertEqual([(one.id, one.held) for one in self.listed()], [(ids[0], True)])
        self.assertEqual(len(self.world.mailbox("ann")), 1)
        self.table()

    def test_too_many_targets_are_refused(self) -> None:
        """A call is bounded."""
        self.failureResultOf(Deferred.fromCoroutine(self.view.delete([Target("0" * 15)] * 201)), QmailpyError)


class ChannelTests(ViewCase):
    """Stop, start, run, jobs."""

    def test_stopped_channel_keeps_its_mail_over_a_restart_until_it_is_started(self) -> None:
        """And takes more."""
        self.assertEqual(self.do(self.view.stop("tcp_local")), (True, True))
        self.assertEqual(self.do(self.view.stop("tcp_local")), (True, False))
        first = self.world.send("ok@out.example")
        self.again()
        second = self.world.send("ok@out.example")
        self.world.wait(10000)
        self.assertEqual(self.ids(), [first, second])
        stopped = [one.channel for one in self.do(self.view.summary()) if one.stopped]
        self.assertEqual(stopped, ["tcp_local"])
        self.assertEqual(self.do(self.view.start("tcp_local")), (True, True))
        self.assertEqual(self.do(self.view.start("tcp_local")), (True, False))
        self.world.pump()
        self.assertEqual(self.listed(), [])
        self.again()
        self.world.send("ok@out.example")
        self.assertEqual(self.listed(), [])

    def test_mail_released_in_a_stopped_channel_is_tried_when_it_is_started(self) -> None:
        """At once then, though its schedule said later."""
        first = self.world.send("later@out.example")
        self.do(self.view.stop("tcp_local"))
        self.do(self.view.release([Target(first)]))
        self.assertEqual(self.actions(), "EQ")
        self.do(self.view.start("tcp_local"))
        self.assertEqual(self.actions(), "EQQ")

    def test_unknown_channel_is_not_stopped(self) -> None:
        """Nor written down."""
        self.assertEqual(self.do(self.view.stop("nowhere")), (False, False))
        self.assertEqual(self.world.switches.thd_stopped(), frozenset())

    def test_run_tries_everything_now_whatever_the_schedule_says(self) -> None:
        """Out of memory and out of files; what is held is not."""
        filed = self.world.send("later@out.example")
        held = self.world.send("never@out.example")
        self.do(self.view.hold([Target(held)], "x"))
        self.world.settle()
        self.world.send("later@two.example")
        self.assertEqual(self.world.shard.shard.state.messages.keys() & {filed}, set())  # type: ignore[union-attr]
        asked = self.outside.asked.total()
        self.assertEqual(self.do(self.view.run("tcp_local"))[0], True)
        self.assertEqual(self.outside.asked.total(), asked + 2)
        self.do(self.view.run(""))
        self.assertEqual(self.ids(), [held])
        self.world.wait(100000)
        self.assertEqual(self.outside.asked.total(), asked + 4)
        self.table()

    def test_run_of_a_stopped_channel_is_refused(self) -> None:
        """Rather than doing nothing."""
        self.do(self.view.stop("tcp_local"))
        self.failureResultOf(Deferred.fromCoroutine(self.view.run("tcp_local")), QmailpyError)
        self.assertEqual(self.do(self.view.run("nowhere")), (False, 0))

    def test_jobs_are_what_is_out(self) -> None:
        """With whom they talk."""
        first = self.world.send("slow@out.example")
        (job,) = self.view.jobs()
        self.assertEqual((job.id, job.channel, job.host, job.attempt), (first, "tcp_local", "out.example", 1))
        self.outside.slow[0].callback(None)
        self.world.pump()
        self.assertEqual(self.view.jobs(), [])


class RaceTests(ViewCase):
    """What happens between two steps of something longer."""

    def test_copy_that_moves_while_the_directories_are_read_is_listed(self) -> None:
        """It was held while chan/ was read, and waits when hold/ is; by then it has left memory again."""
        first = self.world.send("never@out.example")
        self.do(self.view.hold([Target(first)], "x"))
        self.world.settle()
        self.world.settle()
        assert self.world.shard is not None
        shard = self.world.shard.shard
        self.assertEqual(shard.state.messages, {})
        gates: list[Deferred[None]] = []

        def slow(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
            if function != shard.shelf.thd_numbers or shard.layout.splits[0] not in arguments[2]:
                return in_thread(function, *arguments)
            gate: Deferred[None] = Deferred()
            gates.append(gate)
            return gate.addCallback(lambda _: function(*arguments))

        shard.in_thread = slow
        running = Deferred.fromCoroutine(self.view.page(QueueFilter(channel="tcp_local"), None, 9))
        self.assertEqual(len(gates), 1)
        gates[0].callback(None)
        self.do(self.view.release([Target(first)]))
        self.world.settle()
        self.world.settle()
        self.assertEqual(shard.state.messages, {})
        gates[1].callback(None)
        entries, _ = self.successResultOf(running)
        self.assertEqual([(one.id, one.held) for one in entries], [(first, False)])

    def test_sorted_runs_become_one_however_long(self) -> None:
        """Each number once; more than one bucket of them."""
        numbers = [(at * 7919) % (2 * BUCKET + 1) for at in range(2 * BUCKET + 1)]
        runs = [array("Q", sorted(numbers[at : at + 9000])) for at in range(0, len(numbers), 9000)]
        runs += [array("Q", [5, 77_000]), array("Q")]
        self.assertEqual(_thd_merged(runs).tolist(), list(range(2 * BUCKET + 1)))
        self.assertEqual(_thd_merged([array("Q"), array("Q", [3])]).tolist(), [3])
        self.assertEqual(_thd_merged([]).tolist(), [])

    def test_copy_that_is_in_memory_when_its_file_is_listed_gets_its_entry(self) -> None:
        """It was brought there for another copy or by an operator, and nothing else would see to it."""
        first = self.world.send("never@out.example")
        self.world.settle()
        assert self.world.shard is not None
        shard = self.world.shard.shard
        self.do(self.view.hold([Target(self.world.send("never@out.example"))], "held mail has none"))
        number = to_number(first)
        self.successResultOf(shard.load([number]))
        self.assertIn(number, shard.state.messages)
        found: list[int] = []
        listing = Listing(shard, 1 << 64, (), lambda channel, number, times: found.append(number))
        self.successResultOf(listing.run())
        self.assertEqual(found, [number])

    def test_two_shards_are_one_list(self) -> None:
        """Even if two messages have the same number, and a page ends between them."""
        other = World(CrashDisk(directories=[HOME, f"{HOME}/log"]))
        other.up()
        for world in (self.world, other):
            for _ in range(3):
                world.send("never@out.example")
        assert self.world.shard is not None and other.shard is not None
        other.shard.name, other.shard.layout.code = "1", "01"
        shards = {"0": self.world.shard, "1": other.shard}
        view = QueueReading(lambda: parts_of(shards), self.world.config, self.world.clock.seconds)
        seen: list[str] = []
        cursor: str | None = None
        for _ in range(7):
            entries, cursor = self.successResultOf(
                Deferred.fromCoroutine(view.page(QueueFilter(channel="tcp_local"), cursor, 1))
            )
            seen += [one.id for one in entries]
        self.assertEqual(len(set(seen)), 6)
        self.assertEqual(seen, sorted(seen))
