"""
The server's figures for Prometheus and whoever else reads its formats (docs/monitoring.md names them all).

L{thd_figures} collects: counters from their file, the queue from the workers' control sockets, so that one process
answers for all; it blocks and is for a thread. L{Metrics} gives them out over HTTP: GET /metrics, as OpenMetrics or as
Prometheus text, as the client prefers. One collection at a time: who asks meanwhile waits for it and gets the same.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import Request as HttpRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

import qmailpy
from qmailpy.config.schema import Config
from qmailpy.control.client import Json, ask_each, call, running
from qmailpy.disk.files import RealFiles
from qmailpy.errors import CommandError, QmailpyError
from qmailpy.queue.entries import ChannelSummary, from_json
from qmailpy.servers.event_metrics import EventCounts
from qmailpy.servers.worker_metrics import worker_metrics
from qmailpy.stats.counters import thd_read, total
from qmailpy.stats.items import (
    EVENTS,
    FIRST_COUNT,
    FIRST_MESSAGES,
    FIRST_TIME_MS,
    IN_ASSOCIATIONS,
    OUT_ASSOCIATIONS,
    QUEUE_COUNT,
    QUEUE_TIME_MS,
    STORED,
    Table,
)

TIMEOUT_S = 3.0  # for a process to answer; Prometheus gives up after 10
CONNECTIONS = 20
IDLE_S = 30.0
_UNITS = ("messages", "recipients", "blocks")
_MEANINGS = {
    "received": "enqueued to the channel",
    "delivered": "that left the channel's queue, delivered or given up",
    "submitted": "enqueued by the channel",
    "attempted": "whose delivery failed for now",
    "rejected": "refused at the door",
    "failed": "given up",
}


class _Found(Collector):
    """Metrics that have been collected."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def thd_figures(
    config: Config,
    expected: list[str],
    now: float,
    certificates: Mapping[str, float] | None = None,
    events: EventCounts | None = None,
) -> CollectorRegistry:
    """
    All figures of a home as they are now. Blocks for at most some seconds; what cannot be had is left out.

    @param expected: names of the processes there should be.
    @param certificates: when each runs out, in seconds since the epoch, by file.
    @param events: what has been read of the events file so far; C{None}: events are left out.
    """
    found: list[Metric] = [InfoMetricFamily("qmailpy", "The server.", {"version": qmailpy.__version__})]
    home = config.home
    with suppress(QmailpyError, OSError):
        _, lanes = thd_read(config.path("run", "counters"))
        found += _counters(total(lanes))
    asked = _asked(home)
    found += _processes(expected, asked, now)
    # Who did not answer that is asked for nothing more. And sums over the workers are no sums without one of them.
    alive = [name for name, answer in asked.items() if not isinstance(answer, QmailpyError)]
    whole = all(name in alive for name in expected if _is_worker(name))
    talkative = [name for name in alive if not name.startswith("directory-")]
    figures = _answers(home, talkative, "figures")
    whole = whole and all(name in figures for name in alive if _is_worker(name))
    workers = [name for name in alive if _is_worker(name)]
    found += worker_metrics(figures, _answers(home, workers, "watch.conditions"), whole=whole)
    found.append(_certificates(certificates or {}))
    if events is not None:
        found += events.thd_metrics(config.path("log"))
    if whole:
        with suppress(QmailpyError, OSError):
            found.append(_policy(home, workers))
        with suppress(QmailpyError, OSError):
            found += _queue(_summaries(home, workers), now)
    found += _space(config)
    found += _directory(_answers(home, talkative, "directory.figures"))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(found))
    return registry


def _is_worker(name: str) -> bool:
    return name.startswith("mta-")


def _asked(home: str) -> dict[str, Json | CommandError]:
    """What the processes that are there say of themselves."""
    with suppress(QmailpyError, OSError):
        return _told(home, [one.name for one in running(home)], "status")
    return {}


def _told(home: str, names: Sequence[str], method: str) -> dict[str, Json | CommandError]:
    return ask_each(names, lambda name: call(home, name, method, timeout_s=TIMEOUT_S))


def _counters(table: Table) -> list[Metric]:
    found: list[Metric] = []
    channels = sorted(table)
    for number, event in enumerate(EVENTS):
        for at, unit in enumerate(_UNITS):
            item = 3 * number + at
            what = "Blocks of 1024 octets" if unit == "blocks" else unit.capitalize()
            metric: CounterMetricFamily | GaugeMetricFamily
            if 3 * number == STORED:
                text = f"{what} in the channel's queue, by the counters."
                metric = GaugeMetricFamily(f"qmailpy_stored_{unit}", text, labels=["channel"])
            else:
                text = f"{what} {_MEANINGS[event]}."
                metric = CounterMetricFamily(f"qmailpy_{event}_{unit}", text, labels=["channel"])
            for channel in channels:
                metric.add_metric([channel], table[channel][item])
            found.append(metric)
    text = "Messages delivered at the first attempt."
    first = CounterMetricFamily("qmailpy_delivered_first_messages", text, labels=["channel"])
    spent = SummaryMetricFamily("qmailpy_queue_time_seconds", "Time in the queue.", labels=["channel"])
    quick = SummaryMetricFamily(
        "qmailpy_queue_first_time_seconds", "Time in the queue of first attempts.", labels=["channel"]
    )
    ends = CounterMetricFamily("qmailpy_associations", "Connections opened.", labels=["channel", "direction"])
    for channel in channels:
        row = table[channel]
        first.add_metric([channel], row[FIRST_MESSAGES])
        spent.add_metric([channel], row[QUEUE_COUNT], row[QUEUE_TIME_MS] / 1000)
        quick.add_metric([channel], row[FIRST_COUNT], row[FIRST_TIME_MS] / 1000)
        ends.add_metric([channel, "in"], row[IN_ASSOCIATIONS])
        ends.add_metric([channel, "out"], row[OUT_ASSOCIATIONS])
    return [*found, first, spent, quick, ends]


