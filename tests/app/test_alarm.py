"""The command of [events], with runs that end when the test says so."""

from __future__ import annotations

import json
import os
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.app.alarm import Alarm
from qmailpy.channels.conversions.command import Ended, Invocation
from qmailpy.config.schema import Config, EventsConfig, ServerConfig
from qmailpy.disk.rights import Identity
from qmailpy.events.log import EventLog

_EVENTS = EventsConfig(command=("/usr/local/bin/alarm", "$x"), waiting=2)
_CONFIG = Config(home="/h", server=ServerConfig(hostname="h"), events=_EVENTS)


class AlarmTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.runs: list[tuple[Invocation, Any, Deferred[Ended]]] = []
        self.lines: list[str] = []
        observe: Any = self.observe
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.alarm = Alarm(Clock(), _CONFIG, run=self.run_command)
        self.events = self.log(self.alarm)

    def observe(self, event: Any) -> None:
        if event.get("log_format"):
            self.lines.append(event["log_format"].format_map(event))

    def log(self, alarm: Alarm) -> EventLog:
        return EventLog(self.mktemp(), "mta-0", lambda: 1000.0, told=alarm.told)

    def run_command(self, invocation: Invocation) -> Deferred[Ended]:
        assert invocation.stdin is not None
        ended: Deferred[Ended] = Deferred()
        self.runs.append((invocation, json.loads(os.read(invocation.stdin, 65536)), ended))
        return ended

    def end(self, **how: Any) -> None:
        self.runs[-1][2].callback(Ended(**how))

    def happen(self, *accounts: str) -> None:
        for account in accounts:
            self.events.happened("auth.attack", login=account, failures=9)

    def test_the_command_gets_the_event_and_its_main_fields(self) -> None:
        self.happen("joe")
        ((invocation, event, _),) = self.runs
        self.assertEqual((invocation.argv, invocation.directory), (_EVENTS.command, "/h"))
        self.assertEqual((event["event"], event["fields"]["login"]), ("auth.attack", "joe"))
        found = dict(invocation.environment)
        self.assertEqual(found.pop("QMAILPY_TEXT"), event["text"])
        self.assertEqual(found.pop("QMAILPY_REMEDY"), event["remedy"])
        self.assertEqual(
            found,
            {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "QMAILPY_HOME": "/h",
                "QMAILPY_EVENT": "auth.attack",
                "QMAILPY_EVENT_ID": event["id"],
                "QMAILPY_SEVERITY": "warning",
                "QMAILPY_PROCESS": "mta-0",
            },
        )

    def test_one_runs_at_a_time_and_some_wait_and_the_others_are_counted(self) -> None:
        self.happen("a", "b", "c", "d", "e")
        self.assertEqual(len(self.runs), 1)
        for _ in range(3):
            self.end(status=0)
        self.assertEqual([event["fields"]["login"] for _, event, _ in self.runs], ["a", "b", "c"])
        self.assertEqual(
            self.lines,
            [
                "[events] command: 2 events wait for it already; later ones are in events.log alone",
                "[events] command was not told of 2 events",
            ],
        )
        self.happen("f")
        self.assertEqual(len(self.runs), 4)

    def test_only_what_is_grave_enough_is_told(self) -> None:
        self.alarm.reconfigure(evolve(_CONFIG, events=evolve(_EVENTS, severity="critical")))
        self.happen("joe")
        self.assertEqual(self.runs, [])
        self.events.happened("directory.away", why="x")
        self.assertEqual(len(self.runs), 1)

    def test_what_goes_wrong_is_told_in_the_log_and_the_next_is_tried(self) -> None:
        self.happen("a", "b")
        self.end(status=3, said="no route")
        self.end(why="took longer than 30 s")
        self.assertEqual(
            self.lines,
            [
                "[events] command /usr/local/bin/alarm of auth.attack: exit status 3: no route",
                "[events] command /usr/local/bin/alarm of auth.attack: took longer than 30 s",
            ],
        )

    def test_a_command_that_cannot_be_started_is_tried_with_each_event_however_many_wait(self) -> None:
        """Nothing recurses, and whom it happened to goes on."""
        config = evolve(_CONFIG, events=evolve(_EVENTS, waiting=3000))
        first: Deferred[Ended] = Deferred()
        ends = [first]

        def run(invocation: Invocation) -> Deferred[Ended]:
            return ends.pop() if ends else succeed(Ended(why="cannot be started: Resource temporarily unavailable"))

        self.events = self.log(Alarm(Clock(), config, run=run))
        for number in range(3000):  # a condition each: of what merely happens no more than 50 are told
            self.events.happened("queue.age", channel=str(number), age="5 h", limit="4 h")
        first.callback(Ended(status=0))
        self.assertEqual(len(self.lines), 2999)
        self.assertEqual(len(set(self.lines)), 1)
        self.events.happened("queue.age", channel="another", age="5 h", limit="4 h")
        self.assertEqual(len(self.lines), 3000)

    def test_whoever_tells_of_an_event_has_nothing_to_fear(self) -> None:
        """Not even a bug of ours."""

        def run(invocation: Invocation) -> Deferred[Ended]:
            raise ValueError("embedded null byte")

        self.events = self.log(Alarm(Clock(), _CONFIG, run=run))
        self.happen("a", "b")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_without_a_command_nothing_is_done_and_one_taken_away_is_not_run(self) -> None:
        self.happen("a", "b")
        self.alarm.reconfigure(evolve(_CONFIG, events=EventsConfig()))
        self.end(status=0)
        self.happen("c")
        self.assertEqual(len(self.runs), 1)

    def test_after_the_end_nothing_is_run(self) -> None:
        self.happen("a", "b")
        self.alarm.stop()
        self.end(why="the mail server stops")
        self.happen("c")
        self.assertEqual((len(self.runs), self.lines), (1, []))

    def test_where_the_process_is_roots_the_command_is_not(self) -> None:
        self.events = self.log(Alarm(Clock(), _CONFIG, who=Identity(1001, 1002), run=self.run_command))
        self.happen("joe")
        self.assertEqual(
            self.runs[0][0].argv,
            ("/usr/bin/setpriv", "--reuid=1001", "--regid=1002", "--clear-groups", "--", "/usr/local/bin/alarm", "$x"),
        )
