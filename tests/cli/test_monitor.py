"""The frames of qmailpy monitor."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

from attrs import evolve
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.monitor_count import Counted
from qmailpy.cli.monitor_frame import Shown, as_json, failed, render, shares
from qmailpy.disk.files import Space
from qmailpy.events.catalogue import Severity
from qmailpy.events.reading import Event
from qmailpy.queue.entries import ChannelSummary
from qmailpy.records.record import Action, LogRecord
from qmailpy.stats.items import DELIVERED, RECEIVED, Table, zeros
from qmailpy.watch.look import Look, Process

_NOW = 1_800_000_000.0


def _table(received: int, delivered: int) -> Table:
    row = zeros()
    row[RECEIVED], row[DELIVERED] = received, delivered
    return {"tcp_local": row}


def _look(seconds: float = 0.0, received: int = 0, delivered: int = 0, **more: Any) -> Look:
    destinations = [
        {"channel": "tcp_local", "destination": f"d{n}.example", "waiting": n, "busy": 1} for n in range(40)
    ]
    figures = {"listeners": [{"listener": "smtp", "sessions": 3, "clients": 2}], "destinations": destinations}
    summary: dict[str, Any] = {
        "messages": 7,
        "recipients": 9,
        "size_octets": 1,
        "busy": 2,
        "held": 1,
        "oldest": _NOW - 90,
    }
    return Look(
        **{
            "time": _NOW + seconds,
            "processes": [Process(name="mta-0", role="mta", uptime=300.0, figures=figures)],
            "missing": ["mta-1"],
            "channels": [
                ChannelSummary(channel="tcp_local", **summary),
                ChannelSummary(channel="local", messages=0, recipients=0, size_octets=0, stopped=True),
            ],
            "table": _table(received, delivered),
            "space": {"queue": Space(5 << 30, 1000)},
            **more,
        }
    )


def _shown(**more: Any) -> Shown:
    failures = [
        LogRecord(
            action=Action.FAILED, time=_NOW, source="tcp_local", current_to=f"u{n}@x.example", diagnostic="550 \x1b[2J"
        )
        for n in range(50)
    ]
    event = Event(
        time=_NOW,
        id="a",
        event="queue.age",
        severity=Severity.WARNING,
        process="mta-0",
        text="[old]",
        remedy="",
        fields={},
    )
    return Shown(
        **{
            "look": _look(10, 120, 70),
            "before": _look(0, 100, 50),
            "failures": failures,
            "events": [event] * 30,
            **more,
        }
    )


class FrameTests(SynchronousTestCase):
    def text(self, shown: Shown, width: int = 110, height: int = 40) -> list[str]:
        out = io.StringIO()
        Console(file=out, width=width, height=height, color_system=None).print(render(shown, "/home", height, width))
        return out.getvalue().splitlines()

    def test_everything_of_importance_is_on_it(self) -> None:
        lines = self.text(_shown())
        text = "\n".join(lines)
        for part in (
            "mta-0 5 min",
            "mta-1 down",
            "smtp: 3 sessions of 2 clients",
            "queue: 5120 MiB free",
            "d39.example",
            "u49@x.example",
            "queue.age  [old]",
        ):
            self.assertIn(part, text)
        channel = next(line for line in lines if line.startswith("tcp_local"))
        self.assertEqual(channel.split(), ["tcp_local", "7", "1", "2", "100", "s", "2.0", "2.0", "0.0"])
        self.assertTrue(next(line for line in lines if line.startswith("local")).endswith("stopped"))

    def test_it_fits_terminals_of_all_sizes(self) -> None:
        for width, height in ((200, 60), (80, 24), (60, 20)):
            lines = self.text(_shown(), width, height)
            self.assertLessEqual(len(lines), height, (width, height))
            self.assertLessEqual(max(map(len, lines)), width)

    def test_long_words_leave_the_other_columns_their_room(self) -> None:
        event = evolve(_shown().events[0], text="and so on " * 40)
        record = evolve(_shown().failures[0], diagnostic="550 no " * 40, current_to="u" * 200 + "@x.example")
        lines = self.text(_shown(events=[event], failures=[record]), 80)
        clock = time.strftime("%H:%M:%S", time.localtime(_NOW))
        self.assertTrue(any(re.match(f"{clock} +queue.age +and so on", line) for line in lines), lines)
        self.assertTrue(any(re.match(f"{clock} +tcp_local +R +u+… +550", line) for line in lines), lines)

    def test_many_channels_leave_room_on_a_small_terminal(self) -> None:
        """Those in which something is come first; the others are counted."""
        quiet = ChannelSummary(channel="local", messages=0, recipients=0, size_octets=0)
        channels = [evolve(quiet, channel=f"c{number}") for number in range(30)]
        channels[25] = evolve(channels[25], messages=5)
        small = self.text(_shown(look=_look(10, channels=channels)), 80, 24)
        self.assertLessEqual(len(small), 24)
        self.assertTrue(any(line.startswith("c25 ") for line in small))
        self.assertIn("and 29 more", [line.strip() for line in small])
        for part in ("due now, by destination", "last failures", "events"):
            self.assertTrue(any(line.startswith(part) for line in small), part)
        self.assertTrue(
            any(line.startswith("c29 ") for line in self.text(_shown(look=_look(10, channels=channels)), 80, 99))
        )

    def test_nothing_a_peer_says_reaches_the_terminal(self) -> None:
        self.assertNotIn("\x1b", "".join(self.text(_shown(), 300)))

    def test_a_daemon_that_is_down_is_waited_for(self) -> None:
        down = _look(processes=(), missing=(), channels=())
        self.assertIn("the daemon is not running; waiting for it", "\n".join(self.text(_shown(look=down))))

    def test_a_queue_that_is_known_in_part_is_told_as_such(self) -> None:
        part = _shown(look=_look(silent=["mta-1", "access-0"]))
        self.assertIn("without what mta-1 has queued: it starts, or does not answer", "\n".join(self.text(part)))
        self.assertNotIn("without what", "\n".join(self.text(_shown())))
        self.assertEqual((as_json(part)["whole"], as_json(_shown())["whole"]), (False, True))

    def test_rates_after_a_clear_or_at_first_are_none(self) -> None:
        for before in (None, _look(0, 1000, 1000), _look(10, 0, 0)):
            found = as_json(_shown(before=before))["channels"][0]
            self.assertEqual((found["received_a_second"], found["delivered_a_second"]), (0.0, 0.0))

    def test_a_first_frame_knows_of_no_rates(self) -> None:
        """C{--once}: a figure that nobody has measured is no 0.0."""
        channel = next(line for line in self.text(_shown(before=None)) if line.startswith("tcp_local"))
        self.assertEqual(channel.split(), ["tcp_local", "7", "1", "2", "100", "s"])

    def test_the_words_of_a_peer_are_seen_on_a_narrow_terminal(self) -> None:
        failure = LogRecord(
            action=Action.DEFERRED,
            time=_NOW,
            source="tcp_local",
            current_to="someone@far.example",
            diagnostic="dns;mx.far.example (TCP|192.0.2.9|4012|192.0.2.1|25) (mx ESMTP) smtp;451 4.2.1 come later",
        )
        self.assertIn("mx.far.example [192.0.2.1]: 451 4.2", "\n".join(self.text(_shown(failures=[failure]), width=90)))

    def test_programs_get_the_same(self) -> None:
        found = json.loads(json.dumps(as_json(_shown())))
        self.assertEqual(found["channels"][0]["received_a_second"], 2.0)
        self.assertEqual(found["channels"][0]["oldest"], 100.0)
        self.assertEqual(
            found["destinations"][0], {"channel": "tcp_local", "destination": "d39.example", "waiting": 39, "jobs": 1}
        )
        self.assertEqual((found["missing"], found["processes"]), (["mta-1"], {"mta-0": 300.0}))
        self.assertEqual(found["failures"][-1]["address"], "u49@x.example")

    def test_what_waits_for_later_is_told_of_though_nothing_is_due(self) -> None:
        """49,998 messages that wait for their next attempt are no empty queue."""
        summary: dict[str, Any] = {"recipients": 1, "size_octets": 1}
        look = _look(
            processes=[
                Process(name=f"mta-{n}", role="mta", uptime=9.0, figures={"due": {"tcp_local": 30000, "local": 5}})
                for n in range(2)
            ],
            channels=[
                ChannelSummary(channel="tcp_local", messages=50000, held=2, **summary),
                ChannelSummary(channel="local", messages=3, **summary),
            ],
        )
        self.assertEqual(as_json(_shown(look=look))["later"], {"tcp_local": 49998, "local": 3})
        (line,) = [line for line in self.text(_shown(look=look)) if "qshape" in line]
        self.assertEqual(line.split()[-3:], ["tcp_local,", "local", "50001"])
        self.assertFalse([line for line in self.text(_shown()) if "qshape" in line])

    def waiting(self, names: int, **more: Any) -> Shown:
        rows = [(f"w{n}.example", (1000, 200, 30)) for n in range(names)]
        counted = Counted(time=_NOW - 2, took=1.5, rows=rows, names=names + 100, total=1230 * names + 500)
        due = Process(name="mta-0", role="mta", uptime=9.0, figures={"due": {"tcp_local": 70}})
        channel = ChannelSummary(channel="tcp_local", messages=70, recipients=1, size_octets=1)
        return _shown(look=_look(10, processes=[due], channels=[channel]), counted=counted, **more)

    def test_what_waits_is_told_by_destination_with_the_age_of_the_count(self) -> None:
        lines = self.text(self.waiting(200), 100, 24)
        self.assertLessEqual(len(lines), 24)
        (head,) = [at for at, line in enumerate(lines) if line.startswith("all that waits, counted 12 s ago")]
        self.assertEqual(lines[head + 1].split(), ["w0.example", "1230", "1000", "200", "30"])
        (rest,) = [line for line in lines if line.startswith("and ")]
        shown = sum(line.startswith("w") for line in lines)
        self.assertEqual(rest.split(), ["and", str(300 - shown), "more", str(246_500 - 1230 * shown)])
        self.assertFalse([line for line in lines if "qshape" in line])
        found = as_json(self.waiting(1))["waiting"]
        self.assertEqual((found["time"], found["recipients"], found["names"]), (_NOW - 2, 1730, 101))
        self.assertEqual(found["destinations"], [{"destination": "w0.example", "recipients": [1000, 200, 30]}])
        self.assertIsNone(as_json(_shown())["waiting"])

    def test_lists_share_the_screen_and_none_is_cut_where_there_is_room(self) -> None:
        self.assertEqual(shares([1, 50, 50], 21), [1, 10, 10])
        self.assertEqual(shares([50, 2, 1], 30), [27, 2, 1])
        self.assertEqual(shares([50, 50], 0), [2, 2])
        self.assertEqual(shares([], 10), [])
        for height in (24, 40, 60):
            lines = self.text(self.waiting(200), 80, height)
            self.assertIn(len(lines), (height - 1, height), height)

    def test_a_narrow_screen_has_fewer_columns_and_whole_numbers(self) -> None:
        lines = self.text(self.waiting(200), 40, 24)
        self.assertIn(["w0.example", "1230"], [line.split() for line in lines])
        (channel,) = [line for line in lines if line.startswith("tcp_local")]
        self.assertEqual(channel.split(), ["tcp_local", "70", "0"])
        self.assertIn(["later", "70"], [line.split() for line in lines])

    def test_what_counts_as_a_failure(self) -> None:
        def record(action: Action) -> LogRecord:
            return LogRecord(action=action, time=0.0, source="x")

        self.assertTrue(all(failed(record(one)) for one in (Action.FAILED, Action.DEFERRED, Action.REJECTED)))
        self.assertFalse(any(failed(record(one)) for one in (Action.DEQUEUED, Action.ENQUEUED, Action.OPENED)))