def _answers(home: str, names: Sequence[str], method: str) -> dict[str, Json]:
    """What those of the processes that know a method answer, by name."""
    return {name: answer for name, answer in _told(home, names, method).items() if not isinstance(answer, QmailpyError)}


def _certificates(ends: Mapping[str, float]) -> Metric:
    text = "When a certificate in use runs out, since the epoch."
    metric = GaugeMetricFamily("qmailpy_certificate_end_seconds", text, labels=["file"])
    for name, end in sorted(ends.items()):
        metric.add_metric([name], end)
    return metric


def _processes(expected: list[str], asked: Mapping[str, Json | CommandError], now: float) -> list[Metric]:
    up = GaugeMetricFamily("qmailpy_process_up", "Whether a process answers.", labels=["process"])
    uptime = GaugeMetricFamily("qmailpy_process_uptime_seconds", "Since its start.", labels=["process"])
    text = "Its start, since the epoch: a change is a restart."
    start = GaugeMetricFamily("qmailpy_process_start_time_seconds", text, labels=["process"])
    answers = {
        name: _number(answer.get("uptime") if isinstance(answer, dict) else None)
        for name, answer in asked.items()
        if not isinstance(answer, CommandError)
    }
    for name in sorted({*expected, *asked}):
        up.add_metric([name], float(name in answers))
        if name in answers:
            uptime.add_metric([name], answers[name])
            start.add_metric([name], round(now - answers[name], 1))
    return [up, uptime, start]


def _policy(home: str, workers: Sequence[str]) -> Metric:
    """What the gates of the workers have refused, or found. @raise CommandError: one did not tell."""
    sums: dict[str, float] = {}
    for worker in workers:
        answer = call(home, worker, "policy.counts", timeout_s=TIMEOUT_S)
        for reason, count in (answer if isinstance(answer, dict) else {}).items():
            if isinstance(count, int):
                sums[reason] = sums.get(reason, 0) + count
    text = "Decisions about clients and their mail, by what decided; since the workers' start."
    metric = CounterMetricFamily("qmailpy_policy_decisions", text, labels=["reason"])
    for reason in sorted(sums):
        metric.add_metric([reason], sums[reason])
    return metric


def _summaries(home: str, workers: Sequence[str]) -> list[ChannelSummary]:
    """The channels of each worker. @raise CommandError: one did not tell."""
    found: list[ChannelSummary] = []
    for worker in workers:
        answer: Json = call(home, worker, "queue.summary", timeout_s=TIMEOUT_S)
        channels = answer.get("channels") if isinstance(answer, dict) else None
        with suppress(ValueError):
            found += [from_json(ChannelSummary, one) for one in (channels if isinstance(channels, list) else [])]
    return found


def _queue(summaries: list[ChannelSummary], now: float) -> list[Metric]:
    """Sums over the workers; of the age the greatest."""
    gauges = {
        "queue_messages": "Messages in the channel's queue.",
        "queue_recipients": "Recipients in the channel's queue.",
        "queue_octets": "Size of the messages in the channel's queue.",
        "queue_held_messages": "Of these, messages that wait for an operator.",
        "queue_jobs": "Deliveries under way.",
        "queue_oldest_seconds": "Age of the oldest message; 0 when there is none.",
        "channel_stopped": "Whether an operator has stopped the channel.",
    }
    sums: dict[str, list[float]] = {}
    for one in summaries:
        row = sums.setdefault(one.channel, [0.0] * len(gauges))
        for at, value in enumerate((one.messages, one.recipients, one.size_octets, one.held, one.busy)):
            row[at] += value
        row[5] = max(row[5], 0.0 if one.oldest is None else now - one.oldest)
        row[6] = max(row[6], float(one.stopped))
    found: list[Metric] = []
    for at, (name, text) in enumerate(gauges.items()):
        metric = GaugeMetricFamily(f"qmailpy_{name}", text, labels=["channel"])
        for channel in sorted(sums):
            metric.add_metric([channel], sums[channel][at])
        found.append(metric)
    return found


