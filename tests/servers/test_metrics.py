"""Figures for Prometheus."""

from __future__ import annotations

import os
import time

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.config.schema import Config, ServerConfig
from qmailpy.control.client import Endpoint, Json
from qmailpy.errors import CommandError
from qmailpy.servers import metrics as module
from qmailpy.servers.metrics import CONNECTIONS, MetricsFactory, thd_figures
from qmailpy.stats.counters import LaneState
from qmailpy.stats.items import ITEMS

_NOW = 1_800_000_000.0
_FROM = IPv4Address("TCP", "127.0.0.1", 40000)


class FiguresTests(SynchronousTestCase):
    """What is collected, from a counters file and control sockets made of values."""

    def setUp(self) -> None:
        self.home = os.path.abspath(self.mktemp())
        os.makedirs(f"{self.home}/queue")
        self.alive = ["directory-0", "mta-0", "mta-1"]
        self.silent = ""
        row = list(range(100, 100 + len(ITEMS)))
        self.patch(module, "thd_read", lambda path: (None, []))
        self.patch(module, "total", lambda lanes: {"tcp_local": row})
        self.asked: list[tuple[str, str]] = []
        self.young = ""
        self.patch(module, "running", self.running)
        self.patch(module, "call", self.answer)

    def running(self, home: str) -> list[Endpoint]:
        return [Endpoint(role=name[:-2], index=int(name[-1]), path="") for name in self.alive]

    def answer(self, home: str, target: str, method: str, /, timeout_s: float, **arguments: Json) -> Json:
        self.asked.append((target, method))
        if target == self.silent or (target == self.young and method != "status"):
            raise CommandError("no answer")
        if method == "status":
            return {"uptime": 5}
        if method == "figures":
            return {"due": {"tcp_local": 3}}
        if method == "policy.counts":
            return {"dnslist": 3, "limit": int(target[-1])}
        if method == "directory.figures":
            server: Json = {"server": "ldap://a:389", "up": True, "asked": 7, "latency_s": 0.1, "why": ""}
            return {"hits": 10, "misses": 2, "stale": 1, "entries": 5, "servers": [server]}
        worker = int(target[-1])
        summary: Json = {
            **{"channel": "tcp_local", "messages": 10, "recipients": 20, "size_octets": 3000, "held": 1, "busy": 2},
            **{"oldest": _NOW - 60 * (worker + 1), "stopped": worker == 1},
        }
        return {"channels": [summary]}

    def figures(self) -> dict[tuple[str, ...], float]:
        config = Config(home=self.home, server=ServerConfig(hostname="h"))
        registry = thd_figures(config, ["directory-0", "mta-0", "mta-1", "access-0"], _NOW)
        return {
            (sample.name, *sample.labels.values()): sample.value
            for metric in registry.collect()
            for sample in metric.samples
        }

    def test_what_is_asked_of_the_directory(self) -> None:
        found = self.figures()
        for name, value in (("hits_total", 10), ("misses_total", 2), ("stale_total", 1), ("entries", 5)):
            self.assertEqual(found[f"qmailpy_directory_cache_{name}", "mta-1"], value)
        self.assertEqual(found["qmailpy_directory_server_up", "mta-0", "ldap://a:389"], 1)
        self.assertEqual(found["qmailpy_directory_server_asked_total", "mta-0", "ldap://a:389"], 7)
        self.assertNotIn(("qmailpy_directory_cache_entries", "directory-0"), found)

    def test_every_counter_is_there(self) -> None:
        """S2: each item of a channel's row, but for the lowest values, which are for people."""
        found = self.figures()
        for number, item in enumerate(ITEMS):
            if item.startswith(("lowest", "queue", "in_", "out_")):
                continue
            suffix = "" if item.startswith("stored") else "_total"
            self.assertEqual(found[f"qmailpy_{item}{suffix}", "tcp_local"], 100 + number, item)
        self.assertEqual(found["qmailpy_queue_time_seconds_sum", "tcp_local"], 0.122)
        self.assertEqual(found["qmailpy_queue_time_seconds_count", "tcp_local"], 123)
        self.assertEqual(found["qmailpy_queue_first_time_seconds_count", "tcp_local"], 125)
        self.assertEqual(found["qmailpy_associations_total", "tcp_local", "in"], 126)
        self.assertEqual(found["qmailpy_associations_total", "tcp_local", "out"], 127)

    def test_the_queue_is_that_of_all_workers(self) -> None:
        found = self.figures()
        for name, value in (
            ("queue_messages", 20),
            ("queue_recipients", 40),
            ("queue_octets", 6000),
            ("queue_held_messages", 2),
            ("queue_jobs", 4),
            ("queue_oldest_seconds", 120),
            ("channel_stopped", 1),
        ):
            self.assertEqual(found[f"qmailpy_{name}", "tcp_local"], value, name)

    def test_decisions_are_those_of_all_workers(self) -> None:
        found = self.figures()
        self.assertEqual(found["qmailpy_policy_decisions_total", "dnslist"], 6)
        self.assertEqual(found["qmailpy_policy_decisions_total", "limit"], 1)

    def test_processes_that_are_missing_or_silent_are_down(self) -> None:
        self.silent = "directory-0"
        found = self.figures()
        self.assertEqual(
            {name: found["qmailpy_process_up", name] for name in ("directory-0", "mta-0", "mta-1", "access-0")},
            {"directory-0": 0, "mta-0": 1, "mta-1": 1, "access-0": 0},
        )
        self.assertEqual(found["qmailpy_process_uptime_seconds", "mta-0"], 5)

    def test_what_waits_for_its_time_is_that_of_all_workers(self) -> None:
        self.assertEqual(self.figures()["qmailpy_queue_scheduled", "tcp_local"], 6)

    def test_without_one_of_the_workers_there_is_no_sum(self) -> None:
        """Whether it is silent, was just killed, or has no summary to tell while it starts."""
        for gone in (("silent", "mta-1"), ("alive", ["directory-0", "mta-0"]), ("young", "mta-1")):
            self.alive, self.silent, self.young = ["directory-0", "mta-0", "mta-1"], "", ""
            setattr(self, *gone)
            self.asked.clear()
            found = {name for name, *_ in self.figures()}
            self.assertNotIn("qmailpy_queue_messages", found, gone)
            self.assertNotIn("qmailpy_policy_decisions_total", found, gone)
            self.assertNotIn("qmailpy_queue_scheduled", found, gone)
            self.assertIn("qmailpy_stored_messages", found, "by the counters, which are a file")
        self.alive, self.silent, self.young = ["directory-0", "mta-0", "mta-1"], "mta-1", ""
        self.asked.clear()
        self.figures()
        self.assertEqual([method for name, method in self.asked if name == "mta-1"], ["status"], "each costs seconds")

    def test_what_cannot_be_had_is_left_out(self) -> None:
        """And the rest is there: half a sum would look like a change."""

        def damaged(path: str) -> tuple[None, list[LaneState]]:
            raise CommandError("damaged")

        self.patch(module, "thd_read", damaged)
        self.silent = "mta-1"
        found = self.figures()
        self.assertNotIn(("qmailpy_received_messages_total", "tcp_local"), found)
        self.assertNotIn(("qmailpy_queue_messages", "tcp_local"), found)
        self.assertEqual(found["qmailpy_process_up", "mta-0"], 1)
        self.assertGreater(found["qmailpy_free_octets", "queue"], 0)


