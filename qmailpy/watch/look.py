"""
L{thd_look}: a node as it is now, asked of its processes over the control sockets and read from its files.

What cannot be had is left out; nobody waits longer than some seconds for a process. It blocks: for commands and
threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from attrs import evolve, field, frozen

from qmailpy.config.schema import Config
from qmailpy.control.client import Endpoint, Json, ask_each, call, running
from qmailpy.disk.files import RealFiles, Space
from qmailpy.errors import CommandError, QmailpyError
from qmailpy.queue.entries import ChannelSummary, QueueJob, by_channel, from_json
from qmailpy.stats.counters import LaneState, thd_read, total
from qmailpy.stats.items import Table

TIMEOUT_S = 5.0
PLACES = ("queue", "mail", "log")
"""Directories below HOME whose file systems matter."""


@frozen(kw_only=True)
class Process:
    """One that is there, whether it answers or not."""

    name: str  # "mta-0"
    role: str
    uptime: float | None  # seconds; C{None}: it does not answer
    why: str = ""  # it does not
    figures: Mapping[str, Any] = field(factory=dict)  # see docs/control.md; empty where it has none
    directory: Mapping[str, Any] = field(factory=dict)  # "directory.figures"


@frozen(kw_only=True)
class Look:
    """What was seen."""

    time: float  # seconds since the epoch
    processes: Sequence[Process]
    missing: Sequence[str]  # names of processes there should be
    channels: Sequence[ChannelSummary]  # of all workers together, by name
    jobs: Sequence[QueueJob] = ()
    lanes: Sequence[LaneState] = ()
    table: Table = field(factory=dict)  # the counters as people see them
    space: Mapping[str, Space] = field(factory=dict)  # by directory below HOME
    silent: Sequence[str] = ()  # processes, missing ones included, that did not tell all they are asked

    @property
    def running(self) -> bool:
        """Whether the daemon is there at all."""
        return bool(self.processes)

    @property
    def whole(self) -> bool:
        """Whether all mail workers have told their share: otherwise what is known of the queue is a part of it."""
        return self.running and not any(name.startswith("mta-") for name in self.silent)

    def destinations(self) -> list[tuple[str, str, int, int]]:
        """Channel, destination, units waiting in memory, jobs under way; those with the most work first."""
        sums: dict[tuple[str, str], list[int]] = {}
        for process in self.processes:
            for one in rows(process.figures.get("destinations")):
                key = (str(one.get("channel")), str(one.get("destination")))
                row = sums.setdefault(key, [0, 0])
                row[0] += int(number(one.get("waiting")))
                row[1] += int(number(one.get("busy")))
        found = [(channel, name, row[0], row[1]) for (channel, name), row in sums.items()]
        return sorted(found, key=lambda one: (-one[2] - one[3], one[0], one[1]))

    def later(self) -> dict[str, int]:
        """
        By channel, copies that wait outside of that: for their next attempt, or for room in memory. Whose they are only
        their files tell (C{qm qshape}). A figure of the moment, not of the books: no more than what is queued.
        """
        found: dict[str, int] = {}
        for one in self.channels:
            due = [process.figures.get("due") for process in self.processes]
            waiting = sum(int(number(each.get(one.channel))) for each in due if isinstance(each, Mapping))
            if left := max(0, min(waiting, one.messages - one.held)):
                found[one.channel] = left
        return found


def rows(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list in an answer."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def number(value: object) -> float:
    """A number of an answer; 0 for what is none."""
    return float(value) if isinstance(value, int | float) else 0.0


def thd_look(config: Config, expected: Sequence[str], now: float, *, jobs: bool = False) -> Look:
    """
    @param expected: names of the processes there should be.
    @param jobs: the attempts under way as well.
    @raise CommandError: the processes may not be asked by this user.
    """
    home = config.home
    endpoints = running(home)
    told = ask_each([one.name for one in endpoints], lambda name: call(home, name, "status", timeout_s=TIMEOUT_S))
    processes = [_process(home, endpoint, told[endpoint.name]) for endpoint in endpoints]
    names = {one.name for one in endpoints}
    lanes: list[LaneState] = []
    with suppress(QmailpyError, OSError):
        _, lanes = thd_read(config.path("run", "counters"))
    space: dict[str, Space] = {}
    for name in PLACES:
        with suppress(OSError):
            space[name] = RealFiles().space(config.path(name))
    workers = [one.name for one in processes if one.role == "mta" and one.uptime is not None]
    missing = [name for name in expected if name not in names]
    silent = [*missing, *(one.name for one in processes if one.uptime is None)]
    channels, untold = _channels(home, workers)
    return Look(
        time=now,
        processes=processes,
        missing=missing,
        channels=channels,
        jobs=_jobs(home, workers) if jobs else (),
        lanes=lanes,
        table=total(lanes),
        space=space,
        silent=[*silent, *untold],
    )


def _process(home: str, endpoint: Endpoint, status: Json | CommandError) -> Process:
    if isinstance(status, CommandError):
        return Process(name=endpoint.name, role=endpoint.role, uptime=None, why=str(status))
    uptime = number(status.get("uptime")) if isinstance(status, dict) else 0.0
    found = Process(name=endpoint.name, role=endpoint.role, uptime=uptime)
    if endpoint.role == "directory":
        return found
    with suppress(CommandError):
        found = evolve(found, figures=_ask(home, endpoint.name, "figures"))
    with suppress(CommandError):
        found = evolve(found, directory=_ask(home, endpoint.name, "directory.figures"))
    return found


def _ask(home: str, name: str, method: str) -> dict[str, Json]:
    answer = call(home, name, method, timeout_s=TIMEOUT_S)
    return answer if isinstance(answer, dict) else {}


def _channels(home: str, workers: Sequence[str]) -> tuple[list[ChannelSummary], list[str]]:
    """The queue by channel, and the workers that did not tell theirs: one that starts cannot yet."""
    found: list[ChannelSummary] = []
    untold = []
    for worker in workers:
        try:
            told = rows(_ask(home, worker, "queue.summary").get("channels"))
            found += [from_json(ChannelSummary, value) for value in told]
        except (CommandError, ValueError):
            untold.append(worker)
    return by_channel(found), untold


def _jobs(home: str, workers: Sequence[str]) -> list[QueueJob]:
    found: list[QueueJob] = []
    for worker in workers:
        with suppress(CommandError, ValueError):
            found += [from_json(QueueJob, value) for value in rows(_ask(home, worker, "queue.jobs").get("jobs"))]
    return found
