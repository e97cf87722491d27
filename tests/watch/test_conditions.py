"""What in a look at a node is trouble."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.expiry import EVENT as EXPIRES
from qmailpy.app.supervisor import OF_PROCESSES
from qmailpy.config.schema import MonitorConfig, QueueConfig
from qmailpy.disk.files import Space
from qmailpy.events.catalogue import CATALOGUE
from qmailpy.events.log import FILE_NAME, EventLog
from qmailpy.events.reading import thd_lasting
from qmailpy.queue.entries import ChannelSummary
from qmailpy.stats.counters import Baseline, LaneState, Position
from qmailpy.stats.items import ATTEMPTED, RECEIVED, zeros
from qmailpy.testing.memory_events import MemoryEvents
from qmailpy.watch.conditions import LOOKED_FOR, Watch
from qmailpy.watch.look import Look, Process

_MONITOR = MonitorConfig(queue_messages=10, queue_age_s=100, stuck_s=300)
_QUEUE = QueueConfig(reserve_octets=1000, reserve_inodes=100)


def _channel(name: str = "tcp_local", **fields: Any) -> ChannelSummary:
    return ChannelSummary(channel=name, **{"messages": 1, "recipients": 1, "size_octets": 1, **fields})


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = MemoryEvents()
        self.watch = Watch(self.events)
        self.time = 1000.0
        self.look_now = Look(
            time=self.time,
            processes=[Process(name="mta-0", role="mta", uptime=5.0)],
            missing=(),
            channels=[_channel()],
            space={"queue": Space(10_000, 1000)},
        )

    def look(self, seconds: float = 0.0, **changes: Any) -> list[str]:
        """The events of a look so much later."""
        self.time += seconds
        self.look_now = evolve(self.look_now, time=self.time, **changes)
        self.events.happenings.clear()
        self.watch.tell(self.look_now, _MONITOR, _QUEUE)
        return self.events.names

    def test_a_node_that_is_well_has_nothing_to_tell(self) -> None:
        self.assertEqual(self.look(), [])
        self.assertEqual(self.watch.in_force(), [])

    def test_each_kind_of_trouble_is_an_event(self) -> None:
        well = self.look_now
        unbalanced = zeros()
        unbalanced[RECEIVED] = 1
        lane = LaneState(
            name="0",
            position=Position(),
            baseline=Baseline(table={}),
            table={"local": unbalanced},
            settled=True,
        )
        for event, changes in (
            ("queue.size", {"channels": [_channel(messages=9), _channel("local")]}),
            ("queue.age", {"channels": [_channel(oldest=900.0)]}),
            ("channel.stopped", {"channels": [_channel(stopped=True)]}),
            ("channel.held", {"channels": [_channel(held=1, oldest=0.0)]}),
            ("disk.low", {"space": {"queue": Space(3999, 1000)}}),
            ("disk.low", {"space": {"queue": Space(10_000, 399)}}),
            ("disk.full", {"space": {"queue": Space(999, 1000)}}),
            ("counters.mismatch", {"lanes": [lane]}),
            (
                "log.behind",
                {"processes": [evolve(well.processes[0], figures={"log": {"waiting": True, "lost": 3}})]},
            ),
        ):
            self.look_now = well
            self.assertEqual(self.look(**changes), [event], changes)
            self.look_now = well
            self.assertEqual(self.look(), ["trouble.over"], changes)

    def test_counters_of_a_lane_in_the_middle_of_a_change_prove_nothing(self) -> None:
        """Its owner died there, and the next one sets it right."""
        row = zeros()
        row[RECEIVED] = 1
        lane = LaneState(
            name="0", position=Position(), baseline=Baseline(table={}), table={"local": row}, settled=False
        )
        self.assertEqual(self.look(lanes=[lane]), [])

    def test_what_goes_on_is_told_again_and_its_end_with_how_long_it_was(self) -> None:
        """How often it is told again is the events file's to decide."""
        low, well = {"queue": Space(3999, 1000)}, self.look_now.space
        self.assertEqual(self.look(space=low), ["disk.low"])
        self.assertEqual(self.look(60), ["disk.low"])
        self.assertEqual(self.look(60, space=well), ["trouble.over"])
        ((_, fields),) = self.events.happenings
        self.assertEqual(fields, {"event": "disk.low", "about": "queue", "lasted": "2 min"})
        self.assertEqual(self.look(60), [])

    def test_what_another_process_has_told_of_goes_on_or_is_over(self) -> None:
        """It died meanwhile: the end is told all the same, with how long it was in all."""
        now, log = 940.0, self.mktemp()
        os.mkdir(log)
        events = EventLog(f"{log}/{FILE_NAME}", "mta-0", lambda: now)
        events.happened("disk.low", directory="queue", octets=3999, inodes=1000, reserve=1000)
        events.happened("channel.stopped", channel="tcp_local", messages=1)
        events.happened("worker.down", worker="mta-1", why="")
        self.watch.resume(thd_lasting(log, LOOKED_FOR))
        self.assertEqual(self.look(60, channels=[_channel(stopped=True)]), ["channel.stopped", "trouble.over"])
        self.assertEqual(self.events.happenings[-1][1], {"event": "disk.low", "about": "queue", "lasted": "2 min"})
        (one,) = self.watch.in_force()
        self.assertEqual((one["event"], one["since"]), ("channel.stopped", 940.0))

    def test_each_lasting_condition_has_somebody_who_tells_its_end(self) -> None:
        by_trouble_over = {name for name, kind in CATALOGUE.items() if kind.lasts and kind.over == "trouble.over"}
        self.assertEqual(by_trouble_over, {*LOOKED_FOR, *OF_PROCESSES, EXPIRES, "directory.server"})

    def test_what_is_in_force_can_be_asked_for(self) -> None:
        self.look(channels=[_channel(stopped=True)])
        (one,) = self.watch.in_force()
        self.assertEqual((one["event"], one["severity"], one["since"]), ("channel.stopped", "warning", 1000.0))
        self.assertEqual(one["text"], "tcp_local was stopped by an operator; messages that wait there: 1")

    def test_processes_are_not_its_business(self) -> None:
        """It is in one of them itself: their supervisor sees more."""
        self.assertEqual(self.look(missing=["mta-1"], silent=["mta-1"]), [])
        self.assertEqual(self.look(processes=[Process(name="mta-0", role="mta", uptime=None, why="no answer")]), [])

    def test_without_a_workers_share_nothing_of_the_queue_is_over(self) -> None:
        """It stands still, and its mail is not gone. What can be seen of the rest begins all the same."""
        many, few = [_channel(messages=9), _channel("local")], [_channel()]
        self.assertEqual(self.look(channels=many), ["queue.size"])
        self.assertEqual(self.look(60, channels=few, silent=["mta-1"]), [])
        self.assertEqual(len(self.watch.in_force()), 1)
        self.assertEqual(self.look(60, channels=[_channel(stopped=True)]), ["channel.stopped"])
        self.assertEqual(self.look(60, channels=few, silent=()), ["trouble.over"] * 2)

    def test_without_a_workers_share_no_channel_is_stuck(self) -> None:
        """The one that is silent may be the one with the work."""
        self.look(channels=[_channel(busy=1)])
        self.assertEqual(self.look(1000, silent=["mta-1"]), [])
        self.assertEqual(self.look(299, silent=()), [])
        self.assertEqual(self.look(1), ["channel.stuck"])

    def test_a_log_that_was_behind_is_so_while_its_worker_is_silent(self) -> None:
        behind = evolve(self.look_now.processes[0], figures={"log": {"waiting": True, "lost": 3}})
        well = self.look_now.processes
        self.assertEqual(self.look(processes=[behind]), ["log.behind"])
        silent = [evolve(behind, uptime=None, figures={})]
        self.assertEqual(self.look(60, processes=silent, silent=["mta-0"]), [])
        self.assertEqual(self.look(60, processes=well, silent=()), ["trouble.over"])

    def test_a_channel_is_stuck_when_it_has_work_and_ends_none(self) -> None:
        busy = [_channel(busy=1)]
        self.assertEqual(self.look(channels=busy), [])
        self.assertEqual(self.look(299), [])
        self.assertEqual(self.look(1), ["channel.stuck"])
        row = zeros()
        row[ATTEMPTED + 1] = 1
        self.assertEqual(self.look(60, table={"tcp_local": row}), ["trouble.over"])
        self.assertEqual(self.look(299), [])
        self.assertEqual(self.look(1), ["channel.stuck"])

    def test_a_journal_is_stuck_when_what_it_writes_is_not_durable_at_the_next_look(self) -> None:
        def writing(backlog: int, batches: int) -> list[Process]:
            figures = {"journal": {"backlog": backlog}, "commits": {"records": {"counts": [batches, 0]}}}
            return [evolve(self.look_now.processes[0], uptime=5.0, figures=figures)]

        self.assertEqual(self.look(processes=writing(0, 7)), [])
        self.assertEqual(self.look(60, processes=writing(500, 7)), [])
        self.assertEqual(self.look(60, processes=writing(900, 8)), [], "others have come")
        self.assertEqual(self.look(9, processes=writing(900, 8)), [])
        self.assertEqual(self.look(1, processes=writing(900, 8)), ["journal.stuck"])
        self.assertEqual(self.events.happenings[0][1], {"worker": "mta-0", "age": "10 s"})
        silent = [evolve(self.look_now.processes[0], uptime=None, figures={})]
        self.assertEqual(self.look(60, processes=silent, silent=["mta-0"]), [])
        self.assertEqual(self.look(1, processes=writing(900, 8), silent=()), ["journal.stuck"])
        self.assertEqual(self.look(1, processes=writing(900, 9)), ["trouble.over"])

    def test_one_without_work_or_stopped_is_not(self) -> None:
        self.look(channels=[_channel()])
        self.assertEqual(self.look(1000), [])
        self.look(channels=[_channel(busy=1)])
        self.look(200, channels=[_channel(messages=0)])
        self.assertEqual(self.look(200, channels=[_channel(ready=1)]), [])
        self.look(0, channels=[_channel(ready=1, stopped=True)])
        self.assertEqual(self.look(1000), ["channel.stopped"])

    def test_limits_of_0_are_none(self) -> None:
        self.look(channels=[_channel(messages=100, oldest=0.0, busy=1)])
        self.time += 10_000
        look = evolve(self.look_now, time=self.time)
        never = MonitorConfig(queue_messages=0, queue_age_s=0, stuck_s=0)
        self.assertEqual(list(self.watch.conditions(look, never, _QUEUE)), [])

    def test_held_mail_ages_without_a_word(self) -> None:
        """A person decides about it, and was told once that it is there."""
        self.assertEqual(self.look(channels=[_channel(held=1, oldest=0.0)]), ["channel.held"])