class HttpTests(SynchronousTestCase):
    """How they are given out."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[CollectorRegistry]] = []
        self.factory = MetricsFactory(self.clock, self.collect)

    async def collect(self) -> CollectorRegistry:
        self.asked.append(Deferred())
        return await self.asked[-1]

    def client(self, path: bytes = b"/metrics", more: bytes = b"") -> StringTransport:
        transport = StringTransport(peerAddress=_FROM)
        protocol = self.factory.buildProtocol(_FROM)
        assert protocol is not None
        protocol.makeConnection(transport)
        protocol.dataReceived(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
        self.protocol = protocol
        return transport

    def registry(self) -> CollectorRegistry:
        return thd_figures(Config(home=self.mktemp(), server=ServerConfig(hostname="h")), ["mta-0"], time.time())

    def test_prometheus_gets_what_it_can_read(self) -> None:
        transport = self.client()
        self.asked[0].callback(self.registry())
        head, _, body = transport.value().partition(b"\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200", head)
        self.assertIn(b"text/plain", head)
        names = {family.name for family in text_string_to_metric_families(_whole(body))}
        self.assertIn("qmailpy_process_up", names)

    def test_openmetrics_is_given_to_who_wants_it(self) -> None:
        transport = self.client(more=b"Accept: application/openmetrics-text; version=1.0.0\r\n")
        self.asked[0].callback(self.registry())
        self.assertIn(b"application/openmetrics-text", transport.value())
        self.assertIn(b"# EOF", transport.value())

    def test_who_asks_meanwhile_gets_the_same(self) -> None:
        """A slow collection is not started again and again."""
        first, second = self.client(), self.client()
        self.assertEqual(len(self.asked), 1)
        self.asked[0].callback(self.registry())
        for transport in (first, second):
            self.assertIn(b"qmailpy_process_up", transport.value())
        self.client()
        self.assertEqual(len(self.asked), 2)

    def test_a_client_that_went_away_harms_nobody(self) -> None:
        self.client()
        self.protocol.connectionLost(Failure(ConnectionDone()))
        second = self.client()
        self.asked[0].callback(self.registry())
        self.assertIn(b"qmailpy_process_up", second.value())

    def test_trouble_is_told_without_its_cause(self) -> None:
        transport = self.client()
        self.asked[0].errback(ZeroDivisionError("secret"))
        self.assertIn(b"HTTP/1.1 500", transport.value())
        self.assertNotIn(b"secret", transport.value())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_other_paths_and_methods_are_refused(self) -> None:
        self.assertIn(b"HTTP/1.1 404", self.client(b"/").value())
        transport = self.client()
        self.protocol.dataReceived(b"")
        self.assertEqual(len(self.asked), 1)
        self.assertEqual(transport.value(), b"")

    def test_a_few_connections_at_once_are_enough(self) -> None:
        made = [self.factory.buildProtocol(_FROM) for _ in range(CONNECTIONS)]
        for protocol in made:
            assert protocol is not None
            protocol.makeConnection(StringTransport())
        self.assertIsNone(self.factory.buildProtocol(_FROM))
        assert made[0] is not None
        made[0].connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(self.factory.buildProtocol(_FROM))


def _whole(body: bytes) -> str:
    """The text of a response in chunks."""
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        found += body[:length]
        body = body[length + 2 :]
    return found.decode()
