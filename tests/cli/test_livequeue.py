"""One contract for every view of the queue: in memory, and over control calls to one worker and to two."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.livequeue import LiveQueueView, open_view
from qmailpy.cli.queueview import QueueView
from qmailpy.control import Json
from qmailpy.errors import CommandError, ConfigError
from qmailpy.queue.entries import BUSY, DONE, UNKNOWN, QueueEntry, QueueFilter, Target
from tests.cli.fakequeue import CONTENT, IDS, FakeQueue, FakeWorker, entry

ENTRIES = (
    entry(1),
    entry(2, channel="local", recipients=("bob@example.com",), attempts=2, last_error="450 mailbox busy"),
    entry(2, held=True, reason="spam?"),
    entry(3, sender=""),
    entry(4, busy=True, next_attempt=None),
    *(entry(number) for number in range(5, 9)),
)


class ViewContract:
    """What holds for any L{QueueView} with L{ENTRIES} in it."""

    def view(self) -> QueueView:
        raise NotImplementedError

    def ids(self: Any, view: QueueView, **wanted: Any) -> list[int]:
        """Numbers of the messages listed."""
        return [IDS.index(one.id) + 1 for one in view.entries(QueueFilter(**wanted))]

    def test_entries_come_by_channel_and_id(self: Any) -> None:
        """However many workers and pages."""
        found = [(one.channel, one.id) for one in self.view().entries(QueueFilter())]
        self.assertEqual(found, sorted((one.channel, one.id) for one in ENTRIES))

    def test_entry_arrives_whole_and_its_recipients_when_asked_for(self: Any) -> None:
        """Every field."""
        found = list(self.view().entries(QueueFilter(channel="local", envelope=True)))
        self.assertEqual(found, [ENTRIES[1]])
        self.assertEqual([one.recipients for one in self.view().entries(QueueFilter(channel="local"))], [()])

    def test_filters_choose(self: Any) -> None:
        """By channel, state, attempts, sender and recipient."""
        view = self.view()
        self.assertEqual(self.ids(view, channel="loc*"), [2])
        self.assertEqual(self.ids(view, held=True), [2])
        self.assertEqual(len(self.ids(view, held=False)), 8)
        self.assertEqual(self.ids(view, failed=True), [2])
        self.assertEqual(self.ids(view, sender="<>"), [3])
        self.assertEqual(self.ids(view, sender="S5@", recipient="r6@*"), [5, 6])
        self.assertEqual(self.ids(view, sender="s5@", recipient="r6@*", match_all=True), [])
        self.assertEqual(self.ids(view, sender="s5@", recipient="*@example.net", match_all=True), [5])

    def test_content_comes_octet_for_octet(self: Any) -> None:
        """In whatever pieces."""
        found = self.view().read(IDS[1])
        assert found is not None
        self.assertEqual(b"".join(found.content), CONTENT)
        self.assertEqual(found.envelope.size_octets, len(CONTENT))
        self.assertEqual(
            sorted(one.address for one in found.envelope.recipients), ["bob@example.com", "r2@example.net"]
        )
        self.assertIsNone(self.view().read("0" * 15))

    def test_history_of_unknown_message_is_none(self: Any) -> None:
        """And that of a known one is a list."""
        found = self.view().history(IDS[0])
        self.assertEqual([event.event for event in found], ["deferred"])
        self.assertIsNone(self.view().history("0" * 15))

    def test_actions_tell_what_became_of_each_copy(self: Any) -> None:
        """Done, busy, unknown; all copies without a channel, else the one."""
        view = self.view()
        results = view.delete([Target(IDS[1]), Target(IDS[3]), Target("0" * 15, "x"), Target(IDS[0], "local")])
        self.assertEqual(
            sorted((one.id, one.channel, one.outcome) for one in results),
            sorted(
                [
                    (IDS[1], "local", DONE),
                    (IDS[1], "tcp_local", DONE),
                    (IDS[3], "tcp_local", BUSY),
                    ("0" * 15, "x", UNKNOWN),
                    (IDS[0], "local", UNKNOWN),
                ]
            ),
        )
        self.assertEqual(self.ids(view), [1, 3, 4, 5, 6, 7, 8])

    def test_hold_and_release_are_seen_in_the_list(self: Any) -> None:
        """One copy of two."""
        view = self.view()
        view.hold([Target(IDS[1], "local")], "why not")
        self.assertEqual(self.ids(view, held=True), [2, 2])
        view.release([Target(IDS[1])])
        self.assertEqual(self.ids(view, held=True), [])

    def test_summary_adds_up(self: Any) -> None:
        """Over all shards."""
        found = {one.channel: one for one in self.view().summary()}
        self.assertEqual((found["tcp_local"].messages, found["tcp_local"].held), (8, 1))
        self.assertEqual(found["tcp_local"].oldest, ENTRIES[0].arrival)
        self.assertEqual(found["local"].size_octets, 1500)

    def test_channel_is_stopped_once(self: Any) -> None:
        """And started once; an unknown one is an error."""
        view = self.view()
        self.assertEqual(
            [view.stop("local"), view.stop("local"), view.start("local"), view.start("local")],
            [True, False, True, False],
        )
        self.assertRaises(CommandError, view.stop, "nowhere")

    def test_jobs_are_the_attempts_under_way(self: Any) -> None:
        """Of all workers."""
        (job,) = self.view().jobs()
        self.assertEqual((job.id, job.channel, job.attempt, job.host), (IDS[3], "tcp_local", 1, "h.example"))

    def test_channel_is_run_by_all_who_have_it(self: Any) -> None:
        """An unknown one is an error."""
        view = self.view()
        self.assertEqual((view.run("tcp_local"), view.run("")), (8, 9))
        self.assertRaises(CommandError, view.run, "nowhere")


class MemoryTests(ViewContract, SynchronousTestCase):
    """The fake itself."""

    def view(self) -> QueueView:
        return FakeQueue(ENTRIES)


class LiveTests(ViewContract, SynchronousTestCase):
    """Over control calls, JSON in between."""

    shards: tuple[tuple[QueueEntry, ...], ...] = (ENTRIES,)

    def view(self) -> QueueView:
        self.workers = {f"mta-{at}": FakeWorker(FakeQueue(shard)) for at, shard in enumerate(self.shards)}

        def ask(worker: str, method: str, arguments: dict[str, Json]) -> Json:
            text = json.dumps(self.workers[worker].answer(method, json.loads(json.dumps(arguments))))
            result: Json = json.loads(text)
            return result

        return LiveQueueView(ask, [*self.workers])


class TwoWorkersTests(LiveTests):
    """Two shards: a message is in one of them."""

    shards = (ENTRIES[3::2], ENTRIES[::2] + ENTRIES[1:2])

    def test_message_that_leaves_while_it_is_read_is_told(self) -> None:
        """Not taken for a shorter one."""
        view = self.view()
        message = view.read(IDS[2])
        assert message is not None
        next(message.content)
        view.delete([Target(IDS[2])])
        with self.assertRaises(CommandError):
            list(message.content)

    def test_known_targets_are_not_asked_of_the_next_worker(self) -> None:
        """Only what the first did not know goes on."""
        view = self.view()
        view.delete([Target(IDS[2])])
        self.assertEqual([worker.calls for worker in self.workers.values()], [["queue.delete"], []])


class NonsenseTests(SynchronousTestCase):
    """A worker whose answers are wrong: one line, no traceback, no endless loop."""

    def view(self, answer: Json) -> LiveQueueView:
        return LiveQueueView(lambda worker, method, arguments: answer, ["mta-0"])

    def test_wrong_answers_are_command_errors(self) -> None:
        """No object, no list, a field of the wrong type, a cursor or an offset that does not move."""
        answers: list[Json] = [
            [],
            {"entries": 5},
            {"entries": [], "cursor": 3},
            {"entries": [], "cursor": "a"},
            {"entries": [{}]},
            {"entries": [{"id": 5}]},
        ]
        for answer in answers:
            with self.assertRaises(CommandError):
                list(self.view(answer).entries(QueueFilter()))
        good: Json = {"id": IDS[0], "sender": "", "arrival": 1, "source": "a", "size_octets": 5}
        for content in ("!", "YQ=="):
            message = self.view({"found": True, "envelope": good, "content": content, "next": 0}).read(IDS[0])
            assert message is not None
            with self.assertRaises(CommandError):
                list(message.content)

    def test_unknown_result_cannot_widen_what_is_asked(self) -> None:
        """A worker says a copy is unknown, without its channel: the next is not asked about all copies."""
        asked: list[Json] = []

        def ask(worker: str, method: str, arguments: dict[str, Json]) -> Json:
            asked.append(arguments["targets"])
            return {"results": [{"id": IDS[0], "channel": "", "outcome": UNKNOWN}]}

        LiveQueueView(ask, ["mta-0", "mta-1"]).delete([Target(IDS[0], "local")])
        self.assertEqual(asked, [[[IDS[0], "local"]]])

    def test_place_that_is_no_home_is_told(self) -> None:
        """Neither a daemon nor a configuration."""
        with self.assertRaises(ConfigError):
            open_view(self.mktemp())
