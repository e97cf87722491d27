"""What a mail worker tells of its queue, its channels and its log: a part of the control method C{figures}."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from qmailpy.control.client import Json
from qmailpy.interfaces import IChannel, IConnected
from qmailpy.queue.service import QueueService, QueueShard
from qmailpy.stats import activity
from qmailpy.stats.histogram import Histogram
from qmailpy.stats.recorder import Recorder

DESTINATIONS = 50
"""Told at most, those with the most work."""


def of_queue(queue: QueueService) -> dict[str, Json]:
    """Of the shards: journal, space, and which destinations have the most work in memory."""
    shards = queue.shards.values()
    loads: dict[tuple[str, str], list[int]] = {}
    for shard in shards:
        for name, runner in shard.runners.items():
            for load in runner.fair.destinations():
                if load.name:
                    sums = loads.setdefault((name, load.name), [0, 0])
                    sums[0] += load.waiting
                    sums[1] += load.busy
    most = heapq.nlargest(DESTINATIONS, loads.items(), key=lambda item: (sum(item[1]), item[0]))
    broken = [str(shard.shard.broken) for shard in shards if shard.shard.broken is not None]
    return {
        "destinations": [
            {"channel": channel, "destination": destination, "waiting": waiting, "busy": busy}
            for (channel, destination), (waiting, busy) in most
        ],
        "due": {
            name: sum(len(shard.runners[name].due) for shard in shards if name in shard.runners)
            for name in sorted({name for shard in shards for name in shard.runners})
        },
        "next": {
            name: min(times)
            for name in sorted({name for shard in shards for name in shard.runners})
            if (times := [at for shard in shards if (at := _earliest(shard, name)) is not None])
        },
        "short": next((shard.short for shard in shards if shard.short), ""),
        "journal": {
            "segments": max((len(shard.shard.segments.generations) for shard in shards), default=0),
            "backlog": sum(shard.shard.backlog for shard in shards),
            "held_back": sum(shard.shard.held_back for shard in shards),
            "broken": broken[0] if broken else "",
        },
        "commits": {
            "records": _sum([one.records for one in queue.committers]),
            "seconds": _sum([one.took_s for one in queue.committers]),
        },
    }


def of_channels(channels: Iterable[IChannel]) -> dict[str, Json]:
    """Of connections to other hosts."""
    sums: dict[str, list[int]] = {}
    for channel in channels:
        if IConnected.providedBy(channel):
            total, idle = channel.connections()
            row = sums.setdefault(channel.name, [0, 0])
            row[0] += total
            row[1] += idle
    return {"connections": {name: {"open": total, "idle": idle} for name, (total, idle) in sums.items()}}


def of_log(recorders: Iterable[Recorder]) -> dict[str, Json]:
    """Of the transaction log: whether lines wait for it, how many are lost so far, and what those written tell."""
    found = list(recorders)
    log: Json = {"waiting": any(one.waiting for one in found), "lost": sum(one.lost for one in found)}
    return {"log": log, "activity": activity.as_json([one.activity for one in found])}


def _earliest(shard: QueueShard, channel: str) -> float | None:
    runner = shard.runners.get(channel)
    return runner.due.earliest() if runner is not None else None


def _sum(histograms: Sequence[Histogram]) -> Json:
    if not histograms:
        return None
    counts = [sum(column) for column in zip(*(one.counts for one in histograms), strict=True)]
    total = sum(one.sum for one in histograms)
    return {"bounds": [*histograms[0].bounds], "counts": [*counts], "sum": round(total, 6)}