def _directory(answers: Mapping[str, Json]) -> list[Metric]:
    """What the processes ask the directory, and which servers answer them."""
    counts = {
        "hits": "Questions about people answered from memory.",
        "misses": "Questions about people put to the directory.",
        "stale": "Answers used after their lifetime, for want of a directory.",
    }
    counters = {
        name: CounterMetricFamily(f"qmailpy_directory_cache_{name}", text, labels=["process"])
        for name, text in counts.items()
    }
    entries = GaugeMetricFamily("qmailpy_directory_cache_entries", "Answers remembered.", labels=["process"])
    up = GaugeMetricFamily(
        "qmailpy_directory_server_up", "Whether a directory server is asked.", labels=["process", "server"]
    )
    asked = CounterMetricFamily(
        "qmailpy_directory_server_asked", "Questions put to a directory server.", labels=["process", "server"]
    )
    text = "Whether the last question to the directory found nobody who answers."
    away = GaugeMetricFamily("qmailpy_directory_away", text, labels=["process"])
    for process, answer in answers.items():
        if not isinstance(answer, dict) or "hits" not in answer:
            continue
        for name, metric in counters.items():
            metric.add_metric([process], _number(answer.get(name)))
        entries.add_metric([process], _number(answer.get("entries")))
        away.add_metric([process], float(answer.get("away") is True))
        servers = answer.get("servers")
        for server in servers if isinstance(servers, list) else []:
            if isinstance(server, dict):
                labels = [process, str(server.get("server"))]
                up.add_metric(labels, float(server.get("up") is True))
                asked.add_metric(labels, _number(server.get("asked")))
    return [*counters.values(), entries, away, up, asked]


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _space(config: Config) -> list[Metric]:
    octets = GaugeMetricFamily("qmailpy_free_octets", "Space left for us.", labels=["directory"])
    inodes = GaugeMetricFamily("qmailpy_free_inodes", "Files there is room for.", labels=["directory"])
    for name in ("queue", "mail", "log"):
        with suppress(OSError):
            space = RealFiles().space(config.path(name))
            octets.add_metric([name], space.octets)
            inodes.add_metric([name], space.inodes)
    return [octets, inodes]


JSON_PATH = b"/metrics.json"


def as_json(registry: Collector) -> bytes:
    """The figures as one object: by name, type, help and samples (name, labels, value)."""
    found = {
        metric.name: {
            "type": metric.type,
            "help": metric.documentation,
            "samples": [{"name": one.name, "labels": one.labels, "value": one.value} for one in metric.samples],
        }
        for metric in registry.collect()
    }
    return json.dumps(found).encode() + b"\n"


Collect = Callable[[], Awaitable[CollectorRegistry]]


class Metrics(Resource):
    """GET /metrics, and /metrics.json for programs without a parser of the other formats."""

    isLeaf = True
    _log = Logger()

    def __init__(self, collect: Collect) -> None:
        """@param collect: L{thd_figures}, in a thread."""
        super().__init__()
        self._collect = collect
        self._waiting: list[Request] = []

    def render_GET(self, request: Request) -> bytes | int:
        """Twisted calls it."""
        request.responseHeaders.removeHeader(b"server")
        if request.path not in {b"/metrics", b"/metrics/", JSON_PATH}:
            request.setResponseCode(404)
            request.setHeader(b"content-type", b"text/plain; charset=utf-8")
            return b"figures are at /metrics\n"
        request.notifyFinish().addErrback(lambda reason: self._forget(request))
        self._waiting.append(request)
        if len(self._waiting) == 1:
            Deferred.fromCoroutine(self._answer()).addErrback(
                lambda failure: self._log.failure("bug while figures are given out", failure)
            )
        return NOT_DONE_YET

    def _forget(self, request: Request) -> None:
        """The client went away. The first one's place is kept: it stands for the collection under way."""
        if request in self._waiting[1:]:
            self._waiting.remove(request)

    async def _answer(self) -> None:
        registry: CollectorRegistry | None = None
        try:
            registry = await self._collect()
        except Exception:
            self._log.failure("the figures cannot be collected")
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if request._disconnected:
                continue
            if registry is None:
                request.setResponseCode(500)
                request.setHeader(b"content-type", b"text/plain; charset=utf-8")
                request.write(b"the figures cannot be collected\n")
            else:
                accept = (request.getHeader("accept") or "")[:1000]
                encode, kind = choose_encoder(accept)
                if request.path == JSON_PATH:
                    encode, kind = as_json, "application/json"
                request.setHeader("content-type", kind)
                request.write(encode(registry))
            request.finish()


class _Site(Site):
    def log(self, request: HttpRequest) -> None:
        """Who reads figures is of no interest."""


class MetricsFactory(WrappingFactory):
    """HTTP for a few clients on a port of its own: at most L{CONNECTIONS}, and none that says nothing for long."""

    noisy = False

    def __init__(self, reactor: Any, collect: Collect) -> None:
        site = _Site(Metrics(collect), reactor=reactor, timeout=IDLE_S)
        site.noisy = False
        super().__init__(site)

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]  # as Factory has it
        return super().buildProtocol(addr) if len(self.protocols) < CONNECTIONS else None
