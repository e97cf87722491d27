"""The objects of the two MIBs, and how snmpd is answered."""

from __future__ import annotations

import io

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import ChannelConfig, Config, ListenerConfig, ServerConfig
from qmailpy.queue.entries import ChannelSummary, QueueJob
from qmailpy.stats.items import ITEMS, STORED
from qmailpy.watch.look import Look, Process
from qmailpy.watch.mib import APPL, MTA, Mib, Objects
from qmailpy.watch.pass_persist import parsed, serve
from qmailpy.watch.snmp_value import Oid, Value, counter, gauge, integer, interval, text, ticks

_NOW = 2_000_000.0
_GROUPS = {"conversion": 1, "local": 2, "tcp_local": 3}


def _config() -> Config:
    kinds = {"tcp_local": "smtp", "local": "local", "conversion": "conversion"}
    return Config(
        home="/h",
        server=ServerConfig(hostname="mail.example"),
        channels={name: ChannelConfig(name=name, kind=kind) for name, kind in kinds.items()},
        listeners=(ListenerConfig(name="smtp", kind="smtp", endpoint="tcp:25"),),
    )


def _look() -> Look:
    row = list(range(100, 100 + len(ITEMS)))
    local = [5] * len(ITEMS)
    local[STORED] = -3
    site = {"listener": "smtp", "sessions": 7, "connections": 90, "turned_away": 4}
    figures = {
        "listeners": [site],
        "connections": {"tcp_local": {"open": 6, "idle": 2}},
        "next": {"tcp_local": _NOW + 12},
        "activity": {
            "tcp_local": {
                "in": _NOW - 3,
                "out": _NOW - 4,
                "attempt": _NOW - 1,
                "failed": 8,
                "refused": "554 5.7.1 no",
                "unreached": "no route to host",
                "errors": {"5001001": [1, 2, 3], "nonsense": [1]},
            },
            "local": {"in": 0.0, "out": _NOW - 9, "attempt": 0.0, "failed": 0, "errors": {}},
        },
    }
    other = {
        "activity": {"tcp_local": {"in": _NOW - 7, "out": _NOW - 2, "failed": 1, "errors": {"5001001": [0, 0, 1]}}}
    }
    return Look(
        time=_NOW,
        processes=[
            Process(name="mta-0", role="mta", uptime=50.0, figures=figures),
            Process(name="mta-1", role="mta", uptime=40.0, figures=other),
            Process(name="directory-0", role="directory", uptime=60.0),
        ],
        missing=(),
        channels=[
            ChannelSummary(
                channel="tcp_local",
                messages=2,
                recipients=2,
                size_octets=9,
                held=1,
                oldest=_NOW - 33.5,
                oldest_message="<o@x>",
            )
        ],
        jobs=[QueueJob(channel="tcp_local", id="A", attempt=1, recipients=1, host="mx.example")],
        table={"tcp_local": row, "local": local},
    )


class MibTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mib = Mib(_config(), "1.2")
        self.objects = self.mib.objects(_look(), _NOW - 55)

    def value(self, *name: int) -> str:
        found = self.objects.get(name)
        assert found is not None, name
        return found.text

    def group(self, column: int, channel: str = "tcp_local") -> str:
        return self.value(*MTA, 2, 1, column, 1, _GROUPS[channel])

    def test_a_channels_counters_are_its_groups(self) -> None:
        """imta.md s.2.4: the row of numbers from 100 on stands in the columns of RFC 2789."""
        names = {name: 100 + at for at, name in enumerate(ITEMS)}
        for column, item in (
            (2, "received_messages"),
            (3, "rejected_messages"),
            (4, "stored_messages"),
            (5, "delivered_messages"),
            (6, "received_blocks"),
            (7, "stored_blocks"),
            (8, "delivered_blocks"),
            (9, "received_recipients"),
            (10, "stored_recipients"),
            (11, "delivered_recipients"),
            (15, "in_associations"),
            (16, "out_associations"),
        ):
            self.assertEqual(self.group(column), str(names[item]), item)
        self.assertEqual(self.group(12), "3350")
        self.assertEqual((self.group(13), self.group(14), self.group(19)), ("7", "6", "4"))
        self.assertEqual(self.group(24), ".1.3.6.1.2.1.27.4.25")
        self.assertEqual((self.group(25), self.group(28)), ("tcp_local", "mail.example MTA tcp_local channel"))
        self.assertEqual((self.group(30), self.group(33)), ("5000", "1"))
        self.assertIsNone(self.objects.get((*MTA, 2, 1, 24, 1, _GROUPS["local"])))
        self.assertEqual(self.group(32), "<o@x>")

    def test_what_the_workers_tell_besides_is_in_columns_of_its_own(self) -> None:
        """Of all workers together: the last activity is the latest, the reason that of the last attempt."""
        for column, value in ((17, "300"), (18, "200"), (34, "100"), (20, "9"), (23, "1200")):
            self.assertEqual(self.group(column), value, column)
        self.assertEqual((self.group(21), self.group(22)), ("554 5.7.1 no", "no route to host"))
        self.assertEqual(
            [self.group(column, "local") for column in (18, 20, 21, 22, 23)], ["900", "0", "never", "never", "0"]
        )
        for column in (17, 34, 32):  # never: there is no value
            self.assertIsNone(self.objects.get((*MTA, 2, 1, column, 1, _GROUPS["local"])), column)
        self.assertEqual(self.group(21, "conversion"), "never")
        # The times of applTable are those of snmpd's clock, which began 55 s ago.
        self.assertEqual((self.value(*APPL, 1, 1, 12, 1), self.value(*APPL, 1, 1, 13, 1)), ("5200", "5300"))
        self.assertEqual(self.value(*APPL, 1, 1, 15, 1), "9")

    def test_errors_and_associations_are_tables_of_their_own(self) -> None:
        errors = [self.value(*MTA, 5, 1, column, 1, _GROUPS["tcp_local"], 5001001) for column in (1, 2, 3)]
        self.assertEqual(errors, ["1", "2", "4"])
        self.assertEqual(self.value(*MTA, 3, 1, 1, 1, _GROUPS["tcp_local"], 1), "1")
        self.assertEqual(self.value(*APPL, 2, 1, 2, 1, 1), "mx.example")

    def test_the_mta_is_the_sum_of_its_channels(self) -> None:
        for column, item in ((1, "received_messages"), (3, "delivered_messages"), (9, "delivered_recipients")):
            self.assertEqual(self.value(*MTA, 1, 1, column, 1), str(105 + ITEMS.index(item)), item)
        self.assertEqual(self.value(*MTA, 1, 1, 12, 1), "1")

    def test_stored_below_zero_is_zero(self) -> None:
        """It may be for a while after a clear; a Gauge32 has no sign."""
        self.assertEqual(self.group(4, "local"), "0")
        self.assertEqual(self.value(*MTA, 1, 1, 2, 1), str(100 + STORED))

    def test_applications(self) -> None:
        def column(number: int, index: int = 1) -> str:
            return self.value(*APPL, 1, 1, number, index)

        self.assertEqual((column(2), column(4), column(6)), ("qmailpy mta", "1.2", "1"))
        self.assertEqual((column(5), column(5, 2)), ("500", "0"))  # before and after snmpd's start
        self.assertEqual((column(8), column(9), column(10), column(14)), ("7", "6", "86", "4"))
        self.assertEqual(column(2, 2), "qmailpy directory")

    def test_deliveries_under_way_are_associations(self) -> None:
        self.assertEqual(self.value(*APPL, 2, 1, 2, 1, 1), "mx.example")
        self.assertEqual(self.value(*APPL, 2, 1, 4, 1, 1), "3")

    def test_a_node_that_is_down_or_half_there_says_so(self) -> None:
        look = Look(time=_NOW, processes=(), missing=("mta-0",), channels=())
        self.objects = self.mib.objects(look, _NOW)
        self.assertEqual(self.value(*APPL, 1, 1, 6, 1), "2")
        silent = Process(name="mta-1", role="mta", uptime=None)
        look = Look(time=_NOW, processes=[*_look().processes, silent], missing=(), channels=())
        self.objects = self.mib.objects(look, _NOW)
        self.assertEqual(self.value(*APPL, 1, 1, 6, 1), "5")
        short = Process(name="mta-0", role="mta", uptime=1.0, figures={"short": "space"})
        self.objects = self.mib.objects(Look(time=_NOW, processes=[short], missing=(), channels=()), _NOW)
        self.assertEqual(self.value(*APPL, 1, 1, 6, 1), "4")

    def test_what_a_worker_does_not_tell_is_left_out_of_the_sums(self) -> None:
        """An agent's counter that goes down and up again would be a restart that never was; those of the file stay."""
        self.objects = Mib(_config(), "1.2").objects(evolve(_look(), silent=["mta-1"]), _NOW - 55)
        whole = self.mib.objects(_look(), _NOW - 55)
        lost: set[Oid] = set()
        for top in (APPL, MTA):
            at: Oid = top
            while (following := whole.next(at)) is not None:
                at = following[0]
                if self.objects.get(at) is None:
                    lost.add(at)
        applications = {oid[len(APPL) + 2] for oid in lost if oid[: len(APPL)] == APPL}
        self.assertEqual(applications, {8, 9, 10, 12, 13, 14, 15})
        columns = {oid[len(MTA) + 2] for oid in lost if oid[: len(MTA) + 2] == (*MTA, 2, 1)}
        self.assertLessEqual({12, 13, 14, 19, 33}, columns)
        self.assertEqual(columns & {2, 3, 4, 15, 16, 25}, set())

    def test_a_group_keeps_its_index(self) -> None:
        """Also when a channel comes whose name is before its own."""
        look = Look(time=_NOW, processes=(), missing=(), channels=(), table={"a_new_one": [0] * len(ITEMS)})
        self.objects = self.mib.objects(look, _NOW)
        self.assertEqual(self.group(25), "tcp_local")
        self.assertEqual(self.value(*MTA, 2, 1, 25, 1, 4), "a_new_one")

    def test_values_stay_within_their_types(self) -> None:
        self.assertEqual(counter(2**32 + 5), Value("counter", "5"))
        self.assertEqual(gauge(2**40), Value("gauge", "4294967295"))
        self.assertEqual(interval(1e12), Value("integer", "2147483647"))
        self.assertEqual(ticks(-1), Value("timeticks", "0"))
        self.assertEqual(text("a\nb\x1b" + "é" * 200).text, "a?b?" + "é" * 125)


class ServeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.objects = Objects(
            {(*APPL, 1): integer(1), (*APPL, 2): text("x"), (*MTA, 1): gauge(3), (*MTA, 10): gauge(4)}
        )

    def answers(self, *lines: str) -> list[str]:
        source = io.StringIO("".join(f"{line}\n" for line in lines))
        return list(serve(source, lambda: self.objects))

    def test_get_and_getnext(self) -> None:
        self.assertEqual(
            self.answers("PING", "get", ".1.3.6.1.2.1.28.1", "getnext", ".1.3.6.1.2.1.28.1", "get", ".1.3.6.1.2.1.28"),
            ["PONG\n", ".1.3.6.1.2.1.28.1\ngauge\n3\n", ".1.3.6.1.2.1.28.10\ngauge\n4\n", "NONE\n"],
        )

    def test_a_walk_ends_with_its_module(self) -> None:
        """Each has a line of its own in snmpd.conf, and snmpd would take the other's objects for its."""
        self.assertEqual(self.answers("getnext", ".1.3.6.1.2.1.27.2"), ["NONE\n"])
        self.assertEqual(self.answers("getnext", ".1.3.6.1.2.1.28.10"), ["NONE\n"])

    def test_nothing_can_be_set(self) -> None:
        self.assertEqual(self.answers("set", ".1.3.6.1.2.1.28.1", "integer 3", "PING"), ["not-writable\n", "PONG\n"])

    def test_what_is_no_name_has_no_object(self) -> None:
        for name in ("", "x", ".1.3.x", "1" * 5000, ".".join("1" * 200), "-1", ".1..3"):
            self.assertIsNone(parsed(name), name)
        self.assertEqual(self.answers("get", "x.y", "jump"), ["NONE\n", "NONE\n"])

    def test_an_empty_line_is_the_end(self) -> None:
        self.assertEqual(self.answers("", "PING"), [])

    @settings(max_examples=200, deadline=None)
    @given(some.sets(some.lists(some.integers(0, 12), max_size=3).map(tuple), max_size=20), some.booleans())
    def test_a_walk_meets_every_object_once_in_their_order(self, tails: set[Oid], second: bool) -> None:
        base = MTA if second else APPL
        names = [(*base, 1, *tail) for tail in tails]
        objects = Objects({**{name: integer(1) for name in names}, (*(APPL if second else MTA), 1): integer(2)})
        met: list[Oid] = []
        at: Oid = base
        while (found := objects.next(at)) is not None:
            met.append(found[0])
            at = found[0]
        self.assertEqual(met, sorted(names))
