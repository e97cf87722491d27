"""The control method C{figures} of the processes as metrics (L{qmailpy.servers.metrics})."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from qmailpy.control.client import Json
from qmailpy.watch.look import number, rows

DESTINATIONS = 20
"""With figures of their own; each name is a series of its own for whoever stores them."""

_LISTENERS = {
    "sessions": (GaugeMetricFamily, "Sessions there are."),
    "connections": (CounterMetricFamily, "Connections taken."),
    "turned_away": (CounterMetricFamily, "Of these, for which there was no room."),
    "tls": (CounterMetricFamily, "TLS that came up."),
}
_JOURNAL = {
    "segments": "Journal segments with work in them.",
    "backlog": "Octets on their way into the journal.",
    "held_back": "Messages that wait to be accepted, for want of a free segment.",
}


def worker_metrics(answers: Mapping[str, Json], watched: Mapping[str, Json], *, whole: bool = True) -> list[Metric]:
    """
    @param whole: whether all mail workers have answered; without one of them there are no sums.
    @param answers: of C{figures}, by process.
    @param watched: of C{watch.conditions}, by process; the first mail worker has it.
    """
    figures = {name: answer for name, answer in sorted(answers.items()) if isinstance(answer, Mapping)}
    return [
        *_listeners(figures),
        _logins(figures),
        *_journal(figures),
        *_log(figures),
        *([*_destinations(figures), _due(figures), _connections(figures)] if whole else []),
        *_commits(figures),
        _trouble(watched),
    ]


def _listeners(figures: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    found: list[Metric] = []
    for name, (family, text) in _LISTENERS.items():
        metric: Any = family(f"qmailpy_listener_{name}", text, labels=["process", "listener"])
        for process, answer in figures.items():
            for one in rows(answer.get("listeners")):
                metric.add_metric([process, str(one.get("listener"))], number(one.get(name)))
        found.append(metric)
    return found


def _logins(figures: Mapping[str, Mapping[str, Any]]) -> Metric:
    text = "Logins by what came of them; banned: not even looked at."
    metric = CounterMetricFamily("qmailpy_logins", text, labels=["process", "result"])
    for process, answer in figures.items():
        for result, count in sorted(_object(answer.get("logins")).items()):
            metric.add_metric([process, result], number(count))
    return metric


def _journal(figures: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    found: list[Metric] = []
    for name, text in _JOURNAL.items():
        metric = GaugeMetricFamily(f"qmailpy_journal_{name}", text, labels=["process"])
        for process, answer in figures.items():
            if "journal" in answer:
                metric.add_metric([process], number(_object(answer["journal"]).get(name)))
        found.append(metric)
    broken = GaugeMetricFamily("qmailpy_journal_broken", "Whether it cannot be written.", labels=["process"])
    short = GaugeMetricFamily("qmailpy_mail_refused", "Whether there is no room for mail.", labels=["process"])
    for process, answer in figures.items():
        if "journal" in answer:
            broken.add_metric([process], float(bool(_object(answer["journal"]).get("broken"))))
            short.add_metric([process], float(bool(answer.get("short"))))
    return [*found, broken, short]


def _log(figures: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    text = "Whether lines of the transaction log wait because it cannot be written."
    waiting = GaugeMetricFamily("qmailpy_log_waiting", text, labels=["process"])
    lost = GaugeMetricFamily("qmailpy_log_lost_records", "Lines that are lost meanwhile.", labels=["process"])
    for process, answer in figures.items():
        if "log" in answer:
            log = _object(answer["log"])
            waiting.add_metric([process], float(log.get("waiting") is True))
            lost.add_metric([process], number(log.get("lost")))
    return [waiting, lost]


def _destinations(figures: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    sums: dict[tuple[str, str], list[float]] = {}
    for answer in figures.values():
        for one in rows(answer.get("destinations")):
            row = sums.setdefault((str(one.get("channel")), str(one.get("destination"))), [0.0, 0.0])
            row[0] += number(one.get("waiting"))
            row[1] += number(one.get("busy"))
    most = sorted(sums.items(), key=lambda item: (-sum(item[1]), item[0]))[:DESTINATIONS]
    text = f"Work that is ready for a destination; of the {DESTINATIONS} with the most."
    labels = ["channel", "destination"]
    waiting = GaugeMetricFamily("qmailpy_destination_waiting", text, labels=labels)
    busy = GaugeMetricFamily("qmailpy_destination_jobs", "Deliveries under way to these.", labels=labels)
    for (channel, destination), row in most:
        waiting.add_metric([channel, destination], row[0])
        busy.add_metric([channel, destination], row[1])
    return [waiting, busy]


def _due(figures: Mapping[str, Mapping[str, Any]]) -> Metric:
    sums: dict[str, float] = {}
    for answer in figures.values():
        for channel, count in _object(answer.get("due")).items():
            sums[channel] = sums.get(channel, 0.0) + number(count)
    metric = GaugeMetricFamily(
        "qmailpy_queue_scheduled", "Copies that wait for their next attempt.", labels=["channel"]
    )
    for channel in sorted(sums):
        metric.add_metric([channel], sums[channel])
    return metric


def _connections(figures: Mapping[str, Mapping[str, Any]]) -> Metric:
    sums: dict[tuple[str, str], float] = {}
    for answer in figures.values():
        for channel, one in _object(answer.get("connections")).items():
            for state in ("open", "idle"):
                sums[channel, state] = sums.get((channel, state), 0.0) + number(_object(one).get(state))
    text = "Connections to other hosts: all that are open, and those that wait for mail."
    metric = GaugeMetricFamily("qmailpy_channel_connections", text, labels=["channel", "state"])
    for key in sorted(sums):
        metric.add_metric([*key], sums[key])
    return metric


def _commits(figures: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    texts = {"records": "Records in a batch of the journal.", "seconds": "Time to write and sync a batch."}
    found: list[Metric] = []
    for name, text in texts.items():
        metric = HistogramMetricFamily(f"qmailpy_commit_{name}", text, labels=["process"])
        for process, answer in figures.items():
            one = _object(_object(answer.get("commits")).get(name))
            bounds, counts = one.get("bounds"), one.get("counts")
            if not isinstance(bounds, list) or not isinstance(counts, list) or len(counts) != len(bounds) + 1:
                continue
            sum_so_far = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip([*(str(float(bound)) for bound in bounds), "+Inf"], counts, strict=True):
                sum_so_far += number(count)
                buckets.append((bound, sum_so_far))
            metric.add_metric([process], buckets, number(one.get("sum")))
        found.append(metric)
    return found


def _trouble(watched: Mapping[str, Json]) -> Metric:
    text = "Conditions the server has found out about itself, by event (docs/events.md)."
    metric = GaugeMetricFamily("qmailpy_trouble", text, labels=["event", "severity"])
    sums: dict[tuple[str, str], int] = {}
    for answer in watched.values():
        for one in rows(_object(answer).get("conditions")):
            key = (str(one.get("event")), str(one.get("severity")))
            sums[key] = sums.get(key, 0) + 1
    for key in sorted(sums):
        metric.add_metric([*key], sums[key])
    return metric


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
